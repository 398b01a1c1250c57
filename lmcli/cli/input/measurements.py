"""Recorded predictions, read back: results, JSON lines, stats files, chat files; one pass, a record at a time."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from itertools import chain
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

UNKNOWN: Final = "unknown"
_NOTHING: Final[Mapping[str, Any]] = {}
_TOO_MUCH: Final = 1 << 40
"""No prediction has so many tokens or takes so many seconds; whatever is added up stays a number that JSON has."""


class Recorded(NamedTuple):
    """One prediction as it was recorded; what the record does not say is None or `unknown`."""

    model: str
    time: Any
    stop_reason: str
    prompt_tokens_count: int
    predicted_tokens_count: int
    time_to_first_token_sec: float | None
    tokens_per_second: float | None
    total_time_sec: float | None
    error_code: int | None

    @property
    def day(self) -> str:
        """The day of its time."""
        return _name(self.time)[:10]


class Skipped(NamedTuple):
    """A line that is no record."""

    number: int


def read_records(file: BinaryIO) -> Iterator[Recorded | Skipped]:
    """The predictions in a file: one JSON value a line, or one value over many lines, such as a chat file.

    Lines that are part of a record without being one (fragments, progress) are passed over.
    """
    number, first = next(((number, line) for number, line in enumerate(file, start=1) if line.strip()), (1, b""))
    first = first.removeprefix(BOM_UTF8)
    if _parsed(first) is not None or not first.lstrip().startswith((b"{", b"[")):
        yield from _of_lines(chain([first], file), number)
        return
    rest = file.read()
    value = _parsed(first + rest)
    if value is not None:
        yield from _of_value(value, number)
    else:
        yield from _of_lines(chain([first], BytesIO(rest)), number)


def _of_lines(lines: Iterable[bytes], start: int) -> Iterator[Recorded | Skipped]:
    for number, line in enumerate(lines, start):
        value = _parsed(line)
        if type(value) is dict and "stats" in value:  # nearly every line of a long file takes the short way
            yield _recorded(value)
        elif value is not None:
            yield from _of_value(value, number)
        elif line.strip():
            yield Skipped(number)


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _of_value(value: Any, number: int) -> Iterator[Recorded | Skipped]:
    match value:
        case {"stats": _} | {"error": {"code": _}} | {"type": "error", "code": _}:
            yield _recorded(value)
        case {"type": "fragment" | "model_load_progress" | "prompt_processing_progress"}:
            return
        case {"messages": list(messages)} | list(messages) if all(_is_message(m) for m in messages):
            yield from (_recorded(message) for message in messages if "stats" in message)
        case _:
            yield Skipped(number)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value


def _recorded(record: Mapping[str, Any]) -> Recorded:
    """Take what is known of a record; a million of them come this way, hence few calls."""
    stats, model = record.get("stats"), record.get("model")
    figure = stats.get if type(stats) is dict else _NOTHING.get
    name = model.get if type(model) is dict else _NOTHING.get
    error = record if record.get("type") == "error" else record.get("error")
    return Recorded(
        _name(name("model_key") or name("identifier")),
        record.get("time"),
        _name(figure("stop_reason")),
        _count(figure("prompt_tokens_count")),
        _count(figure("predicted_tokens_count")),
        _figure(figure("time_to_first_token_sec")),
        _figure(figure("tokens_per_second")),
        _figure(figure("total_time_sec")),
        None if error is None else _code(error),
    )


def _name(value: Any) -> str:
    return value if isinstance(value, str) and value else UNKNOWN


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < _TOO_MUCH else 0


def _figure(value: Any) -> float | None:
    return value if (type(value) is float or type(value) is int) and 0 <= value < _TOO_MUCH else None


def _code(error: Any) -> int | None:
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int else None
