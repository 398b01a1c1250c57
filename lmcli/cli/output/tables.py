"""A report as a table, CSV or JSON."""

import csv
import io
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, zip_longest
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from lmcli.cli.choices import ReportForm
from lmcli.cli.environment import Environment
from lmcli.cli.jsontext import written
from lmcli.cli.output.drawing import columns_of
from lmcli.cli.output.stdout import print_bytes
from lmcli.errors import escaped

_DIGITS: Final = ((1000.0, 0), (10.0, 1), (1.0, 2), (0.0, 4))
"""How many decimals are shown of a number, from which size on."""
_GAP: Final = "  "
_LABEL_SHARE: Final = 3
"""The part of a narrow terminal that labels may take is one in so many."""
_HEADING_LINES: Final = 2

Cell = str | int | float | None


class Table(NamedTuple):
    """Columns and rows of cells; a text is set to the left, a number to the right.

    Attributes:
        headings: of the columns, with units, by their names in CSV.
        rows: as many cells as headings; None is unknown.
        labels_count: how many columns from the left say what a row is.
        pictures: for a terminal, what stands behind a column, by its name: a heading, and a text for each row.
        notes: for a terminal, what the headings mean.
    """

    headings: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    labels_count: int = 1
    pictures: Mapping[str, Sequence[str]] = MappingProxyType({})
    notes: Sequence[str] = ()


class _Column(NamedTuple):
    """A column as it is shown: the heading and the cells, each of one line or several."""

    cells: Sequence[str]
    is_number: bool = False

    @property
    def width(self) -> int:
        """As wide as the widest line."""
        return max(columns_of(line) for cell in self.cells for line in cell.split("\n"))

    def folded(self, room: int) -> "_Column":
        """A text no wider than the room; numbers as they are, their heading in two lines if that is narrower."""
        if not self.is_number:
            return self._replace(cells=[_folded(cell, max(room, 1)) for cell in self.cells])
        heading, *numbers = self.cells
        narrow = max(map(columns_of, [*numbers, *heading.split()]))
        lines = next(lines for room in count(narrow) if len(lines := _wrapped(heading, room)) <= _HEADING_LINES)
        return self._replace(cells=["\n".join(lines), *numbers])


def report(table: Table, whole: Any, form: ReportForm, env: Environment) -> None:
    """Print a report on stdout.

    Args:
        table: what a person, or a spreadsheet, is to see.
        whole: the same for programs, as one JSON object.
        form: which of them.
        env: the process.

    Raises:
        OutputFailed: stdout cannot be written.
    """
    match form:
        case ReportForm.JSON:
            shown = written(whole, is_indented=env.stdout_is_terminal)
        case ReportForm.CSV:
            shown = _csv(table).encode()
        case ReportForm.TEXT:
            shown = drawn(table, env).encode()
    print_bytes(shown, env.stdout)


def drawn(table: Table, env: Environment) -> str:
    """Aligned columns; a terminal gets pictures and notes besides, and what it is too narrow for further down."""
    columns = {name: _column(table, index) for index, name in enumerate(table.headings)}
    if not env.stdout_is_terminal:
        return _aligned(columns.values())
    pictures = {name: _Column(cells) for name, cells in table.pictures.items()}
    groups = [[column, *([pictures[name]] if name in pictures else [])] for name, column in columns.items()]
    pieces = [_aligned(piece) for piece in _pieces(groups, table.labels_count, env.width)]
    notes = "".join(f"{line}\n" for note in table.notes for line in textwrap.wrap(note, env.width))
    return "\n".join([*pieces, *([notes] if notes else [])])


def _column(table: Table, index: int) -> _Column:
    cells = [row[index] for row in table.rows]
    heading = list(table.headings.values())[index]
    return _Column([heading, *map(_shown, cells)], is_number=not any(isinstance(cell, str) for cell in cells))


def _pieces(groups: Sequence[Sequence[_Column]], labels_count: int, width: int) -> Iterator[Sequence[_Column]]:
    """As many groups of columns at a time as fit beside the labels, at least one."""
    whole = list(chain(*groups))
    if _width(whole) <= width:
        yield whole
        return
    labels = [column.folded(width // _LABEL_SHARE) for column in chain(*groups[:labels_count])]
    room = width - _width(labels) - len(_GAP)
    piece = labels
    for group in groups[labels_count:]:
        added = [column.folded(room) for column in group]
        if piece is not labels and _width([*piece, *added]) > width:
            yield piece
            piece = labels
        piece = [*piece, *added]
    yield piece


def _width(columns: Iterable[_Column]) -> int:
    return sum(column.width + len(_GAP) for column in columns) - len(_GAP)


def _aligned(columns: Collection[_Column]) -> str:
    widths = [column.width for column in columns]
    sides = [column.is_number for column in columns]
    lines = (
        _GAP.join(map(_padded, line, widths, sides)).rstrip()
        for row in zip(*(column.cells for column in columns), strict=True)
        for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue="")
    )
    return "".join(f"{line}\n" for line in lines)


def _padded(line: str, width: int, is_number: bool) -> str:  # noqa: FBT001  mapped over three sequences
    space = " " * (width - columns_of(line))
    return space + line if is_number else line + space


def _folded(cell: str, room: int) -> str:
    lines = cell.split("\n")
    return "\n".join(chain(*([line] if columns_of(line) <= room else _wrapped(line, room) for line in lines)))


def _wrapped(line: str, room: int) -> list[str]:
    return textwrap.wrap(line, room if line.isascii() else max(room // 2, 1))  # no character takes over two columns


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.headings)
    writer.writerows([escaped(cell) if isinstance(cell, str) else cell for cell in row] for row in table.rows)
    return text.getvalue()


def _shown(cell: Cell) -> str:
    match cell:
        case None:
            return "-"
        case float():
            return f"{cell:.{next((digits for limit, digits in _DIGITS if abs(cell) >= limit), 0)}f}"
    return escaped(str(cell))
