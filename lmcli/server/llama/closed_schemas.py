"""JSON schemas as llama.cpp is given them: without keys that are not declared, and without white space.

llama.cpp compiles schemas with llguidance, which takes JSON Schema by the letter: objects may have further keys, and
white space may go on for ever. Models make use of both.

Pure. Source: llguidance, docs/json_schema.md
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from lmcli.values import JsonObject

_GUIDANCE_KEY: Final = "x-guidance"
_GUIDANCE: Final = {"whitespace_flexible": False}

# Keywords whose values are a schema or a list of schemas, and those whose values are schemas by name.
_SCHEMAS: Final = frozenset({"items", "prefixItems", "additionalProperties", "anyOf", "oneOf", "allOf"})
_DEFINITIONS: Final = frozenset({"$defs", "definitions"})
_SCHEMAS_BY_NAME: Final = frozenset({"properties", "patternProperties"}) | _DEFINITIONS
# Keywords whose schemas apply to the same value as the schema that they are in.
_APPLICATORS: Final = frozenset({"$ref", "anyOf", "oneOf", "allOf", "if", "dependentSchemas"})
# What the author may have said about further keys.
_FURTHER_KEYS: Final = frozenset({"additionalProperties", "unevaluatedProperties", "minProperties", *_APPLICATORS})


def closed_schema(schema: Any) -> Any:
    """Declare in each object with properties that it has no others, and that there is no white space.

    An object stays open where its author says what further keys are, where a required key is not declared, and where
    several schemas apply to it: each of them declares a part of its keys only.
    """
    if not isinstance(schema, dict):
        return schema
    return {_GUIDANCE_KEY: _GUIDANCE, **_closed(schema, _combined(schema))}


def _closed(schema: Any, combined: frozenset[int]) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed: JsonObject = {}
    for key, value in schema.items():
        if key in _SCHEMAS and isinstance(value, list):
            closed[key] = [_closed(inner, combined) for inner in value]
        elif key in _SCHEMAS:
            closed[key] = _closed(value, combined)
        elif key in _SCHEMAS_BY_NAME and isinstance(value, dict):
            closed[key] = {name: _closed(inner, combined) for name, inner in value.items()}
        else:
            closed[key] = value
    if id(schema) not in combined and _declares_its_keys(schema):
        closed["additionalProperties"] = False
    return closed


def _declares_its_keys(schema: Mapping[str, Any]) -> bool:
    properties, required = schema.get("properties"), schema.get("required", [])
    return (
        isinstance(properties, dict)
        and bool(properties)
        and _FURTHER_KEYS.isdisjoint(schema)
        and isinstance(required, list)
        and all(key in properties for key in required)
    )


def _combined(root: JsonObject) -> frozenset[int]:
    """The identities of the schemas that apply to a value together with others, and of all inside of them."""
    seen: set[tuple[int, bool]] = set()
    pending: list[tuple[Any, bool]] = [(root, False)]
    while pending:
        schema, is_combined = pending.pop()
        if isinstance(schema, dict) and (id(schema), is_combined) not in seen:
            seen.add((id(schema), is_combined))
            is_combined = is_combined or _combines(schema)
            pending += [(inner, is_combined or is_unusual) for inner, is_unusual in _inner(schema)]
            pending.append((_referred(root, schema.get("$ref")), is_combined))
    return frozenset(identity for identity, is_combined in seen if is_combined)


def _combines(schema: Mapping[str, Any]) -> bool:
    """Whether the schemas inside apply together, to one value, or together with the properties beside them."""
    count = len(_APPLICATORS.intersection(schema)) + ("properties" in schema)
    both = schema.get("allOf")
    return count > 1 or (isinstance(both, list) and len(both) > 1)


def _inner(schema: Mapping[str, Any]) -> Iterator[tuple[Any, bool]]:
    """The schemas inside, and whether the keyword is one whose meaning is not looked at, such as `if`.

    Definitions are not among them: they apply where they are referred to.
    """
    for key, value in schema.items():
        if key not in _DEFINITIONS and isinstance(value, dict | list):
            by_name = key in _SCHEMAS_BY_NAME and isinstance(value, dict)
            found = value if isinstance(value, list) else value.values() if by_name else (value,)
            yield from ((inner, key not in _SCHEMAS and not by_name) for inner in found)


def _referred(root: JsonObject, reference: Any) -> Any:
    """The schema that a reference inside the same document refers to; None for others."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    found: Any = root
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found
