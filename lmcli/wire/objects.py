"""Records as JSON objects of the wire: the keys are the names of the fields in camelCase, the types are checked."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from lmcli.errors import RemoteProtocolError, quoted
from lmcli.record import Record, distinct
from lmcli.values import JsonObject, ModelInfo, ModelInstance, PromptDetails, Quantization, Stats

AnyRecord = TypeVar("AnyRecord", bound=Record)


def present(value: JsonObject) -> JsonObject:
    """Leave out what is None: optional keys are absent on the wire, never null."""
    return {key: item for key, item in value.items() if item is not None}


# A figure that no double can hold, such as 1e400, is infinite. JSON has no such number: it is unknown, as null is.
UNKNOWN = (None, math.inf, -math.inf)
_LARGEST = 2.0**63
_NUMBERS = (int, float)

# Null is a value, not an absence, for these keys: the JavaScript SDK drops a model info without them.
_NULLABLE = frozenset({"device_identifier", "ttl_ms", "last_used_time"})


def read(cls: type[AnyRecord], body: Any) -> AnyRecord:
    """Read a record whose wire keys are its field names in camelCase.

    Raises:
        RemoteProtocolError: a required key is missing, or a key has another type.
    """
    layout, found = _LAYOUTS[cls], JsonObject()
    for key, value in object_of(body, cls.__name__).items():
        if (field := layout.get(key)) is None:
            continue
        name, type_, convert = field
        if type(value) is type_:
            found[name] = value
        elif value not in UNKNOWN:
            if (converted := convert(value)) is None:
                raise RemoteProtocolError(f"the server sent {key} as {quoted(value, limit=40)}")
            found[name] = converted
    for name in cls.required:
        if name not in found:
            raise RemoteProtocolError(f"the server left out {camel(name)}")
    return cls(**found)


def write(record: Record) -> JsonObject:
    """Write a record; None is left out but for the keys where null is a value."""
    written: JsonObject = {}
    for key, field in _LAYOUTS[type(record)].items():
        value = getattr(record, field.name)
        if isinstance(value, Record):
            value = write(value)
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None or field.name in _NULLABLE:
            written[key] = value
    return written


def snake(key: str) -> str:
    """`timeToFirstTokenSec` → `time_to_first_token_sec`."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in key)


def camel(name: str) -> str:
    """`time_to_first_token_sec` → `timeToFirstTokenSec`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


@distinct
class _Field(NamedTuple):
    """A field of a record: its name, the type of values that are taken as they are, and what converts or refuses."""

    name: str
    type: type | None
    convert: Callable[[Any], Any]


def _layout(cls: type[Record]) -> Mapping[str, _Field]:
    """The fields of a record by their wire keys."""
    return {camel(name): _Field(name, *_CONVERT[_type_name(annotation)]) for name, annotation in cls.fields.items()}


def _type_name(annotation: Any) -> str:
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return name.removesuffix(" | None").partition("[")[0].rsplit(".", 1)[-1]


def whole(value: Any) -> int | None:
    """A whole number of 64 bits, also where JavaScript wrote it as 7.0."""
    return int(value) if type(value) in _NUMBERS and abs(value) <= _LARGEST and value == int(value) else None


def number(value: Any) -> float | None:
    """A number of JSON."""
    return value if type(value) in _NUMBERS else None


def _texts(value: Any) -> tuple[str, ...] | None:
    is_list_of_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return tuple(value) if is_list_of_texts else None


def _refused(_: Any) -> None:
    """No other type is converted."""


_CONVERT: Mapping[str, tuple[type | None, Callable[[Any], Any]]] = MappingProxyType(
    {
        "str": (str, _refused),
        "bool": (bool, _refused),
        "int": (None, whole),
        "float": (None, number),
        "tuple": (None, _texts),
        "Quantization": (None, lambda value: read(Quantization, value)),
    }
)


_LAYOUTS: Mapping[type[Record], Mapping[str, _Field]] = {
    cls: _layout(cls) for cls in (Stats, ModelInfo, ModelInstance, Quantization, PromptDetails)
}


def object_of(body: Any, what: str) -> JsonObject:
    """An object that the server sent.

    Raises:
        RemoteProtocolError: it is none.
    """
    if isinstance(body, dict):
        return body
    raise RemoteProtocolError(f"the server sent something that is not a valid {what}: {quoted(body, limit=40)}")
