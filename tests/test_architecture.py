"""Imports run downstairs: every module of the package, read and held against the plan of the floors."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import lmcli

ROOT = Path(lmcli.__file__).parent


class Import(NamedTuple):
    """One import: what of, whether it waits inside a function until it is needed, or is for the type checker only."""

    target: str
    is_lazy: bool
    is_for_types: bool


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = ["lmcli", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


class Imports(ast.NodeVisitor):
    """Collects the imports of a module."""

    def __init__(self, module: str) -> None:
        self.found: list[Import] = []
        self._is_lazy = False
        self._is_for_types = False
        self.visit(ast.parse(FILES[module].read_text(encoding="utf-8")))

    def visit_Import(self, node: ast.Import) -> None:
        """`import a.b`."""
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """`from a import b`, where b may be a module."""
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            self._add(whole if whole in FILES else str(node.module))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """What is inside a function waits."""
        before, self._is_lazy = self._is_lazy, True
        self.generic_visit(node)
        self._is_lazy = before

    def visit_If(self, node: ast.If) -> None:
        """What is under TYPE_CHECKING never runs."""
        before = self._is_for_types
        self._is_for_types = before or (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        self.generic_visit(node)
        self._is_for_types = before

    def _add(self, target: str) -> None:
        self.found.append(Import(target, self._is_lazy, self._is_for_types))


def imports(module: str) -> list[Import]:
    """What a module imports when it runs, at once or lazily."""
    return [found for found in Imports(module).found if not found.is_for_types]


GROUND = {"lmcli", "lmcli.errors", "lmcli.closing", "lmcli.record", "lmcli.values", "lmcli.chat", "lmcli.haste"}


def is_in(module: str, package: str) -> bool:
    """Whether a module is a package or lies in it."""
    return module == package or module.startswith(f"{package}.")


def floor_of(module: str) -> str:
    """The floor that a module is on."""
    if module in GROUND:
        return "ground"
    for floor in ("wire", "client", "server", "cli", "reference"):
        if is_in(module, f"lmcli.{floor}"):
            return floor
    assert module == "lmcli.__main__", f"{module} is on no floor"
    return "door"


BELOW = {
    "ground": {"ground"},
    "wire": {"ground", "wire"},
    "client": {"ground", "wire", "client"},
    "server": {"ground", "wire", "server"},
    "cli": {"ground", "wire", "client", "cli"},
    "door": {"ground", "cli"},
    "reference": {"ground", "wire", "client", "server", "cli", "door", "reference"},
}
STRANGERS = {
    "ground": set[str](),
    "wire": {"orjson"},
    "client": {"orjson", "websockets"},
    "server": {"orjson", "websockets", "xllamacpp"},
    "cli": {"jsonschema_rs", "orjson", "rich", "typer"},
    "door": set[str](),
    "reference": {"typer"},
}
ONLY = {
    "jsonschema_rs": {"lmcli.cli.schema"},
    "websockets": {"lmcli.client.transport", "lmcli.server"},
    "typer": {"lmcli.cli.app", "lmcli.cli.options", "lmcli.cli.door", "lmcli.reference"},
    "rich": {"lmcli.cli.sinks.terminal"},
}
"""The only modules and packages that may know a library, where its floor does not say enough."""

SERVER_DOORS = {"lmcli.cli.serve", "lmcli.cli.connect"}
"""The commands that start a server: `serve`, and the demo host."""

MODULES = pytest.mark.parametrize("module", FILES)


@MODULES
def test_imports_run_downstairs(module: str) -> None:
    """A floor knows itself and what is below it; the commands reach the server through two doors only."""
    for found in imports(module):
        if not is_in(found.target, "lmcli"):
            continue
        if module in SERVER_DOORS and floor_of(found.target) == "server":
            continue
        assert floor_of(found.target) in BELOW[floor_of(module)], f"{module} imports {found.target}"


@MODULES
def test_every_library_has_its_place(module: str) -> None:
    """Beyond the standard library a floor uses what it is there for, and some libraries are known in one place."""
    for found in imports(module):
        library = found.target.partition(".")[0]
        if library == "lmcli" or library in sys.stdlib_module_names:
            continue
        assert library in STRANGERS[floor_of(module)], f"{module} imports {library}"
        assert any(is_in(module, place) for place in ONLY.get(library, {"lmcli"})), f"{module} imports {library}"


@MODULES
def test_what_is_heavy_waits(module: str) -> None:
    """Rich, JSON schemas and TLS are loaded inside a function, when something is to be drawn, checked or secured."""
    heavy = {"jsonschema_rs", "rich", "ssl"} | (
        {"asyncio"} if floor_of(module) in ("ground", "wire", "client") else set()
    )
    for found in imports(module):
        assert found.is_lazy or found.target.partition(".")[0] not in heavy, f"{module} imports {found.target} at once"


def test_the_server_is_reached_lazily() -> None:
    """No command loads the server by being loaded: `serve` is loaded only by who types it, the demo only when asked."""
    for module in FILES:
        for found in imports(module):
            assert found.target != "lmcli.cli.serve", f"{module} imports the command serve"
    reached = [found for found in imports("lmcli.cli.connect") if floor_of_or_none(found.target) == "server"]
    assert reached
    assert all(found.is_lazy for found in reached)


def floor_of_or_none(module: str) -> str | None:
    """The floor of a module of ours; None for any other."""
    return floor_of(module) if is_in(module, "lmcli") else None


WORLD = ["asyncio", "os", "random", "secrets", "select", "selectors", "socket", "subprocess", "threading", "time"]


@pytest.mark.parametrize("library", WORLD)
def test_the_wire_is_pure(library: str) -> None:
    """The wire knows no socket, clock, chance or environment."""
    wire = [module for module in FILES if floor_of(module) == "wire"]
    assert {m for m in wire for found in imports(m) if found.target.partition(".")[0] == library} == set()


def cycles() -> Iterator[list[str]]:
    """Circles in the imports that run when modules are loaded."""
    edges = {module: {f.target for f in imports(module) if not f.is_lazy and f.target in FILES} for module in FILES}

    def walk(module: str, path: list[str]) -> Iterator[list[str]]:
        if module in path:
            yield [*path[path.index(module) :], module]
            return
        if module in done:
            return
        for target in sorted(edges[module] - {"lmcli"}):
            yield from walk(target, [*path, module])
        done.add(module)

    done: set[str] = set()
    for module in FILES:
        yield from walk(module, [])


def test_no_circles() -> None:
    """No two modules need each other to be loaded."""
    assert list(cycles()) == []


@MODULES
def test_no_path_of_a_machine(module: str) -> None:
    """What is in the package runs anywhere: no module names a folder of somebody's machine."""
    text = FILES[module].read_text(encoding="utf-8")
    found = re.findall(r"/(?:home|root|Users|work|opt|tmp|mnt|srv)/[\w.]+|[A-Z]:\\\\?\w+", text)
    assert found == []


@MODULES
def test_a_module_says_what_it_is(module: str) -> None:
    """Each module begins with a line on what it is, and no longer than a screenful of ideas it is split by meaning."""
    lines = (ast.get_docstring(ast.parse(FILES[module].read_text(encoding="utf-8"))) or "").splitlines()
    assert lines
    assert lines[0].strip()
    assert module.rpartition(".")[2] not in ("utils", "helpers", "common")
