"""Emoji that a JavaScript server cut in two."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, texts_with_halves

from lmcli.values import Fragment
from lmcli.wire.surrogates import SurrogateJoiner


def joined(pieces: list[str]) -> list[str]:
    """What comes out for pieces that come in, with what is left at the end."""
    halves = SurrogateJoiner()
    joined = [halves.join(Fragment(piece)) for piece in pieces]
    return [*(fragment.content for fragment in joined if fragment is not None), halves.rest()]


def in_units(text: str, cuts: list[int]) -> list[str]:
    """A text cut between UTF-16 units, as JavaScript cuts it."""
    data = text.encode("utf-16-le", "surrogatepass")
    places = sorted({0, len(data), *(2 * (cut % (len(data) // 2 + 1)) for cut in cuts)})
    return [data[begin:end].decode("utf-16-le", "surrogatepass") for begin, end in pairwise(places)]


@QUICK
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("🙂𝄞a\ufeff")), st.lists(st.integers(0, 50)))
def test_text_cut_anywhere_comes_out_whole(text: str, cuts: list[int]) -> None:
    """However a server cuts a text, the pieces that come out are that text, and each can be written."""
    pieces = joined(in_units(text, cuts))
    assert "".join(pieces) == text
    for piece in pieces:
        piece.encode()


@QUICK
@given(st.lists(texts_with_halves))
def test_a_half_that_stays_alone_is_replaced(pieces: list[str]) -> None:
    """Whole pairs become characters, every other half becomes U+FFFD, nothing else changes."""
    expected = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert "".join(joined(pieces)) == expected


@pytest.mark.parametrize(
    ("pieces", "out"),
    [
        (["\ud83d", "\ude42"], ["", "🙂", ""]),
        (["a\ud83d", "\ude42b"], ["a", "🙂b", ""]),
        (["\ud83d", "", "\ude42"], ["", "", "🙂", ""]),
        (["\ud83d", "b"], ["", "\ufffdb", ""]),
        (["\ud83d", "\ud83d\ude42"], ["", "\ufffd🙂", ""]),
        (["\ude42"], ["\ufffd", ""]),
        (["a\ud83d"], ["a", "\ufffd"]),
    ],
)
def test_what_comes_out_when(pieces: list[str], out: list[str]) -> None:
    """Only a first half at the very end is held back, and no longer than until the next text."""
    assert joined(pieces) == out


def test_everything_but_the_text_is_left_alone() -> None:
    """A mended fragment keeps its count and kind, a whole one is the same object."""
    halves = SurrogateJoiner()
    whole = Fragment("plain 🙂", 3, contains_drafted=True, reasoning_type="reasoning")
    assert halves.join(whole) is whole
    assert halves.join(whole._replace(content="\ude42")) == whole._replace(content="\ufffd")


def test_the_rest_is_given_once() -> None:
    """After the end nothing is held any more."""
    halves = SurrogateJoiner()
    halves.join(Fragment("\ud83d"))
    assert [halves.rest(), halves.rest()] == ["\ufffd", ""]
