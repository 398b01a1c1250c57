"""Answers by llama.cpp that a schema or a grammar constrains."""

import json

import pytest
from conftest import Packet, Wire, checked, stats_of, text_of
from tiny_server import RAW, complete, nested, only, options

from lmcli.server.llama.constraint_limits import exceeded_limits


def test_schema_is_enforced(tiny: Wire) -> None:
    """Every answer is an instance of the schema."""
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 23]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    config = options(structured={"type": "json", "jsonSchema": schema}, temperature=0, maxPredictedTokens=checked(200))
    for text in ("a", "b", "c"):
        packets = complete(tiny, text, config)
        if stats_of(packets)["stopReason"] == "eosFound":
            assert json.loads(text_of(packets))["n"] in (1, 23)
        else:  # leading white space is valid JSON
            assert text_of(packets).lstrip().startswith("{")


@pytest.mark.parametrize("schema", [{"type": "nope"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
def test_unsupported_schema_is_rejected(tiny: Wire, schema: Packet) -> None:
    """A schema that llama.cpp does not support, and would ignore, is an error."""
    packets = complete(tiny, "a", options(structured={"type": "json", "jsonSchema": schema}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"
    assert text_of(packets) == ""


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9},
        {"anyOf": [{"type": "object", "properties": {"a": {"type": "string", "maxLength": 1e9}}}]},
        {"type": "string", "pattern": "^a{3,100000}$"},
        {"type": "string", "pattern": "^" + "(" * 50_000 + "a" + ")" * 50_000 + "$"},
        {"const": "x" * 200_000},
        nested(150),
    ],
)
def test_schema_beyond_the_limits_is_rejected(tiny: Wire, schema: Packet) -> None:
    """A schema that could exhaust the memory or overflow the stack is not passed to llama.cpp."""
    packets = complete(tiny, "a", options(structured={"type": "json", "jsonSchema": schema}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        "root ::= " + "(" * 501 + '"a"' + ")" * 501,
        'root ::= "a"{2001}',
        'root ::= "' + "a" * 90_000 + '"{2000}',
    ],
)
def test_grammar_beyond_the_limits_is_rejected(tiny: Wire, grammar: str) -> None:
    """A grammar that could exhaust the memory or overflow the stack is not passed to llama.cpp."""
    packets = complete(tiny, "a", options(structured={"type": "gbnf", "gbnfGrammar": grammar}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"


def test_limits_are_inclusive() -> None:
    """Values at the limits are accepted; the names of keywords are not taken for keywords elsewhere."""
    for schema in ({"maxLength": 2000}, {"pattern": "(a{2000}|b{,7}|c{3,})"}, {"properties": {"minItems": nested(90)}}):
        assert not list(exceeded_limits({"json_schema": schema}))
    assert not list(exceeded_limits({"grammar": "root ::= " + "(" * 500 + '"a"{1999}' + ")" * 500}))


@pytest.mark.parametrize(
    "values",
    [
        {"structured": {"type": "json", "jsonSchema": {"const": "\ud800"}}},
        {"structured": {"type": "json", "jsonSchema": {"type": "string", "description": "\ud83d"}}},
        {"structured": {"type": "gbnf", "gbnfGrammar": 'root ::= "\ud800"'}},
        {"llama.logitBias": [["\ud800", 1]]},
        {
            "reasoning.budgetTokens": checked(2**62),
            "reasoning.parsing": {**RAW, "enabled": True, "endString": "\ud800"},
        },
    ],
)
def test_lone_surrogates(tiny: Wire, values: Packet) -> None:
    """A lone surrogate is replaced, wherever it occurs."""
    assert stats_of(complete(tiny, "a", options(**values)))["stopReason"] in ("maxPredictedTokensReached", "eosFound")


def test_invalid_grammar_is_rejected(tiny: Wire) -> None:
    """An invalid grammar is an error, and the server stays up."""
    packets = complete(tiny, "a", options(structured={"type": "gbnf", "gbnfGrammar": "root := nope"}))
    assert "grammar" in packets[-1]["title"]
    assert text_of(complete(tiny, "a", options(structured=only("fine")))) == "fine"
