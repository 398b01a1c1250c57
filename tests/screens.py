"""The screen of a terminal: what a program writes, as the rows and cells that a person sees, and as a picture."""

import io
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final, NamedTuple

import pyte
from pyte.screens import Char, Margins
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI, TerminalTheme
from rich.text import Text

SIZES: Final = ((80, 24), (40, 12))
"""Columns and rows of the terminals that everything must look right on."""
THEMES: Final[Mapping[str, TerminalTheme]] = {"light": DEFAULT_TERMINAL_THEME, "dark": DIMMED_MONOKAI}
_SCROLLBACK_ROWS: Final = 100_000


class Cell(NamedTuple):
    """What a program can set of a cell: the character and how it is drawn."""

    text: str
    color: str
    background: str
    bold: bool
    italic: bool
    underlined: bool
    reversed: bool
    dim: bool


class Screen:
    """A terminal of so many columns and rows, and what has scrolled off it at the top.

    It is one that does not wrap lines again when it is resized, as xterm.

    Args:
        columns: its width.
        rows: its height.
    """

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._screen = _DimScreen(columns, rows, history=_SCROLLBACK_ROWS, ratio=0.5)
        self._stream = pyte.Stream(self._screen)

    def write(self, text: str) -> None:
        """Show what a program has written."""
        self._stream.feed(text)

    def flush(self) -> None:
        """Do nothing: everything is shown at once."""

    def resize(self, columns: int, rows: int) -> None:
        """Change its size; rows below the cursor go first, then the upper ones scroll off."""
        self._screen.resize_as_xterm(columns, rows)

    @property
    def cursor(self) -> tuple[int, int]:
        """Column and row of the cursor, counted from 0."""
        return self._screen.cursor.x, self._screen.cursor.y

    @property
    def is_cursor_visible(self) -> bool:
        """Whether the cursor is shown."""
        return not self._screen.cursor.hidden

    @property
    def rows(self) -> list[str]:
        """The rows on the screen, without spaces at the end, down to the last that is not empty."""
        return _trimmed([_text(row) for row in self._visible()])

    @property
    def everything(self) -> list[str]:
        """The rows that scrolled off, and then those on the screen."""
        return _trimmed([_text(row) for row in self._all()])

    @property
    def scrolled(self) -> int:
        """The number of rows that scrolled off."""
        return len(self._screen.history.top)

    @property
    def all_cells(self) -> list[list[Cell]]:
        """The cells of each row: those that scrolled off, and then those on the screen."""
        return list(self._all())

    def cells(self, text: str) -> list[Cell]:
        """The cells of the first place where a text stands in a row, in the scrollback or on the screen."""
        for row in self._all():
            start = _text(row).find(text)
            if start >= 0:
                cells = [cell for cell in row if cell.text]  # the right half of a wide character has none
                return cells[start : start + len(text)]
        raise AssertionError(f"{text!r} is not on the screen:\n" + "\n".join(self.everything))

    def picture(self, theme: str) -> str:
        """The screen as SVG, on a light or a dark background."""
        console = Console(record=True, width=self._screen.columns, file=io.StringIO(), color_system="truecolor")
        for row in self._visible():
            runs = groupby(row, key=style_of)
            line = Text.assemble(*(("".join(cell.text for cell in cells), style) for style, cells in runs))
            console.print(line, no_wrap=True, crop=False)
        return console.export_svg(title=theme, theme=THEMES[theme], unique_id=theme)

    def _visible(self) -> Iterator[list[Cell]]:
        for number in range(self._screen.lines):
            yield self._row(self._screen.buffer[number])

    def _all(self) -> Iterator[list[Cell]]:
        for row in self._screen.history.top:
            yield self._row(row)
        yield from self._visible()

    def _row(self, row: Mapping[int, Char]) -> list[Cell]:
        return [_cell(row[column]) for column in range(self._screen.columns)]


class _DimScreen(pyte.HistoryScreen):
    """pyte's screen, which ignores faint text; it is drawn as blinking here, which nothing else is."""

    def select_graphic_rendition(self, *attributes: int, **options: bool) -> None:
        # 2 is faint, 22 ends bold and faint; colours of several numbers begin with 38 or 48. Source: ECMA-48, 8.3.117.
        if not {38, 48} & set(attributes):
            attributes = tuple(5 if a == 2 else a for a in attributes)
            if 22 in attributes:
                super().select_graphic_rendition(25)
        super().select_graphic_rendition(*attributes, **options)

    def resize_as_xterm(self, columns: int, rows: int) -> None:
        below = self.lines - 1 - self.cursor.y
        scrolled = max(0, self.lines - rows - below)
        for _ in range(scrolled):
            self.history.top.append(self.buffer[0])
            for number in range(self.lines - 1):
                self.buffer[number] = self.buffer[number + 1]
            self.buffer.pop(self.lines - 1, None)
        self.cursor.y -= scrolled
        for number in range(rows, self.lines):
            self.buffer.pop(number, None)
        self.lines, self.columns = rows, columns
        self.margins: Margins | None = None
        self.cursor.x = min(self.cursor.x, columns - 1)


def _cell(char: Char) -> Cell:
    return Cell(char.data, char.fg, char.bg, char.bold, char.italics, char.underscore, char.reverse, char.blink)


def _text(row: list[Cell]) -> str:
    return "".join(cell.text for cell in row).rstrip()


def _trimmed(rows: list[str]) -> list[str]:
    while rows and not rows[-1]:
        rows.pop()
    return rows


def style_of(cell: Cell) -> Style:
    """How rich draws a cell."""
    return Style(
        color=_color(cell.color),
        bgcolor=_color(cell.background),
        bold=cell.bold,
        italic=cell.italic,
        underline=cell.underlined,
        reverse=cell.reversed,
        dim=cell.dim,
    )


def _color(name: str) -> str:
    """A colour in rich's names."""
    if name == "default":
        return name
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    bright = "bright_" if name.startswith("bright") else ""
    plain = name.removeprefix("bright")
    return bright + {"brown": "yellow"}.get(plain, plain)
