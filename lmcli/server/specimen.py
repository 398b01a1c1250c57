"""The smallest instance of a JSON schema, for a model that understands nothing and yet must keep to the form.

Knows the keywords that describe values of one kind each, references inside the schema, and the combinations
`allOf`, `anyOf` and `oneOf`; a `pattern` only where a plain filling meets it.
"""

import math
import re
from collections.abc import Callable, Mapping
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


class NoSpecimen(Exception):
    """The schema asks for something that cannot be made up."""


def specimen(schema: Any) -> Any:
    """Make an instance of a schema.

    Raises:
        NoSpecimen: the schema admits nothing, or nothing that is found by plain means.
    """
    return _make(schema, schema, 0)


def _make(schema: Any, root: Any, depth: int) -> Any:
    if schema is False or depth > MAX_DEPTH:
        raise NoSpecimen("a schema that admits no finite value")
    if not isinstance(schema, Mapping):
        return {}
    schema = _resolved(schema, root, depth)
    if "const" in schema:
        return schema["const"]
    if isinstance(choices := schema.get("enum"), list) and choices:
        return choices[0]
    return _MAKERS[_kind(schema)](schema, root, depth + 1)


def _resolved(schema: Mapping[str, Any], root: Any, depth: int) -> Mapping[str, Any]:
    """Fold references and combinations into one plain schema."""
    merged = {key: value for key, value in schema.items() if key not in ("$ref", "allOf", "anyOf", "oneOf")}
    parts = list(schema.get("allOf", ()))
    if "$ref" in schema:
        parts.append(_referenced(schema["$ref"], root))
    parts.extend(_simplest(schema[choice], root, depth) for choice in ("anyOf", "oneOf") if schema.get(choice))
    if depth > MAX_DEPTH and parts:
        raise NoSpecimen("a schema that refers to itself without end")
    for part in parts:
        if isinstance(part, Mapping):
            _merge(merged, _resolved(part, root, depth + 1))
    return merged


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if key == "properties" and isinstance(into.get(key), Mapping):
            into[key] = {**into[key], **value}
        elif key == "required" and isinstance(into.get(key), list):
            into[key] = [*into[key], *value]
        else:
            into.setdefault(key, value)


def _referenced(reference: Any, root: Any) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise NoSpecimen(f"a reference out of the schema: {reference}")
    found = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            found = found[int(name)] if isinstance(found, list) else found[name]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise NoSpecimen(f"a reference to nothing: {reference}") from error
    return found


def _simplest(options: list[Any], root: Any, depth: int) -> Any:
    """The first alternative that an instance can be made of, null before all others."""
    for option in sorted(options, key=lambda option: option != {"type": "null"}):
        try:
            _make(option, root, depth + 1)
        except NoSpecimen:
            continue
        return option
    raise NoSpecimen("alternatives of which none can be met")


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = "null" if "null" in kind else kind[0]
    if isinstance(kind, str) and kind in _MAKERS:
        return kind
    return next((kind for key, kind in _IMPLIED.items() if key in schema), "object")


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> dict[str, Any]:
    known = schema.get("properties") or {}
    extra = schema.get("additionalProperties", True)
    names = dict.fromkeys(schema.get("required") or ())
    spare = (f"key{number}" for number in range(1, 1 + int(schema.get("minProperties", 0))))
    for name in (*known, *spare):
        if len(names) >= schema.get("minProperties", 0):
            break
        names.setdefault(name)
    return {name: _make(known.get(name, extra), root, depth) for name in names}


def _array(schema: Mapping[str, Any], root: Any, depth: int) -> list[Any]:
    first = schema.get("prefixItems") or ()
    rest = schema.get("items", True)
    return [
        _make(first[index] if index < len(first) else rest, root, depth) for index in range(schema.get("minItems", 0))
    ]


def _string(schema: Mapping[str, Any], _root: Any, _depth: int) -> str:
    least = int(schema.get("minLength", 0))
    text = FORMATS.get(schema.get("format", ""), "")
    text += "a" * (least - len(text))
    pattern = schema.get("pattern")
    if pattern is None:
        return text
    most = int(schema.get("maxLength", least + 40))
    candidates = (text, *(filling * size for size in range(max(least, 1), most + 1) for filling in FILLINGS))
    for candidate in candidates:
        if least <= len(candidate) <= most and re.search(pattern, candidate):
            return candidate
    raise NoSpecimen(f"the pattern {pattern}")


def _integer(schema: Mapping[str, Any], _root: Any, _depth: int) -> int:
    return int(_nearest_to_zero(schema, 1))


def _number(schema: Mapping[str, Any], _root: Any, _depth: int) -> float:
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


Maker = Callable[[Mapping[str, Any], Any, int], Any]

_MAKERS: Mapping[str, Maker] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": lambda _schema, _root, _depth: False,
    "null": lambda _schema, _root, _depth: None,
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
