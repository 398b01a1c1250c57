"""The layout of a command's help, for terminals of any width."""

import shutil
from collections.abc import Sequence
from typing import Any, Final

import typer

_TyperHelpFormatter: Final[Any] = typer.Context.formatter_class
_COLUMNS: Final = (30, 80)
_NARROW: Final = 60
_NARROW_NAMES: Final = 10
"""The columns that names take on a terminal of less than `_NARROW`; a longer one has a line of its own."""


class HelpFormatter(_TyperHelpFormatter):  # type: ignore[misc]
    """Typer's needs 50 columns, and uses most of those of a narrow terminal for the names of options.

    Args:
        width: the number of columns; that of the terminal if not given.
        margin: how many columns of the terminal to leave free.
    """

    def __init__(self, width: int | None = None, *, margin: int = 2) -> None:
        low, high = _COLUMNS
        super().__init__(width=width or max(low, min(shutil.get_terminal_size().columns, high) - margin))

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names and their descriptions; a longer name than `col_max` on a line of its own, or on two."""
        rows = [(self._broken(name), description) for name, description in rows]
        super().write_dl(rows, min(col_max, _NARROW_NAMES) if self.width < _NARROW else col_max, col_spacing)

    def _broken(self, name: str) -> str:
        """The name of an option; in two lines if it is too long for the terminal with the values that it takes."""
        if self.current_indent + len(name) <= self.width:
            return name
        option, _, values = name.rpartition(" ")
        return f"{option}\n{'':{self.current_indent + 4}}{values}"
