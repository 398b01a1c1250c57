"""Each exit status is reached by a real command line, which says in one line why, and what can be done about it."""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import StartServer
from faults import Listener
from processes import environment, run

from lmcli.cli.app import COMMANDS
from lmcli.cli.batch_output import Tally
from lmcli.cli.output.sinks import Outcome
from lmcli.client.discovery import candidate_ports, greetings
from lmcli.errors import (
    BadInput,
    ExitCode,
    Incomplete,
    LmError,
    NotAllowed,
    PredictionFailed,
    TimedOut,
    Unavailable,
    Unusable,
)
from lmcli.server.echo.echo_engine import EchoEngine, Pace
from lmcli.server.engine import LoadedModel
from lmcli.server.request_errors import RequestFailed
from lmcli.values import LoadProgress, ModelInfo

TOKENS = {"abcd1234": "abcdefghij0123456789"}
SLOW: Mapping[str, Any] = {"tokens_per_second": 0.1}


class Case(NamedTuple):
    """A command line, the status that it ends with, and what it says.

    Attributes:
        hint: how one of the hints begins; None where lm knows nothing to type.
        has_tokens: the server wants an API token.
        pace: how slow the server is.
    """

    status: int
    line: str
    error: str
    hint: str | None = None
    stdout: bytes = b""
    has_tokens: bool = False
    pace: Mapping[str, Any] = {}


MALFORMED = "a token looks like sk-lm-"
SYSTEM_SAYS = None  # the disk or the folder is the user's to mend

