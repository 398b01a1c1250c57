"""The one voice of `lm`: errors, hints, warnings and notes on stderr; lower case, no period."""

import os
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.errors import LmError, ModelNotFound, ModelUnloaded, NoModelLoaded, TimedOut, escaped

_HINTS: Final[Mapping[type[LmError], str]] = {
    ModelNotFound: "lm models lists the models that are there",
    ModelUnloaded: "-m KEY loads it again",
    NoModelLoaded: "-m KEY loads one",
    TimedOut: "a larger --timeout waits longer",
}
"""What to type after an error of the library, which does not know the command line."""


def hints_for(error: LmError) -> Sequence[str]:
    """The error's own hints, then what to type."""
    return (*error.hints, *([_HINTS[type(error)]] if type(error) in _HINTS else []))


_RED: Final = "31;1"
_YELLOW: Final = "33"
_DIM: Final = "2"


class Verbosity(IntEnum):
    """How much is said beyond errors."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class Messages:
    """Says things on stderr, each in one write; a closed or full stderr is nobody's error.

    Args:
        env: the process.
        loudness: how much to say.
        color: `auto`, `always` or `never`.
    """

    def __init__(self, env: Environment, verbosity: Verbosity = Verbosity.NORMAL, color: str = "auto") -> None:
        self.verbosity = verbosity
        self.has_color = env.has_color(color)
        self._descriptor = env.stderr
        self._is_read = env.stdin_is_terminal or env.stdout_is_terminal or env.stderr_is_terminal

    def error(self, error: LmError) -> None:
        """Say what went wrong and what to do about it."""
        hints = "".join(self._line("hint", hint, _DIM) for hint in hints_for(error))
        self.raw(self._line("error", error.message, _RED) + hints)

    def warning(self, text: str) -> None:
        """Say what is likely to be a mistake."""
        if self.verbosity > Verbosity.QUIET:
            self.raw(self._line("warning", text, _YELLOW))

    def note(self, text: str) -> None:
        """Say what a user at a terminal should know; an editor that filters a text would put it into that."""
        if self._is_read or self.verbosity is Verbosity.VERBOSE:
            self.report(text)

    def report(self, text: str) -> None:
        """Say what was asked for: progress as lines, a server's log."""
        if self.verbosity > Verbosity.QUIET:
            self.raw(f"lm: {escaped(text)}\n")

    def detail(self, text: str) -> None:
        """Say what is sent, where, and how long it takes."""
        if self.verbosity is Verbosity.VERBOSE:
            self.raw(f"lm: {escaped(text)}\n")

    def aside(self, text: str) -> None:
        """Write something that is not quite for the user, such as reasoning; dim where there is colour."""
        self.raw(f"\x1b[{_DIM}m{text}\x1b[0m" if self.has_color else text)

    def raw(self, text: str) -> None:
        """Write to stderr as it is."""
        data = text.encode(errors="replace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            pass

    def _line(self, label: str, text: str, style: str) -> str:
        shown = f"\x1b[{style}m{label}:\x1b[0m" if self.has_color else f"{label}:"
        return f"lm: {shown} {escaped(text)}\n"
