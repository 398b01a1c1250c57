"""The one loop that moves values from an exchange to sinks, and what ends it early.

A signal, a reader who leaves and a full disk all send `cancel` to the server at once, before anything else is read.
What arrives within a short grace still goes to the sinks, so that figures and histories are complete.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from lmcli.cli.output import Output, ReaderLeft
from lmcli.cli.sinks import Sink
from lmcli.cli.stops import Interrupted, Stops
from lmcli.client.connection import Connection
from lmcli.client.exchanges import Exchange
from lmcli.errors import LmError, OutputFailed

_GRACE: Final = 1.0


@contextmanager
def watched(connection: Connection, output: Output, stops: Stops) -> Iterator[None]:
    """Have signals and a reader who leaves end every wait for the server, until the block ends.

    Raises:
        Interrupted: a signal has come already.
    """
    connection.interrupts = output.interrupts
    try:
        stops.check()  # one that came before its descriptor was watched ends no wait
        yield
    finally:
        connection.interrupts = ()


def deliver(
    exchange: Exchange, sinks: Sequence[Sink], output: Output, stops: Stops, *, tick: float | None = None
) -> None:
    """Feed the sinks until the exchange is over.

    Args:
        exchange: what is read.
        sinks: what is fed, in this order.
        output: stdout, which some of the sinks write to.
        stops: the signals to obey.
        tick: feed an empty burst at least this often (seconds), for a sink that shows time passing.

    Raises:
        Interrupted: a signal came; the exchange was cancelled.
        ReaderLeft: nobody reads stdout any more; the exchange was cancelled.
        OutputFailed: stdout cannot be written; the exchange was cancelled.
        LmError: the server failed.
    """
    try:
        while not exchange.is_over:
            values = exchange.read(within=tick)
            for sink in sinks:
                sink.burst(values)
            stops.check()
            if not values:
                output.check()
    except (Interrupted, ReaderLeft, OutputFailed):
        exchange.interrupts = ()
        with suppress(LmError):  # the server may be gone, too
            _wind_down(exchange, sinks, output)
        raise


def _wind_down(exchange: Exchange, sinks: Sequence[Sink], output: Output) -> None:
    deadline = output.deadline = time.monotonic() + _GRACE
    exchange.cancel(within=_GRACE)
    while not exchange.is_over and (left := deadline - time.monotonic()) > 0:
        values = exchange.read(within=left)
        for sink in sinks:
            with suppress(Interrupted, ReaderLeft):
                sink.burst(values)
