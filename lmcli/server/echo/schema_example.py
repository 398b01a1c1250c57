"""An example of a JSON schema: a smallest instance, for models that cannot generate one.

Supported are types, `enum`, `const`, `properties`, `required`, `items`, `prefixItems`, `minItems`, `minLength`,
`format`, the limits of numbers, `$ref` within the schema, `allOf`, `anyOf` and `oneOf` (whose alternatives are not
compared). A `pattern` is refused; any other keyword is ignored, and the example may be invalid then.
Schemas come from clients, so the work and the size of the example are bounded.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from lmcli.errors import quoted

FORMATS: Final[Mapping[str, str]] = {
    "date": "1970-01-01",
    "date-time": "1970-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "a@example.com",
    "ipv4": "127.0.0.1",
    "uri": "http://example.com/",
    "uuid": "00000000-0000-0000-0000-000000000000",
}
MAX_DEPTH: Final = 64
# The number of schemas visited, names merged and characters written for one example, together.
MAX_WORK: Final = 10_000
MAX_REFERENCE_CHARACTERS: Final = 1000


class NoExample(Exception):
    """No example of the schema can be made."""


class TooLarge(NoExample):
    """The example, or the search for it, exceeds MAX_WORK."""


class _Work:
    """The schema that references resolve against, and the work that is left."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._left = MAX_WORK

    def spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise TooLarge("a schema that is too large")


def schema_example(schema: Any) -> Any:
    """Make an example of a schema.

    Raises:
        NoExample: the schema is malformed, unsupported or too large, or it has no finite instance.
    """
    try:
        return _make(schema, _Work(schema), 0)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise NoExample(f"a malformed schema: {error}") from error


def _make(schema: Any, work: _Work, depth: int) -> Any:
    plain = _flattened(schema, work, depth)
    for keyword in ("anyOf", "oneOf"):
        if keyword in plain:
            return _first_possible(plain.pop(keyword), plain, work, depth)
    values = [plain["const"]] if "const" in plain else plain.get("enum")
    if values:
        work.spend(len(json.dumps(values[0])))
        return values[0]
    return _MAKERS[_type(plain)](plain, work, depth + 1)


def _flattened(schema: Any, work: _Work, depth: int) -> dict[str, Any]:
    """The schema as one object, with what its `$ref` and `allOf` refer to."""
    if schema is False or depth > MAX_DEPTH:
        raise NoExample("a schema without a finite instance")
    if not isinstance(schema, Mapping):
        schema = {}
    work.spend(1 + len(schema))
    flat = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
    references = [_referenced(schema["$ref"], work.root)] if "$ref" in schema else []
    parts = (*schema.get("allOf", ()), *references)
    work.spend(len(parts))
    for part in parts:
        for key, value in _flattened(part, work, depth + 1).items():
            if key in flat and key in ("properties", "required"):
                work.spend(len(flat[key]) + len(value))
                flat[key] = {**value, **flat[key]} if key == "properties" else [*flat[key], *value]
            flat.setdefault(key, value)  # of other keywords the first counts
    return flat


def _referenced(reference: str, root: Any) -> Any:
    """Resolve a reference within the schema: `#`, and a JSON pointer."""
    if not reference.startswith("#") or len(reference) > MAX_REFERENCE_CHARACTERS:
        raise NoExample(f"a reference outside the schema: {quoted(reference)}")
    found = root
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


def _first_possible(options: Any, rest: Mapping[str, Any], work: _Work, depth: int) -> Any:
    """An example of the first option that has one, null before all others."""
    work.spend(len(options))
    problem = NoExample("alternatives without an instance")
    for option in sorted(options, key=lambda option: option != {"type": "null"}):
        try:
            return _make({"allOf": [rest, option]}, work, depth + 1)
        except TooLarge:
            raise
        except NoExample as found:
            problem = found
    raise problem


def _type(schema: Mapping[str, Any]) -> str:
    """The type of the example. Without `type` an object is valid, whatever the keywords for other types say."""
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = "null" if "null" in kind else kind[0]
    if kind not in _MAKERS:
        raise NoExample(f"an unknown type: {kind}")
    return str(kind)


def _object(schema: Mapping[str, Any], work: _Work, depth: int) -> dict[str, Any]:
    known, other = schema.get("properties", {}), schema.get("additionalProperties")
    work.spend(len(schema.get("required", ())))
    names = dict.fromkeys(schema.get("required", ()))
    work.spend(sum(map(len, names)))
    return {name: _make(known.get(name, other), work, depth) for name in names}


def _array(schema: Mapping[str, Any], work: _Work, depth: int) -> list[Any]:
    first, rest = schema.get("prefixItems", ()), schema.get("items")
    count = int(schema.get("minItems", 0))
    return [_make(first[index] if index < len(first) else rest, work, depth) for index in range(count)]


def _string(schema: Mapping[str, Any], work: _Work, _depth: int) -> str:
    if "pattern" in schema:
        raise NoExample("a pattern")
    length = int(schema.get("minLength", 0))
    work.spend(length)
    return FORMATS.get(schema.get("format", ""), "").ljust(length, "a")


def _number(schema: Mapping[str, Any], _work: _Work, _depth: int) -> float:
    """Zero, a limit, a whole number next to a limit, or the middle: the first that is within the limits."""
    low, above = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
    high, below = schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf)
    limits = [limit for limit in (max(low, above), min(high, below)) if math.isfinite(limit)]
    neighbors = [number for limit in limits for number in (math.floor(limit) + 1, math.ceil(limit) - 1)]
    for number in (0, *limits, *neighbors, sum(limits) / 2):
        is_whole = number % 1 == 0
        if low <= number <= high and above < number < below and (is_whole or _type(schema) == "number"):
            return int(number) if is_whole else number
    raise NoExample("limits without a number between them")


_MAKERS: Final[Mapping[str, Callable[[Mapping[str, Any], _Work, int], Any]]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": lambda _schema, _work, _depth: False,
    "null": lambda _schema, _work, _depth: None,
}
