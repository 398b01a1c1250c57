"""The tables of the README, between `<!-- generated: NAME -->` and `<!-- end -->`."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import typer
from typer.main import get_command

from lmcli.cli.app import build
from lmcli.cli.environment import VARIABLES, Environment
from lmcli.errors import EXIT_MEANINGS

_BLOCK: Final = re.compile(r"(<!-- generated: ([\w -]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_WIDTH: Final = 78  # of a terminal of 80 columns, and of a pipe


def filled(text: str) -> str:
    """The README with its tables generated."""
    return _BLOCK.sub(lambda found: found[1] + _table(found[2]) + found[3], text)


def help_of(name: str) -> str:
    """What `lm NAME --help` prints in a pipe."""
    root: Any = get_command(build(Environment.of_process()))
    parent = typer.Context(root, info_name="lm", **root.context_settings)
    command = root.commands[name]
    context = typer.Context(command, info_name=name, parent=parent, terminal_width=_WIDTH)
    return f"{command.get_help(context)}\n"


def _table(name: str) -> str:
    make = _TABLES.get(name)
    return make() if make else f"```text\n{help_of(name.removeprefix('lm ').removesuffix(' --help'))}```\n"


def _rows(titles: tuple[str, str], rows: Iterable[tuple[object, str]]) -> str:
    lines = [f"| {titles[0]} | {titles[1]} |", "|---|---|", *(f"| {key} | {_escaped(text)} |" for key, text in rows)]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Options and files as code, and bars escaped, which would end a cell."""
    return re.sub(r"(?<![\w`])(--?[a-z][\w-]*|~/[\w./]+)", r"`\1`", text).replace("|", r"\|")


def _environment() -> str:
    return _rows(("variable", "meaning"), ((f"`{variable.name}`", variable.meaning) for variable in VARIABLES))


def _exit_status() -> str:
    return _rows(("status", "meaning"), ((int(status), meaning) for status, meaning in EXIT_MEANINGS.items()))


_TABLES: Final[Mapping[str, Callable[[], str]]] = {"environment": _environment, "exit status": _exit_status}
