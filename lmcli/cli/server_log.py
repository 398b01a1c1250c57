"""The log of the server, written with the messages of the command."""

import logging
import queue
import threading
from typing import Final

from lmcli.cli.messages import Messages

EVERYTHING: Final = logging.DEBUG
WARNINGS: Final = logging.WARNING
# The number of records that may wait to be written, and the time (seconds) that the server waits for one.
_MAX_QUEUED: Final = 1000
_WRITE_TIMEOUT: Final = 0.05


class _MessagesHandler(logging.Handler):
    """Writes log records to stderr on a thread, so that a blocked stderr does not block the server.

    While stderr is read, logging returns when the record is written. After the first record that is not written in
    time, logging no longer waits, until the queue is empty again.
    """

    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self._messages = messages
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue(_MAX_QUEUED)
        self._written = threading.Event()
        self._is_blocked = False
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        self._written.clear()
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1
            return
        if not self._is_blocked:
            self._is_blocked = not self._written.wait(_WRITE_TIMEOUT)

    def _write(self) -> None:
        while True:
            record = self._queue.get()
            self._log(record)
            if self._queue.empty():
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    self._messages.warning(f"{dropped} lines of the log are lost: stderr was not read in time")
                self._is_blocked = False
                self._written.set()

    def _log(self, record: logging.LogRecord) -> None:
        write = self._messages.detail if record.levelno < logging.INFO else self._messages.report
        if record.levelno >= logging.WARNING:
            write = self._messages.warning
        write(record.getMessage())
        if record.exc_info:
            self._messages.raw(logging.Formatter().formatException(record.exc_info) + "\n")


def log_to(messages: Messages, level: int = EVERYTHING) -> None:
    """Write the log of the server, from a level on, to stderr."""
    log = logging.getLogger("lmcli")
    log.addHandler(_MessagesHandler(messages))
    log.setLevel(level)
