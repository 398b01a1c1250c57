"""JSON for people and scripts: read with the place of an error, written whatever is in it."""

import json
import re
import sys
from typing import Any, Final

import orjson

from lmcli.errors import BadInput

_DEEPEST: Final = 10_000  # several calls for each of the 1024 levels that can be read
_LONG_NUMBER: Final = re.compile(r"\d{19}")


def read_json(text: str) -> Any:
    """JSON as a value; whole numbers of any length stay what they are.

    Raises:
        orjson.JSONDecodeError: it is no JSON.
    """
    value = orjson.loads(text)
    return json.loads(text) if _LONG_NUMBER.search(text) else value  # orjson makes floats of what exceeds 64 bits


def parse_json(text: str, name: str) -> Any:
    """JSON as a value.

    Raises:
        BadInput: it is none; with line and column.
    """
    try:
        return read_json(text)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{name} is no JSON: {where}: {error.msg.partition(':')[0]}") from error
    except RecursionError as error:
        raise BadInput(f"{name} is nested too deeply") from error


def written(value: Any, *, is_indented: bool = False) -> bytes:
    """A value as JSON, with a newline at its end: on one line, or indented for people."""
    try:
        return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE | (orjson.OPT_INDENT_2 if is_indented else 0))
    except orjson.JSONEncodeError:  # a number beyond 64 bits, half a surrogate pair, deep nesting
        sys.setrecursionlimit(_DEEPEST)
        layout: dict[str, Any] = {"indent": 2} if is_indented else {"separators": (",", ":")}
        return json.dumps(value, **layout).encode() + b"\n"
