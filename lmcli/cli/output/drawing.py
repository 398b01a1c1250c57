"""Text as a terminal shows it: how wide it is, and numbers as bars and sparklines.

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
"""The first that is set says which characters there are. Source: POSIX, 8.2 Internationalization Variables."""

_RISING: Final = " ▁▂▃▄▅▆▇█"
_GROWING: Final = " ▏▎▍▌▋▊▉"
_BAR_COLUMNS: Final = 8
_NO_COLUMN: Final = {"Cf", "Me", "Mn"}
"""Categories of characters that change the one before: joiners and marks."""


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes; most of East Asia's characters and emoji take two."""
    return len(text) if text.isascii() else sum(map(_char_columns, text))


def clipped(text: str, room: int) -> str:
    """As much from the start of a text as so many columns hold."""
    if columns_of(text) <= room:
        return text
    return text[: sum(end <= room for end in accumulate(map(_char_columns, text)))]


def has_blocks(env: Environment) -> bool:
    """Whether a terminal of this process shows block characters."""
    locale = next(filter(None, map(env.setting, LOCALE_VARIABLES)), "UTF-8")
    return env.setting("TERM") != "dumb" and locale.upper().replace("-", "").partition("@")[0].endswith("UTF8")


def bars(values: Iterable[float | None], env: Environment) -> list[str]:
    """Horizontal bars, from 0 to the largest value; none for what is unknown."""
    if not has_blocks(env):
        return ["#" * count for count in _scaled(values, _BAR_COLUMNS)]
    eighths = (divmod(count, len(_GROWING)) for count in _scaled(values, _BAR_COLUMNS * len(_GROWING)))
    return [("█" * whole + _GROWING[rest]).rstrip() for whole, rest in eighths]


def sparkline(values: Iterable[float | None], env: Environment) -> str:
    """One block for each value, from 0 to the largest; a space for what is unknown. Empty without blocks."""
    return "".join(_RISING[count] for count in _scaled(values, len(_RISING) - 1)) if has_blocks(env) else ""


def _scaled(values: Iterable[float | None], steps: int) -> list[int]:
    """Each value as a number of steps, at least one if it is above 0; the largest as all of them."""
    known = [min(max(0.0, value or 0.0), float_info.max) for value in values]
    largest = max(known, default=0.0) or 1.0
    return [ceil(value / largest * steps) for value in known]


def histogram(values: Sequence[float], bins: int) -> list[int]:
    """How many values lie in each of so many equal steps from the lowest to the highest."""
    counts = [0] * bins
    if values:
        low, high = min(values), max(values)
        width = (high - low) / bins or 1.0
        for value in values:
            counts[min(int((value - low) / width), bins - 1)] += 1
    return counts


def _char_columns(char: str) -> int:
    if category(char) in _NO_COLUMN:
        return 0
    return 2 if east_asian_width(char) in "FW" else 1
