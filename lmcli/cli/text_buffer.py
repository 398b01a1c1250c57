"""A text that grows by pieces: memory holds it about once, whatever its length and that of the pieces."""

from collections.abc import Iterable
from typing import Final

_SHARE: Final = 16
"""Pieces wait until together they are so large a part of the text: copying remains linear, and they take little."""


class TextBuffer:
    """Collects pieces; what waits is appended to the text, which CPython does in place."""

    def __init__(self, pieces: Iterable[str] = ()) -> None:
        self._text = ""
        self._waiting: list[str] = []
        self._length = 0
        for piece in pieces:
            self.append(piece)

    def append(self, piece: str) -> None:
        """Add a piece at the end."""
        self._waiting.append(piece)
        self._length += len(piece)
        if self._length > len(self._text) // _SHARE:
            self._join()

    @property
    def text(self) -> str:
        """The whole text."""
        self._join()
        return self._text

    def _join(self) -> None:
        text, self._text = self._text, ""  # only a text that nothing else refers to can grow in place
        text += "".join(self._waiting)
        self._waiting.clear()
        self._length = 0
        self._text = text
