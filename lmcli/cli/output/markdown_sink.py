"""The answer as Markdown on a terminal: finished blocks are printed once, the one in progress is drawn again and again.

What is drawn of the block in progress is a region below everything else, of fewer rows than the terminal, so that none
of it scrolls off. The cursor rests at its beginning: after a resize the terminal has kept it there, whether it wraps
lines again or not, and to erase the region takes no knowledge of its rows. While it is drawn, the terminal does not
wrap lines, so that their number is known even where it disagrees about the width of a character.
"""

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

from lmcli.cli.output.sinks import Outcome
from lmcli.cli.output.stdout import Output
from lmcli.client.waiting import sleep
from lmcli.errors import KEPT_IN_TEXT, escaped
from lmcli.values import Fragment, Value

if TYPE_CHECKING:
    from lmcli.cli.output.markdown_blocks import Block, BlockSplitter
    from lmcli.cli.output.markdown_text import MarkdownRenderer

_TICK: Final = 1 / 12
_MANY: Final = 100
"""Fewer values at once are waited for a little while nothing is drawn: to wake up for each costs more than to draw."""
_LEAST_PAUSE: Final = 10
"""After a drawing nothing is drawn for so many times as long as it took."""
_REGION_SHARE: Final = 2
"""The region has at most the rows of the terminal divided by this, so that one half as wide still has room for it."""
_TAIL_SHARE: Final = 2
"""The end of a block that is drawn, in characters for each cell of the region."""
_LEAST_COLUMNS: Final = 10
_LEAST_CUT_ROWS: Final = 2

# Source: ECMA-48, 8.3.20 (CUF), 8.3.22 (CUU), 8.3.39 (ED), 8.3.41 (EL); DEC VT510, DECAWM.
_ERASE_LINE: Final = "\x1b[K"
_ERASE_BELOW: Final = _ERASE_LINE + "\x1b[C\x1b[J\r"
"""From the second column on: at the first cell of the screen, tmux would move the whole screen to the scrollback."""
_ERASE: Final = "\r" + _ERASE_BELOW
_NO_WRAP: Final = "\x1b[?7l"
_WRAP: Final = "\x1b[?7h"

Size = Callable[[], tuple[int, int]]


class MarkdownSink:
    """Renders the text of fragments, reasoning left out.

    Args:
        output: stdout, a terminal.
        size: columns and rows of the terminal at this time.
        has_color: whether colours may be used.
        has_boxes: whether the terminal shows characters that are not ASCII.
        is_in_tmux: whether the terminal is tmux. When it wraps rows again in a window that is not full, it moves as
            many to the scrollback; so the region has no more rows than are known to be above it.
    """

    rows_printed: ClassVar[int] = 0
    """The rows that this process has printed, which are above the region."""

    tick: float | None = _TICK

    def __init__(self, output: Output, size: Size, *, has_color: bool, has_boxes: bool, is_in_tmux: bool) -> None:
        self._output = output
        self._size = size
        self._has_color = has_color
        self._has_boxes = has_boxes
        self._is_in_tmux = is_in_tmux
        self._may_draw_at = 0.0
        self._has_news = False
        self._has_printed = False
        self._region: list[str] = []
        self._region_size = (0, 0)

    def burst(self, values: list[Value]) -> None:
        """Receive the text of fragments, and draw if it is time to."""
        text = "".join([v.content for v in values if type(v) is Fragment and v.reasoning_type == "none"])
        splitter, _ = self._tools
        if text:
            splitter.add(escaped(text, keep=KEPT_IN_TEXT))
            self._has_news = True
        began = time.monotonic()
        if began >= self._may_draw_at and self._is_outdated:
            self._draw()
            ended = time.monotonic()
            self._may_draw_at = max(began + _TICK, ended + (ended - began) * _LEAST_PAUSE)
        elif text and len(values) < _MANY:
            sleep(min(self._may_draw_at - began, _TICK / 2), self._output.interrupts())

    def end_block(self) -> None:
        """Print what is in progress, whole: something else follows on the terminal."""
        if self._has_news or self._region:
            self._has_news = False
            splitter, _ = self._tools
            columns, _ = self._size()
            self._show(self._printed(splitter.end(), columns), [])

    def finish(self, outcome: Outcome) -> None:
        """Print what is in progress."""
        if outcome.recovered is not None:
            self.burst([Fragment(outcome.recovered)])
        self.end_block()

    @cached_property
    def _tools(self) -> "tuple[BlockSplitter, MarkdownRenderer]":
        """What splits and draws; loaded with the first values, so that no request waits for it."""
        from lmcli.cli.output.markdown_blocks import BlockSplitter  # noqa: PLC0415  100 ms with what it uses
        from lmcli.cli.output.markdown_text import MarkdownRenderer  # noqa: PLC0415

        return BlockSplitter(), MarkdownRenderer(has_color=self._has_color, has_boxes=self._has_boxes)

    @property
    def _is_outdated(self) -> bool:
        return self._has_news or bool(self._region and self._size() != self._region_size)

    def _draw(self) -> None:
        """Print what has been finished, and draw what is in progress."""
        splitter, _ = self._tools
        self._has_news = False
        self._region_size = columns, rows = self._size()
        printed = self._printed(splitter.take(), columns)
        rows = max(rows // _REGION_SHARE, 1)
        if self._is_in_tmux:
            rows = min(rows, self.rows_printed + 1)  # one for the command line
        block = splitter.unfinished(rows * columns * _TAIL_SHARE)
        region = self._lines(block, columns, is_live=True) if block.source else []
        self._show(printed, region if len(region) <= rows else self._cut(region, rows))

    def _cut(self, region: list[str], rows: int) -> list[str]:
        """The last rows of a region, below a sign that there are more."""
        sign = ["…" if self._has_boxes else "..."] if rows > _LEAST_CUT_ROWS else []
        return [*sign, *region[len(region) - rows + len(sign) :]]

    def _printed(self, blocks: Sequence["Block"], columns: int) -> str:
        """Finished blocks as text."""
        lines = [line for block in blocks for line in self._lines(block, columns)]
        MarkdownSink.rows_printed += len(lines)
        return "".join(f"{line}\n" for line in lines)

    def _lines(self, block: "Block", columns: int, *, is_live: bool = False) -> list[str]:
        _, renderer = self._tools
        lines = renderer.render(block.source, max(columns, _LEAST_COLUMNS), folds_code=is_live)
        has_gap = block.has_gap and self._has_printed
        self._has_printed = self._has_printed or not is_live
        return [""] * has_gap + lines

    def _show(self, printed: str, region: list[str]) -> None:
        """Write finished text in place of the region, and a new region below it."""
        if not printed and region == self._region:
            return
        beginning = "" if not self._region else _ERASE if printed or not region else "\r"
        self._region = region
        self._output.write(f"{beginning}{printed}{_drawing(region)}".encode())


def _drawing(region: list[str]) -> str:
    """What draws a region over the last one, and puts the cursor back to its beginning."""
    if not region:
        return ""
    *lines, last = region
    drawn = "".join(f"{_ERASE_LINE}{line}\n" for line in lines)
    up = f"\x1b[{len(lines)}A" if lines else ""
    return f"{_NO_WRAP}{drawn}{_ERASE_BELOW}{last}\r{up}{_WRAP}"
