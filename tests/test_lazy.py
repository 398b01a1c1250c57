"""What is not needed is not loaded."""

import hashlib
import json
import platform
import subprocess
import sys
from typing import Any

import pytest

import lmcli
from lmcli import startup
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
    loaded = [name for name, module in sys.modules.items() if getattr(module, "__spec__", None)]  # a stand-in has none
    print(json.dumps([status, loaded]), file=sys.stderr)
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


PYTHON = """
import sys
print(*sys.modules)
"""
"""Python itself, and what the folder of packages makes it load."""

MAY_LOAD = {
    # The packages that a pipe needs.
    "typer": 8.7,
    "websockets": 5.5,
    "orjson": 0.4,
    "annotated_doc": 0.2,  # Typer
    # The standard library: what nearly everything needs, and what they take.
    "typing": 1.9,
    "re": 1.7,
    "ast": 1.5,  # inspect, which makes a class of one of its own
    "socket": 1.4,
    "inspect": 1.1,  # Typer, which reads signatures
    "json": 1.1,  # orjson, for its exception; here for texts that orjson refuses
    "enum": 1.0,
    "datetime": 0.9,  # orjson
    "urllib": 0.8,  # addresses
    "collections": 0.7,
    "difflib": 0.7,  # Typer, for short options
    "dis": 0.5,  # inspect
    "pathlib": 0.6,
    "dataclasses": 0.5,  # orjson, websockets
    "uuid": 0.5,  # orjson, websockets
    "contextlib": 0.5,
    "functools": 0.5,
    "signal": 0.5,
    "importlib": 0.4,
    "threading": 0.4,  # Typer
    "opcode": 0.4,  # inspect
    "operator": 0.3,
    "heapq": 0.3,  # difflib
    "weakref": 0.3,  # Typer
    "struct": 0.3,  # websockets
    "binascii": 0.2,  # base64
    "base64": 0.2,  # websockets' keys, images
    "sha1": 0.2,  # the handshake, without OpenSSL
    "array": 0.2,  # socket
    "math": 0.2,
    "warnings": 0.2,
    "types": 0.2,
    "sre": 0.2,  # re
    "select": 0.2,
    "copy": 0.1,  # Typer
    "copyreg": 0.1,
    "itertools": 0.1,
    "token": 0.1,  # inspect
    "weakrefset": 0.1,
    "reprlib": 0.1,
    "fnmatch": 0.1,  # pathlib
    "ntpath": 0.1,  # pathlib
    "keyword": 0.1,
    "errno": 0.1,
    "future": 0.1,
    "gc": 0.0,
    # Of newer versions.
    "annotationlib": 0.3,  # 3.14
    "contextvars": 0.0,  # 3.14
    "py_warnings": 0.3,  # 3.14, what warnings was
    "math_integer": 0.0,  # 3.15
    "opcode_metadata": 0.1,  # 3.13
    "io": 0.1,
    "fcntl": 0.0,
    "glob": 0.2,  # 3.13, pathlib
    "grp": 0.1,  # 3.13, pathlib
    "pwd": 0.1,  # 3.13, pathlib
}
"""What a command in a pipe may load that is not ours, with the milliseconds that it takes: its own modules, and those
with an underscore before, by `python -X importtime` with CPython 3.11, the least of 20 runs. In all, `lm respond` takes
56 ms there, 17 of them for modules of ours."""

OURS_ALWAYS = {
    "lmcli": "__main__ chat closing errors record startup values",
    "lmcli.cli": "app choices environment json_text main messages model_cache options signals target",
    "lmcli.cli.commands": "",
    "lmcli.cli.output": "stdout",
    "lmcli.client": "address catalog connection dialing discovery local_files session transport waiting websocket",
    "lmcli.wire": "channels config config_entries envelopes histories multiplexer objects payloads pieces"
    " prediction_config protocol queries requests surrogates",
}
OURS_TO_PREDICT = {
    "lmcli.cli": "delivery invocation lifecycle prompt_length resolve runner text_buffer",
    "lmcli.cli.input": "document image_access incoming stdin",
    "lmcli.cli.output": "results selection sinks",
    "lmcli.client": "images",
}
OURS_FOR_JSON = {"lmcli.cli.output": "json_sinks"}
"""What may be loaded of ours, in each package."""


def named(*packages: dict[str, str]) -> set[str]:
    """The packages and their modules, by full names."""
    pairs = [pair for package in packages for pair in package.items()]
    return {name for package, modules in pairs for name in (package, *(f"{package}.{one}" for one in modules.split()))}


