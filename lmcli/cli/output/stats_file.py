"""The stats of a prediction, as text and as lines of a file."""

import errno
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from lmcli.cli.json_text import dump_json
from lmcli.cli.output.results import SIGNALLED, error_record, model_record, stats_record
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.output.stdout import output_failure
from lmcli.cli.signals import Interrupted, SignalWatcher
from lmcli.client.waiting import wait
from lmcli.errors import ExitCode, escaped, quoted
from lmcli.values import JsonObject, PredictionEnd

_READER_SECONDS: Final = 0.05
"""How often a FIFO is checked for a reader."""
_NEW_FILE_MODE: Final = 0o600


def stats_text(end: PredictionEnd) -> str:
    """The stats as text, one per line."""
    stats, cached = end.stats, end.stats.cached_prompt_tokens_count
    rows = {
        "Model used": end.model_info.display_name,
        "Prompt tokens": stats.prompt_tokens_count,
        **({} if cached is None else {"Cached prompt tokens": cached}),
        "Predicted tokens": stats.predicted_tokens_count,
        "Time to first token (seconds)": _rounded(stats.time_to_first_token_sec, 3),
        "Tokens per second": _rounded(stats.tokens_per_second, 2),
        "Stop reason": stats.stop_reason,
    }
    return "".join(f"{label}: {'unknown' if value is None else escaped(str(value))}\n" for label, value in rows.items())


def stats_line(command: str, options: JsonObject, outcome: Outcome, model_key: str | None) -> JsonObject:
    """The record of one prediction in a stats file; never the prompt or the answer.

    If no model answered, the entry of the model holds the requested key.
    """
    end, error, signum = outcome.end, outcome.error, outcome.signum
    status = SIGNALLED + signum if signum is not None else error.exit_code if error else ExitCode.OK
    record: JsonObject = {
        "command": command,
        "model": {"model_key": model_key} if end is None else model_record(end.model_info),
        "options": options,
        "stats": None if end is None else stats_record(end.stats),
        "exit_status": int(status),
    }
    return record if error is None else record | {"error": error_record(error)}


def append_line(path: Path, record: JsonObject, signals: SignalWatcher) -> None:
    """Append one record to a file in one write, so that concurrent processes do not interleave lines.

    Raises:
        OutputFailed: it could not be written completely.
        Interrupted: a signal came while a FIFO had no reader, or a reader did not read.
    """
    line = dump_json({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **record})
    try:
        descriptor = _open(path, signals)
        try:
            _append(descriptor, line, signals)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise output_failure(quoted(path), error) from error


def _open(path: Path, signals: SignalWatcher) -> int:
    """Open a file for appending; a FIFO is opened when it has a reader."""
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, _NEW_FILE_MODE)
        except OSError as error:
            if error.errno != errno.ENXIO or not path.is_fifo():
                raise
        signals.check()
        time.sleep(_READER_SECONDS)


def _append(descriptor: int, line: bytes, signals: SignalWatcher) -> None:
    """Write a line; if only a part of it fits, try to end that part, so that the next record starts a new line."""
    written = _write(descriptor, line, signals)
    try:
        while written < len(line):
            written += _write(descriptor, line[written:], signals)
    except (OSError, Interrupted):
        with suppress(OSError):
            os.write(descriptor, b"\n")
        raise


def _write(descriptor: int, data: bytes, signals: SignalWatcher) -> int:
    """Write as much as is accepted, once something is."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:
            signals.check()
        wait(descriptor, to_read=False, to_write=True, interrupts=signals.interrupts)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
