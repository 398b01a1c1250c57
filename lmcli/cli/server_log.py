"""The log of the server, written with the messages of the command."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from lmcli.cli.messages import Messages

EVERYTHING: Final = logging.DEBUG
WARNINGS: Final = logging.WARNING
# The number of records that may wait to be written, and for how long the end of the log waits for them, in seconds.
_MAX_QUEUED: Final = 1000
_LAST_SECONDS: Final = 1.0


class LogWriter(logging.Handler):
    """Writes log records and hints to stderr on a thread, so that logging never waits for the reader of stderr.

    While stderr is not read, records are queued, and dropped and counted once the queue is full.
    """

    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self._messages = messages
        self._queue: queue.Queue[Callable[[], None]] = queue.Queue(_MAX_QUEUED)
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(partial(self._log, record))
        except queue.Full:
            self._dropped += 1

    def hint(self, text: str) -> None:
        """Write what to type, after all that was logged before."""
        with suppress(queue.Full):
            self._queue.put_nowait(partial(self._messages.hint, text))

    def finish(self) -> None:
        """Wait until all records are written, or _LAST_SECONDS have passed."""
        done = self._queue.all_tasks_done
        with done:
            done.wait_for(lambda: not self._queue.unfinished_tasks, _LAST_SECONDS)

    def _write(self) -> None:
        while True:
            write = self._queue.get()
            write()
            if self._queue.empty():
                self._report_dropped()
            self._queue.task_done()

    def _report_dropped(self) -> None:
        with self.lock or threading.RLock():
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._messages.warning(f"{dropped} lines of the log are lost: stderr was not read in time")

    def _log(self, record: logging.LogRecord) -> None:
        write = self._messages.detail if record.levelno < logging.INFO else self._messages.report
        if record.levelno >= logging.WARNING:
            write = self._messages.warning
        write(record.getMessage())
        if record.exc_info:
            self._messages.raw(logging.Formatter().formatException(record.exc_info) + "\n")


@contextmanager
def log_to(messages: Messages, level: int = EVERYTHING) -> Iterator[LogWriter]:
    """Write the log of the server, from a level on, to stderr, and its end before the context ends."""
    log, handler = logging.getLogger("lmcli"), LogWriter(messages)
    log.addHandler(handler)
    log.setLevel(level)
    try:
        yield handler
    finally:
        handler.finish()
        log.removeHandler(handler)
