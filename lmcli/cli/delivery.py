"""The one loop that moves values from an exchange to sinks, and what ends it early.

A signal, a reader who leaves and a full disk all send `cancel` to the server at once, before anything else is read.
What arrives within a short grace still goes to the sinks, so that figures and histories are complete.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from lmcli.cli.output import Output, ReaderLeft
from lmcli.cli.sinks import Sink
from lmcli.cli.stops import Interrupted, Stops
from lmcli.client.session import Session
from lmcli.errors import LmError, OutputFailed
from lmcli.wire.channels import Channel

_GRACE: Final = 1.0


def deliver(
    session: Session,
    channel: Channel,
    sinks: Sequence[Sink],
    output: Output,
    stops: Stops,
    *,
    tick: float | None = None,
) -> None:
    """Feed the sinks until the channel is over.

    Args:
        session: the socket that is read.
        channel: what is read.
        sinks: what is fed, in this order.
        output: stdout, which some of the sinks write to.
        stops: the signals to obey.
        tick: feed an empty burst at least this often (seconds), for a sink that shows time passing.

    Raises:
        Interrupted: a signal came; the channel was cancelled.
        ReaderLeft: nobody reads stdout any more; the channel was cancelled.
        OutputFailed: stdout cannot be written; the channel was cancelled.
        LmError: the server failed.
    """
    try:
        while not channel.is_over:
            values = session.read(channel, within=tick)
            for sink in sinks:
                sink.burst(values)
            stops.check()
            if not values:
                output.check()
    except (Interrupted, ReaderLeft, OutputFailed):
        with suppress(LmError):  # the server may be gone, too
            _wind_down(session, channel, sinks, output)
        raise


def _wind_down(session: Session, channel: Channel, sinks: Sequence[Sink], output: Output) -> None:
    deadline = output.deadline = time.monotonic() + _GRACE
    session.cancel(channel, within=_GRACE)
    while not channel.is_over and (left := deadline - time.monotonic()) > 0:
        values = session.read(channel, within=left)
        for sink in sinks:
            with suppress(Interrupted, ReaderLeft):
                sink.burst(values)
