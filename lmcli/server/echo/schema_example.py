"""The smallest instance of a JSON schema, for a model that understands nothing and yet must keep to the form.

Knows the keywords that describe values of one kind each, references inside the schema, and the combinations
`allOf`, `anyOf` and `oneOf`; a `pattern` only where a plain filling meets it. A schema comes from a stranger: what
is made of it, and the work of making it, are bounded.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

FORMATS: Mapping[str, str] = {
    "date": "1970-01-01",
    "date-time": "1970-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P0D",
    "email": "a@example.com",
    "hostname": "example.com",
    "ipv4": "127.0.0.1",
    "ipv6": "::1",
    "uri": "http://example.com/",
    "uuid": "00000000-0000-0000-0000-000000000000",
}
FILLINGS = ("a", "A", "0", " ", "_", "-", "x1", "A1", "1970-01-01")
MAX_DEPTH = 64
# How many values may be tried and how many characters may be written, together.
MAX_WORK = 10_000
# How long a pattern may be, and a filling that it is tried on by the number of choices in it: Python's regular
# expressions take a time to the power of that number.
MAX_PATTERN = 200
LONGEST_FILLINGS = (100, 30, 12, 8)
_ATOM = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)[*+?{]")
_CHOICE = re.compile(r"[*+?|]|\{(?!\d+\})")


class NoExample(Exception):
    """The schema asks for something that cannot be made up."""


class TooLarge(NoExample):
    """The schema asks for more than is reasonable."""


class _Work:
    """What there is to be done for one schema, and how much of it is allowed."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._left = MAX_WORK

    def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise TooLarge("a schema that is too large")


def schema_example(schema: Any) -> Any:
    """Make an instance of a schema.

    Raises:
        NoSpecimen: the schema admits nothing, nothing that is found by plain means, or only something large; or it
            is no schema.
    """
    try:
        return _make(schema, _Work(schema), 0)
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, re.error) as error:
        raise NoExample(f"a schema that is malformed: {error}") from error


def _make(schema: Any, work: _Work, depth: int) -> Any:
    """Make an instance, by the first way of reading the schema that leads to one."""
    work.spend(1)
    if schema is False or depth > MAX_DEPTH:
        raise NoExample("a schema that admits no finite value")
    if not isinstance(schema, Mapping):
        return {}
    problem = NoExample("alternatives of which none can be met")
    for plain in _readings(schema, work, depth):
        try:
            return _make_plain(plain, work, depth)
        except TooLarge:
            raise
        except NoExample as found:
            problem = found
    raise problem


def _make_plain(schema: Mapping[str, Any], work: _Work, depth: int) -> Any:
    given = schema.get("enum")
    if "const" in schema:
        given = [schema["const"]]
    if isinstance(given, list) and given:
        work.spend(len(json.dumps(given[0])))
        return given[0]
    return _MAKERS[_kind(schema)](schema, work, depth + 1)


def _readings(schema: Mapping[str, Any], work: _Work, depth: int) -> Iterator[Mapping[str, Any]]:
    """The plain schemas that a schema stands for: references and combinations folded in, null before all others."""
    own = {key: value for key, value in schema.items() if key not in ("$ref", "allOf", "anyOf", "oneOf")}
    parts = [[part] for part in schema.get("allOf", ())]
    if "$ref" in schema:
        parts.append([_referenced(schema["$ref"], work.root)])
    alternatives = (schema[key] for key in ("anyOf", "oneOf") if schema.get(key))
    parts.extend(sorted(options, key=lambda option: option != {"type": "null"}) for options in alternatives)
    if depth > MAX_DEPTH and parts:
        raise NoExample("a schema that refers to itself without end")
    return _folded(own, parts, work, depth)


def _folded(
    schema: Mapping[str, Any], parts: Sequence[Sequence[Any]], work: _Work, depth: int
) -> Iterator[Mapping[str, Any]]:
    """A plain schema with one alternative of each part, in all combinations."""
    if not parts:
        yield schema
        return
    for option in parts[0]:
        work.spend(1)
        if option is False:
            continue
        for reading in _readings(option, work, depth + 1) if isinstance(option, Mapping) else ({},):
            yield from _folded(_merged(schema, reading, work), parts[1:], work, depth)


def _merged(schema: Mapping[str, Any], other: Mapping[str, Any], work: _Work) -> Mapping[str, Any]:
    merged = dict(schema)
    for key, value in other.items():
        if key == "properties" and isinstance(merged.get(key), Mapping):
            merged[key] = {**merged[key], **value}
        elif key == "required" and isinstance(merged.get(key), list):
            merged[key] = list(dict.fromkeys((*merged[key], *value)))
        else:
            merged.setdefault(key, value)
            continue
        work.spend(len(merged[key]))
    return merged


