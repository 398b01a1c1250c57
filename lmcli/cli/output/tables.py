"""Reports as tables, CSV or JSON."""

import csv
import io
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, zip_longest
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from lmcli.cli.choices import ReportForm
from lmcli.cli.environment import Environment
from lmcli.cli.json_text import dump_json
from lmcli.cli.output.drawing import columns_of
from lmcli.cli.output.stdout import print_bytes
from lmcli.errors import escaped

_DECIMALS: Final = ((1000.0, 0), (10.0, 1), (1.0, 2), (0.0, 4))
"""Lower bounds of numbers, and the number of decimals shown from there on."""
_GAP: Final = "  "
_LABEL_SHARE: Final = 3
"""On a narrow terminal, labels take at most the width divided by this."""
_HEADING_LINES: Final = 2

Cell = str | int | float | None


class Table(NamedTuple):
    """Columns and rows of cells; text is aligned to the left, numbers to the right.

    Attributes:
        headings: the column headings, with units, by column name in CSV.
        rows: a cell for each heading; None is unknown.
        labels_count: the number of columns on the left that identify a row.
        charts: for a terminal, extra columns by the name of the column before: a heading, and a text for each row.
        notes: for a terminal, explanations of the headings.
    """

    headings: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]
    labels_count: int = 1
    charts: Mapping[str, Sequence[str]] = MappingProxyType({})
    notes: Sequence[str] = ()


class _Column(NamedTuple):
    """A column as text: the heading and the cells, each of one or more lines."""

    cells: Sequence[str]
    is_number: bool = False

    @property
    def width(self) -> int:
        """The width of the widest line."""
        return max(columns_of(line) for cell in self.cells for line in cell.split("\n"))

    def folded(self, width: int) -> "_Column":
        """Text wrapped to a width; numbers unchanged, with the heading on two lines if that is narrower."""
        if not self.is_number:
            return self._replace(cells=[_folded(cell, max(width, 1)) for cell in self.cells])
        heading, *numbers = self.cells
        narrow = max(map(columns_of, [*numbers, *heading.split()]))
        lines = next(lines for width in count(narrow) if len(lines := _wrapped(heading, width)) <= _HEADING_LINES)
        return self._replace(cells=["\n".join(lines), *numbers])


def report(table: Table, value: Any, form: ReportForm, env: Environment) -> None:
    """Print a report on stdout.

    Args:
        table: the report as a table, for text and CSV.
        value: the report as a JSON object.
        form: the output format.
        env: the environment.

    Raises:
        OutputFailed: stdout cannot be written.
    """
    match form:
        case ReportForm.JSON:
            shown = dump_json(value, is_indented=env.stdout_is_terminal)
        case ReportForm.CSV:
            shown = _csv(table).encode()
        case ReportForm.TEXT:
            shown = render_table(table, env).encode()
    print_bytes(shown, env.stdout)


def render_table(table: Table, env: Environment) -> str:
    """Aligned columns; on a terminal with charts and notes, and in several blocks if it is too narrow."""
    columns = {name: _column(table, index) for index, name in enumerate(table.headings)}
    if not env.stdout_is_terminal:
        return _aligned(columns.values())
    charts = {name: _Column(cells) for name, cells in table.charts.items()}
    groups = [[column, *([charts[name]] if name in charts else [])] for name, column in columns.items()]
    blocks = [_aligned(block) for block in _blocks(groups, table.labels_count, env.width)]
    notes = "".join(f"{line}\n" for note in table.notes for line in textwrap.wrap(note, env.width))
    return "\n".join([*blocks, *([notes] if notes else [])])


def _column(table: Table, index: int) -> _Column:
    cells = [row[index] for row in table.rows]
    heading = list(table.headings.values())[index]
    return _Column([heading, *map(_shown, cells)], is_number=not any(isinstance(cell, str) for cell in cells))


def _blocks(groups: Sequence[Sequence[_Column]], labels_count: int, width: int) -> Iterator[Sequence[_Column]]:
    """Blocks of as many groups of columns as fit beside the labels, at least one."""
    all_columns = list(chain(*groups))
    if _width(all_columns) <= width:
        yield all_columns
        return
    labels = [column.folded(width // _LABEL_SHARE) for column in chain(*groups[:labels_count])]
    remaining = width - _width(labels) - len(_GAP)
    block = labels
    for group in groups[labels_count:]:
        added = [column.folded(remaining) for column in group]
        if block is not labels and _width([*block, *added]) > width:
            yield block
            block = labels
        block = [*block, *added]
    yield block


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


def _folded(cell: str, width: int) -> str:
    lines = cell.split("\n")
    return "\n".join(chain(*([line] if columns_of(line) <= width else _wrapped(line, width) for line in lines)))


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width if line.isascii() else max(width // 2, 1))  # a character has at most two columns


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
            return f"{cell:.{next((digits for limit, digits in _DECIMALS if abs(cell) >= limit), 0)}f}"
    return escaped(str(cell))
