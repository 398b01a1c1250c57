"""Rows of figures as a table, CSV or JSON."""

import csv
import io
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from lmcli.cli.options import ReportForm
from lmcli.cli.output import print_bytes
from lmcli.cli.surroundings import Surroundings
from lmcli.errors import escaped

_DIGITS: Final = ((1000.0, 0), (10.0, 1), (1.0, 2), (0.0, 4))
"""How many decimals are shown of a number, from which size on."""

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
        layout = orjson.OPT_INDENT_2 if here.stdout_is_terminal else 0
        shown = orjson.dumps(whole, option=layout | orjson.OPT_APPEND_NEWLINE)
    elif form is ReportForm.CSV:
        shown = _csv(table).encode()
    elif here.stdout_is_terminal:
        shown = drawn(table, here).encode()
    else:
        shown = _plain(table).encode()
    print_bytes(shown, here.stdout)


def drawn(table: Table, here: Surroundings) -> str:
    """The table for a terminal, drawn by rich; turned on its side where it is wider than the terminal."""
    from rich.console import Console  # noqa: PLC0415  only a terminal gets it
    from rich.table import Table as Drawing  # noqa: PLC0415

    lines = _lines(table)
    numeric = [_is_numeric(column) for column in _columns(table)] + [False]
    if table.spread:
        lines = [[*line, end] for line, end in zip(lines, ["SPREAD", *table.spread], strict=True)]
    if sum(max(map(len, column)) + 2 for column in zip(*lines, strict=True)) > here.width + 2:
        lines = [list(line) for line in zip(*lines, strict=True)]
        numeric = [False] + [True] * len(table.rows)
    drawing = Drawing(box=None, pad_edge=False, header_style="")
    for heading, is_number in zip(lines[0], numeric, strict=False):
        drawing.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for line in lines[1:]:
        drawing.add_row(*line)
    console = Console(width=here.width, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(drawing)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines())


def sparkline(counts: Sequence[int]) -> str:
    """A histogram in one line."""
    steps = "▁▂▃▄▅▆▇█"
    highest = max(counts, default=0)
    return "".join(" " if not count else steps[(count * len(steps) - 1) // highest] for count in counts)


def _plain(table: Table) -> str:
    """Aligned columns, two spaces apart."""
    padded: list[list[str]] = []
    for cells, values in zip(zip(*_lines(table), strict=True), _columns(table), strict=True):
        align = str.rjust if _is_numeric(values) else str.ljust
        padded.append([align(cell, max(map(len, cells))) for cell in cells])
    return "".join("  ".join(line).rstrip() + "\n" for line in zip(*padded, strict=True))


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.keys)
    writer.writerows(["" if cell is None else cell for cell in row] for row in table.rows)
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
            return f"{cell:.{next(digits for limit, digits in _DIGITS if abs(cell) >= limit)}f}"
    return escaped(str(cell))
