"""What to type about an error that the library raised: the library does not know the command line."""

from collections.abc import Mapping, Sequence
from typing import Final

from lmcli.errors import LmError, TimedOut

_HINTS: Final[Mapping[type[LmError], Sequence[str]]] = {
    TimedOut: ("a larger --timeout waits longer",),
}


def hints_for(error: LmError) -> Sequence[str]:
    """The error's own hints, else those for its class."""
    return error.hints or _HINTS.get(type(error), ())
