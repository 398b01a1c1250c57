"""A text that arrives in blocks, decoded as it comes: memory holds it once, not its bytes or parts of it besides."""

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from lmcli.cli.text_buffer import TextBuffer
from lmcli.client.images import is_image
from lmcli.errors import BadInput

_BOM: Final = "\ufeff"
_IMAGE_BYTES: Final = 16
_LAST: Final = 3
"""How many characters decide how a text ends: the newline to be dropped, CR LF, and another one before it."""


class Incoming:
    """A text in pieces, to be read from beginning to end.

    Args:
        pieces: the text; they are read when it is.

    Attributes:
        is_empty: it contained nothing but a newline to be dropped; once it was read.
    """

    def __init__(self, pieces: Iterable[str]) -> None:
        self.is_empty = False
        self._pieces = pieces

    def may_be_history(self) -> bool:
        """Whether it begins as JSON arrays and objects do; reads no more than is needed for that."""
        pieces, blank = iter(self._pieces), list[str]()
        for piece in pieces:
            if start := piece.lstrip():
                self._pieces = chain(blank, [piece], pieces)
                return start[0] in "[{"
            blank.append(piece)
        self._pieces = blank
        return False

    def text(self) -> str:
        """The whole text, which can be read again."""
        text = TextBuffer(self._pieces).text
        self._pieces = [text]
        return text

    def prompt(self, question: str, *, drops_newline: bool) -> str:
        """The text and a question about it, separated by a blank line.

        Args:
            question: may be empty.
            drops_newline: leave out one newline at the end of the text.
        """
        return TextBuffer(self._with(question, drops_newline=drops_newline)).text

    def _with(self, question: str, *, drops_newline: bool) -> Iterator[str]:
        self.is_empty, end = True, ""
        for piece in self._pieces:
            end += piece
            if len(end) > _LAST:
                self.is_empty = False
                yield end[:-_LAST]
                end = end[-_LAST:]
        end = without_newline(end) if drops_newline else end
        self.is_empty = self.is_empty and not end
        yield end
        if question and not self.is_empty:
            yield _gap(end)
        yield question


def decoded(blocks: Iterable[bytes], name: str) -> Iterator[str]:
    """Decode UTF-8, without a byte order mark.

    Raises:
        BadInput: the text is not UTF-8; with the offset of the byte.
    """
    head, rest, offset, mark = b"", b"", 0, _BOM
    for block in chain(blocks, [b""]):
        head, rest = (head + block[:_IMAGE_BYTES])[:_IMAGE_BYTES], rest + block
        try:
            text, length = codecs.utf_8_decode(rest, "strict", not block)
        except UnicodeDecodeError as error:
            hint = "-f FILE attaches an image" if is_image(head) else "iconv -t UTF-8 converts it"
            where = f"byte {offset + error.start} is 0x{rest[error.start]:02x}"
            raise BadInput(f"{name} is not UTF-8: {where}", hint) from error
        if text:
            yield text.removeprefix(mark)
            mark = ""
        rest, offset = rest[length:], offset + length


def about(text: str, question: str) -> str:
    """A text and a question about it, separated by a blank line; either may be empty."""
    return text + _gap(text) + question if text and question else text or question


def _gap(text: str) -> str:
    """What makes a blank line after a text."""
    return "\n" if text.endswith("\n") else "\n\n"


def without_newline(text: str) -> str:
    """A text without one newline at its end."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
