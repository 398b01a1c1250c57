"""Text on a terminal: its width, sizes of files, and numbers as bars and sparklines.

Eighths of a block need UTF-8; a terminal without it gets bars of `#` and no sparklines.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import ceil
from sys import float_info
from typing import Final
from unicodedata import category, east_asian_width

from lmcli.cli.environment import Environment

LOCALE_VARIABLES: Final = ("LC_ALL", "LC_CTYPE", "LANG")
"""The first that is set determines the character set. Source: POSIX, 8.2 Internationalization Variables."""

_VERTICAL_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_HORIZONTAL_BLOCKS: Final = " ▏▎▍▌▋▊▉"
_BAR_COLUMNS: Final = 8
_ZERO_WIDTH: Final = {"Cf", "Me", "Mn"}
"""Categories of characters that modify the one before: joiners and marks."""


def columns_of(text: str) -> int:
    """The number of terminal columns of a text; most East Asian characters and emoji have two."""
    return len(text) if text.isascii() else sum(map(_char_columns, text))


def clipped(text: str, width: int) -> str:
    """The longest beginning of a text that fits in so many columns."""
    if columns_of(text) <= width:
        return text
    return text[: sum(end <= width for end in accumulate(map(_char_columns, text)))]


def size_text(size_bytes: int) -> str:
    """The size of a file for people."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def has_blocks(env: Environment) -> bool:
    """Whether the terminal can show block characters."""
    locale = next(filter(None, map(env.setting, LOCALE_VARIABLES)), "UTF-8")
    return env.setting("TERM") != "dumb" and locale.upper().replace("-", "").partition("@")[0].endswith("UTF8")


def bars(values: Iterable[float | None], env: Environment) -> list[str]:
    """Horizontal bars, from 0 to the largest value; empty for unknown values."""
    if not has_blocks(env):
        return ["#" * count for count in _scaled(values, _BAR_COLUMNS)]
    eighths = (
        divmod(count, len(_HORIZONTAL_BLOCKS)) for count in _scaled(values, _BAR_COLUMNS * len(_HORIZONTAL_BLOCKS))
    )
    return [("█" * whole + _HORIZONTAL_BLOCKS[rest]).rstrip() for whole, rest in eighths]


def sparkline(values: Iterable[float | None], env: Environment) -> str:
    """One block for each value, from 0 to the largest; a space for unknown values. Empty without block characters."""
    return (
        "".join(_VERTICAL_BLOCKS[count] for count in _scaled(values, len(_VERTICAL_BLOCKS) - 1))
        if has_blocks(env)
        else ""
    )


def _scaled(values: Iterable[float | None], steps: int) -> list[int]:
    """Each value as a number of steps, at least one if it is above 0; all of them for the largest."""
    numbers = [min(max(0.0, value or 0.0), float_info.max) for value in values]
    largest = max(numbers, default=0.0) or 1.0
    return [ceil(value / largest * steps) for value in numbers]


def histogram(values: Sequence[float], bins: int) -> list[int]:
    """The number of values in each of so many equal intervals from the lowest to the highest."""
    counts = [0] * bins
    if values:
        low, high = min(values), max(values)
        width = (high - low) / bins or 1.0
        for value in values:
            counts[min(int((value - low) / width), bins - 1)] += 1
    return counts


def _char_columns(char: str) -> int:
    if category(char) in _ZERO_WIDTH:
        return 0
    return 2 if east_asian_width(char) in "FW" else 1
