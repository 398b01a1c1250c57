"""Progress on stderr while it lasts: a line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from lmcli.cli.output.sinks import Outcome
from lmcli.values import Fragment, LoadProgress, PromptProgress, Value

if TYPE_CHECKING:
    from rich.live import Live

_TICK: Final = 0.1
_SHOWN_AFTER: Final = 0.3
_BAR_COLUMNS: Final = 30


class TerminalSink:
    """A line that appears when something takes long, and is erased before other output goes to the terminal.

    Args:
        has_color: whether it may have colour.
        hidden_phases: the phases in which something else is shown on this terminal.
    """

    tick: float | None = _TICK

    def __init__(self, *, has_color: bool, hidden_phases: Sequence[str]) -> None:
        self._has_color = has_color
        self._hidden_phases = hidden_phases
        self._is_closed = False
        self._began = time.monotonic()
        self._phase_began = self._began
        self._phase = "waiting"
        self._progress: float | None = None
        self._tokens_count = 0
        self._drawn_at = 0.0
        self._live: Live | None = None

    def burst(self, values: list[Value]) -> None:
        """Update the state, and draw if a tick has passed."""
        for value in values:
            self._update(value)
        now = time.monotonic()
        if self._is_closed or self._phase in self._hidden_phases:
            self.erase()
        elif now - self._began >= _SHOWN_AFTER and now - self._drawn_at >= _TICK:
            self._drawn_at = now
            self._draw(now - self._phase_began)

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  for every outcome
        """Erase the line."""
        self.erase()

    def erase(self) -> None:
        """Erase the line; it appears again with the next update."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """Erase the line and never draw it again: other output follows on the terminal."""
        self._is_closed = True
        self.erase()

    def _update(self, value: Value) -> None:
        if isinstance(value, Fragment):
            self._set_phase("answering" if value.reasoning_type == "none" else "thinking")
            self._tokens_count += value.tokens_count
        elif isinstance(value, LoadProgress | PromptProgress):
            self._set_phase("loading" if isinstance(value, LoadProgress) else "reading")
            self._progress = value.progress

    def _set_phase(self, phase: str) -> None:
        if phase != self._phase:
            self._phase, self._phase_began = phase, time.monotonic()
            self._progress, self._tokens_count = None, 0

    def _draw(self, seconds: float) -> None:
        if self._live is None:
            self._live = _new_line(has_color=self._has_color)
        self._live.update(self._renderable(seconds), refresh=True)

    def _renderable(self, seconds: float) -> Any:
        if self._tokens_count:
            speed = self._tokens_count / max(seconds, _TICK)
            return f"{self._phase} {self._tokens_count} tokens, {speed:.1f} tokens/s"
        if self._progress is None:
            return f"{self._phase} {seconds:.0f} s"
        from rich.progress_bar import ProgressBar  # noqa: PLC0415  loaded with the first bar
        from rich.table import Table  # noqa: PLC0415

        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=self._progress, width=_BAR_COLUMNS)
        line.add_row(self._phase, bar, f"{self._progress:4.0%}", f"{seconds:.0f} s")
        return line


def _new_line(*, has_color: bool) -> "Live":
    from rich.console import Console  # noqa: PLC0415  50 ms, only when a line is shown
    from rich.live import Live  # noqa: PLC0415

    console = Console(stderr=True, no_color=not has_color, highlight=False)
    live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    live.start()
    console.show_cursor(True)  # it must be visible if the process is killed or suspended
    return live


class LinesSink:
    """Writes plain lines, one for each tenth of the progress.

    Args:
        write_line: writes a line to stderr.
    """

    tick: float | None = None

    def __init__(self, write_line: Callable[[str], None]) -> None:
        self._write_line = write_line
        self._last = ("", -1)

    def burst(self, values: list[Value]) -> None:
        """Write a line for each new tenth."""
        for value in values:
            if isinstance(value, LoadProgress | PromptProgress):
                label = "loading" if isinstance(value, LoadProgress) else "reading"
                step = (label, int(value.progress * 10))
                if step != self._last:
                    self._last = step
                    self._write_line(f"{label} {value.progress:.0%}")

    def finish(self, outcome: Outcome) -> None:
        """Do nothing: each line was complete."""
