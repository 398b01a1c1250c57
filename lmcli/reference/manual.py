"""The man pages, in mdoc: prose from `man/prose`, all lists generated from the commands."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from lmcli import __version__
from lmcli.cli.app import COMMANDS
from lmcli.cli.environment import VARIABLES
from lmcli.errors import EXIT_MEANINGS
from lmcli.reference.tree import Command, Option
from lmcli.server.limits import (
    MAX_CALLS,
    MAX_CHANNELS,
    MAX_CONFIG_BYTES,
    MAX_FILES,
    MAX_HEAD_BYTES,
    MAX_HEADER_LINE_BYTES,
    MAX_HEADERS,
    MAX_INSTANCES,
    MAX_MESSAGES,
    MAX_NAME_CHARACTERS,
    MAX_NESTING,
    MAX_OBJECTS,
    MAX_OPEN_BYTES,
    MAX_PARTS,
    MAX_STOP_STRING_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_TEXT_BYTES,
    MAX_UPLOADED_BYTES,
    MAX_VALUES,
)
from lmcli.server.listener import AUTHENTICATION_SECONDS
from lmcli.server.sockets import MAX_CONNECTIONS, MAX_PONG_BYTES
from lmcli.wire.config_entries import NUMBER, Range, Table, Types
from lmcli.wire.config_entries import Option as Field
from lmcli.wire.config_keys import sdk_name
from lmcli.wire.identifiers import MAX_IDENTIFIER_CHARACTERS
from lmcli.wire.load_config import LOAD_OPTIONS, LOAD_PREFIX, UNNAMED_IN_LOADS
from lmcli.wire.prediction_config import OPTIONS, PREDICTION_PREFIX, UNNAMED

PAGES: Final = ("lm", "lm-respond", "lm-complete", "lm-chat", "lm-stats", "lm-models", "lm-serve")


def _mib(size: int) -> str:
    return f"{size // 1024**2:,} MiB"


def _kib(size: int) -> str:
    return f"{size // 1024:,} KiB"


class FieldList(NamedTuple):
    """The list of the fields of `--set` in a page: the prefix of their keys, the tables, and what stands before it."""

    prefix: str
    named: Table
    unnamed: Sequence[Field]
    introduction: str


_FIELDS: Final = {
    "lm-respond": FieldList(
        PREDICTION_PREFIX,
        OPTIONS,
        UNNAMED,
        r"""