def _referenced(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise NoExample(f"a reference out of the schema: {reference}")
    found = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise NoExample(f"a reference to nothing: {reference}") from error
    return found


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = "null" if "null" in kind else kind[0]
    if isinstance(kind, str) and kind in _MAKERS:
        return kind
    return next((kind for key, kind in _IMPLIED.items() if key in schema), "object")


def _object(schema: Mapping[str, Any], work: _Work, depth: int) -> dict[str, Any]:
    known = schema.get("properties") or {}
    extra = schema.get("additionalProperties", True)
    least = int(schema.get("minProperties", 0))
    names: dict[str, None] = dict.fromkeys(schema.get("required") or ())
    for name in (*known, *(f"key{number}" for number in range(1, 1 + min(least, MAX_WORK + 1)))):
        if len(names) >= least:
            break
        names.setdefault(name)
    work.spend(sum(len(name) for name in names))
    return {name: _make(known.get(name, extra), work, depth) for name in names}


def _array(schema: Mapping[str, Any], work: _Work, depth: int) -> list[Any]:
    first = schema.get("prefixItems") or ()
    rest = schema.get("items", True)
    least = int(schema.get("minItems", 0))
    return [_make(first[index] if index < len(first) else rest, work, depth) for index in range(least)]


def _string(schema: Mapping[str, Any], work: _Work, _depth: int) -> str:
    least = int(schema.get("minLength", 0))
    work.spend(least)
    text = FORMATS.get(schema.get("format", ""), "")
    text += "a" * (least - len(text))
    pattern = schema.get("pattern")
    if pattern is None:
        return text
    most = min(int(schema.get("maxLength", least + 40)), _longest(pattern))
    candidates = (text, *(filling * size for size in range(max(least, 1), most + 1) for filling in FILLINGS))
    for candidate in candidates:
        if least <= len(candidate) <= most and re.search(pattern, candidate):
            return candidate
    raise NoExample(f"the pattern {pattern}")


def _longest(pattern: str) -> int:
    """How long a text may be that the pattern is tried on, so that the search surely ends soon; -1 for none."""
    plain = _ATOM.sub(lambda found: "(" if found[0] == "(?" else "x", pattern[:MAX_PATTERN])
    choices = len(_CHOICE.findall(plain))
    if len(pattern) > MAX_PATTERN or choices >= len(LONGEST_FILLINGS) or _REPEATED_GROUP.search(plain):
        return -1
    return LONGEST_FILLINGS[choices]


def _integer(schema: Mapping[str, Any], _work: _Work, _depth: int) -> int:
    return int(_nearest_to_zero(schema, 1))


def _number(schema: Mapping[str, Any], _work: _Work, _depth: int) -> float:
    value = _nearest_to_zero(schema, 0)
    return int(value) if float(value).is_integer() else value


def _nearest_to_zero(schema: Mapping[str, Any], unit: int) -> float:
    """The value of the range that is nearest to zero, on the grid of `multipleOf` or of whole numbers."""
    step = schema.get("multipleOf") or unit
    low, above = _bound(schema, "minimum", "exclusiveMinimum")
    high, below = _bound(schema, "maximum", "exclusiveMaximum")
    edge, strict, way = (low, above, 1) if low is not None and low >= 0 else (high, below, -1)
    if edge is None or edge * way < 0 or (edge == 0 and not strict):
        return 0
    if not step:
        other = high if way > 0 else low
        return edge if not strict else edge + way if other is None else (edge + other) / 2
    count = math.ceil(abs(edge) / step)
    if strict and count * step == abs(edge):
        count += 1
    return way * count * step


def _bound(schema: Mapping[str, Any], plain: str, exclusive: str) -> tuple[float | None, bool]:
    """A limit of a range, and whether it is itself outside."""
    limit, strict = schema.get(plain), schema.get(exclusive)
    if isinstance(strict, bool):  # the form before draft 6
        return limit, strict
    return (limit, False) if strict is None else (strict, True)


Maker = Callable[[Mapping[str, Any], _Work, int], Any]

_MAKERS: Mapping[str, Maker] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": lambda _schema, _work, _depth: False,
    "null": lambda _schema, _work, _depth: None,
}
_IMPLIED: Mapping[str, str] = {
    "properties": "object",
    "items": "array",
    "prefixItems": "array",
    "minLength": "string",
    "pattern": "string",
    "format": "string",
    "minimum": "number",
    "maximum": "number",
}
