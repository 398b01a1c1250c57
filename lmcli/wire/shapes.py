"""What the JSON value of a config key looks like, as data: whether a value fits, and a description for people.

A shape is one of these:
    bool, int, float, str, dict: a value of this type; an int is a float, too
    {"a", "b"}: one of these values
    range(0, 10): one of these whole numbers
    [shape]: an array of such items; [shape, shape]: an array of two items, with a shape for each
    {"key": shape, "other?": shape}: an object with these keys, of which those with a question mark may be missing, and
        with any others; Exactly({…}): without others
    (shape, shape): one shape or the other
"""

import math
from collections.abc import Mapping
from typing import Any, Final

Shape = Any

NATURAL: Final = range(2**63)
"""The whole numbers from 0."""


class Exactly(dict[str, Shape]):
    """An object with no other keys."""


_WORDS: Final = {bool: "true or false", int: "whole number", float: "number", str: "text", dict: "object"}


def fits(value: Any, shape: Shape) -> bool:
    """Whether a value has a shape."""
    match shape:
        case dict() as keys:
            is_object = isinstance(value, Mapping) and all(_has(value, key, inner) for key, inner in keys.items())
            return is_object and not (isinstance(keys, Exactly) and value.keys() - {k.removesuffix("?") for k in keys})
        case set() | range():
            return type(value) in (str, int) and value in shape
        case tuple():
            return any(fits(value, other) for other in shape)
        case [item]:
            return isinstance(value, list | tuple) and all(fits(inner, item) for inner in value)
        case [*items]:
            return isinstance(value, list | tuple) and len(value) == len(items) and all(map(fits, value, items))
    types = (int, float) if shape is float else (shape,)
    return type(value) in types and (type(value) is not float or math.isfinite(value))


def described(shape: Shape) -> str:
    """A shape in words."""
    match shape:
        case dict() as keys:
            inside = (f"{_key(key)}: {described(inner)}" for key, inner in keys.items())
            return f"{{{', '.join(inside)}}}"
        case set():
            return " | ".join(f'"{word}"' if isinstance(word, str) else str(word) for word in sorted(shape))
        case range():
            return "whole number" if shape is NATURAL else f"{shape.start} to {shape.stop - 1}"
        case tuple():
            return " or ".join(map(described, shape))
        case [*items]:
            return f"[{', '.join(map(described, items))}{', …' if len(items) == 1 else ''}]"
    return _WORDS[shape]


def _has(value: Mapping[str, Any], key: str, shape: Shape) -> bool:
    name = key.removesuffix("?")
    return fits(value[name], shape) if name in value else name != key


def _key(key: str) -> str:
    return f'"{key.removesuffix("?")}"?' if key.endswith("?") else f'"{key}"'
