"""Progress on stderr while it lasts: loading, reading the prompt, and the pace where the answer goes elsewhere.

Drawn with rich, which is loaded when there is something to draw.
"""

import time
from typing import TYPE_CHECKING, Any, Final

from lmcli.cli.sinks import Outcome
from lmcli.values import Fragment, LoadProgress, Value

if TYPE_CHECKING:
    from rich.live import Live

_TICK: Final = 0.1
_SHOWN_AFTER: Final = 0.3
_BAR_COLUMNS: Final = 30


class TerminalSink:
    """A line that appears when something takes long, and is erased before the answer.

    Args:
        has_color: whether it may be coloured.
        shows_pace: go on with tokens per second during the answer, because stdout is not on this terminal.
        steps_aside: leave the place to the reasoning, because that is shown here too.
    """

    tick: float | None = _TICK

    def __init__(self, *, has_color: bool, shows_pace: bool, steps_aside: bool) -> None:
        self._has_color = has_color
        self._shows_pace = shows_pace
        self._steps_aside = steps_aside
        self._began = time.monotonic()
        self._phase_began = self._began
        self._phase = "waiting"
        self._progress: float | None = None
        self._tokens_count = 0
        self._drawn_at = 0.0
        self._live: Live | None = None

    def burst(self, values: list[Value]) -> None:
        """Take note, and draw if it is time to."""
        for value in values:
            self._note(value)
        now = time.monotonic()
        if self._is_hidden:
            self.erase()
        elif now - self._began >= _SHOWN_AFTER and now - self._drawn_at >= _TICK:
            self._drawn_at = now
            self._draw(now - self._phase_began)

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  nothing of it is left to see
        """Leave the terminal as it was."""
        self.erase()

    def erase(self) -> None:
        """Take the line away; it comes back with the next thing that takes long."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def _is_hidden(self) -> bool:
        """Whether something else is being written to this terminal."""
        return (self._phase == "answering" and not self._shows_pace) or (
            self._phase == "thinking" and self._steps_aside
        )

    def _note(self, value: Value) -> None:
        if isinstance(value, Fragment):
            self._enter("answering" if value.reasoning_type == "none" else "thinking")
            self._tokens_count += value.tokens_count
        else:
            self._enter("loading" if isinstance(value, LoadProgress) else "reading")
            self._progress = value.progress

    def _enter(self, phase: str) -> None:
        if phase != self._phase:
            self._phase, self._phase_began = phase, time.monotonic()
            self._progress, self._tokens_count = None, 0

    def _draw(self, seconds: float) -> None:
        if self._live is None:
            self._live = _new_line(has_color=self._has_color)
        self._live.update(self._picture(seconds), refresh=True)

    def _picture(self, seconds: float) -> Any:
        if self._tokens_count:
            pace = self._tokens_count / max(seconds, _TICK)
            return f"{self._phase} {self._tokens_count} tokens, {pace:.1f} tokens/s"
        if self._progress is None:
            return f"{self._phase} {seconds:.0f} s"
        from rich.progress_bar import ProgressBar  # noqa: PLC0415  loaded with the first bar
        from rich.table import Table  # noqa: PLC0415

        line = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=self._progress, width=_BAR_COLUMNS)
        line.add_row(self._phase, bar, f"{self._progress:4.0%}", f"{seconds:.0f} s")
        return line


def _new_line(*, has_color: bool) -> "Live":
    from rich.console import Console  # noqa: PLC0415  50 ms, paid by who waits long enough to see a line
    from rich.live import Live  # noqa: PLC0415

    console = Console(stderr=True, no_color=not has_color, highlight=False)
    live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    live.start()
    console.show_cursor(True)  # who kills or suspends this process must not have to bring it back
    return live
