"""A text that grows by pieces: memory holds it about once, or, if it is only written again, not at all."""

from collections.abc import Iterable, Iterator
from io import FileIO
from typing import Any, Final

from lmcli.cli.json_text import dump_json
from lmcli.wire.pieces import LongJson, LongText, sliced

_SHARE: Final = 16
"""Pieces wait until together they are so large a part of the text: copying remains linear, and they take little."""
_STORED: Final = 1 << 20
"""Above so many characters, a text that need not be in memory is moved to a file."""


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
        if not (self._text or self._waiting):
            self._text = piece
            return
        self._waiting.append(piece)
        self._length += len(piece)
        if self._length > len(self._text) // _SHARE:
            self._join()

    @property
    def text(self) -> str:
        """The whole text."""
        if self._waiting:
            self._join()
        return self._text

    @property
    def contents(self) -> str | LongText:
        """What can be written: the text, or what reads it in pieces."""
        return self.text

    def _join(self) -> None:
        text, self._text = self._text, ""  # only a text that nothing else refers to can grow in place
        text += "".join(self._waiting)
        self._waiting.clear()
        self._length = 0
        self._text = text


class StoredTextBuffer(TextBuffer, LongText):
    """Moves a long text to a temporary file without a name; what cannot be written there remains in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._file: FileIO | None = None
        self._sizes: list[int] = []  # in bytes, of the pieces in the file
        self._is_full = False

    @property
    def text(self) -> str:
        """The whole text, read back."""
        return str(self.contents)

    @property
    def contents(self) -> str | LongText:
        """See `TextBuffer.contents`."""
        self._join()
        return self if self._sizes else self._text

    def __iter__(self) -> Iterator[str]:
        self._join()
        if self._file is not None:
            self._file.seek(0)
            for size in self._sizes:
                yield self._file.read(size).decode("utf-8", "surrogatepass")
        yield from sliced(self._text)

    def _join(self) -> None:
        super()._join()
        if len(self._text) > _STORED and not self._is_full:
            try:
                self._store()
            except OSError:
                self._is_full = True

    def _store(self) -> None:
        from tempfile import TemporaryFile  # noqa: PLC0415  only for what is very long

        file = self._file = self._file or TemporaryFile(buffering=0)  # noqa: SIM115  closed with the text
        file.seek(sum(self._sizes))
        sizes = []
        for piece in sliced(self._text):
            data = memoryview(piece.encode("utf-8", "surrogatepass"))
            sizes.append(len(data))
            while data:  # less than all of it may be written
                data = data[file.write(data) :]
        self._sizes += sizes
        self._text = ""

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()


class JsonArray(LongJson):
    """An array that grows, kept as JSON, which is shorter than the values are.

    Args:
        items: a buffer for the items, without the brackets.
        is_indented: each value is on a line of its own, as a value of an object that is indented.
    """

    def __init__(self, items: TextBuffer, *, is_indented: bool = False) -> None:
        self._items = items
        self._is_empty = True
        self._before, self._after = ("\n    ", "\n  ") if is_indented else ("", "")

    def extend(self, values: Iterable[Any]) -> None:
        """Add values at the end."""
        for value in values:
            self._items.append(("" if self._is_empty else ",") + self._before + dump_json(value).decode()[:-1])
            self._is_empty = False

    def __bool__(self) -> bool:
        return not self._is_empty

    def __iter__(self) -> Iterator[str]:
        contents = self._items.contents
        yield "["
        yield from contents if isinstance(contents, LongText) else sliced(contents)
        yield f"{self._after}]"
