"""JSON as text: parsed with the position of an error, written whatever values it contains."""

import json
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

import orjson

from lmcli.errors import BadInput
from lmcli.wire.pieces import in_pieces

_RECURSION_LIMIT: Final = 10_000  # several calls for each of the 1024 levels that can be parsed
_LARGE: Final = 1 << 24
"""Above so many characters, the standard library parses: it takes longer, but orjson works on a copy of the text."""
_LONG_NUMBER: Final = re.compile(r"\d{19}")
_UNSAFE: Final = rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xad\xae]"
"""DEL, C1 controls, U+202D and U+202E in UTF-8: valid in JSON, but they control or deceive a terminal."""


def load_json(text: str) -> Any:
    """Parse JSON; integers of any length are preserved, and halves of surrogate pairs, which are valid in JSON.

    Raises:
        orjson.JSONDecodeError: the text is not valid JSON.
        RecursionError: it is nested too deeply.
    """
    try:
        value = json.loads(text, parse_constant=_refuse) if len(text) > _LARGE else orjson.loads(text)
    except orjson.JSONDecodeError as refusal:
        try:
            return json.loads(text, parse_constant=_refuse)
        except ValueError:
            raise refusal from None  # it names the position
    return json.loads(text) if _LONG_NUMBER.search(text) else value  # orjson makes floats of what exceeds 64 bits


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def parse_json(text: str, name: str) -> Any:
    """Parse JSON that a message calls `name`.

    Raises:
        BadInput: the text is not valid JSON; with line and column.
    """
    try:
        return load_json(text)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{name} is not valid JSON: {where}: {error.msg.partition(':')[0]}") from error
    except RecursionError as error:
        raise BadInput(f"{name} is nested too deeply") from error


def dump_json(value: Any, *, is_indented: bool = False) -> bytes:
    r"""Write a value as JSON with a newline at the end: on one line, or indented.

    Characters that could control a terminal are written as \uXXXX.
    """
    try:
        text = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if is_indented else 0))
    except orjson.JSONEncodeError:  # a number beyond 64 bits, a lone surrogate, deep nesting
        sys.setrecursionlimit(_RECURSION_LIMIT)
        layout: dict[str, Any] = {"indent": 2} if is_indented else {"separators": (",", ":")}
        text = json.dumps(value, **layout).encode() + b"\n"
    return _safe(text)


def json_pieces(value: Any, *, is_indented: bool = False) -> Iterator[bytes]:
    """The same as `dump_json`, with long strings written in pieces, not in a copy of the whole."""
    try:
        text = in_pieces(value, lambda short: dump_json(short, is_indented=is_indented))
    except TypeError:  # it contains something that orjson cannot write
        text = dump_json(value, is_indented=is_indented)
    yield from map(_safe, (text,) if isinstance(text, bytes) else text)


def _safe(text: bytes) -> bytes:
    if b"\x7f" in text or b"\xc2" in text or b"\xe2\x80" in text:  # a tenth of the time of the expression
        return re.sub(_UNSAFE, lambda match: b"\\u%04x" % ord(match[0].decode()), text)
    return text
