"""JSON texts in pieces: long strings are converted while a text is written, so that memory holds no copy of them.

How deep a value is nested is looked at here, too.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, AnyStr, Final

import orjson

from lmcli.wire.surrogates import repaired

PIECE_LENGTH: Final = 3 << 18
"""Characters or bytes that are converted at once; a multiple of 3, so that the base64 of pieces can be joined."""

_GAP: Final = orjson.Fragment(b'"\0"')  # JSON text contains no other null byte
_JSON_GAP: Final = orjson.Fragment(b"\0")
_SCALARS: Final = frozenset((int, float, bool, type(None)))
_MAX_DEPTH: Final = 16
"""How deep long strings are looked for: messages and their parts are less deep, arguments of tools may be deeper."""


class LongText:
    """A text that is not in memory: it yields its pieces, of at most `PIECE_LENGTH` characters, as often as needed."""

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __str__(self) -> str:
        return "".join(self)


class LongJson(LongText):
    """JSON that is not in memory: it is written as it is, not as a string."""


class Pieces:
    """A JSON text whose long strings are not converted yet; made anew each time that it is iterated over."""

    def __init__(self, parts: Sequence[bytes], long: Sequence[str | bytes | LongText]) -> None:
        self._parts = parts
        self._long = long

    def __iter__(self) -> Iterator[bytes]:
        yield self._parts[0]
        for value, after in zip(self._long, self._parts[1:], strict=True):
            if isinstance(value, bytes):
                yield from map(base64.b64encode, sliced(value))
            elif isinstance(value, LongJson):
                yield from map(str.encode, value)
            else:
                yield from map(_converted, _paired(value if isinstance(value, LongText) else sliced(value)))
            yield after


Text = bytes | Pieces


def in_pieces(value: Any, dumps: Callable[[Any], bytes] = orjson.dumps) -> Text:
    """Write a value as JSON, in pieces if it contains long strings; bytes in it are written as base64.

    Raises:
        orjson.JSONEncodeError: a part of it other than a long string cannot be written.
    """
    long: list[str | bytes | LongText] = []
    text = dumps(_without_long(value, long, _MAX_DEPTH))
    return Pieces(text.split(b"\0"), long) if long else text


def joined(text: Text) -> bytes:
    """The whole text."""
    return text if isinstance(text, bytes) else b"".join(text)


def is_deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value is nested more than so many levels deep."""
    level: list[Any] = [[value]]
    for _ in range(levels + 1):
        inner = chain.from_iterable(outer.values() if type(outer) is dict else outer for outer in level)
        level = [item for item in inner if type(item) is dict or type(item) is list]
    return bool(level)


def sliced(value: AnyStr) -> Iterator[AnyStr]:
    """The pieces of a text or of bytes."""
    return (value[start : start + PIECE_LENGTH] for start in range(0, len(value), PIECE_LENGTH))


def base64_text(data: bytes) -> str:
    """What stands for bytes in a JSON text."""
    return base64.b64encode(data).decode()


def _without_long(value: Any, long: list[str | bytes | LongText], depth: int) -> Any:
    """A value with gaps in place of long strings, which are added to a list in their order; itself if it has none."""
    kind = type(value)
    if kind is dict:
        items: Iterable[tuple[Any, Any]] = value.items()
    elif kind is list or kind is tuple:
        items = enumerate(value)
    elif isinstance(value, (bytes, LongText)) or (isinstance(value, str) and len(value) > PIECE_LENGTH):
        long.append(value)
        return _JSON_GAP if isinstance(value, LongJson) else _GAP
    else:
        return value
    short: Any = value
    for key, item in items if depth else ():
        kind = type(item)
        if kind in _SCALARS or (kind is str and len(item) <= PIECE_LENGTH):
            continue  # most values, passed over at once
        if (shortened := _without_long(item, long, depth - 1)) is not item:
            if short is value:
                short = dict(value) if isinstance(value, dict) else list(value)
            short[key] = shortened
    return short


def _paired(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces that do not end between the halves of a surrogate pair."""
    half = ""
    for piece in pieces:
        text = half + piece
        half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        yield text.removesuffix(half)
    yield half


def _converted(piece: str) -> bytes:
    try:
        return orjson.dumps(piece)[1:-1]
    except orjson.JSONEncodeError:  # half a surrogate pair, which becomes U+FFFD
        return orjson.dumps(repaired(piece))[1:-1]
