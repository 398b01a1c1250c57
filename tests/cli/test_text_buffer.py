"""A long text in a file: what is written from it is what would have been written from memory."""

import json
import resource
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli import text_buffer
from lmcli.cli.json_text import dump_json, json_pieces
from lmcli.cli.text_buffer import JsonArray, StoredTextBuffer, TextBuffer
from lmcli.wire import pieces as wire_pieces

_texts = st.text(st.sampled_from('ab\ud83d\ude00🦉é"\\\n\0\x7f\u202e'), max_size=20)


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """A few characters are long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_buffer, "_STORED", 12)
        patch.setattr(wire_pieces, "PIECE_LENGTH", 5)
        yield


def written(buffer: TextBuffer, number: int = 1) -> str:
    """The content of a result."""
    content = json.loads(b"".join(json_pieces({"content": buffer.contents, "number": number})))["content"]
    assert isinstance(content, str)
    return content


def expected(pieces: list[str]) -> str:
    """The same, from memory."""
    content = json.loads(dump_json({"content": "".join(pieces)}))["content"]
    assert isinstance(content, str)
    return content


@QUICK
@given(st.lists(_texts, max_size=30), st.sampled_from([1, 1 << 70]))
def test_any_pieces_give_the_same_json(pieces: list[str], number: int) -> None:
    """Whatever they contain and wherever they are cut, and beside a number that orjson cannot write."""
    buffer = StoredTextBuffer()
    for piece in pieces:
        buffer.append(piece)
    assert written(buffer, number) == expected(pieces)
    assert buffer.text == "".join(pieces)


def test_a_text_can_grow_after_it_was_written() -> None:
    """It is read from its beginning each time, and continued at its end."""
    pieces = ["some words ", "🦉" * 30, "\ud83d", "\ude00", " and more" * 9, "end"]
    buffer = StoredTextBuffer()
    for piece, number in zip(pieces, range(1, 7), strict=True):
        buffer.append(piece)
        assert written(buffer) == written(buffer) == expected(pieces[:number])
        next(iter(buffer))  # and nothing further


def test_only_a_long_text_is_moved_to_a_file() -> None:
    """A short one remains a string."""
    short, long = StoredTextBuffer(), StoredTextBuffer()
    short.append("x" * 12)
    long.append("x" * 13)
    assert (short.contents, long.contents) == ("x" * 12, long)


@pytest.mark.parametrize("room", [*range(60), 1000])
def test_what_the_disk_has_no_room_for_remains_in_memory(room: int) -> None:
    """Wherever in the text that happens, also in the middle of a piece."""
    pieces = [f"piece {number}, é🦉\ud83d\n" for number in range(100)]
    buffer = StoredTextBuffer()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        for piece in pieces:
            buffer.append(piece)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert written(buffer) == expected(pieces)
    assert buffer.text == "".join(pieces)


def test_an_array_is_written_as_it_is() -> None:
    """Whatever its length and the layout, its values are read back; what is long is not in memory, but in a file."""
    values = [{"text": f"{number} \x7f \ud83d", "log_prob": -0.5} for number in range(200)]
    array = JsonArray(StoredTextBuffer())
    for start in range(0, len(values), 7):
        array.extend(values[start : start + 7])
    expected = {"tokens": [value | {"text": str(value["text"]).replace("\ud83d", "\ufffd")} for value in values]}
    pieces = list(json_pieces({"tokens": array}))
    assert json.loads(b"".join(pieces)) == expected
    assert max(map(len, pieces)) < 20, "a piece has at most five characters"
    assert b"\x7f" not in b"".join(pieces)
    for is_indented in (False, True):
        assert json.loads(dump_json({"tokens": array}, is_indented=is_indented)) == expected
        assert json.loads(dump_json({"tokens": array, "large": 2**70}, is_indented=is_indented)) == expected | {
            "large": 2**70
        }


def test_an_indented_array() -> None:
    """Each value is on a line of its own, below its key."""
    array = JsonArray(TextBuffer(), is_indented=True)
    array.extend([{"text": "a"}])
    array.extend([{"text": "b"}])
    assert b"".join(json_pieces({"tokens": array}, is_indented=True)).decode().splitlines() == [
        "{",
        '  "tokens": [',
        '    {"text":"a"},',
        '    {"text":"b"}',
        "  ]",
        "}",
    ]


def test_an_array_without_values() -> None:
    """It is false, and an array all the same."""
    array = JsonArray(TextBuffer())
    array.extend([])
    assert (bool(array), dump_json([array])) == (False, b"[[]]\n")
