"""What a TAB offers in bash, zsh and fish: the same in each, asked of the real shell."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest
from processes import Terminal, start
from shells import ROOT, SHELLS, Offers, pressed, program

from lmcli.cli.app import COMMANDS
from lmcli.reference.tree import commands

KEYS = {"qwen/qwen3-4b@q4_k_m", "qwen/qwen3-4b@q8_0", "gemma-3:2"}
LOADED = {"gemma-3:3", "nomic-embed"}
FILES = {"talk.json", "notes.md", "model.gguf"}
TOP = {name for name in COMMANDS if " " not in name}

CASES: Mapping[str, set[str]] = {
    "lm ": TOP,
    "lm re": {"respond"},
    "lm models ": {"load", "unload"},
    "lm models u": {"unload"},
    "lm help ": TOP,
    "lm help st": {"stats"},
    "lm respond ": set(),
    "lm respond --te": {"--temperature"},
    "lm respond hello --te": {"--temperature"},
    "lm respond --no-": {"--no-stdin", "--no-progress", "--no-markdown"},
    "lm respond -- --te": set(),
    "lm models load --id": {"--identifier"},
    "lm serve --tok": {"--tokens-per-second"},
    "lm respond -o ": {"text", "code", "json", "jsonl", "history"},
    "lm respond --output h": {"history"},
    "lm respond --output=js": {"json", "jsonl"},
    "lm respond -n hello --output=": {"text", "code", "json", "jsonl", "history"},
    "lm respond --each ": {"line", "nul", "jsonl"},
    "lm complete --each=j": {"jsonl"},
    "lm complete -o ": {"text", "json", "jsonl"},
    "lm stats --by ": {"model", "day", "file", "stop_reason"},
    "lm respond --reasoning ": {"show", "hide", "on", "off"},
    "lm respond -t ": set(),
    "lm respond --stop ": set(),
    "lm respond -m ": KEYS,
    "lm respond --model qwen/qwen3-4b@q8": {"qwen/qwen3-4b@q8_0"},
    "lm respond --draft-model=gem": {"gemma-3:2"},
    "lm stats -m gemma-3:": {"gemma-3:2"},
    "lm models load ": KEYS,
    "lm models unload ": LOADED,
    "lm models unload g": {"gemma-3:3"},
    "lm chat --history ": {"talk.json", "sub/"},
    "lm chat --history=ta": {"talk.json"},
    "lm chat --history sub/": {"sub/deep.json"},
    "lm serve ": {"model.gguf", "sub/"},
    "lm respond -f ": {*FILES, "sub/"},
    "lm respond --file=no": {"notes.md"},
    "lm respond --results ": {*FILES, "sub/"},
    "lm complete --results=ta": {"talk.json"},
    "lm respond -H ": {"demo", "local", "model.gguf", "sub/"},
    "lm serve --host ": set(),
}
"""What is typed, and what is offered; a folder is offered with a slash."""

OPTIONS = [f"lm {path} -".replace("  ", " ") for path in commands()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind, beside a cache that holds model keys."""
    above = tmp_path_factory.mktemp("completions")
    (above / "cache" / "lm").mkdir(parents=True)
    for file, names in (("models", KEYS), ("loaded", LOADED)):
        (above / "cache" / "lm" / file).write_text("".join(f"{name}\n" for name in sorted(names)))
    folder = above / "here"
    (folder / "sub").mkdir(parents=True)
    for name in (*FILES, "sub/deep.json"):
        (folder / name).touch()
    return folder


def variables(folder: Path) -> dict[str, str]:
    """What a shell sees: no `lm` and no `python`, because a TAB needs neither."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "XDG_CACHE_HOME": str(folder.parent / "cache")}


@pytest.fixture(scope="module", params=SHELLS)
def offers(request: pytest.FixtureRequest, folder: Path) -> tuple[str, Mapping[str, set[str]]]:
    """What one shell offers for every line: its name, and the candidates by line."""
    file, ask = SHELLS[request.param]
    lines = [*CASES, *OPTIONS]
    found: Offers = ask(ROOT / "completions" / file, lines, folder, variables(folder))
    return request.param, dict(zip(lines, found, strict=True))


def as_offered(shell: str, line: str, expected: set[str]) -> set[str]:
    """What one shell's own completion of files leaves out or writes otherwise."""
    expected = expected - (
        {name for name in expected if name in FILES or "/" in name} if _is_readlines(shell, line) else set()
    )
    if shell == "zsh":  # adds the slash, and keeps the folder, on the way to the line
        expected = {name.rstrip("/").removeprefix("sub/") if name not in KEYS | LOADED else name for name in expected}
    if shell == "bash":  # folders come from readline, which also replaces only what follows : and @
        expected = {name for name in expected if not name.endswith("/")}
        expected = {name[len(glued(line)) :] for name in expected}
    return expected


def _is_readlines(shell: str, line: str) -> bool:
    return shell == "bash" and re.search(r"-f |--file=|--results[ =]", line) is not None


def glued(line: str) -> str:
    """The part of the last word that readline leaves alone."""
    word = line.rpartition(" ")[2].rpartition("=")[2]
    return word[: max(word.rfind("@"), word.rfind(":") + 1, 0)]


