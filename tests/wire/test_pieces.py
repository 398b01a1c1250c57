"""JSON texts in pieces: together they are the text that one call would have written."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, json_objects, nested

from lmcli.wire.pieces import PIECE_LENGTH, Pieces, in_pieces, joined

LONG = "x" * (PIECE_LENGTH + 1)
_special = st.sampled_from('\ud83d\ude00"\\\n\0').map(str)  # as likely as all other characters together
_seeds = st.lists(st.characters() | _special, min_size=1, max_size=6).map("".join)


def longer(seed: str, shift: int) -> str:
    """A long text: where its first piece ends stands something else each time."""
    return "x" * (PIECE_LENGTH - shift) + 9 * seed


@QUICK
@given(json_objects, st.lists(_seeds, min_size=1, max_size=2), st.integers(0, 8))
def test_long_strings_are_written_in_pieces(value: Any, seeds: list[str], shift: int) -> None:
    """Whatever characters they contain, and whatever stands around them, they are read back the same.

    U+FFFD stands for half a surrogate pair that is alone.
    """
    whole = {"first": longer(seeds[0], shift), "value": value, "more": [{"text": longer(s, 8 - shift)} for s in seeds]}
    text = in_pieces(whole)
    assert isinstance(text, Pieces)
    assert max(map(len, text)) <= 6 * PIECE_LENGTH
    assert json.loads(joined(text)) == json.loads(paired(json.dumps(whole, ensure_ascii=False)))


def paired(text: str) -> str:
    """A text as a decoder of UTF-16 gives it back."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
    text = in_pieces([LONG])
    assert joined(text) == joined(text)


def test_a_value_is_left_as_it_is() -> None:
    """Gaps are made in a copy."""
    value = {"content": [LONG]}
    in_pieces(value)
    assert value == {"content": [LONG]}
