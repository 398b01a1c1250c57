"""Text that arrives in blocks: what is read does not depend on where it was cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.input.incoming import Incoming, decoded
from lmcli.errors import BadInput

_texts = st.text(st.characters(codec="utf-8") | st.sampled_from("\ufeff\r\n\n [{🦉ä"), max_size=12)
_cuts = st.lists(st.integers(0, 48), max_size=4)


def blocks(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Bytes, cut at some positions, as they may come out of a pipe; none is empty."""
    ends = sorted({*(cut for cut in cuts if cut < len(data)), len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if data[start:end]]


def incoming(text: str, cuts: Sequence[int]) -> Incoming:
    """A text in pieces."""
    return Incoming(decoded(blocks(text.encode(), cuts), "stdin"))


def prompt_of(text: str, question: str) -> str:
    """A document and a question about it: the rule, without pieces."""
    text = text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
    if not (text and question):
        return text or question
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}\n{question}"


@QUICK
@given(_texts, _cuts, st.sampled_from(["", "why?"]))
def test_a_prompt_is_the_same_however_it_arrives(text: str, cuts: list[int], question: str) -> None:
    """A byte order mark and one newline at the end are left out, a blank line is put before the question."""
    expected = text.removeprefix("\ufeff")
    stdin = incoming(text, cuts)
    assert stdin.may_be_history() == expected.lstrip().startswith(("[", "{"))
    assert stdin.prompt(question, drops_newline=True) == prompt_of(expected, question)
    assert stdin.is_empty == (expected in ("", "\n", "\r\n"))


@QUICK
@given(_texts, _cuts)
def test_a_text_can_be_read_again(text: str, cuts: list[int]) -> None:
    """What turns out not to be a history is still there for the prompt."""
    stdin = incoming(text, cuts)
    assert stdin.text() == stdin.text() == text.removeprefix("\ufeff")
    assert stdin.prompt("", drops_newline=False) == text.removeprefix("\ufeff")


@QUICK
@given(st.binary(max_size=12), _cuts)
def test_the_first_byte_that_is_not_utf_8_is_named(data: bytes, cuts: list[int]) -> None:
    """By its offset in the whole input, wherever that was cut."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(BadInput, match=rf"stdin is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}$"):
            list(decoded(blocks(data, cuts), "stdin"))
    else:
        assert "".join(decoded(blocks(data, cuts), "stdin")) == text.removeprefix("\ufeff")
