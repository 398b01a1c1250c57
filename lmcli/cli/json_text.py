"""JSON as text: parsed with the position of an error, written whatever values it contains, and read back by `lm`."""

import json
import re
from collections.abc import Collection, Iterator
from math import isinf
from typing import Any, Final

import orjson

from lmcli.errors import BadInput
from lmcli.wire.pieces import LongJson, LongText, in_pieces, is_deeper
from lmcli.wire.surrogates import repaired

MAX_DEPTH: Final = 1000
"""The deepest nesting that is accepted; orjson parses 1024 levels, so values can be written inside others."""
_LARGE: Final = 1 << 24
"""Above so many characters, the standard library parses: it takes longer, but orjson works on a copy of the text."""
_NEWLINE: Final = orjson.Fragment(b"\n")
_LONGEST_DIGITS: Final = 18
"""Every integer of so many digits fits into 64 bits."""
_TO_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_UNSAFE: Final = rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xad\xae]"
"""In UTF-8 the characters that `errors.escaped` escapes in a whole text and JSON does not: DEL, C1, U+202D, U+202E."""


def load_json(text: str) -> Any:
    """Parse JSON; integers of any length are preserved, and halves of surrogate pairs, which JavaScript writes.

    Raises:
        orjson.JSONDecodeError: the text is not valid JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        is_large = len(text) > _LARGE
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite) if is_large else orjson.loads(text)
        if not is_large and _has_long_number(text):  # orjson makes floats of what exceeds 64 bits
            value = json.loads(text)
    except orjson.JSONDecodeError as refusal:
        try:
            value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        except ValueError:
            raise refusal from None  # it names the position
    if text.count("[") + text.count("{") > MAX_DEPTH and is_too_deep(value):
        raise RecursionError
    return value


def _has_long_number(text: str) -> bool:
    """Whether digits in a row may exceed 64 bits; in a tenth of the time of a regular expression."""
    zeros = text.encode(errors="surrogatepass").translate(_TO_ZEROS)
    return b"0" * (_LONGEST_DIGITS + 1) in zeros


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    if isinf(number):
        raise ValueError(text)
    return number


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value is nested more deeply than `lm` accepts."""
    return is_deeper(value, MAX_DEPTH)


def parse_json(text: str, name: str) -> Any:
    """Parse JSON that a message calls `name`.

    Raises:
        BadInput: the text is not valid JSON, with line and column; or it is nested too deeply.
    """
    try:
        return load_json(text)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{name} is not valid JSON: {where}: {error.msg.partition(':')[0]}") from error
    except RecursionError as error:
        raise BadInput(f"{name} is nested too deeply: more than {MAX_DEPTH} levels") from error


def dump_json(value: Any, *, is_indented: bool = False) -> bytes:
    r"""Write a value as JSON with a newline at the end: on one line, or indented.

    Characters that could control a terminal are written as \uXXXX. Half a surrogate pair, which jq and others refuse,
    becomes U+FFFD, and an infinite number null.
    """
    try:
        layout_option = orjson.OPT_INDENT_2 if is_indented else 0
        text = orjson.dumps(value, _fragment, orjson.OPT_APPEND_NEWLINE | layout_option)
    except orjson.JSONEncodeError:  # a number beyond 64 bits, half a surrogate pair, deep nesting
        layout: dict[str, Any] = {"indent": 2} if is_indented else {"separators": (",", ":")}
        whole = json.dumps(value, default=_loaded)
        finite = json.loads(whole, parse_constant=lambda _: None)  # null for infinity, as orjson has it
        characters = json.dumps(finite, ensure_ascii=False, **layout)
        text = repaired(characters).encode() + b"\n"
    return _safe(text)


def dump_lines(values: Collection[Any]) -> bytes:
    """Write each value as `dump_json` does, on a line of its own.

    They are written as one array with a newline as an item between two: no string contains one that is not escaped.
    """
    items: list[Any] = [_NEWLINE] * (2 * len(values) - 1)
    items[::2] = values
    try:
        text = orjson.dumps(items, _fragment)[1:-1].replace(b",\n,", b"\n") + b"\n"
    except orjson.JSONEncodeError:
        return b"".join(map(dump_json, values))
    return _safe(text)


def _fragment(value: Any) -> orjson.Fragment:
    """What a value is written as that only its class can write."""
    if isinstance(value, LongJson):
        return orjson.Fragment(str(value))
    raise TypeError


def _loaded(value: Any) -> Any:
    """The same for the standard library, which has no way to write JSON as it is."""
    return load_json(str(value)) if isinstance(value, LongJson) else LongText.__str__(value)


def json_pieces(value: Any, *, is_indented: bool = False) -> Iterator[bytes]:
    """The same as `dump_json`, with long strings written in pieces, not in a copy of the whole."""
    try:
        text = in_pieces(value, lambda short: dump_json(short, is_indented=is_indented))
    except TypeError:  # it contains something that orjson cannot write
        text = dump_json(value, is_indented=is_indented)
    yield from map(_safe, (text,) if isinstance(text, bytes) else text)


def _safe(text: bytes) -> bytes:
    if text.isascii() and b"\x7f" not in text:
        return text
    if b"\x7f" in text or b"\xc2" in text or b"\xe2\x80" in text:  # a tenth of the time of the expression
        return re.sub(_UNSAFE, lambda match: b"\\u%04x" % ord(match[0].decode()), text)
    return text
