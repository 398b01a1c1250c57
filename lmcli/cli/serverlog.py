"""The server's log in the command's voice."""

import logging
from typing import Final

from lmcli.cli.voice import Voice

EVERYTHING: Final = logging.DEBUG
WARNINGS: Final = logging.WARNING


class _Spoken(logging.Handler):
    """Hands log records to the voice."""

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        say = self._voice.detail if record.levelno < logging.INFO else self._voice.note
        if record.levelno >= logging.WARNING:
            say = self._voice.warning
        say(record.getMessage())
        if record.exc_info:
            self._voice.raw(logging.Formatter().formatException(record.exc_info) + "\n")


def log_through(voice: Voice, least: int = EVERYTHING) -> None:
    """Have the voice say what the server logs, from a level on."""
    log = logging.getLogger("lmcli")
    log.addHandler(_Spoken(voice))
    log.setLevel(least)
