"""The runs of a measurement as they go: which one it is, how fast, and a block for each that has ended."""

import time
from collections.abc import Callable
from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages, Verbosity
from lmcli.cli.output.drawing import clipped, columns_of, sparkline
from lmcli.cli.output.progress import LinesSink
from lmcli.cli.output.sinks import Outcome, StderrSink
from lmcli.errors import escaped
from lmcli.values import Fragment, PromptProgress, Value

_TICK: Final = 0.1
_GAP: Final = "  "
_ERASE: Final = "\r\x1b[K"


class RunDisplay:
    """Shows nothing, for those who want to see nothing; a sink of the values of each run."""

    tick: float | None = None

    def start_run(self, model: str, number: int, total: int, *, is_warmup: bool = False) -> None:
        """A run begins; that of number 1 is the first of its kind and model."""

    def burst(self, values: list[Value]) -> None:
        """Something has come, or a tick has passed."""

    def finish(self, outcome: Outcome) -> None:
        """The values of a run have come to an end."""

    def finish_run(self, tokens_per_second: float | None) -> None:
        """A run was as fast as this; None if the server does not say."""

    def erase(self) -> None:
        """Leave the terminal as it was."""


class RunLines(RunDisplay):
    """Says in lines which run it is, and how fast it was.

    Args:
        say: told each line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._progress = LinesSink(say)
        self._say = say
        self._title = ""

    def start_run(self, model: str, number: int, total: int, *, is_warmup: bool = False) -> None:
        """Say which one it is."""
        self._title = _title(number, total, is_warmup=is_warmup)
        self._say(f"{self._title}: {model}")

    def burst(self, values: list[Value]) -> None:
        """Say how far it is."""
        self._progress.burst(values)

    def finish_run(self, tokens_per_second: float | None) -> None:
        """Say how fast it was."""
        self._say(f"{self._title}: {_shown(tokens_per_second)}")


class RunLine(RunDisplay):
    """One line of a terminal, drawn again and again, without the weight of a library beside what is measured.

    Args:
        env: the process.
        messages: to write with.
        steps_aside: leave the terminal to the answers, because they are shown there, too.
    """

    tick = _TICK

    def __init__(self, env: Environment, messages: Messages, *, steps_aside: bool) -> None:
        self._env = env
        self._messages = messages
        self._steps_aside = steps_aside
        self._title = ""
        self._is_warmup = False
        self._pace = _Pace()
        self._progress: float | None = None
        self._finished: list[float | None] = []
        self._drawn_at: float | None = None

    def start_run(self, model: str, number: int, total: int, *, is_warmup: bool = False) -> None:
        """Show which one it is; the blocks of the model before go."""
        if number == 1:
            self._finished = []
        self._title = f"{_title(number, total, is_warmup=is_warmup)}{_GAP}{escaped(model)}"
        self._is_warmup = is_warmup
        self._pace = _Pace()
        self._progress = None
        self.burst([])

    def burst(self, values: list[Value]) -> None:
        """Show how far or how fast it is, if it is time to."""
        now = time.monotonic()
        for value in values:
            if isinstance(value, Fragment):
                self._pace.add(value.tokens_count, now)
            elif isinstance(value, PromptProgress):
                self._progress = value.progress
        if self._steps_aside and self._pace.has_begun:
            self.erase()
        elif self._drawn_at is None or now - self._drawn_at >= _TICK:
            self._draw(self._state(now), now)

    def finish_run(self, tokens_per_second: float | None) -> None:
        """Show how fast it was, and add its block if it counts."""
        if not self._is_warmup:
            self._finished.append(tokens_per_second)
        self._draw(_shown(tokens_per_second), time.monotonic())

    def erase(self) -> None:
        """Leave the terminal as it was."""
        if self._drawn_at is not None:
            self._messages.raw(_ERASE)
            self._drawn_at = None

    def _state(self, now: float) -> str:
        if (pace := self._pace.tokens_per_second(now)) is not None:
            return _shown(pace)
        return "waiting" if self._progress is None else f"reading {self._progress:.0%}"

    def _draw(self, state: str, now: float) -> None:
        room = self._env.stderr_width - 1  # the last column would move the cursor to the next line
        line = clipped(f"{self._title}{_GAP}{state}{_GAP}", room)
        blocks = max(room - columns_of(line), 0)
        self._messages.raw(f"{_ERASE}{line}{sparkline(self._finished[-blocks:], self._env) if blocks else ''}")
        self._drawn_at = now


def run_display(
    progress: StderrSink | None, env: Environment, messages: Messages, *, is_echoed: bool = False
) -> RunDisplay:
    """What shows the runs, where progress is shown at all: a line on a terminal, else lines.

    Args:
        progress: what would show one prediction; None if nothing is to be seen.
        env: the process.
        messages: to write with.
        is_echoed: the answers are shown on stderr, too.
    """
    if progress is None:
        return RunDisplay()
    if progress.tick is None or messages.verbosity is Verbosity.VERBOSE:  # a line that others write behind is no line
        return RunLines(messages.report)
    return RunLine(env, messages, steps_aside=is_echoed)


class _Pace:
    """Tokens per second from the first burst on, whose own tokens came before the clock was started."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._tokens_count = 0

    @property
    def has_begun(self) -> bool:
        return self._began is not None

    def add(self, tokens_count: int, now: float) -> None:
        if self._began is None:
            self._began = now
        elif now > self._began:
            self._tokens_count += tokens_count

    def tokens_per_second(self, now: float) -> float | None:
        if self._began is None or not self._tokens_count:
            return None
        return self._tokens_count / (now - self._began)


def _title(number: int, total: int, *, is_warmup: bool) -> str:
    return f"{'warm-up' if is_warmup else 'run'} {number}/{total}"


def _shown(tokens_per_second: float | None) -> str:
    return "tokens/s unknown" if tokens_per_second is None else f"{tokens_per_second:.1f} tokens/s"
