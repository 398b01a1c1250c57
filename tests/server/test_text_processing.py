"""The processing of generated text: tokens, stop strings, reasoning; and the examples of JSON schemas."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.server.echo.echo_tokens import count, tokens
from lmcli.server.echo.schema_example import NoExample, schema_example
from lmcli.server.text_processing import ReasoningTags, StopStringMatcher, TextProcessor

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
    """White space belongs to the word after it; at the end it is a token of its own."""
    assert list(tokens(text)) == pieces


@given(pieces=st.lists(CROWDED), signals=st.lists(CROWDED.filter(bool), max_size=3))
def test_stop_string_is_found_across_pieces(pieces: list[str], signals: list[str]) -> None:
    """The output contains no stop string, and is the text before the first one."""
    search = StopStringMatcher(signals)
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
def test_reasoning_is_found_across_pieces(pieces: list[str]) -> None:
    """The joined fragments are the text; their types do not depend on how the text is split."""
    text = "".join(pieces)
    fragments = _through(pieces, ReasoningTags("<a>", "</a>"))
    assert "".join(content for content, _ in fragments) == text
    assert _merged(fragments) == _merged(_through([text], ReasoningTags("<a>", "</a>")))


def test_tags_are_fragments_of_their_own() -> None:
    """A tag inside a token is a fragment with its own type."""
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
    """Each token is counted once, however its text is held back or split."""
    outlet = TextProcessor(["<b>"], ReasoningTags("<a>", "</a>"))
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
    outlet = TextProcessor((), tags)
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
        ({"type": "array"}, []),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, [1, 2, 2]),
        ({"minItems": 3, "minLength": 3}, {}),
        ({"enum": ["x", "y"]}, "x"),
        ({"type": ["string", "null"]}, None),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "string", "format": "date"}, "1970-01-01"),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "exclusiveMinimum": 3}, 4),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "minimum": -5, "maximum": 5}, 0),
        ({"type": "number", "minimum": 0.5}, 0.5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "exclusiveMaximum": -1.5}, -2),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ({"oneOf": [False, {"type": "string"}]}, ""),
        ({"allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"required": ["b"]}]}, {"a": {}, "b": {}}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}}, False),
        (LIST, {"n": 0}),
    ],
)
def test_schema_example_is_a_smallest_instance(schema: Any, instance: Any) -> None:
    """An example holds what its schema requires and nothing else, as small as possible."""
    assert schema_example(schema) == instance


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://example.com/schema"},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"type": "text"},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "string", "pattern": "a"},
        {"anyOf": [False]},
    ],
)
def test_schema_without_an_example_is_refused(schema: Any) -> None:
    """What has no finite instance, and a pattern, is an error."""
    with pytest.raises(NoExample):
        schema_example(schema)


def _nested(depth: int, inner: Any) -> Any:
    return inner if depth == 0 else {"anyOf": [_nested(depth - 1, inner), {"type": "string"}]}


def test_nested_alternatives_are_linear() -> None:
    """Deeply nested alternatives do not take exponential time, and one without an instance is skipped."""
    assert schema_example(_nested(26, {"type": "integer"})) == 0
    assert schema_example({"anyOf": [{"required": ["a"]}, {"type": "string"}], "properties": {"a": False}}) == ""


LARGE = [
    {"type": "string", "minLength": 10**10},
    {"type": "array", "minItems": 10**10},
    {"type": "array", "minItems": 1000, "items": {"type": "string", "minLength": 100}},
    {"type": "array", "minItems": 100, "items": {"const": "x" * 1000}},
    {"type": "object", "required": ["x" * 20_000]},
    {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "type": "string", "minLength": 20_000},
    {"type": "array", "minItems": 9, "items": {"$ref": "#"}},
    {"allOf": [{"anyOf": [{"properties": {"b": False}}, {"properties": {"c": False}}]}] * 20, "required": ["b", "c"]},
]


@pytest.mark.parametrize("schema", LARGE)
def test_large_schema_is_refused(schema: Any) -> None:
    """An example that would be large, or much work to find, is refused before it is made."""
    with pytest.raises(NoExample):
        schema_example(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": "x"},
        {"allOf": 5},
        {"type": "object", "properties": [1], "required": ["a"]},
        {"type": "object", "required": 5},
        {"type": "integer", "minimum": "a"},
        {"type": "string", "format": [1]},
        {"type": "integer", "minimum": 10**400},
    ],
)
def test_malformed_schema_is_refused(schema: Any) -> None:
    """A malformed schema is an error of the request."""
    with pytest.raises(NoExample):
        schema_example(schema)


@pytest.mark.parametrize(
    ("pieces", "stop", "count"),
    [
        (["x", "ab"], "ab", 1),
        (["xa", "b"], "ab", 1),
        (["x", "a", "bc"], "ab", 2),
        (["a", "a", "b"], "ab", 2),
        (["xab"], "ab", 0),
        (["a", "b", "x"], "z", 0),
    ],
)
def test_tokens_of_a_stop_string(pieces: list[str], stop: str, count: int) -> None:
    """Those are counted of which nothing is in the text."""
    processor = TextProcessor([stop], None)
    for piece in pieces:
        list(processor.feed(piece))
    assert processor.stopped_tokens == count
