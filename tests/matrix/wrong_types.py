"""Values of the wrong type, and how to put one into each field of a value of the protocol."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

FieldPath = tuple[str | int, ...]

TOKENS: Final[Mapping[str, bytes]] = {
    "null": b"null",
    "true": b"true",
    "-1": b"-1",
    "1.5": b"1.5",
    "1e400": b"1e400",
    "2**70": str(2**70).encode(),
    "an empty text": b'""',
    "a text": b'"text"',
    "controls": b'"\\u001b[31m\\n\\u202e"',
    "half an emoji": b'"\\ud83d"',
    "an array": b"[]",
    "an object": b"{}",
    "depth": b"[" * 5000 + b"]" * 5000,
    "NaN": b"NaN",
}
"""By what they are, as they are on the wire."""

_MARK: Final = "the value that is replaced"


def paths(value: Any, at: FieldPath = ()) -> Iterator[FieldPath]:
    """Where the fields of a value are, those that hold others too."""
    items: Sequence[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value[:1]))
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


def replaced(value: Any, path: FieldPath, token: bytes) -> bytes:
    """A value as text, with a token in place of one field.

    Raises:
        LookupError: it has no such field.
    """
    changed = copy.deepcopy(value)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if isinstance(inner, dict) and path[-1] not in inner:
        raise LookupError(path)
    inner[path[-1]] = _MARK
    return json.dumps(changed).encode().replace(json.dumps(_MARK).encode(), token)
