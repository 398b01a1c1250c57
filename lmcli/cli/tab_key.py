"""The TAB key in a line that is typed: with readline, and with libedit, which Python on macOS may be built with."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Final, NamedTuple

_LISTING: Final = ord("?")
"""The type of completion if candidates are only listed. Source: GNU Readline, rl_completion_type."""


class Candidate(NamedTuple):
    """What a line can be completed to.

    Attributes:
        line: the completed line, up to the cursor.
        label: how it is listed beside others.
    """

    line: str
    label: str


Complete = Callable[[str], Sequence[Candidate]]
"""The candidates for a line, up to the cursor."""


def insert_tab(line: str) -> Sequence[Candidate]:
    """A tab, as in any text."""
    return [Candidate(f"{line}\t", "")]


def bind_tab(readline: ModuleType, complete: Complete) -> None:
    """Let TAB complete the line up to the cursor, and TAB again list the candidates.

    libedit lists whole lines: it inserts what the listed texts have in common.
    """
    has_labels = not is_libedit(readline)
    found: list[str] = []

    def candidate(text: str, number: int) -> str | None:
        if number == 0:
            candidates = complete(_from_locale(text))
            is_listing = has_labels and readline.get_completion_type() == _LISTING and len(candidates) > 1
            found[:] = [in_locale(each.label if is_listing else each.line) for each in candidates]
        return found[number] if number < len(found) else None

    readline.set_completer(candidate)
    readline.set_completer_delims("")
    readline.parse_and_bind("tab: complete" if has_labels else "bind ^I rl_complete")
    if has_labels:
        # Otherwise it asks whether to list more than a hundred, and, called as Python does, waits for no answer.
        readline.parse_and_bind("set completion-query-items 0")


def is_libedit(readline: ModuleType) -> bool:
    """Whether this is libedit under readline's name; Python says so in the documentation, from 3.13 in `backend`."""
    return getattr(readline, "backend", "") == "editline" or "libedit" in (readline.__doc__ or "")


def in_locale(text: str) -> str:
    """Text for readline, which Python encodes in the locale's encoding: UTF-8, whatever the locale is."""
    return text.encode(errors="surrogateescape").decode("ascii", errors="surrogateescape")


def _from_locale(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="surrogateescape")
