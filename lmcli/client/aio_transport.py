"""One WebSocket on an event loop: what arrives is handed on in bursts, and can be held back.

Nothing here waits for a socket but `open`, `drain` and `wait_closed`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from lmcli.client.address import Address
from lmcli.client.aio_dialing import connected, plain, tls_context
from lmcli.client.dialing import CONNECT_SECONDS, SUSPICIOUS_SECONDS, Limits, failure, refuse_other_kind
from lmcli.client.transport import BURST_BYTES, LOST_AFTER, PING_AFTER
from lmcli.client.waiting import no_interrupts
from lmcli.client.websocket import WebSocket
from lmcli.errors import CannotConnect, ConnectionLost, TimedOut, reason
from lmcli.wire.pieces import Text

_CLOSE_SECONDS: Final = 1.0
_BAD_REQUEST: Final = 400


class AioTransport(asyncio.BufferedProtocol):
    """A WebSocket to one namespace.

    Attributes:
        on_texts: called with the texts of each burst, and how many bytes it had.
        on_lost: called once, when nothing more will arrive.
        ping_after: seconds of silence before a ping is sent.
        lost_after: seconds without an answer to it after which the connection counts as lost.
    """

    def __init__(self, address: Address, namespace: str, *, timeout: float | None) -> None:
        self.on_texts: Callable[[list[bytes], int], object] = lambda _texts, _bytes: None
        self.on_lost: Callable[[], object] = lambda: None
        self.ping_after = PING_AFTER
        self.lost_after = LOST_AFTER
        self._address = address
        self._timeout = timeout
        self._websocket = WebSocket(address, namespace)
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(BURST_BYTES))
        self._transport: asyncio.Transport | None = None
        self._end: str | None = None
        self._upgraded = self._loop.create_future()
        self._closed = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_paused = False
        self._heard_at = self._loop.time()
        self._pinged_at: float | None = None
        self._watch: asyncio.TimerHandle | None = None

    @classmethod
    async def open(
        cls,
        address: Address,
        namespace: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  it is counted for each wait
    ) -> "AioTransport":
        """Connect, with TLS where the address wants it, and shake hands.

        Args:
            address: where.
            namespace: the URL path, such as `llm`.
            timeout: seconds for connecting and for the handshake each; None stands for ten.

        Raises:
            CannotConnect: there is no answer, or it is not that of a WebSocket server.
            TimedOut: the given timeout passed.
        """
        self = cls(address, namespace, timeout=timeout)
        await self.connect()
        return self

    async def connect(self) -> None:
        """Connect and shake hands, once; see `open`."""
        limit = CONNECT_SECONDS if self._timeout is None else self._timeout
        try:
            async with asyncio.timeout(limit):
                await self._connect()
        except OSError as error:
            if self._address.secure and not hasattr(error, "verify_message") and not isinstance(error, TimeoutError):
                await self._refuse_other_kind()
            raise failure(self._address, plain(error), self._timeout) from error
        try:
            await self._handshake(limit)
        except BaseException:
            self.abort()
            raise
        self._watch_silence()

    @property
    def is_open(self) -> bool:
        """Whether texts can still be sent."""
        return self._end is None and self._websocket.is_open

    @property
    def is_closed(self) -> bool:
        """Whether the socket is closed."""
        return self._closed.done()

    @property
    def loss(self) -> ConnectionLost:
        """What to raise where the connection is needed and gone."""
        return ConnectionLost(f"the connection to {self._address} was lost: {self._end}")

    def send(self, text: Text) -> None:
        """Send one text, after all that was sent before; `drain` waits for the server to accept it."""
        self._websocket.send_text(text)
        self._flush()

    async def drain(self) -> None:
        """Wait until the server has accepted so much that more may be sent.

        Raises:
            ConnectionLost: the server has disconnected, or accepts no data.
            TimedOut: the server accepted nothing for as long as the timeout.
        """
        while self.is_open and not self._writable.is_set():
            unsent = self._unsent_bytes
            try:
                async with asyncio.timeout(self._timeout or self.ping_after + self.lost_after):
                    await self._writable.wait()
            except TimeoutError as error:
                if self._unsent_bytes < unsent:
                    continue
                self._lose("it accepts no data")
                if self._timeout is not None:
                    raise TimedOut(f"the server accepted no data for {self._timeout:g} s") from error
        if not self.is_open:
            raise self.loss

    def pause(self) -> None:
        """Hold the server back: take in nothing more."""
        if self._transport is not None and not self._is_paused and self.is_open:
            self._is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Take in what arrives."""
        if self._transport is not None and self._is_paused:
            self._is_paused = False
            self._heard_at, self._pinged_at = self._loop.time(), None
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def abort(self) -> None:
        """End the connection at once."""
        self._lose("it was closed")

    def close(self) -> None:
        """Send a close frame, behind all that was sent; what still arrives is dropped."""
        if self.is_open:
            self._websocket.send_close()
            self._flush()
            self.resume()
            self.on_texts = lambda _texts, _bytes: None
            self._report_end("it was closed")

    async def wait_closed(self) -> None:
        """Wait until the server has closed its end, and close the socket; a server that does not in a second is left.

        A socket that is closed before is reset by what still arrives, and what was sent last may be lost.
        """
        if self._transport is None:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await asyncio.shield(self._closed)
        finally:
            self.abort()
        await asyncio.shield(self._closed)

    async def _connect(self) -> None:
        context = await asyncio.to_thread(tls_context) if self._address.secure else None
        await self._loop.create_connection(
            lambda: self,
            sock=await connected(self._address),
            ssl=context,
            server_hostname=self._address.host if context else None,
            ssl_shutdown_timeout=_CLOSE_SECONDS if context else None,
        )

    async def _handshake(self, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                await asyncio.wait([self._upgraded], timeout=SUSPICIOUS_SECONDS)
                if not self._upgraded.done() and not self._address.secure:
                    await self._refuse_other_kind()
                await self._upgraded
        except TimeoutError as error:
            if self._timeout is not None:
                raise TimedOut(f"no answer to the handshake from {self._address} within {limit:g} s") from error
            raise CannotConnect(f"cannot reach LM Studio at {self._address}: no answer to the handshake") from error
        if self._websocket.is_accepted:
            return
        if self._websocket.refused_status in (None, _BAD_REQUEST) and not self._address.secure:
            await self._refuse_other_kind()
        raise self._websocket.refusal or CannotConnect(f"cannot reach LM Studio at {self._address}: {self._end}")

    async def _refuse_other_kind(self) -> None:
        """Find out, in a thread, whether the server uses TLS against expectation, or does not."""
        await asyncio.to_thread(refuse_other_kind, self._address, Limits.within(SUSPICIOUS_SECONDS, no_interrupts))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake."""
        self._transport = cast("asyncio.Transport", transport)
        self._flush()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  as asyncio calls it
        """Where the next burst goes."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in a burst."""
        self._receive(self._buffer[:nbytes])

    def eof_received(self) -> None:
        """The server sends no more."""
        self._receive(self._buffer[:0])

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        if self._watch is not None:
            self._watch.cancel()
        self._closed.set_result(None)
        self._lose(reason(plain(exc)) if isinstance(exc, OSError) else "it closed the connection")

    def pause_writing(self) -> None:
        """The server does not accept as much as is sent."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The server has accepted most of it."""
        self._writable.set()

    def _receive(self, data: memoryview) -> None:
        self._heard_at, self._pinged_at = self._loop.time(), None
        texts = self._websocket.receive(data)
        if self._websocket.has_data_to_send:
            self._reply()
        if not self._upgraded.done() and not self._websocket.is_connecting:
            self._upgraded.set_result(None)
        if texts:
            self.on_texts(texts, len(data))
        if self._websocket.lost is not None:
            self._lose(self._websocket.lost)

    def _flush(self) -> None:
        """Write what is to be sent."""
        data = b"".join([self._websocket.data_to_send(), *iter(self._websocket.frames_to_send, b"")])
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _reply(self) -> None:
        """Write a pong, or the answer to a close frame; for a server that accepts nothing, nothing is kept."""
        if self._writable.is_set():
            self._flush()
        else:
            self._websocket.data_to_send()

    def _lose(self, why: str) -> None:
        """End the connection at once, and report it."""
        if self._transport is not None:
            self._transport.abort()
        self._report_end(why)

    def _report_end(self, why: str) -> None:
        self._end = self._end or why
        if not self._upgraded.done():
            self._upgraded.set_result(None)
        self._writable.set()
        on_lost, self.on_lost = self.on_lost, lambda: None
        on_lost()

    @property
    def _unsent_bytes(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def _watch_silence(self) -> None:
        """Ping a server that is silent, and give up one that does not answer; while it is held back, it may be."""
        now = self._loop.time()
        if self._is_paused:
            self._heard_at, self._pinged_at = now, None
        elif self._pinged_at is None and now >= self._heard_at + self.ping_after:
            self._pinged_at = now
            self._websocket.send_ping()
            self._flush()
        elif self._pinged_at is not None and now >= self._pinged_at + self.lost_after:
            self._lose("it no longer answers")
            return
        due = self._heard_at + self.ping_after if self._pinged_at is None else self._pinged_at + self.lost_after
        self._watch = self._loop.call_at(due, self._watch_silence)
