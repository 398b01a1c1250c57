"""Whatever an option, an argument or a variable holds, a command ends: with a status that it documents, and one error.

Each case is a process of its own, forked from one that has the modules loaded, so that there can be many.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import pytest
from conftest import StartServer
from processes import environment

from lmcli.cli.app import COMMANDS
from lmcli.cli.environment import VARIABLES
from lmcli.errors import ExitCode, escaped

FORKING: Final = """
import json, os, resource, signal, sys
from lmcli.cli import input, main, output
from lmcli.cli.commands import chat, complete, models, respond, serve, stats
for line in sys.stdin:
    case = json.loads(line)
    if (process := os.fork()) == 0:
        signal.alarm(case["seconds"])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (case["memory"], case["memory"]))
        os.environ.update(case["variables"])
        if case["is_deleted"]:
            os.mkdir("deleted"); os.chdir("deleted"); os.rmdir("../deleted")
        for number, file in enumerate(("/dev/null", case["out"], case["errors"])):
            os.dup2(os.open(file, os.O_RDWR), number)
        os._exit(main.main(case["arguments"]))
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""
WITHOUT_PRIVILEGES: Final = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Lets the owner of a file be refused even if it is root."""
SECONDS: Final = 60
MEMORY: Final = 1 << 30
LARGE: Final = 30_000_000

VALUES: Final = {
    "empty": "",
    "negative": "-1",
    "zero": "0",
    "huge": "9" * 5000,
    "beyond a double": "1e400",
    "beyond 64 bits": "99999999999999999999",
    "nan": "nan",
    "not ASCII": "é\u202e\x9b",
    "not UTF-8": "\udcff",
    "control": "\x1b[31m\n",
    "long": "x" * 300,
    "very long": "ü" * 60_000,
    "JSON": '{"a": [1e400]}',
    "deep JSON": "x=" + "[" * 1500 + "]" * 1500,
    "URL": "http://[::1",
}
FILES: Final = (
    "missing",
    "folder",
    "empty",
    "closed/file",
    "unreadable",
    "x" * 300,
    "x" * 300 + "/x",
    "empty/x",
    "loop",
    "deleted",
    "/dev/full",
    "/dev/zero",
    "/dev/null",
    "/dev/fd/99",
    "not UTF-8 \udcff",
    "~nobody",
    "nul.json",
    "talk.json",
    "pipe",
    *(["endless"] if sys.platform == "linux" else []),  # elsewhere the memory of a process has no limit
)
NEEDED: Final = {"respond": ["hi"], "chat": ["hi"], "complete": ["hi"], "models load": ["echo"], "stats": ["empty"]}
ARGUMENTS: Final = ("stats", "serve", "models load", "models unload", "help", "respond -H", "complete")
READ: Final = ("-S", "-f", "--token-file", "--schema", "--grammar", "--require-token")
FILE_OPTIONS: Final = (*READ, "--stats-file", "--history")


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


Try = Callable[..., Outcome]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that everybody may enter, with files of all kinds."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        for kind in ("folder", "closed"):
            (path / kind).mkdir()
        for file in ("empty", "closed/file", "unreadable", "endless", "out", "errors"):
            (path / file).touch()
            (path / file).chmod(0o666)
        (path / "nul.json").write_text('{"messages": [{"role": "user", "content": "a\\u0000\\u001b"}]}')
        (path / "talk.json").write_text('{"messages": []}')
        (path / "loop").symlink_to("loop")
        os.mkfifo(path / "pipe")
        os.truncate(path / "endless", 1 << 42)  # takes no space on the disk
        (path / "unreadable").chmod(0)
        (path / "closed").chmod(0)
        yield path
        (path / "closed").chmod(0o700)


@pytest.fixture(scope="module")
def forking(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that forks one for each case."""
    is_mighty = os.geteuid() == 0 and shutil.which("setpriv") is not None
    command = [*(WITHOUT_PRIVILEGES if is_mighty else ()), sys.executable, "-c", FORKING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def attempt(folder: Path, forking: "subprocess.Popen[str]", start_server: StartServer) -> Try:
    """Runs a command line."""
    port = start_server().port

    def run(*arguments: str, is_deleted: bool = False, memory: int = MEMORY, **variables: str) -> Outcome:
        files = {name: str(folder / name) for name in ("out", "errors")}
        for file in files.values():
            os.truncate(file, 0)
        case = {"arguments": arguments, "is_deleted": is_deleted, "memory": memory, "seconds": SECONDS, **files}
        case["variables"] = environment(folder, port) | variables
        assert forking.stdin is not None
        assert forking.stdout is not None
        forking.stdin.write(json.dumps(case) + "\n")
        forking.stdin.flush()
        status = int(forking.stdout.readline())
        return Outcome(status, *(Path(file).read_text(errors="replace") for file in files.values()))

    return run


def check(outcome: Outcome, command: str) -> None:
    """It ended by itself, with a status of its page, and an error in one line."""
    assert outcome.status in COMMANDS[command].statuses, outcome
    assert outcome.status != ExitCode.BUG, outcome.stderr
    lines = outcome.stderr.splitlines()
    assert all(line.startswith(("lm: ", " ")) for line in lines), lines
    assert [line.startswith("lm: error: ") for line in lines].count(True) == (outcome.status != 0), lines
    assert escaped(outcome.stderr, keep="\n") == outcome.stderr
    assert max(map(len, lines), default=0) < 1000


def options() -> Mapping[str, str]:
    """The options that take a value, each with the first command that has it."""
    found: dict[str, str] = {}
    for name, command in COMMANDS.items():
        for _, annotation, default in command.options.fields():
            option = annotation.__metadata__[0]
            flags = [flag for flag in (option.default, *option.param_decls) if "/" not in flag]
            if flags and not isinstance(default, bool):
                found.setdefault(flags[0], name)
    return found


def line_of(command: str, *arguments: str) -> list[str]:
    """A command line that ends: `lm serve` finds its port in use."""
    return [*command.split(), *arguments, *NEEDED.get(command, [])]


@pytest.mark.parametrize("flag", options())
def test_any_value(flag: str, attempt: Try) -> None:
    """Numbers of any size, texts of any length and in any encoding."""
    command = options()[flag]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        needed = ["--port", str(busy.getsockname()[1])] if command == "serve" and flag != "--port" else []
        for name, value in VALUES.items():
            if (flag, name) not in {("--port", "zero"), ("--runs", "beyond 64 bits")}:
                check(attempt(*line_of(command, flag, value, *needed)), command)


@pytest.mark.parametrize("flag", FILE_OPTIONS)
def test_any_file(flag: str, folder: Path, attempt: Try) -> None:
    """Files that are not there, are none, cannot be read, or never end."""
    command = options()[flag]
    with socket.create_server(("127.0.0.1", 0)) as busy:
        needed = ["--port", str(busy.getsockname()[1])] if command == "serve" else []
        for name in FILES[:-1] if command == "serve" else FILES:
            with attended(folder / "pipe", flag) if name == "pipe" else nullcontext():
                check(attempt(*line_of(command, flag, name, *needed), is_deleted=name == "deleted"), command)


@contextmanager
def attended(pipe: Path, flag: str) -> Iterator[None]:
    """Let a process write a line to a pipe that is read, and another read one that is written to."""
    other = 'echo line > "$0"' if flag in READ else 'exec cat "$0" > /dev/null'
    with subprocess.Popen(["sh", "-c", other, str(pipe)]) as process:
        yield
        process.kill()


def test_less_memory_than_the_input_needs(folder: Path, attempt: Try) -> None:
    """The encoder of JSON crashes if it gets no memory: it is required before."""
    (folder / "large").write_bytes(b"a" * LARGE)
    for factor in range(3, 10):
        outcome = attempt("respond", "-f", "large", "--stop", "a", memory=100_000_000 + factor * LARGE)
        assert (outcome.status, outcome.stderr) == (75, "lm: error: out of memory\n"), factor
    assert attempt("respond", "-f", "large", "--stop", "a", memory=MEMORY + 12 * LARGE).status in (0, 4)


@pytest.mark.parametrize("command", ARGUMENTS)
def test_any_argument(command: str, attempt: Try) -> None:
    """The same, where it is no option's."""
    name = command.removesuffix(" -H")
    for value in (*VALUES.values(), *FILES):
        if not value.startswith("-") and value != "pipe" and (value or name != "help"):
            suffix = ".gguf" if name == "serve" or command != name else ""
            words = [value + suffix] if command == "respond -H" else ["--", value + suffix]
            check(attempt(*command.split(), *words, is_deleted=value == "deleted", memory=MEMORY // 2), name)


@pytest.mark.parametrize("variable", [v.name for v in VARIABLES])
def test_any_variable(variable: str, attempt: Try) -> None:
    """Variables of the environment hold what options hold."""
    for value in VALUES.values():
        check(attempt("respond", "hi", **{variable: value}), "respond")
