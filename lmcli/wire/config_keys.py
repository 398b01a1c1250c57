"""Config keys by the names that people use for them: the whole key, its end, or the SDK's name of the option.

Loaded when a key is named.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from lmcli.errors import quoted
from lmcli.wire.config import check_field, did_you_mean, write_value
from lmcli.wire.config_entries import Option, Table, snake_case
from lmcli.wire.load_config import LOAD_KEYS, LOAD_OPTIONS, LOAD_PREFIX
from lmcli.wire.prediction_config import OPTIONS, PREDICTION_PREFIX, UNNAMED

_KNOWN: Final = {option.key: option for option in (*OPTIONS.values(), *UNNAMED)} | LOAD_KEYS
_TABLES: Final[Mapping[str, Table]] = {PREDICTION_PREFIX: OPTIONS, LOAD_PREFIX: LOAD_OPTIONS}
_PREFIXES: Final = (*_TABLES, "load.", "embedding.")


def find_option(name: str, prefixes: Sequence[str] = tuple(_TABLES)) -> Option | None:
    """The option that a name stands for; None if no server is known to read such a key.

    Args:
        name: a config key, with or without its prefix, or the SDK's name, in camelCase or snake_case.
        prefixes: of the tables to look in first.
    """
    if name in _KNOWN:
        return _KNOWN[name]
    for prefix in dict.fromkeys((*prefixes, *_TABLES)):
        short = name.removeprefix(prefix)
        found = _KNOWN.get(prefix + short) or _TABLES[prefix].get(snake_case(short).replace(".", "_"))
        if found is not None:
            return found
    return None


def whole_key(name: str, prefix: str) -> str:
    """The config key for a name that is not known, as it is if it has a prefix."""
    return name if name.startswith(_PREFIXES) else prefix + name


def is_load_key(key: str) -> bool:
    """Whether a config key is for loads, rather than predictions."""
    return not key.startswith(PREDICTION_PREFIX)


def unknown_key(name: str, prefixes: Sequence[str] = tuple(_TABLES)) -> str | None:
    """Say that a name is none of a config key that servers are known to read, and which one is near."""
    if find_option(name, prefixes) is not None:
        return None
    prefix = next((prefix for prefix in _TABLES if name.startswith(prefix)), "")
    looked_in = [prefix] if prefix else prefixes
    short = name.removeprefix(prefix)
    known = [known for prefix in looked_in for known in _names(prefix, in_snake_case="_" in short)]
    kind = "load" if looked_in[0] == LOAD_PREFIX else "prediction"
    return f"unknown {kind} field {quoted(short)}{did_you_mean(short, known)}"


def write_field(option: Option, name: str, value: Any) -> Any:
    """A value as it is sent; for an option with a switch it may come with the switch or without, or be false.

    Raises:
        UsageError: the option cannot have this value.
    """
    if option.off is not None and isinstance(value, Mapping):
        check_field(option, name, value)
        return value
    return write_value(option, name, value)


def sdk_name(name: str) -> str:
    """The camelCase of a Python name."""
    first, *others = name.split("_")
    return first + "".join(other.title() for other in others)


def _names(prefix: str, *, in_snake_case: bool) -> Iterator[str]:
    """What the keys of a table may be called."""
    yield from (key.removeprefix(prefix) for key in _KNOWN if key.startswith(prefix))
    yield from (name if in_snake_case else sdk_name(name) for name in _TABLES[prefix])
