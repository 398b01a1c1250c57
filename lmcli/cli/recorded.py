"""Recorded predictions, read back: results, JSON lines, stats files, chat files; one pass, a record at a time."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final, NamedTuple

import orjson

UNKNOWN: Final = "unknown"


class Recorded(NamedTuple):
    """One prediction as it was recorded; what the record does not say is None or `unknown`."""

    model: str
    day: str
    stop_reason: str
    prompt_tokens_count: int
    predicted_tokens_count: int
    time_to_first_token_sec: float | None
    tokens_per_second: float | None
    total_time_sec: float | None
    error_code: int | None


class Skipped(NamedTuple):
    """A line that is no record."""

    number: int


def read_records(file: BinaryIO) -> Iterator[Recorded | Skipped]:
    """The predictions in a file: one JSON value a line, or one value over many lines.

    Lines that are part of a record without being one (fragments, progress) are passed over.
    """
    number = 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        value = _parsed(line)
        if value is not None:
            yield from _of_value(value, number)
        elif number == 1:
            yield from _of_whole(line, file)
            return
        else:
            yield Skipped(number)


def _of_whole(first: bytes, file: BinaryIO) -> Iterator[Recorded | Skipped]:
    """A value over many lines, such as a chat file; if it is none, its lines."""
    text = first + file.read()
    value = _parsed(text)
    if value is not None:
        yield from _of_value(value, 1)
        return
    yield Skipped(1)
    for number, line in enumerate(text.splitlines()[1:], start=2):
        if line.strip():
            value = _parsed(line)
            yield from [Skipped(number)] if value is None else _of_value(value, number)


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _of_value(value: Any, number: int) -> Iterator[Recorded | Skipped]:
    match value:
        case {"stats": _} | {"error": {"code": _}}:
            yield _recorded(value)
        case {"type": "error", "code": _}:
            yield _recorded({**value, "error": value})
        case {"type": "fragment" | "model_load_progress" | "prompt_processing_progress"}:
            return
        case {"messages": list(messages)} | list(messages) if all(_is_message(m) for m in messages):
            yield from (_recorded(message) for message in messages if "stats" in message)
        case _:
            yield Skipped(number)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value


def _recorded(record: Mapping[str, Any]) -> Recorded:
    stats, model, error = (_mapping(record.get(key)) for key in ("stats", "model", "error"))
    code = error.get("code")
    return Recorded(
        model=_name(model.get("model_key") or model.get("identifier")),
        day=_name(str(record.get("time", ""))[:10] or None),
        stop_reason=_name(stats.get("stop_reason")),
        prompt_tokens_count=_count(stats.get("prompt_tokens_count")),
        predicted_tokens_count=_count(stats.get("predicted_tokens_count")),
        time_to_first_token_sec=_figure(stats.get("time_to_first_token_sec")),
        tokens_per_second=_figure(stats.get("tokens_per_second")),
        total_time_sec=_figure(stats.get("total_time_sec")),
        error_code=code if isinstance(code, int) else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _name(value: Any) -> str:
    return sys.intern(value) if isinstance(value, str) else UNKNOWN


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _figure(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
