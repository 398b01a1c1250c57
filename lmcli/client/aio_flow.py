"""What is read of a socket on an event loop, and what is kept: one reader, any number of tasks that wait.

- While somebody waits, the socket is read, and what arrives is dispatched to all its channels.
- While nobody waits, 256 KiB more are read, then nothing: the server is held back through TCP.
- What arrives on a channel that is not read while others wait is kept, so that they are not held up, up to 65,536
  values (fragments and reports of progress). Then the server is asked to end it: what was kept can still be read, and
  is followed by `Incomplete`.
- What still arrives on a channel that was cancelled and left is dropped.
"""

import asyncio
from functools import partial
from typing import Final

from lmcli.client.aio_transport import AioTransport
from lmcli.client.session import DRAIN_SECONDS
from lmcli.errors import Incomplete, LmError, TimedOut
from lmcli.wire.channels import Channel, Pending, unheeded
from lmcli.wire.multiplexer import Multiplexer

AHEAD_BYTES: Final = 256 * 1024
"""How much is read while nobody waits."""
UNREAD_VALUES: Final = 65_536
"""How much of a prediction that is not read is kept while others wait."""
_CHECK_AFTER: Final = 4096


class Flow:
    """Reads for who waits, and holds the server back for who does not.

    Args:
        transport: what is read.
        multiplexer: what it is dispatched by.
        timeout: how long a wait may take in which nothing arrives for it, in seconds.
    """

    def __init__(self, transport: AioTransport, multiplexer: Multiplexer, *, timeout: float | None) -> None:
        self._transport = transport
        self._multiplexer = multiplexer
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[bool]] = set()
        self._abandoned: dict[Channel, float] = {}
        self._ahead_bytes = 0
        self._unchecked_count = 0

    async def ready(self, pending: Pending) -> None:
        """Wait until something can be read.

        Raises:
            TimedOut: nothing arrived for as long as the timeout.
            RuntimeError: somebody else waits for it.
        """
        while not pending.is_ready:
            if pending.on_ready is not unheeded:
                raise RuntimeError("two tasks read the same stream")
            future = self._loop.create_future()
            pending.on_ready = partial(self._wake, future)
            self._waiting.add(future)
            self._resume()
            timer = None if self._timeout is None else self._loop.call_later(self._timeout, wake, future, True)
            try:
                is_late = await future
            finally:
                pending.on_ready = unheeded
                self._waiting.discard(future)
                if timer is not None:
                    timer.cancel()
            if is_late and not pending.is_ready:
                raise TimedOut(f"the server was silent for {self._timeout:g} s")

    def abandon(self, channel: Channel) -> None:
        """Drop what still arrives on a channel that was cancelled."""
        if not channel.is_over:
            self._abandoned[channel] = self._loop.time() + DRAIN_SECONDS
            self.drop_abandoned()
            self._resume()

    def hold_back(self, texts_count: int, bytes_count: int) -> None:
        """After a burst: read no further than is allowed, and end what is not read while others wait."""
        self.drop_abandoned()
        if not self._waiting and not self._abandoned:
            self._ahead_bytes += bytes_count
            if self._ahead_bytes > AHEAD_BYTES:
                self._transport.pause()
        self._unchecked_count += texts_count
        if self._unchecked_count >= _CHECK_AFTER:
            self._unchecked_count = 0
            for channel in self._multiplexer.running:
                if channel.unread_count >= UNREAD_VALUES:
                    self._multiplexer.break_off(channel, _unread())

    def drop_abandoned(self) -> None:
        """Read what nobody reads, for as long as a server may take to stop."""
        for channel, deadline in list(self._abandoned.items()):
            try:
                while channel.read():
                    pass
            except LmError:
                pass
            if not channel.is_over and self._loop.time() > deadline:
                self._multiplexer.give_up(channel, Incomplete("the server did not end the cancelled prediction"))
                channel.is_over = True
            if channel.is_over:
                del self._abandoned[channel]

    def _wake(self, future: "asyncio.Future[bool]") -> None:
        self._waiting.discard(future)
        wake(future)

    def _resume(self) -> None:
        self._ahead_bytes = 0
        self._transport.resume()


def wake(future: "asyncio.Future[bool]", is_late: bool = False) -> None:  # noqa: FBT001, FBT002  a callback
    """End a wait, because something has arrived or because it is too late."""
    if not future.done():
        future.set_result(is_late)


def _unread() -> Incomplete:
    return Incomplete(
        f"the prediction was cancelled: {UNREAD_VALUES} of its values were not read while others waited",
        "read each stream in a task of its own, or give it a client of its own",
    )
