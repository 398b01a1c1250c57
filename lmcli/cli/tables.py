"""Rows of figures as a table, CSV or JSON."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from lmcli.cli.choices import ReportForm
from lmcli.cli.jsontext import written
from lmcli.cli.output import print_bytes
from lmcli.cli.surroundings import Surroundings
from lmcli.errors import escaped

_DIGITS: Final = ((1000.0, 0), (10.0, 1), (1.0, 2), (0.0, 4))
"""How many decimals are shown of a number, from which size on."""
_GAP: Final = "  "

Cell = str | int | float | None


class Table(NamedTuple):
    """Columns by their keys, and rows of cells; a text is set to the left, a number to the right.

    Attributes:
        keys: the names in CSV; in capitals, with spaces, the headings of the table.
        rows: as many cells as keys; None is nothing.
        spread: for a terminal, a little picture of the distribution behind each row.
    """

    keys: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    spread: Sequence[str] = ()


def report(table: Table, whole: Any, form: ReportForm, here: Surroundings) -> None:
    """Print a report on stdout.

    Args:
        table: what a person, or a spreadsheet, is to see.
        whole: the same for programs, as one JSON object.
        form: which of them.
        here: the process.

    Raises:
        OutputFailed: stdout cannot be written.
    """
    if form is ReportForm.JSON:
        shown = written(whole, is_indented=here.stdout_is_terminal)
    elif form is ReportForm.CSV:
        shown = _csv(table).encode()
    elif here.stdout_is_terminal:
        shown = drawn(table, here).encode()
    else:
        shown = _plain(table).encode()
    print_bytes(shown, here.stdout)


def drawn(table: Table, here: Surroundings) -> str:
    """The table for a terminal, drawn by rich; turned on its side, in pieces, where it is wider than the terminal."""
    lines = _lines(table)
    if table.spread:
        lines = [[*line, end] for line, end in zip(lines, ["SPREAD", *table.spread], strict=True)]
    if sum(_widths(lines)) <= here.width + len(_GAP):
        is_number = [_is_numeric(column) for column in _columns(table)] + [False] * bool(table.spread)
        return _drawn(lines, is_number, here.width)
    headings, *rows = lines
    pieces = [_turned([headings, *piece]) for piece in _pieces(headings, rows, here.width)]
    return "\n".join(_drawn(piece, [False] + [True] * (len(piece[0]) - 1), here.width) for piece in pieces)


def _turned(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(line) for line in zip(*lines, strict=True)]


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    """The widths of the columns, each with the gap behind it."""
    return [max(map(len, column)) + len(_GAP) for column in zip(*lines, strict=True)]


def _pieces(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[list[Sequence[str]]]:
    """As many rows at a time as fit side by side, at least one."""
    first, *others = _widths(_turned([headings, *rows]))
    piece: list[Sequence[str]] = []
    room = 0
    for row, needed in zip(rows, others, strict=True):
        if piece and needed > room:
            yield piece
            piece = []
        if not piece:
            room = width + len(_GAP) - first
        piece.append(row)
        room -= needed
    yield piece


def _drawn(lines: Sequence[Sequence[str]], is_number: Sequence[bool], width: int) -> str:
    from rich.console import Console  # noqa: PLC0415  only a terminal gets it
    from rich.table import Table as Drawing  # noqa: PLC0415

    drawing = Drawing(box=None, pad_edge=False, header_style="")
    for heading, is_right in zip(lines[0], is_number, strict=True):
        drawing.add_column(heading, justify="right" if is_right else "left", overflow="fold")
    for line in lines[1:]:
        drawing.add_row(*line)
    console = Console(width=width, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(drawing)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def sparkline(counts: Sequence[int]) -> str:
    """A histogram in one line."""
    steps = "▁▂▃▄▅▆▇█"
    highest = max(counts, default=0)
    return "".join(" " if not count else steps[(count * len(steps) - 1) // highest] for count in counts)


def _plain(table: Table) -> str:
    """Aligned columns."""
    padded: list[list[str]] = []
    for cells, values in zip(zip(*_lines(table), strict=True), _columns(table), strict=True):
        align = str.rjust if _is_numeric(values) else str.ljust
        padded.append([align(cell, max(map(len, cells))) for cell in cells])
    return "".join(_GAP.join(line).rstrip() + "\n" for line in zip(*padded, strict=True))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.keys)
    writer.writerows([escaped(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows)
    return text.getvalue()


def _lines(table: Table) -> list[list[str]]:
    """The headings and the cells as they are shown."""
    headings = [key.upper().replace("_", " ") for key in table.keys]
    return [headings, *([_shown(cell) for cell in row] for row in table.rows)]


def _columns(table: Table) -> list[list[Cell]]:
    return [[row[index] for row in table.rows] for index in range(len(table.keys))]


def _is_numeric(column: Sequence[Cell]) -> bool:
    return not any(isinstance(cell, str) for cell in column)


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case float():
            return f"{cell:.{next((digits for limit, digits in _DIGITS if abs(cell) >= limit), 0)}f}"
    return escaped(str(cell))
