"""What is not needed is not loaded."""

import json
import subprocess
import sys
from typing import Any

import pytest

import lmcli
from lmcli.errors import ExitCode
from lmcli.server.background import Running

PATIENCE = 30.0


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


LOADED = """
import sys
before = set(sys.modules)
exec(sys.argv[1])
print(*sorted(set(sys.modules) - before))
"""


def loaded_by(statement: str) -> set[str]:
    """The modules that a statement loads."""
    ran = python(LOADED, statement)
    assert ran.stderr == ""
    return set(ran.stdout.split())


def test_import_lmcli_loads_nothing() -> None:
    """`import lmcli` costs nothing: not one further module."""
    assert loaded_by("import lmcli") == {"lmcli"}


def test_listing_the_names_loads_nothing() -> None:
    """`dir(lmcli)` shows the public names without loading them."""
    assert loaded_by("import lmcli; assert set(lmcli.__all__) <= set(dir(lmcli))") == {"lmcli"}


def test_every_public_name_resolves() -> None:
    """Each name in `__all__` is there when it is used."""
    assert [getattr(lmcli, name).__name__ for name in lmcli.__all__] == lmcli.__all__


def test_star_import_gives_the_public_names() -> None:
    """`from lmcli import *` brings what is promised."""
    space: dict[str, Any] = {}
    exec("from lmcli import *", space)
    assert set(lmcli.__all__) <= set(space)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that is not there fails as in any module."""
    with pytest.raises(AttributeError, match="module 'lmcli' has no attribute 'Agent'"):
        _ = lmcli.Agent  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lmcli; lmcli.LmError", {"orjson", "lmcli.values", "websockets"}),
        ("import lmcli; lmcli.Chat", {"orjson", "websockets"}),
        ("import lmcli; lmcli.Client", {"asyncio", "lmcli.cli", "lmcli.server", "rich", "ssl", "typer"}),
        ("import lmcli; lmcli.AsyncClient", {"lmcli.cli", "lmcli.server", "lmcli.client.api", "rich", "typer"}),
    ],
)
def test_a_name_loads_its_own_floor(statement: str, absent: set[str]) -> None:
    """Using one name loads its home and what is below it."""
    assert loaded_by(statement) & absent == set()


ENTRY_POINT = """
import sys
from lmcli import __main__
from lmcli import startup
def exit_now(status):
    sys.stdout.flush()
    import json
    print(json.dumps([status, sorted(sys.modules)]), file=sys.stderr)
startup.exit_now = exit_now
sys.argv = ["lm", *sys.argv[1:]]
__main__.main()
"""
"""`lm`, which reports the loaded modules instead of exiting."""


def lm(*arguments: str) -> tuple[str, int, set[str]]:
    """Run a command: its output, its status and what it loaded."""
    ran = python(ENTRY_POINT, *arguments)
    *said, last = ran.stderr.splitlines()
    assert said == []
    status, modules = json.loads(last)
    return ran.stdout, status, set(modules)


VERSION = """
import sys
from lmcli.__main__ import main
sys.argv = ["lm", "--version"]
main()
print(*sys.modules, file=sys.stderr)
"""


def test_version_is_printed_by_the_entry_point() -> None:
    """`lm --version` loads no module of `lm` but the entry point."""
    ran = python(VERSION)
    assert ran.stdout == f"lm {lmcli.__version__}\n"
    modules = set(ran.stderr.split())
    assert {name for name in modules if name.startswith("lmcli")} == {"lmcli", "lmcli.__main__"}
    assert modules & {"typer", "orjson", "typing"} == set()


HEAVY = {
    "_posixsubprocess",  # subprocess, in effect
    "asyncio",
    "concurrent.futures",
    "email.message",  # importlib.metadata, in effect
    "encodings.idna",
    "http.client",
    "jsonschema_rs",
    "lmcli.cli.suggestions",
    "lmcli.server",
    "rich",
    "ssl",
    "urllib.request",
}


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["respond", "hi"], "hi\n"),
        (["respond", "-o", "json", "hi"], None),
        (["complete", "hi"], None),
        (["models", "--loaded"], "echo\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_loads_what_it_needs(server: Running, command: list[str], answer: str | None) -> None:
    """In a pipe no command loads the terminal's library, TLS, an event loop, the server or what explains errors."""
    name, *rest = command
    stdout, status, modules = lm(name, "--host", f"127.0.0.1:{server.port}", *rest)
    assert status == 0
    assert answer is None or stdout == answer
    assert stdout
    assert modules & HEAVY == set()
    others = {
        f"lmcli.cli.commands.{other}" for other in ("respond", "complete", "models", "serve", "chat", "stats", "batch")
    }
    assert modules & others == {f"lmcli.cli.commands.{name}"}


def test_windows_is_told_in_one_line() -> None:
    """Where nothing was ever tested, nothing is tried."""
    ran = python("import sys; sys.platform = 'win32'; from lmcli.__main__ import main; main()", "respond", "hi")
    assert ran.returncode == ExitCode.UNAVAILABLE
    assert ran.stderr == "lm: error: Windows is supported through WSL only: run lm inside it\n"


def test_a_deferred_module_is_loaded_when_it_is_used() -> None:
    """What is imported is a stand-in; its names are those of the module."""
    code = """
import sys
from lmcli import startup
startup.before_imports()
import importlib.metadata
before = "email.message" in sys.modules
print(before, importlib.metadata.version("typer") > "0", "email.message" in sys.modules)
from importlib.metadata import version
print(version is sys.modules["importlib.metadata"].version)
"""
    assert python(code).stdout == "False True True\nTrue\n"
