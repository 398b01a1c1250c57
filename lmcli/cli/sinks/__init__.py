"""Where values go: one sink a form of output, all fed by the one loop in `delivery`."""

from typing import NamedTuple, Protocol

from lmcli.client.session import Value
from lmcli.errors import LmError
from lmcli.values import PredictionEnd


class Outcome(NamedTuple):
    """How a prediction ended.

    Attributes:
        end: the server's last word; None if it never came.
        error: what makes the answer less than complete, if anything.
        signum: the signal that stopped it, if one did.
    """

    end: PredictionEnd | None = None
    error: LmError | None = None
    signum: int | None = None


class Sink(Protocol):
    """Takes bursts of values as they come, then the outcome, once."""

    def burst(self, values: list[Value]) -> None:
        """Take what has arrived together."""

    def finish(self, outcome: Outcome) -> None:
        """Complete the output."""


class ProgressSink(Sink, Protocol):
    """Shows how far it is; `tick` is how often it wants an empty burst, in seconds."""

    tick: float | None
