"""Progress on stderr while it lasts: a line on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from lmcli.cli.output.sinks import Outcome
from lmcli.values import Fragment, LoadProgress, Value

if TYPE_CHECKING:
    from rich.live import Live
from collections.abc import Callable

_TICK: Final = 0.1
_SHOWN_AFTER: Final = 0.3
_BAR_COLUMNS: Final = 30


class TerminalSink:
    """A line that appears when something takes long, and is erased before anything else is written to the terminal.

    Args:
        has_color: whether it may be coloured.
        yields_to: the phases of which something else is shown on this terminal.
    """

    tick: float | None = _TICK

    def __init__(self, *, has_color: bool, yields_to: Sequence[str]) -> None:
        self._has_color = has_color
        self._yields_to = yields_to
        self._has_left = False
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
        if self._has_left or self._phase in self._yields_to:
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

    def leave(self) -> None:
        """Take the line away for good: from now on the terminal is somebody else's."""
        self._has_left = True
        self.erase()

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


class LinesSink:
    """Says how far it is, each tenth once.

    Args:
        say: told each line.
    """

    tick: float | None = None

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ("", -1)

    def burst(self, values: list[Value]) -> None:
        """Say how far it is."""
        for value in values:
            if not isinstance(value, Fragment):
                label = "loading" if isinstance(value, LoadProgress) else "reading"
                step = (label, int(value.progress * 10))
                if step != self._last:
                    self._last = step
                    self._say(f"{label} {value.progress:.0%}")

    def finish(self, outcome: Outcome) -> None:
        """Nothing is left to say."""
