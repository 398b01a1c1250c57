"""The command tree of Typer as plain records."""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import typer
from typer.main import get_command

from lmcli.cli.app import COMMANDS, build
from lmcli.cli.environment import Environment
from lmcli.cli.model_cache import KEYS, LOADED
from lmcli.cli.resolve import REASONING_WORDS

ANY_FILE: Final = "*"


class Values(NamedTuple):
    """The completions of a value.

    Attributes:
        words: fixed words.
        files: a pattern of file names; folders are completed, too.
        names: the file of the cache whose names of models to complete; empty for none.
    """

    words: tuple[str, ...] = ()
    files: str = ""
    names: str = ""


class Option(NamedTuple):
    """One option.

    Attributes:
        names: the spellings, short ones first; those that negate it last.
        metavar: the name of its value; empty if it has none.
        values: the completions of its value.
        help: its help, in sentences.
        notes: environment and default, `env: LM_MODEL; default: the loaded one`.
        is_repeatable: whether it may be given several times.
    """

    names: tuple[str, ...]
    metavar: str
    values: Values
    help: str
    notes: str
    is_repeatable: bool

    @property
    def title(self) -> str:
        """Its help for a list, without the period."""
        return self.help.rstrip(".")


class Command(NamedTuple):
    """One command; `path` is its name with those of its parents, empty for `lm` itself."""

    path: str
    summary: str
    example: str
    options: tuple[Option, ...]
    argument: str
    argument_values: Values
    subcommands: tuple[str, ...]


_BY_NAME: Final = {
    "--history": Values(files="*.json"),
    "--grammar": Values(files="*.gbnf"),
    "-H": Values(words=("demo", "local"), files="*.gguf"),
    "--reasoning": Values(words=tuple(REASONING_WORDS)),
    "--gpu": Values(words=("max", "off")),
}
_BY_METAVAR: Final = {
    "FILE": Values(files=ANY_FILE),
    "FILE|JSON": Values(files="*.json"),
    "[FILE]...": Values(files=ANY_FILE),
    "[MODEL.gguf]...": Values(files="*.gguf"),
    "KEY": Values(names=KEYS),
    "[IDENTIFIER]...": Values(names=LOADED),
    "[COMMAND]...": Values(words=tuple(name for name in COMMANDS if " " not in name)),
}
"""The completions of values that do not follow from their types."""

_HELP: Final = re.compile(r"(?P<text>.*?)(?:  \[(?P<notes>.*?)\])?(?P<more>  .*)?")


def commands() -> dict[str, Command]:
    """`lm` and all its commands by path; subcommands follow their parent."""
    root = get_command(build(Environment.of_process()))
    return {command.path: command for command in _walk(root, "", None)}


def _walk(command: Any, path: str, parent: typer.Context | None) -> Iterator[Command]:
    context = typer.Context(command, info_name=path, parent=parent, **command.context_settings)
    options = [_option(p, context) for p in command.get_params(context) if p.param_type_name == "option"]
    arguments = [p.make_metavar(context) for p in command.get_params(context) if p.param_type_name == "argument"]
    argument = arguments[0] if arguments else ""
    summary, _, example = command.help.partition("\n\nExample: ")
    paths = [name for name in COMMANDS if name.rpartition(" ")[0] == path]
    values = _BY_METAVAR.get(argument, Values())
    yield Command(path, summary, example, tuple(options), argument, values, tuple(paths))
    for name in paths:
        yield from _walk(command.commands[name.rpartition(" ")[2]], name, context)


def _option(parameter: Any, context: typer.Context) -> Option:
    found = _HELP.fullmatch(parameter.get_help_record(context)[1])
    if found is None:
        raise ValueError(f"the help of {parameter.opts[0]} has more than one line")
    return Option(
        names=(*sorted(parameter.opts, key=len), *parameter.secondary_opts),
        metavar="" if parameter.is_flag else parameter.make_metavar(context),
        values=_values(parameter),
        help=found["text"] + (found["more"] or "").replace("  ", " "),
        notes=found["notes"] or "",
        is_repeatable=parameter.multiple,
    )


def _values(parameter: Any) -> Values:
    if choices := getattr(parameter.type, "choices", None):
        return Values(words=tuple(choices))
    return _BY_NAME.get(parameter.opts[0]) or _BY_METAVAR.get(parameter.metavar, Values())