.Ss Fields of \-\-set
.Ar KEY
is one of these, a field of a load as
.Xr lm\-models 1
lists them, or any other that the server supports, which gets a warning.
The prefix
.Ql llm.prediction.
may be added, and must be, as
.Ql llm.load. ,
where a name means both.
The name of the option in LM Studio's SDK means the same, such as
.Ql topKSampling
or
.Ql top_k_sampling .
A value of another type, or out of range, is refused.
The server does not apply a field with a switch if it is
.Ql false ;
the form of the protocol,
.Ql {\(dqchecked\(dq: true, \(dqvalue\(dq: 40} ,
is accepted, too.
""",
    ),
    "lm-models": FieldList(
        LOAD_PREFIX,
        LOAD_OPTIONS,
        UNNAMED_IN_LOADS,
        r"""
.Ss Fields of \-\-set
.Ar KEY
is one of these, or any other that the server supports, which gets a warning.
The prefix
.Ql llm.load.
may be added.
The name of the option in LM Studio's SDK means the same, such as
.Ql flashAttention
or
.Ql flash_attention .
The options that predict take these fields, too, for a model that the run loads.
A value of another type, or out of range, is refused.
The server does not apply a field with a switch if it is
.Ql false .
""",
    ),
}
_LIMITS_PAGE: Final = "lm-serve"
_LIMITS_INTRODUCTION: Final = """
.Ss Limits
A request that exceeds a limit is answered with an error that names it; a text that is too large, or has too many
values, ends its connection with the status 1009, and an HTTP request whose head is too large is answered with 431.
"""
_LIMITS: Final[Sequence[tuple[str, str]]] = (
    (f"{MAX_CONNECTIONS:,}", "connections, or fewer if the process may have fewer open files; further ones wait"),
    (f"{AUTHENTICATION_SECONDS:g} seconds", "for the HTTP request of a connection, and then for its credentials"),
    (
        f"{MAX_HEAD_BYTES:,} bytes",
        f"for the head of an HTTP request, with {MAX_HEADERS:,} lines of at most {MAX_HEADER_LINE_BYTES:,} bytes",
    ),
    (_mib(MAX_TEXT_BYTES), "for one text on the socket, and thus three quarters of it for an uploaded file"),
    (f"{MAX_OBJECTS:,}", "objects and arrays in one text, as counted by its opening brackets"),
    (f"{MAX_VALUES:,}", "values in one text, as counted by its commas"),
    (f"{MAX_NESTING:,}", "levels of nested objects and arrays in a parameter"),
    (f"{MAX_CALLS:,}", f"open calls and {MAX_CHANNELS:,} open channels for each connection"),
    (_mib(MAX_OPEN_BYTES), "for the open requests of a connection together"),
    (f"{MAX_MESSAGES:,}", f"messages, and {MAX_PARTS:,} parts of messages, in a chat history"),
    (_mib(MAX_CONFIG_BYTES), "for a config, with its JSON schema"),
    (f"{MAX_STOP_STRINGS:,}", "stop strings"),
    (f"{MAX_STOP_STRING_CHARACTERS:,}", "characters in a stop string, or in a tag of reasoning"),
    (f"{MAX_NAME_CHARACTERS:,}", "characters in the name of an uploaded file"),
    (f"{MAX_IDENTIFIER_CHARACTERS:,}", "characters in the identifier of a loaded model"),
    (f"{MAX_FILES:,}", f"uploaded files for each client, and {_mib(MAX_UPLOADED_BYTES)} for all of them together"),
    (f"{MAX_INSTANCES:,}", "loaded models"),
    (_kib(MAX_PONG_BYTES), "of answers to pings that a client does not read"),
)
_TYPES: Final[Mapping[Types, str]] = {
    NUMBER: "number",
    int: "whole number",
    str: "string",
    bool: "true or false",
    dict: "object",
    (list, tuple): "array",
}
_LITERAL: Final = (".Bd -literal -offset indent", ".Ed")
_ESCAPES: Final = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
_PLAIN: Final = {"…": "...", "\\": r"\e"}


def page(name: str, commands: Mapping[str, Command], prose: str) -> str:
    """One page.

    Args:
        name: of the page.
        commands: all commands by path.
        prose: its date line and the sections written by hand; shell between .Bd -literal and .Ed is not escaped.
    """
    date, sections = _sections(prose)
    shown = _of_page(name, commands)
    written: dict[str, Sequence[str]] = {
        "NAME": _name(name, shown[0]),
        "SYNOPSIS": _synopses(shown),
        "DESCRIPTION": [*sections["DESCRIPTION"], *(_limits() if name == _LIMITS_PAGE else [])],
        "OPTIONS": [*_options(shown), *(_fields(_FIELDS[name]) if name in _FIELDS else [])],
        "OUTPUT": sections.get("OUTPUT", []),
        "BATCH": sections.get("BATCH", []),
        "ENVIRONMENT": _environment(shown),
        "FILES": sections["FILES"],
        "EXIT STATUS": _exit_statuses(shown),
        "EXAMPLES": sections["EXAMPLES"],
        "SEE ALSO": _see_also(name),
    }
    lines = [date, f".Dt {name.upper()} 1", f".Os lm {__version__}"]
    for title, body in written.items():
        if body:
            lines += [f".Sh {title}", *body]
    return "\n".join(lines) + "\n"


def examples(prose: str) -> Iterator[str]:
    """The shell code of the examples of a page."""
    inside = prose.partition("\n.Sh EXAMPLES\n")[2].split(_LITERAL[0] + "\n")[1:]
    for block in inside:
        yield block.partition(_LITERAL[1])[0]


def prose_of(name: str, root: Path) -> str:
    """The prose of a page."""
    return (root / "man" / "prose" / f"{name}.mdoc").read_text(encoding="utf-8")


def _of_page(name: str, commands: Mapping[str, Command]) -> list[Command]:
    """The command of a page and its subcommands; those of `lm` have pages of their own."""
    path = name.removeprefix("lm").removeprefix("-")
    return [commands[path], *(commands[name] for name in commands[path].subcommands if path)]


def _sections(prose: str) -> tuple[str, dict[str, list[str]]]:
    date, *parts = prose.split(".Sh ")
    titled = (part.rstrip("\n").split("\n") for part in parts)
    return date.strip(), {lines[0]: list(_literals_escaped(lines[1:])) for lines in titled}


def _literals_escaped(lines: Iterable[str]) -> Iterator[str]:
    is_literal = False
    for line in lines:
        is_literal = line == _LITERAL[0] or (is_literal and line != _LITERAL[1])
        yield _literal(line) if is_literal and line != _LITERAL[0] else line


def _literal(text: str) -> str:
    r"""Literal text, which can be copied from the page; a full stop at its beginning is not a request."""
    escaped = "".join(_ESCAPES.get(char, char) for char in text)
    return rf"\&{escaped}" if escaped.startswith(".") else escaped


def _text(text: str) -> list[str]:
    """Sentences, one per line; the hyphens of options are ASCII, so that they can be copied."""
    plain = "".join(_PLAIN.get(char, char) for char in text)
    plain = re.sub(r"(?<!\w)--?(?=\w)[\w-]*", lambda found: found[0].replace("-", r"\-"), plain)
    return [rf"\&{line}" if line[0] in ".'" else line for line in re.split(r"(?<=[.!?]) +(?=[A-Z])", plain)]


def _name(name: str, command: Command) -> list[str]:
    summary = command.summary.partition("\n")[0].rstrip(".")
    return [f".Nm {name}", f".Nd {summary[:1].lower() if command.path else summary[:1]}{summary[1:]}"]


def _synopses(shown: list[Command]) -> list[str]:
    lines: list[str] = []
    for command in shown:
        lines += [f".Nm lm {_words(command.path)}".rstrip(), ".Op Ar option ..."]
        if not command.path:
            lines += [".Ar command", ".Op Ar argument ..."]
        if command.argument:
            name = command.argument.strip("[].")
            lines.append(f".Op Ar {name} ..." if command.argument.endswith("...") else f".Ar {name}")
    return lines


def _words(path: str) -> str:
    return f"Cm {path}" if path else ""


def _options(shown: list[Command]) -> list[str]:
    lines: list[str] = []
    for command in shown:
        if len(shown) > 1:
            lines.append(f".Ss Options of lm {command.path}")
        lines.append(".Bl -tag -width Ds")
        for option in command.options:
            lines += [f".It {_typed(option)}", *_text(option.help), *([f"[{option.notes}]"] if option.notes else [])]
        lines.append(".El")
    return lines


def _typed(option: Option) -> str:
    names = " , ".join(f"Fl {name[1:]}".replace("-", r"\-") for name in option.names)
    return f"{names} Ar {option.metavar.strip('<>').replace('|', ' | ')}" if option.metavar else names


def _fields(fields: FieldList) -> Iterator[str]:
    """The known fields of `--set`: their names after the prefix, types and ranges, and their names in the SDK."""
    yield from fields.introduction.strip().split("\n")
    yield ".Bl -tag -width Ds -compact"
    names = {option.key: sdk_name(name) for name, option in fields.named.items()}
    for field in sorted((*fields.named.values(), *fields.unnamed), key=lambda field: field.key):
        key = field.key.removeprefix(fields.prefix)
        last = key.rpartition(".")[2]
        also = names.get(field.key, last)
        yield f".It Cm {key}"
        yield from _text(_type(field) + (f"; also {also}" if also.lower() != last.lower() else ""))
    yield ".El"


def _type(field: Field) -> str:
    words = ", ".join(field.choices)
    if field.choices and not isinstance(field.type, tuple):
        return ", ".join(filter(None, [f"one of {words}", "with a switch" * (field.off is not None)]))
    number = NUMBER if field.choices else field.type
    parts = [_TYPES[number], _range(field.range), "with a switch" * (field.off is not None)]
    return ", ".join(filter(None, parts)) + (f", or one of {words}" if field.choices else "")


def _range(limits: Range) -> str:
    low, high = limits
    return "" if low is None else f"at least {low}" if high is None else f"{low} to {high}"


def _limits() -> Iterator[str]:
    yield from [*_LIMITS_INTRODUCTION.strip().split("\n"), ".Bl -tag -width 10n -compact"]
    for limit, what in _LIMITS:
        yield from (f".It {limit}", what)
    yield ".El"


def _environment(shown: list[Command]) -> list[str]:
    names = {name for command in shown for option in command.options for name in option.names}
    is_whole = not shown[0].path
    variables = [variable for variable in VARIABLES if is_whole or variable.option in names]
    if not variables:
        return ["None."]
    rows = (line for variable in variables for line in (f".It Ev {variable.name}", *_text(variable.meaning)))
    return [".Bl -tag -width Ds", *rows, ".El"]


def _exit_statuses(shown: list[Command]) -> list[str]:
    statuses: dict[int, str] = {}
    for command in shown:
        statuses |= COMMANDS[command.path].statuses if command.path else EXIT_MEANINGS
    rows = (line for status in sorted(statuses) for line in (f".It {int(status)}", *_text(statuses[status])))
    return [".Bl -tag -width Ds", *rows, ".El"]


def _see_also(name: str) -> list[str]:
    others = sorted(other for other in PAGES if other != name)
    return [f".Xr {other} 1 ,".removesuffix(" ," if other == others[-1] else "") for other in others]
