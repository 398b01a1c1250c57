"""Progress of a measurement: the current run, its speed, and a block for each finished run."""

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
    """Shows nothing; the base of the displays, and a sink of the values of each run."""

    tick: float | None = None

    def start_run(self, model: str, number: int, total: int, *, is_warmup: bool = False) -> None:
        """Start a run; number 1 is the first of its kind and model."""

    def burst(self, values: list[Value]) -> None:
        """Process values, or a tick."""

    def finish(self, outcome: Outcome) -> None:
        """End the values of a run."""

    def finish_run(self, tokens_per_second: float | None) -> None:
        """End a run with its speed; None if the server does not report it."""

    def erase(self) -> None:
        """Erase what is shown."""


class RunLines(RunDisplay):
    """Writes plain lines: the number of the run, its progress and its speed.

    Args:
        write_line: writes a line to stderr.
    """

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._progress = LinesSink(write_line)
        self._write_line = write_line
        self._title = ""

    def start_run(self, model: str, number: int, total: int, *, is_warmup: bool = False) -> None:
        """Write the number of the run and its model."""
        self._title = _title(number, total, is_warmup=is_warmup)
        self._write_line(f"{self._title}: {model}")

    def burst(self, values: list[Value]) -> None:
        """Write the progress."""
        self._progress.burst(values)

    def finish_run(self, tokens_per_second: float | None) -> None:
        """Write the speed."""
        self._write_line(f"{self._title}: {_shown(tokens_per_second)}")


class RunLine(RunDisplay):
    """A live line on a terminal, drawn without a library, whose load would disturb the measurement.

    Args:
        env: the environment.
        messages: writes to stderr.
        hides_during_answers: erase the line while an answer is shown on stderr.
    """

    tick = _TICK

    def __init__(self, env: Environment, messages: Messages, *, hides_during_answers: bool) -> None:
        self._env = env
        self._messages = messages
        self._hides_during_answers = hides_during_answers
        self._title = ""
        self._is_warmup = False
        self._throughput = _Throughput()
        self._progress: float | None = None
        self._finished: list[float | None] = []
        self._drawn_at: float | None = None

    def start_run(self, model: str, number: int, total: int, *, is_warmup: bool = False) -> None:
        """Show the number of the run; remove the blocks of the previous model."""
        if number == 1:
            self._finished = []
        self._title = f"{_title(number, total, is_warmup=is_warmup)}{_GAP}{escaped(model)}"
        self._is_warmup = is_warmup
        self._throughput = _Throughput()
        self._progress = None
        self.burst([])

    def burst(self, values: list[Value]) -> None:
        """Show the progress or the speed, if a tick has passed."""
        now = time.monotonic()
        for value in values:
            if isinstance(value, Fragment):
                self._throughput.add(value.tokens_count, now)
            elif isinstance(value, PromptProgress):
                self._progress = value.progress
        if self._hides_during_answers and self._throughput.has_begun:
            self.erase()
        elif self._drawn_at is None or now - self._drawn_at >= _TICK:
            self._draw(self._state(now), now)

    def finish_run(self, tokens_per_second: float | None) -> None:
        """Show the speed, and add a block unless it is a warm-up run."""
        if not self._is_warmup:
            self._finished.append(tokens_per_second)
        self._draw(_shown(tokens_per_second), time.monotonic())

    def erase(self) -> None:
        """Erase what is shown."""
        if self._drawn_at is not None:
            self._messages.raw(_ERASE)
            self._drawn_at = None

    def _state(self, now: float) -> str:
        if (speed := self._throughput.tokens_per_second(now)) is not None:
            return _shown(speed)
        return "waiting" if self._progress is None else f"reading {self._progress:.0%}"

    def _draw(self, state: str, now: float) -> None:
        width = self._env.stderr_width - 1  # a character in the last column would wrap the line
        line = clipped(f"{self._title}{_GAP}{state}{_GAP}", width)
        blocks = max(width - columns_of(line), 0)
        self._messages.raw(f"{_ERASE}{line}{sparkline(self._finished[-blocks:], self._env) if blocks else ''}")
        self._drawn_at = now


def run_display(
    progress: StderrSink | None, env: Environment, messages: Messages, *, is_echoed: bool = False
) -> RunDisplay:
    """The display of the runs: a live line on a terminal, else plain lines; nothing if progress is not shown.

    Args:
        progress: the sink for the progress of one prediction; None if progress is not shown.
        env: the environment.
        messages: writes to stderr.
        is_echoed: the answers are shown on stderr.
    """
    if progress is None:
        return RunDisplay()
    if progress.tick is None or messages.verbosity is Verbosity.VERBOSE:  # other messages would break the live line
        return RunLines(messages.report)
    return RunLine(env, messages, hides_during_answers=is_echoed)


class _Throughput:
    """Tokens per second since the first burst, whose own tokens are not counted."""

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
