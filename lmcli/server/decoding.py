"""The texts of clients as JSON: whether one can be read without delaying others, and how."""

import gc
from typing import Any

from lmcli.errors import RemoteProtocolError
from lmcli.server.limits import MAX_NESTING, MAX_OBJECTS, MAX_VALUES, json_size
from lmcli.wire.envelopes import ABSENT, loads


def has_too_many_values(text: str) -> bool:
    """Whether a JSON text would take too long to read, and too much memory."""
    return len(text) > MAX_OBJECTS and (text.count("[") + text.count("{") > MAX_OBJECTS or text.count(",") > MAX_VALUES)


def decode(text: str | bytes) -> Any:
    """Decode JSON; ABSENT if the text is binary or not valid JSON."""
    if isinstance(text, bytes):
        return ABSENT
    is_collecting = gc.isenabled()
    gc.disable()  # it would search what has just been read for garbage, again and again
    try:
        return loads(text)
    except RemoteProtocolError:
        return ABSENT
    finally:
        if is_collecting:
            gc.enable()


def has_type(value: Any) -> bool:
    """Whether a value may be an envelope."""
    return isinstance(value, dict) and isinstance(value.get("type"), str)


def nesting_excess(text: str, value: Any) -> str | None:
    """Say that a value, read from a text, is nested too deeply; None if it is not."""
    if text.count("[") + text.count("{") <= MAX_NESTING or json_size(value) is not None:
        return None
    level: list[Any] = [value]
    for _ in range(MAX_NESTING + 1):
        level = [item for items in level for item in _items(items) if isinstance(item, dict | list)]
        if not level:
            return None
    return f"The parameter is nested more than {MAX_NESTING} levels deep"


def _items(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
