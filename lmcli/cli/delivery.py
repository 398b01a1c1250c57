"""The one loop that moves values from channels to sinks, and what ends it early.

A signal, a closed stdout and a full disk all send `cancel` to the server at once, before anything else is read.
What arrives within a short grace period is still delivered, so that stats and histories are complete.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from lmcli.cli.output.stdout import Output, ReaderLeft
from lmcli.cli.signals import Interrupted, SignalWatcher
from lmcli.client.session import Session
from lmcli.errors import LmError, OutputFailed
from lmcli.values import Value
from lmcli.wire.channels import Channel

_GRACE: Final = 1.0


class Consumer(Protocol):
    """Receives the values of a channel."""

    @property
    def channel(self) -> Channel:
        """The channel."""
        ...

    def feed(self, values: list[Value]) -> None:
        """Receive the values that arrived together; an empty list on a tick."""
        ...

    def fail(self, error: LmError) -> None:
        """Receive the error that ended the channel."""
        ...


def deliver(
    session: Session,
    rounds: Iterable[Sequence[Consumer]],
    output: Output,
    signals: SignalWatcher,
    *,
    tick: float | None = None,
) -> None:
    """Deliver values until the rounds end.

    Args:
        session: the session of the channels.
        rounds: for each turn of the loop the receivers, one for each channel that is not closed.
        output: stdout, which the consumers may write to.
        signals: the signals that end delivery.
        tick: feed an empty list at least this often (seconds), for displays of elapsed time.

    Raises:
        Interrupted: a signal came; the channels were cancelled.
        ReaderLeft: the reader of stdout has left; the channels were cancelled.
        OutputFailed: stdout cannot be written; the channels were cancelled.
        LmError: the connection failed.
    """
    consumers: Sequence[Consumer] = ()
    try:
        for consumers in rounds:
            has_delivered = _deliver_next(session, consumers, within=tick)
            signals.check()
            if not has_delivered:
                output.check()
    except (Interrupted, ReaderLeft, OutputFailed):
        with suppress(LmError):  # the connection may be lost, too
            _cancel(session, consumers, output)
        raise


def until_closed(consumer: Consumer) -> Iterable[Sequence[Consumer]]:
    """The rounds of a single channel."""
    while not consumer.channel.is_over:
        yield [consumer]


def _deliver_next(session: Session, consumers: Sequence[Consumer], *, within: float | None) -> bool:
    """Deliver what arrives next; False if nothing did in time."""
    ready = session.ready([consumer.channel for consumer in consumers], within=within)
    for consumer in consumers:
        if consumer.channel.is_ready:
            _deliver_all(consumer)
        elif not ready:
            consumer.feed([])
    return bool(ready)


def _deliver_all(consumer: Consumer) -> None:
    """Deliver what has arrived, and the end if that has, too."""
    while True:
        try:
            values = consumer.channel.read()
        except LmError as error:
            consumer.fail(error)
            return
        if not values:
            return
        consumer.feed(values)


def _cancel(session: Session, consumers: Sequence[Consumer], output: Output) -> None:
    """Cancel all channels, and deliver what still arrives within the grace period."""
    deadline = output.deadline = time.monotonic() + _GRACE
    for consumer in consumers:
        session.cancel(consumer.channel, within=_GRACE)
    while (consumers := [c for c in consumers if not c.channel.is_over]) and time.monotonic() < deadline:
        with suppress(Interrupted, ReaderLeft, OutputFailed):
            _deliver_next(session, consumers, within=deadline - time.monotonic())
