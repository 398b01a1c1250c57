"""What an entry in a table of config options says; `prediction_config` and `load_config` are the tables.

An entry says what the option is on the wire, which values it takes, and how it is given on a command line, if it is;
what it is called in Python, and its type, stand beside it. Everything that knows options is made from the tables.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

from lmcli.record import Record, distinct

Range = tuple[float | None, float | None]
Types = type | tuple[type, ...]

NUMBER: Final = (int, float)
TEXTS: Final = (list, tuple)
ANY_SHARE: Final = (0, 1)
AT_LEAST_0: Final = (0, None)
AT_LEAST_1: Final = (1, None)


@distinct
class Flag(NamedTuple):
    """How an option is given on a command line.

    Attributes:
        names: one or more, the long one last.
        metavar: what stands for its value in the help.
        help: what it is for.
        words: what is typed for each value, if that is something else.
    """

    names: tuple[str, ...]
    metavar: str | None
    help: str
    words: Mapping[str, str] | None = None


@distinct
class Entry(NamedTuple):
    """What an annotation says of an option beside its type.

    Attributes:
        key: the config key, after the prefix of its table.
        range: the lowest and the highest value allowed.
        off: for an option with a switch, the value that goes beside `checked: false`; else None.
        flag: how it is given on a command line; None for Python programs only.
        is_in_raw_completion: whether raw completion takes it.
        shape: what an object or an array must look like, see `shapes`; without one an array has texts, none empty.
    """

    key: str
    range: Range = (None, None)
    off: Any = None
    flag: Flag | None = None
    is_in_raw_completion: bool = True
    shape: Any = None


@distinct
class Option(NamedTuple):
    """An entry with its type: see `Entry`; `key` is whole, `choices` are the only texts allowed, if not all are."""

    key: str
    type: Types
    range: Range = (None, None)
    off: Any = None
    flag: Flag | None = None
    is_in_raw_completion: bool = True
    shape: Any = None
    choices: tuple[str, ...] = ()


Table = Mapping[str, Option]
"""Options by their Python names."""


def table(config: type[Record], prefix: str) -> Table:
    """The options of a configuration, whose keys begin with a prefix; one that begins with a slash has none."""
    return MappingProxyType(
        {
            name: _option(annotation.__origin__, annotation.__metadata__[0], prefix)
            for name, annotation in config.fields.items()
            if hasattr(annotation, "__metadata__")
        }
    )


def snake_case(name: str) -> str:
    """The Python name of an option; the SDK's camelCase has initials in capitals, as in `offloadKVCacheToGpu`."""
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", words).lower()


def _option(annotation: Any, entry: Entry, prefix: str) -> Option:
    """Read the type beside an entry; None and `Literal[False]` are the absent and the switched-off value."""
    types: list[Any] = []
    choices: tuple[str, ...] = ()
    for kind in get_args(annotation):
        origin = get_origin(kind)
        if kind is NoneType or (origin is Literal and get_args(kind) == (False,)):
            continue
        if origin is Literal:
            types.append(str)
            choices = get_args(kind)
        else:
            types += _accepted(kind, origin)
    if not types:
        raise TypeError(f"{entry.key} has no type")
    key = entry.key[1:] if entry.key.startswith("/") else prefix + entry.key
    return Option(key, tuple(types) if len(types) > 1 else types[0], *entry[1:], choices=choices)


def _accepted(kind: Any, origin: Any) -> tuple[Any, ...]:
    """The types that stand for one in an annotation, whose origin is that of a generic one."""
    if kind is float:
        return NUMBER
    return TEXTS if origin is tuple else (origin or kind,)
