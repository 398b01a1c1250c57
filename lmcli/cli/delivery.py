"""The one loop that moves values from channels to sinks, and what ends it early.

A signal, a reader who leaves and a full disk all send `cancel` to the server at once, before anything else is read.
What arrives within a short grace still goes to the sinks, so that stats and histories are complete.
"""

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

from lmcli.cli.output.stdout import Output, ReaderLeft
from lmcli.cli.signals import Interrupted, SignalWatcher
from lmcli.client.session import Session
from lmcli.errors import LmError, OutputFailed
from lmcli.values import Value
from lmcli.wire.channels import Channel

_GRACE: Final = 1.0


class Fed(Protocol):
    """What is fed from a channel."""

    @property
    def channel(self) -> Channel:
        """Where its values come from."""
        ...

    def feed(self, values: list[Value]) -> None:
        """Take what has arrived together; nothing, where time has passed."""
        ...

    def fail(self, error: LmError) -> None:
        """Take the server's error for the end."""
        ...


def deliver(
    session: Session, running: Sequence[Fed], output: Output, signals: SignalWatcher, *, tick: float | None = None
) -> None:
    """Feed until all channels are over.

    Args:
        session: the socket of the channels.
        running: what is fed, each from its own channel.
        output: stdout, which it may write to.
        signals: the signals to obey.
        tick: feed nothing at least this often (seconds), for what shows time passing.

    Raises:
        Interrupted: a signal came; the channels were cancelled.
        ReaderLeft: nobody reads stdout any more; the channels were cancelled.
        OutputFailed: stdout cannot be written; the channels were cancelled.
        LmError: the connection failed.
    """
    try:
        while running := [one for one in running if not one.channel.is_over]:
            has_news = _feed(session, running, within=tick)
            signals.check()
            if not has_news:
                output.check()
    except (Interrupted, ReaderLeft, OutputFailed):
        with suppress(LmError):  # the server may be gone, too
            _wind_down(session, running, output)
        raise


def _feed(session: Session, running: Sequence[Fed], *, within: float | None) -> bool:
    """Feed what arrives next; False if nothing did."""
    ready = session.ready([one.channel for one in running], within=within)
    for one in running:
        if one.channel.is_ready:
            try:
                values = one.channel.read()
            except LmError as error:
                one.fail(error)
            else:
                one.feed(values)
        elif not ready:
            one.feed([])
    return bool(ready)


def _wind_down(session: Session, running: Sequence[Fed], output: Output) -> None:
    deadline = output.deadline = time.monotonic() + _GRACE
    for one in running:
        session.cancel(one.channel, within=_GRACE)
    while (running := [one for one in running if not one.channel.is_over]) and time.monotonic() < deadline:
        with suppress(Interrupted, ReaderLeft, OutputFailed):
            _feed(session, running, within=deadline - time.monotonic())
