"""Imports run downwards: every module of the package, read and held against the plan of the layers."""

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


CORE = {"lmcli", "lmcli.errors", "lmcli.closing", "lmcli.record", "lmcli.values", "lmcli.chat", "lmcli.startup"}


def is_in(module: str, package: str) -> bool:
    """Whether a module is a package or lies in it."""
    return module == package or module.startswith(f"{package}.")


def layer_of(module: str) -> str:
    """The layer that a module belongs to."""
    if module in CORE:
        return "core"
    for layer in ("wire", "client", "server", "cli", "reference"):
        if is_in(module, f"lmcli.{layer}"):
            return layer
    assert module == "lmcli.__main__", f"{module} belongs to no layer"
    return "entry"


BELOW = {
    "core": {"core"},
    "wire": {"core", "wire"},
    "client": {"core", "wire", "client"},
    "server": {"core", "wire", "server"},
    "cli": {"core", "wire", "client", "cli"},
    "entry": {"core", "cli"},
    "reference": {"core", "wire", "client", "server", "cli", "entry", "reference"},
}
LIBRARIES = {
    "core": set[str](),
    "wire": {"orjson"},
    "client": {"orjson", "websockets"},
    "server": {"jinja2", "orjson", "websockets", "xllamacpp"},
    "cli": {"jsonschema_rs", "markdown_it", "orjson", "pygments", "rich", "typer"},
    "entry": set[str](),
    "reference": {"typer"},
}
ONLY = {
    "jinja2": {"lmcli.server.llama.jinja_main"},
    "jsonschema_rs": {"lmcli.cli.input.schema"},
    "websockets": {"lmcli.client.websocket", "lmcli.server"},
    "typer": {"lmcli.cli.app", "lmcli.cli.options", "lmcli.cli.main", "lmcli.cli.help_formatter", "lmcli.reference"},
    "rich": {"lmcli.cli.output.progress", "lmcli.cli.output.markdown_text"},
    "markdown_it": {"lmcli.cli.output.markdown_blocks", "lmcli.cli.output.markdown_text"},
    "pygments": {"lmcli.cli.output.markdown_text"},
}
"""The only modules and packages that may know a library, where its layer does not say enough."""

HEAVY_THEMSELVES = {"lmcli.cli.output.markdown_blocks", "lmcli.cli.output.markdown_text"}
"""What is loaded inside a function, and so may load at once what is heavy."""

STARTS_SERVERS = {"lmcli.cli.commands.serve", "lmcli.cli.target"}
"""What starts a server: `serve`, and a host that lives inside the command."""


def test_imports_run_downwards() -> None:
    """A layer knows itself and what is below it; the command line reaches the server in two places only."""
    for module in FILES:
        for found in imports(module):
            if not is_in(found.target, "lmcli"):
                continue
            if module in STARTS_SERVERS and layer_of(found.target) == "server":
                continue
            assert layer_of(found.target) in BELOW[layer_of(module)], f"{module} imports {found.target}"


def test_every_library_has_its_place() -> None:
    """Beyond the standard library a layer uses what it is there for, and some libraries are known in one place."""
    for module in FILES:
        for found in imports(module):
            library = found.target.partition(".")[0]
            if library == "lmcli" or library in sys.stdlib_module_names:
                continue
            assert library in LIBRARIES[layer_of(module)], f"{module} imports {library}"
            assert any(is_in(module, place) for place in ONLY.get(library, {"lmcli"})), f"{module} imports {library}"


def test_what_is_heavy_waits() -> None:
    """Rich, JSON schemas and TLS are loaded inside a function, when something is to be drawn, checked or secured."""
    for module in FILES.keys() - HEAVY_THEMSELVES:
        heavy = {"jsonschema_rs", "markdown_it", "pygments", "rich", "ssl"}
        if layer_of(module) in ("core", "wire", "client") and not is_asynchronous(module):
            heavy = heavy | {"asyncio"}
        for found in imports(module):
            assert found.is_lazy or {found.target, found.target.partition(".")[0]}.isdisjoint(
                heavy | HEAVY_THEMSELVES
            ), f"{module} imports {found.target} at once"


def is_asynchronous(module: str) -> bool:
    """Whether a module belongs to the asynchronous client."""
    return module.startswith("lmcli.client.aio")


def test_only_asynchronous_modules_know_each_other() -> None:
    """Neither the synchronous client nor the command line loads the asynchronous client, and with it asyncio."""
    for module in FILES:
        for found in imports(module):
            assert not is_asynchronous(found.target) or is_asynchronous(module), f"{module} imports {found.target}"


def test_commands_are_loaded_when_they_run() -> None:
    """No module imports a command, and the server is reached inside of functions only."""
    for module in FILES:
        for found in imports(module):
            assert not is_command(found.target), f"{module} imports {found.target}"
    reached = [f for f in imports("lmcli.cli.target") if is_in(f.target, "lmcli.server")]
    assert reached
    assert all(found.is_lazy for found in reached)


IMPURE = {"asyncio", "os", "random", "secrets", "select", "selectors", "socket", "subprocess", "threading", "time"}


def test_the_wire_is_pure() -> None:
    """The wire uses no socket, clock, randomness or environment."""
    wire = [module for module in FILES if layer_of(module) == "wire"]
    used = {(module, found.target.partition(".")[0]) for module in wire for found in imports(module)}
    assert {(module, library) for module, library in used if library in IMPURE} == set()


def test_no_two_modules_share_a_name_or_its_stem() -> None:
    """A name says which module is meant, whatever its folder; commands alone are called as the user calls them."""
    names = sorted(m.rpartition(".")[2] for m in FILES if not m.endswith("__main__") and not is_command(m))
    assert sorted(set(names)) == names
    assert [(one, other) for one in names for other in names if differ_by_an_ending(one, other)] == []


def differ_by_an_ending(one: str, other: str) -> bool:
    """Whether a name is another with an ending: connect, connection; load, loading; record, records."""
    ending = other.removeprefix(one)
    return other.startswith(one) and len(one) > 3 and ending.isalpha() and len(ending) <= 4


def is_command(module: str) -> bool:
    """Whether a module is one of the commands."""
    return is_in(module, "lmcli.cli.commands") and module != "lmcli.cli.commands"


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


def test_a_module_says_what_it_is() -> None:
    """Each module begins with a line on what it is; none is a drawer for what has no place."""
    for module, path in FILES.items():
        lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
        assert lines, module
        assert lines[0].strip(), module
        assert module.rpartition(".")[2] not in ("utils", "helpers", "common")


def is_for_readers(node: ast.AST) -> bool:
    """Whether a part of a module is a docstring, or the table of statuses that the documentation is made from."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "EXIT_MEANINGS"


def constants(module: str) -> Iterator[str]:
    """The texts in a module that are not for its readers only."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    skipped = {id(inner) for node in ast.walk(tree) if is_for_readers(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


TABLE = "lmcli.wire.prediction_config"
"""An entry of the table of options holds its flag too, as data; no message is made there."""

LIBRARY = [name for name in FILES if layer_of(name) in ("core", "wire", "client") and name != TABLE]


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_does_not_know_the_command_line(module: str) -> None:
    """No message or hint that a program can see names an option or a command of `lm`; `lms` is LM Studio's own."""
    assert [text for text in constants(module) if re.search(r"(^|\s)--?[a-zA-Z]|\blm [a-z-]", text)] == []
