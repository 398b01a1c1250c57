"""JSON schemas as llama.cpp is given them: which objects are closed, and which are not."""

from typing import Any

import jsonschema_rs
import pytest

from lmcli.server.llama.closed_schemas import closed_schema

N = {"type": "integer"}
A = {"type": "object", "properties": {"a": N}}
CLOSED_A = {**A, "additionalProperties": False}
B = {"type": "object", "properties": {"b": N}}
CLOSED_B = {**B, "additionalProperties": False}
COMPACT = {"x-guidance": {"whitespace_flexible": False}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (A, CLOSED_A),
        ({**A, "required": ["a"]}, {**CLOSED_A, "required": ["a"]}),
        ({"properties": {"x": A}}, {"properties": {"x": CLOSED_A}, "additionalProperties": False}),
        ({"type": "array", "items": A}, {"type": "array", "items": CLOSED_A}),
        ({"prefixItems": [A, B]}, {"prefixItems": [CLOSED_A, CLOSED_B]}),
        ({"additionalProperties": A}, {"additionalProperties": CLOSED_A}),
        ({"anyOf": [A, B]}, {"anyOf": [CLOSED_A, CLOSED_B]}),
        ({"oneOf": [A, {"type": "null"}]}, {"oneOf": [CLOSED_A, {"type": "null"}]}),
        ({"allOf": [A], "title": "x"}, {"allOf": [CLOSED_A], "title": "x"}),
        ({"$ref": "#/$defs/A", "$defs": {"A": A}}, {"$ref": "#/$defs/A", "$defs": {"A": CLOSED_A}}),
    ],
)
def test_objects_with_properties_are_closed(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    """Wherever they are; the schema that was given is not changed, nor the order of its keys."""
    before = repr(schema)
    assert closed_schema(schema) == {**COMPACT, **expected}
    assert repr(schema) == before


@pytest.mark.parametrize(
    "schema",
    [
        {**A, "additionalProperties": True},
        {**A, "additionalProperties": N},
        {**A, "unevaluatedProperties": False},
        {**A, "minProperties": 2},
        {**A, "required": ["a", "other"]},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"allOf": [A, B]},
        {"allOf": [A], "anyOf": [B]},
        {**A, "anyOf": [B, {"required": ["a"]}]},
        {**A, "if": B, "then": {"required": ["a"]}},
        {**A, "allOf": [{"properties": {"inner": B}}]},
        {"not": A},
        {"const": {"properties": {"a": 1}}},
        {"allOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "definitions": {}},
    ],
)
def test_others_stay_open(schema: dict[str, Any]) -> None:
    """Those whose author says more about further keys, maps, and those to which several schemas apply."""
    assert closed_schema(schema) == {**COMPACT, **schema}


def test_definitions_that_are_combined_stay_open() -> None:
    """A definition that is one of several for an object stays open, with all inside of it; others are closed."""
    schema = {
        "allOf": [{"$ref": "#/$defs/A"}, {"properties": {"c": {"$ref": "#/$defs/a~1b"}}}],
        "$defs": {"A": A, "B": B, "a/b": A},
    }
    assert closed_schema(schema)["$defs"] == {"A": A, "B": CLOSED_B, "a/b": A}


def test_recursive_schema() -> None:
    """A schema that refers to itself is closed once."""
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert closed_schema(schema) == {**COMPACT, **schema, "additionalProperties": False}


def test_what_the_author_says_of_white_space_holds() -> None:
    """The author's own guidance is not replaced; what is not an object is passed on."""
    assert closed_schema({"x-guidance": {}})["x-guidance"] == {}
    assert closed_schema(True) is True


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({"allOf": [A, B]}, {"a": 1, "b": 2}),
        ({**A, "anyOf": [B, {"required": ["a"]}]}, {"a": 1, "b": 2}),
        ({**A, "required": ["z"]}, {"z": 1}),
    ],
)
def test_instances_remain(schema: dict[str, Any], instance: Any) -> None:
    """What is closed still has the instances that need all of its parts."""
    assert jsonschema_rs.is_valid(schema, instance)
    assert jsonschema_rs.is_valid(closed_schema(schema), instance)
