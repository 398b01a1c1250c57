"""Progress as plain lines, for `--progress` where stderr is no terminal."""

from collections.abc import Callable

from lmcli.cli.sinks import Outcome
from lmcli.values import Fragment, LoadProgress, Value


class LinesSink:
    """Says how far it is, each tenth once.

    Args:
        say: told each line.
    """

    tick: float | None = None

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ("", -1)

    def burst(self, values: list[Value]) -> None:
        """Say how far it is."""
        for value in values:
            if not isinstance(value, Fragment):
                label = "loading" if isinstance(value, LoadProgress) else "reading"
                step = (label, int(value.progress * 10))
                if step != self._last:
                    self._last = step
                    self._say(f"{label} {value.progress:.0%}")

    def finish(self, outcome: Outcome) -> None:
        """Nothing is left to say."""
