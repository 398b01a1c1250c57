"""JSON texts in pieces: together they are the text that one call would have written."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, json_objects, nested

from lmcli.wire.pieces import PIECE_LENGTH, Pieces, in_pieces, joined

LONG = PIECE_LENGTH + 1
_seeds = st.text(st.characters() | st.sampled_from('\ud83d\ude00"\\\n\0'), min_size=1, max_size=6)


def longer(seed: str) -> str:
    """A long text."""
    return seed * (2 * LONG // len(seed))


@QUICK
@given(json_objects, st.lists(_seeds, min_size=1, max_size=2))
def test_long_strings_are_written_in_pieces(value: Any, seeds: list[str]) -> None:
    """Whatever characters they contain, and whatever stands around them, they are read back the same."""
    whole = {"first": longer(seeds[0]), "value": value, "more": [{"text": seed * LONG} for seed in seeds]}
    text = in_pieces(whole)
    assert isinstance(text, Pieces)
    assert max(map(len, text)) <= 6 * PIECE_LENGTH
    read = json.loads(joined(text))
    assert utf16(read) == utf16(whole)


def utf16(value: Any) -> bytes:
    """A value as JavaScript has it: two halves side by side are a pair."""
    return json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, PIECE_LENGTH - 1, PIECE_LENGTH, PIECE_LENGTH + 1, 2 * PIECE_LENGTH])
def test_bytes_are_written_as_base64(size: int) -> None:
    """The base64 of pieces is that of the whole."""
    data = (bytes(range(256)) * (size // 256 + 1))[:size]
    read = json.loads(joined(in_pieces({"name": "x", "data": data})))
    assert read == {"name": "x", "data": base64.b64encode(data).decode()}


@pytest.mark.parametrize("value", [{}, [], "x" * 1000, {"messages": [{"content": "x"}] * 1000}, nested(200)])
def test_what_is_short_is_one_text(value: Any) -> None:
    """Without a long string there are no pieces."""
    text = in_pieces(value)
    assert isinstance(text, bytes)
    assert json.loads(text) == value


def test_a_text_can_be_written_again() -> None:
    """A trace shows what is sent afterwards."""
    text = in_pieces(["x" * LONG])
    assert joined(text) == joined(text)


def test_a_value_is_left_as_it_is() -> None:
    """Gaps are made in a copy."""
    value = {"content": ["x" * LONG]}
    in_pieces(value)
    assert value == {"content": ["x" * LONG]}
