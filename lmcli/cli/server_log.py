"""The server's log in the command's voice."""

import logging
import queue
import threading
from typing import Final

from lmcli.cli.messages import Messages

EVERYTHING: Final = logging.DEBUG
WARNINGS: Final = logging.WARNING
# How many records may wait for a reader of stderr, and how long the server waits for one to be written.
MAX_WAITING: Final = 1000
PATIENCE: Final = 0.05


class _Spoken(logging.Handler):
    """Hands log records to the voice, on a thread: nobody may be reading stderr, and the server goes on.

    As long as somebody reads, a record is written before the next thing happens; the first that is not written in
    time is the last that is waited for, until all are.
    """

    def __init__(self, messages: Messages) -> None:
        super().__init__()
        self._messages = messages
        self._waiting: queue.Queue[logging.LogRecord] = queue.Queue(MAX_WAITING)
        self._written = threading.Event()
        self._is_stuck = False
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        self._written.clear()
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped += 1
            return
        if not self._is_stuck:
            self._is_stuck = not self._written.wait(PATIENCE)

    def _write(self) -> None:
        while True:
            record = self._waiting.get()
            self._say(record)
            if self._waiting.empty():
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    self._messages.warning(f"{dropped} lines of the log are lost: nobody read them")
                self._is_stuck = False
                self._written.set()

    def _say(self, record: logging.LogRecord) -> None:
        say = self._messages.detail if record.levelno < logging.INFO else self._messages.report
        if record.levelno >= logging.WARNING:
            say = self._messages.warning
        say(record.getMessage())
        if record.exc_info:
            self._messages.raw(logging.Formatter().formatException(record.exc_info) + "\n")


def log_through(messages: Messages, least: int = EVERYTHING) -> None:
    """Have the voice say what the server logs, from a level on."""
    log = logging.getLogger("lmcli")
    log.addHandler(_Spoken(messages))
    log.setLevel(least)
