"""Where values go: one sink a form of output, all fed by the one loop in `delivery`."""

from typing import NamedTuple, Protocol

from lmcli.errors import Incomplete, LmError, PredictionFailed
from lmcli.values import PredictionEnd, Value


class Outcome(NamedTuple):
    """How a prediction ended.

    Attributes:
        end: the server's last word; None if it never came.
        error: what makes the answer less than complete, if anything.
        signum: the signal that stopped it, if one did.
        recovered: an answer that was not where it should be; it takes the place of the empty one.
    """

    end: PredictionEnd | None = None
    error: LmError | None = None
    signum: int | None = None
    recovered: str | None = None

    @property
    def is_partial(self) -> bool:
        """Whether the answer was cut short."""
        is_stopped = self.end is None or self.end.stats.stop_reason == "userStopped"
        return is_stopped or isinstance(self.error, Incomplete | PredictionFailed)


class Sink(Protocol):
    """Takes bursts of values as they come, then the outcome, once."""

    def burst(self, values: list[Value]) -> None:
        """Take what has arrived together."""

    def finish(self, outcome: Outcome) -> None:
        """Complete the output."""


class StderrSink(Sink, Protocol):
    """Shows what is not the answer.

    Attributes:
        tick: how often it wants a burst, be it empty, in seconds; None: never.
    """

    tick: float | None