CASES = [
    Case(1, 'lm respond --set \'structured={"type":"gbnf","gbnfGrammar":"x"}\' hi', "the engine echo does not ", None),
    Case(2, "lm respond --no-such-option", "no such option: --no-such-option", "lm respond --help"),
    Case(2, "lm no-such-command", "no such command 'no-such-command'", "lm --help"),
    Case(2, "lm respond -o text -o yaml hi", "invalid value for '-o' / '--output'", "lm respond --help"),
    Case(2, "lm respond --set seed=y hi", "the value of --set seed is not valid JSON: 'y'", "a text needs quotes: "),
    Case(2, "lm serve --port 65536", "--port takes a number from 0 to 65535, not 65536", None),
    Case(
        2,
        "lm serve --host 0.0.0.0",
        "listening on '0.0.0.0' opens the server to everyone on the network",
        "add --require-token",
    ),
    Case(2, "lm respond -H 'no host' hi", "'no host' is not a valid address", "an address looks like "),
    Case(
        3,
        "lm respond -m echo-jit --context-length 9 a b c d",
        "the answer is cut: ",
        "--overflow rolling",
        stdout=b"a b\n",
    ),
    Case(3, "lm respond -m echo-jit --context-length 6 a b c d", "the prompt has 7 tokens", "--overflow middle or "),
    Case(3, "lm complete --preset short 1 2 3 4 5 6 7 8 9", "the answer is cut ", "-l N", stdout=b"1 2 3 4 5 6 7 8"),
    Case(4, "lm respond '<think>nothing else</think>'", "the answer is empty", "-o json "),
    Case(4, "lm respond -o code 'no code'", "the answer has no fenced code block", "-o text "),
    Case(65, "printf '\\377' | lm respond", "stdin is not UTF-8: byte 0 is 0xff", "iconv "),
    Case(65, 'echo \'[{"role": "user", "content": ""}, 1]\' | lm respond', "messages[1]: ", "-i text "),
    Case(65, "echo 1 | lm respond -i json", "stdin is not a chat history", "a chat history looks like "),
    Case(66, "lm respond", "the input is empty", "give the prompt on stdin or as an argument"),
    Case(66, "lm respond --system-file missing hi", "cannot read 'missing': no such file or directory", None),
    Case(66, "lm models --token-file missing", "cannot read the token file 'missing': ", None),
    Case(66, "lm serve missing.gguf", "cannot read 'missing.gguf': no such file or directory", None),
    Case(69, "echo GGUF > bad.gguf; lm serve bad.gguf", "'bad.gguf' ", "download it again"),
    Case(69, "lm respond -m nope hi", "no model 'nope'", "there are: echo, echo-jit"),
    Case(69, "lm complete --preset nope hi", "no preset 'nope'", "there are: Short"),
    Case(74, "lm respond hi > /dev/full", "cannot write to standard output: no space left on device", SYSTEM_SAYS),
    Case(74, "lm models > /dev/full", "cannot write to standard output: no space left on device", SYSTEM_SAYS),
    Case(74, "lm serve --port 0 > /dev/full", "cannot write to standard output: no space left", SYSTEM_SAYS),
    Case(74, "lm complete --help > /dev/full", "cannot write to standard output: no space left", SYSTEM_SAYS),
    Case(74, "lm respond --dry-run hi > /dev/full", "cannot write to standard output: no space", SYSTEM_SAYS),
    Case(74, "lm respond --stats-file . hi", "cannot write to '.': is a directory", SYSTEM_SAYS, stdout=b"hi\n"),
    Case(74, "lm respond --stats-file /dev/full hi", "cannot write to '/dev/full': ", SYSTEM_SAYS, stdout=b"hi\n"),
    Case(
        75, "lm respond --timeout 0.2 a b", "the server was silent for 0.2 s", "a larger --timeout", b"a\n", pace=SLOW
    ),
    Case(75, "LM_TIMEOUT=0.2 lm complete a b", "the server was silent for 0.2 s", "a larger --tim", b"a", pace=SLOW),
    Case(77, "lm respond hi", "the server refused access: ", "put an API token of LM Studio into ", has_tokens=True),
    Case(77, "lm models", "the server refused access: ", "put an API token of LM Studio into ", has_tokens=True),
    Case(78, "LM_TIMEOUT=soon lm respond hi", "LM_TIMEOUT is not a number of seconds above 0: 'soon'", None),
    Case(78, "LM_HOST=ftp://a lm respond hi", "LM_HOST is not a valid address: 'ftp://a'", "an address looks like "),
    Case(78, "LM_API_TOKEN=secret lm respond hi", "the API token is malformed", MALFORMED),
    Case(78, "echo secret > t; chmod 600 t; lm models --token-file t", "the API token is malformed", MALFORMED),
    Case(
        78,
        "echo secret > t; chmod 600 t; lm serve --require-token t",
        "'t', line 1: not an API token",
        "its format is ",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.status} {case.line}")
def test_a_failure_ends_with_its_status_one_line_and_a_hint(
    case: Case, tmp_path: Path, start_server: StartServer
) -> None:
    """What went wrong decides the status; stderr has one line about it, then what to type, and no traceback."""
    server = start_server(options={"api_tokens": TOKENS} if case.has_tokens else None, **case.pace)
    ran = run(case.line, tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout) == (case.status, case.stdout), ran.stderr
    error, *hints = ran.stderr.splitlines()
    assert error.startswith(f"lm: error: {case.error}")
    assert all(line.startswith("lm: hint: ") for line in hints)
    assert not error.endswith(".")
    assert bool(hints) == (case.hint is not None)
    assert case.hint is None or any(line.startswith(f"lm: hint: {case.hint}") for line in hints)


def test_each_status_is_reached() -> None:
    """The table above and the tests below leave no exit status out."""
    elsewhere = {ExitCode.OK, ExitCode.BUG}
    assert {case.status for case in CASES} | elsewhere == set(ExitCode)


def test_each_command_documents_the_statuses_that_it_ends_with() -> None:
    """The table of a command has those that are reached above; that of `lm serve` has no others."""
    reached: dict[str, set[int]] = {}
    for case in CASES:
        name = re.findall(r"\blm ([a-z]+)", case.line)[-1]
        reached.setdefault(name, set()).add(case.status)
    for name in reached.keys() & COMMANDS.keys():
        assert reached[name] <= set(COMMANDS[name].statuses), name
    signals = {status for status in COMMANDS["serve"].statuses if status > 128}
    assert reached["serve"] | signals | {ExitCode.BUG} == set(COMMANDS["serve"].statuses)


@pytest.mark.parametrize("line", ["lm respond -l 1 one two", "lm complete --stop two one two", "lm models", "lm -h"])
def test_a_complete_answer_is_success(line: str, tmp_path: Path, start_server: StartServer) -> None:
    """Status 0 and a silent stderr, also where a limit that was asked for ends the answer."""
    ran = run(line, tmp_path, environment(tmp_path, start_server().port))
    assert (ran.status, ran.stderr) == (0, "")
    assert ran.stdout


@pytest.mark.parametrize("command", ["respond hi", "complete hi", "models"])
def test_a_server_that_is_not_there(command: str, tmp_path: Path, start_server: StartServer) -> None:
    """Status 69, and the address that was tried."""
    server = start_server()
    server.close()
    ran = run(f"lm {command}", tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout) == (69, b"")
    assert ran.stderr.startswith(f"lm: error: cannot reach LM Studio at 127.0.0.1:{server.port}: connection refused\n")


def test_what_is_not_lm_studio(tmp_path: Path) -> None:
    """Status 69, what is there, and how to name another server."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.1 404 Not Found\r\n\r\n")

    with Listener(refuse) as server:
        ran = run("lm respond hi", tmp_path, environment(tmp_path, server.port))
        assert (ran.status, ran.stderr.splitlines()) == (
            69,
            [
                f"lm: error: what answers at {server.address} is not LM Studio: HTTP status 404",
                "lm: hint: --host HOST:PORT names another server, --host local or demo needs none",
            ],
        )


class Overfull(EchoEngine):
    """An engine that cannot load what it has."""

    async def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Begin, and fail."""
        yield LoadProgress(0.0)
        raise RequestFailed("Not enough memory")


def test_a_load_that_fails(tmp_path: Path, start_server: StartServer) -> None:
    """Status 69, and the server's reason."""
    ran = run("lm respond -m echo-jit hi", tmp_path, environment(tmp_path, start_server(Overfull(Pace())).port))
    assert (ran.status, ran.stdout) == (69, b"")
    assert ran.stderr.startswith("lm: error: Not enough memory")


def test_a_bug_shows_its_traceback_and_where_to_report_it(tmp_path: Path, start_server: StartServer) -> None:
    """Status 70; the traceback names our own function, the last line says that this is a bug."""
    broken = (
        "import lmcli.cli.commands.respond as command\n"
        "def run(*_): raise ZeroDivisionError('oops')\n"
        "command.run = run\n"
    )
    (tmp_path / "sitecustomize.py").write_text(broken)
    variables = environment(tmp_path, start_server().port, PYTHONPATH=str(tmp_path))
    ran = run("lm respond hi", tmp_path, variables)
    assert (ran.status, ran.stdout) == (70, b"")
    lines = ran.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == [
        "ZeroDivisionError: oops",
        "lm: error: this is a bug in lm; please report it with the lines above",
    ]
    assert any("main.py" in line for line in lines)


def test_a_user_without_a_home(tmp_path: Path) -> None:
    """Without HOME and an entry in the list of users the ports of this machine are asked all the same: status 69."""
    unknown_user = "setpriv --reuid=54321 --regid=54321 --clear-groups"
    variables = {name: value for name, value in environment(tmp_path, 1).items() if name == "PATH"}
    if run(f"{unknown_user} lm --version", tmp_path, variables).status != 0:
        pytest.skip("this system lets nobody become another user")
    if greetings(candidate_ports({})):
        pytest.skip("LM Studio runs on this machine")
    for command in ("models", "respond -n hi"):
        ran = run(f"{unknown_user} lm {command}", tmp_path, variables)
        assert (ran.status, ran.stdout) == (69, b"")
        assert ran.stderr.startswith("lm: error: no LM Studio on this machine: nothing answers at 127.0.0.1 on port ")


WORST_FIRST = [3, 69, 75, 77, 1, 4, 65]


@pytest.mark.parametrize(("worse", "better"), list(combinations(WORST_FIRST, 2)))
def test_a_batch_ends_with_the_status_of_its_worst_failure(worse: int, better: int) -> None:
    """Whichever came first, and however often; what has not failed counts for nothing."""
    for statuses in ([worse, better], [better, worse, better], [0, better, worse, 0]):
        tally = Tally()
        for status in statuses:
            tally.add(Outcome(error=FAILURES[status]("…") if status else None))
        assert tally.status == worse
        assert (tally.done, tally.failed) == (len(statuses), len([status for status in statuses if status]))


FAILURES: Mapping[int, type[LmError]] = {
    3: Incomplete,
    69: Unavailable,
    75: TimedOut,
    77: NotAllowed,
    1: PredictionFailed,
    4: Unusable,
    65: BadInput,
}
