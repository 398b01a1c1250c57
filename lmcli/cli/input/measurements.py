"""Parsing of recorded predictions: results, JSON lines, stats files, chat files; one pass, a record at a time."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from itertools import chain
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

from lmcli.cli.json_text import load_json

UNKNOWN: Final = "unknown"
_EMPTY: Final[Mapping[str, Any]] = {}
_MAX_VALUE: Final = 1 << 40
"""An upper bound of plausible tokens and seconds, so that sums remain valid in JSON."""


class PredictionRecord(NamedTuple):
    """One recorded prediction; missing values are None, 0 or `unknown`."""

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
        """The date of the prediction."""
        return _name(self.time)[:10]


class SkippedLine(NamedTuple):
    """A line that is not a record."""

    number: int


def read_records(file: BinaryIO) -> Iterator[PredictionRecord | SkippedLine]:
    """The predictions in a file: one JSON value per line, or one value on several lines, such as a chat file.

    Events that are not records themselves (fragments, progress) are ignored.
    """
    number, first = next(((number, line) for number, line in enumerate(file, start=1) if line.strip()), (1, b""))
    first = first.removeprefix(BOM_UTF8)
    if _parsed(first) is not None or not first.lstrip().startswith((b"{", b"[")):
        yield from _parse_lines(chain([first], file), number)
        return
    rest = file.read()
    value = _parsed(first + rest)
    if value is not None:
        yield from _parse_value(value, number)
    else:
        yield from _parse_lines(chain([first], BytesIO(rest)), number)


def _parse_lines(lines: Iterable[bytes], start: int) -> Iterator[PredictionRecord | SkippedLine]:
    for number, line in enumerate(lines, start):
        value = _parsed(line)
        if type(value) is dict and "stats" in value:  # fast path for long files
            yield _record(value)
        elif value is not None:
            yield from _parse_value(value, number)
        elif line.strip():
            yield SkippedLine(number)


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass  # most often not JSON, sometimes half a surrogate pair or a number that is too large
    try:
        return load_json(text.decode())
    except (UnicodeDecodeError, orjson.JSONDecodeError, RecursionError):
        return None


def _parse_value(value: Any, number: int) -> Iterator[PredictionRecord | SkippedLine]:
    match value:
        case {"stats": _} | {"error": {"code": _}} | {"type": "error", "code": _}:
            yield _record(value)
        case {"type": "fragment" | "model_load_progress" | "prompt_processing_progress"}:
            return
        case {"messages": list(messages)} | list(messages) if all(_is_message(m) for m in messages):
            yield from (_record(message) for message in messages if "stats" in message)
        case _:
            yield SkippedLine(number)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value


def _record(record: Mapping[str, Any]) -> PredictionRecord:
    """Convert a record, with few calls: a file may contain a million."""
    stats, model = record.get("stats"), record.get("model")
    stat = stats.get if type(stats) is dict else _EMPTY.get
    name = model.get if type(model) is dict else _EMPTY.get
    error = record if record.get("type") == "error" else record.get("error")
    return PredictionRecord(
        _name(name("model_key") or name("identifier")),
        record.get("time"),
        _name(stat("stop_reason")),
        _count(stat("prompt_tokens_count")),
        _count(stat("predicted_tokens_count")),
        _number(stat("time_to_first_token_sec")),
        _number(stat("tokens_per_second")),
        _number(stat("total_time_sec")),
        None if error is None else _code(error),
    )


def _name(value: Any) -> str:
    return value if isinstance(value, str) and value else UNKNOWN


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < _MAX_VALUE else 0


def _number(value: Any) -> float | None:
    return value if (type(value) is float or type(value) is int) and 0 <= value < _MAX_VALUE else None


def _code(error: Any) -> int | None:
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int else None