def not_ours(modules: set[str]) -> set[str]:
    """What is of others, by the first part of the names; `_json` is a part of json."""
    return {name.partition(".")[0].strip("_") for name in modules if not is_ours(name)}


def is_ours(module: str) -> bool:
    """Whether a module is of this project."""
    return module.partition(".")[0] == "lmcli"


PREDICT = named(OURS_ALWAYS, OURS_TO_PREDICT)


@pytest.mark.parametrize(
    ("command", "answer", "ours"),
    [
        (["respond", "hi"], "hi\n", PREDICT),
        (["respond", "-m", "echo", "hi"], "hi\n", PREDICT),
        (["respond", "--markdown", "hi"], "hi\n", PREDICT),
        (["respond", "-o", "json", "hi"], None, PREDICT | named(OURS_FOR_JSON)),
        (["complete", "hi"], None, PREDICT),
        (["models"], None, named(OURS_ALWAYS)),
        (["models", "--loaded"], "echo\n", named(OURS_ALWAYS)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_loads_what_it_needs(server: Running, command: list[str], answer: str | None, ours: set[str]) -> None:
    """In a pipe a command loads what is listed: no terminal, TLS, event loop or server, and nothing for errors."""
    name, *rest = command
    stdout, status, modules = lm(name, "--host", f"127.0.0.1:{server.port}", *rest)
    assert status == 0
    assert answer is None or stdout == answer
    assert stdout
    modules -= set(python(PYTHON).stdout.split())
    assert not_ours(modules) - MAY_LOAD.keys() == set()
    assert {module for module in modules if is_ours(module)} == ours | {f"lmcli.cli.commands.{name}"}


def test_windows_is_told_in_one_line() -> None:
    """Where nothing was ever tested, nothing is tried."""
    ran = python("import sys; sys.platform = 'win32'; from lmcli.__main__ import main; main()", "respond", "hi")
    assert ran.returncode == ExitCode.UNAVAILABLE
    assert ran.stderr == "lm: error: Windows is supported through WSL only: run lm inside it\n"


STAND_IN = """
import sys
from lmcli import startup
startup.before_imports()
"""


def test_a_stand_in_becomes_the_module_when_it_is_used() -> None:
    """Importing it loads nothing; its names are those of the module."""
    code = f"""{STAND_IN}
import importlib.metadata
before = "email.message" in sys.modules
print(before, importlib.metadata.version("typer") > "0", "email.message" in sys.modules)
from importlib.metadata import version
print(version is sys.modules["importlib.metadata"].version)
"""
    assert python(code).stdout == "False True True\nTrue\n"


def test_a_name_of_a_stand_in_loads_the_module_when_it_is_used() -> None:
    """What Typer and websockets take while they are imported works when it is called or looked into, and in types."""
    code = f"""{STAND_IN}
from shutil import get_terminal_size
from http import HTTPStatus
import logging
status_or_number = HTTPStatus | int
logger = logging.Logger | logging.LoggerAdapter[int]
print([sys.modules[name].__spec__ for name in ("shutil", "http", "logging")])
print(get_terminal_size((7, 7)).lines > 0, HTTPStatus.OK.value, HTTPStatus(404).name)
print([sys.modules[name].__spec__ is None for name in ("shutil", "http", "logging")], logging.INFO)
"""
    assert python(code).stdout == "[None, None, None]\nTrue 200 NOT_FOUND\n[False, False, True] 20\n"


def test_a_stand_in_answers_as_the_module_does() -> None:
    """The few functions that each command needs give the same, also where Python has no hash of its own."""
    code = f"""{STAND_IN}
import hashlib, platform, secrets
print(hashlib.sha1(b"key").hexdigest(), platform.system(), len(secrets.token_bytes(16)))
print([sys.modules[name].__spec__ for name in ("hashlib", "platform", "secrets")])
sys.modules["_sha1"] = None
print(hashlib.sha1(b"key").hexdigest())
"""
    digest = hashlib.sha1(b"key").hexdigest()
    assert python(code).stdout == f"{digest} {platform.system()} 16\n[None, None, None]\n{digest}\n"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="newer versions load less by themselves")
def test_each_stand_in_is_needed(server: Running) -> None:
    """What would not be loaded without its stand-in needs none."""
    without = ENTRY_POINT.replace("startup.exit_now =", "startup.before_imports = lambda: None\nstartup.exit_now =")
    ran = python(without, "respond", "--host", f"127.0.0.1:{server.port}", "hi")
    _, modules = json.loads(ran.stderr)
    assert set(startup.UNUSED) - set(modules) == set()
