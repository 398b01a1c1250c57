"""Progress of a batch on stderr: a live line on a terminal, else a plain line now and then, if requested."""

import time
from typing import Final, NamedTuple

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages, Verbosity
from lmcli.cli.options import ProgressOptions
from lmcli.cli.output.drawing import clipped

_SHOWN_AFTER: Final = 0.5
_TICK: Final = 0.1
_LINES_TICK: Final = 10.0
_ERASE: Final = "\r\x1b[K"


class Counts(NamedTuple):
    """How far a batch is: results, failures among them, results of earlier runs, predicted tokens, and all records."""

    done: int
    failed: int
    kept: int
    tokens_count: int
    total: int | None


class BatchDisplay:
    """Shows nothing; the base of the displays."""

    is_shown = False

    def update(self, counts: Counts) -> None:
        """Show how far the batch is, if a tick has passed."""

    def erase(self) -> None:
        """Erase what is shown; other output follows."""


class _Lines(BatchDisplay):
    """A plain line every ten seconds; on a terminal a live line.

    Args:
        env: the environment.
        messages: writes to stderr.
        is_live: whether the line is drawn over the last one.
    """

    is_shown = True

    def __init__(self, env: Environment, messages: Messages, *, is_live: bool) -> None:
        self._env = env
        self._messages = messages
        self._is_live = is_live
        self._began = time.monotonic()
        self._next_at = self._began + (_SHOWN_AFTER if is_live else _LINES_TICK)
        self._is_drawn = False

    def update(self, counts: Counts) -> None:
        """Show how far the batch is, if a tick has passed."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + (_TICK if self._is_live else _LINES_TICK)
        line = progress_line(counts, now - self._began)
        if self._is_live:  # a character in the last column would wrap the line
            self._messages.raw(f"{_ERASE}{clipped(line, self._env.stderr_width - 1)}")
            self._is_drawn = True
        else:
            self._messages.report(line)

    def erase(self) -> None:
        """Erase the live line; it appears again with the next tick."""
        if self._is_drawn:
            self._messages.raw(_ERASE)
            self._is_drawn = False


def batch_display(options: ProgressOptions, env: Environment, messages: Messages, *, has_reader: bool) -> BatchDisplay:
    """The display, if progress is shown: by default on a terminal that the answers are not written to.

    Args:
        options: the options.
        env: the environment.
        messages: writes to stderr.
        has_reader: whether another process reads stdout, which may write to the same terminal.
    """
    is_live = env.stderr_is_terminal and env.setting("TERM") != "dumb" and messages.verbosity is not Verbosity.VERBOSE
    is_free = not (env.stdout_is_terminal or has_reader)
    is_wanted = (is_live and is_free and not options.quiet) if options.progress is None else options.progress
    return _Lines(env, messages, is_live=is_live and is_free) if is_wanted else BatchDisplay()


def progress_line(counts: Counts, seconds: float) -> str:
    """How far a batch is, in one line."""
    predicted = counts.done - counts.kept
    total = "" if counts.total is None else f"/{counts.total}"
    parts = [f"{counts.done}{total} done"]
    if counts.failed:
        parts.append(f"{counts.failed} failed")
    if predicted:
        parts += [f"{predicted / seconds:.1f}/s", f"{counts.tokens_count / seconds:.1f} tokens/s"]
        if counts.total is not None:
            parts.append(f"{duration((counts.total - counts.done) * seconds / predicted)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """A time as people read it: 0:07, 12:34, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
