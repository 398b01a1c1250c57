"""What happens to text on its way out: tokens, stop strings, reasoning; and instances of schemas."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.server.echo.repeater import count, tokens
from lmcli.server.echo.schema_example import NoExample, schema_example
from lmcli.server.text_stream import Outlet, ReasoningTags, StopSearch

CROWDED = st.text(alphabet="ab<>/ \n")


@given(st.text())
def test_tokens_joined_are_the_text(text: str) -> None:
    """No character is lost or added, and no token is empty."""
    pieces = list(tokens(text))
    assert "".join(pieces) == text
    assert all(pieces)
    assert len(pieces) == count(text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("one two", ["one", " two"]), ("  a\n\nb \n", ["  a", "\n\nb", " \n"]), ("", []), (" ", [" "])],
)
def test_token_is_a_word_with_the_space_before_it(text: str, pieces: list[str]) -> None:
    """White space belongs to the word behind it; at the end it is a token of its own."""
    assert list(tokens(text)) == pieces


@given(pieces=st.lists(CROWDED), signals=st.lists(CROWDED.filter(bool), max_size=3))
def test_stop_string_ends_the_text_wherever_the_cuts_are(pieces: list[str], signals: list[str]) -> None:
    """What comes out holds no stop string, and is the text up to the first of them."""
    search = StopSearch(signals)
    found = ""
    for piece in pieces:
        found += search.feed(piece)
        if search.found is not None:
            break
    else:
        found += search.flush()
    text = "".join(pieces)
    assert all(stop not in found for stop in signals)
    if search.found is None:
        assert found == text
    else:
        assert text.startswith(found + search.found)


@given(st.lists(CROWDED))
def test_reasoning_is_told_apart_wherever_the_cuts_are(pieces: list[str]) -> None:
    """Fragments joined are the text; their kinds do not depend on how the text was cut."""
    text = "".join(pieces)
    fragments = _through(pieces, ReasoningTags("<a>", "</a>"))
    assert "".join(content for content, _ in fragments) == text
    assert _merged(fragments) == _merged(_through([text], ReasoningTags("<a>", "</a>")))


def test_tags_are_fragments_of_their_own() -> None:
    """A tag is cut out of the middle of a token, with its kind."""
    assert _through(["a<think>b", " c</think>d"], ReasoningTags()) == [
        ("a", "none"),
        ("<think>", "reasoningStartTag"),
        ("b", "reasoning"),
        (" c", "reasoning"),
        ("</think>", "reasoningEndTag"),
        ("d", "none"),
    ]


@given(st.lists(CROWDED.filter(bool)))
def test_token_counts_add_up(pieces: list[str]) -> None:
    """However tokens are held back and cut up, each is counted once."""
    outlet = Outlet(["<b>"], ReasoningTags("<a>", "</a>"))
    fed = 0
    counted = 0
    for piece in pieces:
        fed += 1
        counted += sum(fragment.tokens_count for fragment in outlet.feed(piece))
        if outlet.stop_string is not None:
            return
    counted += sum(fragment.tokens_count for fragment in outlet.flush())
    assert counted == fed


def _through(pieces: list[str], tags: ReasoningTags) -> list[tuple[str, str]]:
    outlet = Outlet((), tags)
    fragments = [fragment for piece in pieces for fragment in outlet.feed(piece)] + list(outlet.flush())
    return [(fragment.content, fragment.reasoning_type) for fragment in fragments]


def _merged(fragments: list[tuple[str, str]]) -> list[tuple[str, str]]:
    merged: list[tuple[str, str]] = []
    for content, kind in fragments:
        joins = merged and merged[-1][1] == kind and "Tag" not in kind
        merged.append((merged.pop()[0] + content if joins else content, kind))
    return merged


LIST = {"type": "object", "properties": {"next": {"$ref": "#"}, "n": {"type": "integer"}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        (None, {}),
        ({}, {}),
        (True, {}),
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}, {"a": ""}),
        ({"properties": {"a": {"const": 5}}, "required": ["a"]}, {"a": 5}),
        ({"type": "object", "minProperties": 2, "properties": {"a": {"type": "null"}}}, {"a": None, "key1": {}}),
        ({"type": "array"}, []),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, [1, 2, 2]),
        ({"enum": ["x", "y"]}, "x"),
        ({"type": ["string", "null"]}, None),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "string", "format": "date"}, "1970-01-01"),
        ({"type": "string", "pattern": "^[0-9]{3}$"}, "000"),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "minimum": -5, "maximum": 5}, 0),
        ({"type": "integer", "minimum": 7, "multipleOf": 5}, 10),
        ({"type": "number", "minimum": 0.5}, 0.5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "minimum": 1, "exclusiveMinimum": True}, 2),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"oneOf": [False, {"type": "string"}]}, ""),
        ({"allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"required": ["b"]}]}, {"a": {}, "b": {}}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, False),
        (LIST, {"n": 0}),
    ],
)
def test_specimen_is_the_smallest_instance(schema: Any, instance: Any) -> None:
    """Only what a schema requires is there, as small as it may be."""
    assert schema_example(schema) == instance


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://example.com/schema"},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"type": "string", "pattern": "^(?:(?!a)b){3}[q-t]$"},
        {"anyOf": [False]},
    ],
)
def test_schema_without_a_plain_instance_is_refused(schema: Any) -> None:
    """What cannot be made up is an error, never an instance that breaks the schema."""
    with pytest.raises(NoExample):
        schema_example(schema)


def _nested(depth: int, inner: Any) -> Any:
    return inner if depth == 0 else {"anyOf": [_nested(depth - 1, inner), {"type": "string"}]}


def test_alternatives_are_made_once() -> None:
    """Deep alternatives take no time to the power of their depth."""
    assert schema_example(_nested(26, {"type": "integer"})) == 0
    assert schema_example({"anyOf": [{"required": ["a"]}, {"type": "string"}], "properties": {"a": False}}) == ""


LARGE = [
    {"type": "string", "minLength": 10**10},
    {"type": "array", "minItems": 10**10},
    {"type": "array", "minItems": 1000, "items": {"type": "string", "minLength": 100}},
    {"type": "array", "minItems": 100, "items": {"const": "x" * 1000}},
    {"type": "object", "minProperties": 10**10},
    {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "type": "string", "minLength": 20_000},
    {"type": "array", "minItems": 9, "items": {"$ref": "#"}},
    {"allOf": [{"anyOf": [{"properties": {"b": False}}, {"properties": {"c": False}}]}] * 20, "required": ["b", "c"]},
]


@pytest.mark.parametrize("schema", LARGE)
def test_large_schema_is_refused(schema: Any) -> None:
    """What would be large, or much work to find, is refused before it is made."""
    with pytest.raises(NoExample):
        schema_example(schema)


@pytest.mark.parametrize(
    "pattern",
    [
        "^(a+)+$b",
        "(|){30}b",
        "(a?){64}b",
        "(a|a)*b",
        "a*a*a*a*a*a*a*b",
        "a?" * 30 + "b",
        "(?:x+x+)+y",
        "[)]+(a*)*b",
        "a" * 999,
    ],
)
def test_pattern_that_may_take_for_ever_is_not_tried(pattern: str) -> None:
    """A regular expression that backtracks without end is refused at once."""
    with pytest.raises(NoExample):
        schema_example({"type": "string", "pattern": pattern})


@pytest.mark.parametrize(
    ("pattern", "text"), [(r"^\d{4}-\d{2}-\d{2}$", "1970-01-01"), ("^[A-Z]{20}$", "A" * 20), ("^(?:b|a)$", "a")]
)
def test_plain_pattern_is_met(pattern: str, text: str) -> None:
    """The patterns that plain fillings meet are met."""
    assert schema_example({"type": "string", "pattern": pattern}) == text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "("},
        {"type": "array", "minItems": "x"},
        {"allOf": 5},
        {"type": "object", "properties": [1], "required": ["a"]},
        {"type": "object", "required": 5},
        {"type": "integer", "minimum": "a"},
        {"type": "string", "format": [1]},
        {"type": "integer", "minimum": 5, "multipleOf": 1e-320},
    ],
)
def test_malformed_schema_is_refused(schema: Any) -> None:
    """What is no schema is an error of the one who sent it."""
    with pytest.raises(NoExample):
        schema_example(schema)
