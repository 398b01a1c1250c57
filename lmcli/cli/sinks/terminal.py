"""Progress on stderr while it lasts: loading, reading the prompt, and the pace where the answer goes elsewhere.

The only module that draws with rich, which it loads when there is something to draw.
"""

import time
from typing import TYPE_CHECKING, Final

from lmcli.cli.sinks import Outcome
from lmcli.client.session import Value
from lmcli.values import Fragment, LoadProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_TICK: Final = 0.1
_SHOWN_AFTER: Final = 0.3


class TerminalSink:
    """A bar that appears when something takes long, and is erased before the answer.

    Args:
        has_color: whether it may be coloured.
        shows_pace: go on with tokens per second during the answer, because stdout is not on this terminal.
    """

    tick: float | None = _TICK

    def __init__(self, *, has_color: bool, shows_pace: bool) -> None:
        self._has_color = has_color
        self._shows_pace = shows_pace
        self._began = time.monotonic()
        self._first_fragment_at: float | None = None
        self._tokens_count = 0
        self._label = "waiting"
        self._progress: float | None = None
        self._drawn_at = 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def burst(self, values: list[Value]) -> None:
        """Take note, and draw if it is time to."""
        for value in values:
            if isinstance(value, Fragment):
                self._count(value)
            else:
                self._label = "loading" if isinstance(value, LoadProgress) else "reading"
                self._progress = value.progress
        now = time.monotonic()
        if self._first_fragment_at is not None and not self._shows_pace:
            self.erase()
        elif now - self._began >= _SHOWN_AFTER and now - self._drawn_at >= _TICK:
            self._drawn_at = now
            self._draw(now)

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  nothing of it is left to see
        """Leave the terminal as it was."""
        self.erase()

    def erase(self) -> None:
        """Take the bar away; it comes back with the next thing that takes long."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _count(self, fragment: Fragment) -> None:
        if self._first_fragment_at is None:
            self._first_fragment_at = time.monotonic()
        self._tokens_count += fragment.tokens_count

    def _draw(self, now: float) -> None:
        if self._bar is None:
            self._bar, self._task = _new_bar(has_color=self._has_color)
        if self._task is None:
            return
        if self._first_fragment_at is not None:
            pace = self._tokens_count / max(now - self._first_fragment_at, _TICK)
            label = f"{self._tokens_count} tokens, {pace:.1f} tokens/s"
            self._bar.update(self._task, description=label, total=None, completed=0)
        else:
            total = None if self._progress is None else 1.0
            self._bar.update(self._task, description=self._label, total=total, completed=self._progress or 0.0)
        self._bar.refresh()


def _new_bar(*, has_color: bool) -> "tuple[Progress, TaskID]":
    from rich.console import Console  # noqa: PLC0415  50 ms, paid by who waits long enough to see a bar
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(stderr=True, no_color=not has_color, highlight=False)
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    bar.start()
    return bar, bar.add_task("", total=None)