def test_each_line_is_offered_what_fits(offers: tuple[str, Mapping[str, set[str]]]) -> None:
    """Subcommands, options, choices, files, chat files and model keys, also behind an equals sign."""
    shell, found = offers
    wrong = {line: found[line] for line, wanted in CASES.items() if found[line] != as_offered(shell, line, wanted)}
    assert wrong == {}


def test_every_option_is_offered(offers: tuple[str, Mapping[str, set[str]]]) -> None:
    """After a hyphen come all options of the command, and no others."""
    _, found = offers
    for line, command in zip(OPTIONS, commands().values(), strict=True):
        assert {offered.rstrip("=") for offered in found[line]} == {n for o in command.options for n in o.names}, line


def tabbed(line: str, folder: Path) -> str:
    """What stands on the command line of an interactive bash after a TAB."""
    terminal = Terminal()
    settings = variables(folder) | {"TERM": "dumb", "PS1": "", "INPUTRC": "/dev/null"}
    shell = (program("bash"), "--norc", "--noprofile", "-i")
    with start(
        *shell, folder=folder, variables=settings, stdin=terminal, stdout=terminal, stderr=terminal,
        in_new_session=True,
    ) as child:  # fmt: skip
        terminal.type(f". {shlex.quote(str(ROOT / 'completions' / 'lm.bash'))}\n".encode())
        terminal.type(b"lm() { printf '<%s>' \"$@\"; echo '<end>'; }\n")
        terminal.type(line.encode() + b"\t\n")
        child.wait_for(b"<end>\r\n")
        return child["stdout"].decode().split("\n")[-2].removesuffix("<end>\r").partition("<")[2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lm resp", "respond"),
        ("lm respond --tem", "respond><--temperature"),
        ("lm respond --output=hi", "respond><--output=history"),
        ("lm respond -m qwen/qwen3-4b@q4", "respond><-m><qwen/qwen3-4b@q4_k_m"),
        ("lm respond -m gemma-3:", "respond><-m><gemma-3:2"),
        ('lm respond -m "gem', "respond><-m><gemma-3:2"),
        ("lm respond --draft-model=gemma-3:", "respond><--draft-model=gemma-3:2"),
        ("lm respond -f no", "respond><-f><notes.md"),
        ("lm respond --file=no", "respond><--file=notes.md"),
        ("lm chat --history s", "chat><--history><sub/"),
        ("lm chat --history sub/", "chat><--history><sub/deep.json"),
    ],
)
def test_tab_in_bash_writes_the_whole_word(folder: Path, line: str, words: str) -> None:
    """A TAB at a real prompt leaves a line that means what was offered."""
    assert tabbed(line, folder) == f"{words}>"


HOSTILE = (
    "a b",
    "a$(touch x)",
    "a`touch x`",
    "a;touch x",
    "a'b",
    'a"b',
    "a\\b",
    "a|b",
    "a>x",
    "a*",
    "a#",
    "a{b,c}",
    "ä b",
)
"""Keys that a shell reads otherwise, unless they are quoted."""


@pytest.fixture
def session(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder, the variables of a shell in it, and an `lm` that prints its arguments."""
    (tmp_path / "lm").write_text("#!/bin/sh\nprintf '<%s>' \"$@\"; echo '<end>'\n")
    (tmp_path / "lm").chmod(0o755)
    (tmp_path / "cache" / "lm").mkdir(parents=True)
    folder = tmp_path / "here"
    folder.mkdir()
    return folder, {**variables(folder), "PATH": f"{tmp_path}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("key", HOSTILE)
def test_tab_quotes_a_model_key(shell: str, key: str, session: tuple[Path, dict[str, str]]) -> None:
    """Whatever a key contains, a TAB writes one argument that is the key, and runs nothing."""
    folder, settings = session
    (folder.parent / "cache" / "lm" / "models").write_text(f"{key}\n")
    written = pressed(shell, ROOT / "completions" / SHELLS[shell][0], f"lm respond -m {key[0]}", folder, settings)
    assert written.endswith(f"<respond><-m><{key}>")
    assert list(folder.glob("x")) == []


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("key", ["a\x1b[31m", "a\tb", "a\x7f"])
def test_tab_never_writes_control_characters(shell: str, key: str, session: tuple[Path, dict[str, str]]) -> None:
    """A key with control characters is not offered, whoever wrote it into the file."""
    folder, settings = session
    (folder.parent / "cache" / "lm" / "models").write_text(f"{key}\n")
    written = pressed(shell, ROOT / "completions" / SHELLS[shell][0], "lm respond -m a", folder, settings)
    assert written.endswith("<respond><-m><a>")


def test_tab_in_an_open_quote_of_bash(session: tuple[Path, dict[str, str]]) -> None:
    """Within a quote, bash completes the keys that need none."""
    folder, settings = session
    (folder.parent / "cache" / "lm" / "models").write_text("q$(touch x)\nqwen\n")
    written = pressed("bash", ROOT / "completions" / "lm.bash", 'lm respond -m "q', folder, settings)
    assert written.endswith("<respond><-m><qwen>")
    assert list(folder.glob("x")) == []
