"""The messages of `lm` on stderr: errors, hints, warnings and notes; lower case, no period."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from threading import RLock
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.output.stdout import Output, ReaderLeft
from lmcli.cli.signals import Interrupted, SignalWatcher
from lmcli.errors import (
    CannotConnect,
    LmError,
    ModelNotFound,
    ModelUnloaded,
    NoModelLoaded,
    OutputFailed,
    TimedOut,
    TokenExposed,
    escaped,
)

_HINTS: Final[Mapping[type[LmError], str]] = {
    CannotConnect: "--host HOST:PORT names another server, --host local or demo needs none",
    ModelNotFound: "lm models lists the models that are there",
    ModelUnloaded: "-m KEY loads it again",
    NoModelLoaded: "-m KEY loads one",
    TokenExposed: "--insecure-token sends it all the same",
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
    """Which messages are written besides errors."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class Messages:
    """Writes messages to stderr, from any thread; a closed or full stderr is ignored.

    Args:
        env: the environment.
        verbosity: which messages to write.
        color: `auto`, `always` or `never`.

    Attributes:
        before_each: called before each message, to end what is being drawn on the same terminal.
    """

    def __init__(self, env: Environment, verbosity: Verbosity = Verbosity.NORMAL, color: str = "auto") -> None:
        self.verbosity = verbosity
        self.has_color = env.has_color(color)
        self.before_each: Callable[[], None] = lambda: None
        self._descriptor = env.stderr
        self._lock = RLock()  # an output belongs to one thread: its poll object refuses a second one
        self.watch(SignalWatcher())
        self._is_interactive = env.stdin_is_terminal or env.stdout_is_terminal or env.stderr_is_terminal

    def watch(self, signals: SignalWatcher) -> None:
        """Wait for a reader of stderr no longer than until one of these signals comes."""
        self._output = Output(self._descriptor, signals)

    def error(self, error: LmError) -> None:
        """Write an error and its hints."""
        hints = "".join(self._line("hint", hint, _DIM) for hint in hints_for(error))
        self.raw(self._line("error", error.message, _RED) + hints)

    def warning(self, text: str) -> None:
        """Write a warning about a likely mistake."""
        if self.verbosity > Verbosity.QUIET:
            self.raw(self._line("warning", text, _YELLOW))

    def note(self, text: str) -> None:
        """Write a note, if a terminal is involved; an editor would insert it into the filtered text."""
        if self._is_interactive or self.verbosity is Verbosity.VERBOSE:
            self.report(text)

    def report(self, text: str) -> None:
        """Write requested output: progress as lines, the log of a server."""
        if self.verbosity > Verbosity.QUIET:
            self.raw(f"lm: {escaped(text)}\n")

    def hint(self, text: str) -> None:
        """Write what to type after a note."""
        if self.verbosity > Verbosity.QUIET:
            self.raw(self._line("hint", text, _DIM))

    def detail(self, text: str) -> None:
        """Write details for --verbose: what is sent, where, and how long it takes."""
        if self.verbosity is Verbosity.VERBOSE:
            self.raw(f"lm: {escaped(text)}\n")

    def dim(self, text: str) -> None:
        """Write text that is less important, such as reasoning; dim if there is colour."""
        self.raw(f"\x1b[{_DIM}m{text}\x1b[0m" if self.has_color else text)

    def raw(self, text: str) -> None:
        """Write text unchanged."""
        # Who is interrupted looks at the signals later.
        with self._lock, suppress(ReaderLeft, Interrupted, OutputFailed):
            self.before_each()
            self._output.write(text.encode(errors="replace"))

    def _line(self, label: str, text: str, style: str) -> str:
        shown = f"\x1b[{style}m{label}:\x1b[0m" if self.has_color else f"{label}:"
        return f"lm: {shown} {escaped(text)}\n"
