"""One authenticated socket to a namespace on an event loop, for any number of predictions and calls at once."""

import asyncio
from contextlib import suppress
from typing import Any

from lmcli.client.address import Address
from lmcli.client.aio_flow import Flow, wake
from lmcli.client.aio_transport import AioTransport
from lmcli.client.dialing import CONNECT_SECONDS
from lmcli.client.session import DRAIN_SECONDS, MUTE_SECONDS, UNANSWERED
from lmcli.errors import (
    CannotConnect,
    ConnectionLost,
    LmError,
    NotAllowed,
    RemoteProtocolError,
    RequestRejected,
    TimedOut,
)
from lmcli.values import Value
from lmcli.wire.channels import Channel, Loading, Prediction
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.multiplexer import Multiplexer
from lmcli.wire.protocol import Credentials
from lmcli.wire.queries import Answer, Query
from lmcli.wire.requests import ChannelRequest


class AioSession:
    """An authenticated socket to one namespace.

    Args:
        transport: what it runs on.
        timeout: how long a wait may take in which nothing arrives for it, in seconds.
    """

    def __init__(self, transport: AioTransport, *, timeout: float | None) -> None:
        self._closes_when_idle = False
        self._transport = transport
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._multiplexer = Multiplexer()
        self._flow = Flow(transport, self._multiplexer, timeout=timeout)
        self._muted: asyncio.TimerHandle | None = None
        self._refusal: NotAllowed | None = None
        self._answered: asyncio.Future[bool] = self._loop.create_future()
        transport.on_texts = self._take
        transport.on_lost = self._lost

    @classmethod
    async def open(
        cls,
        address: Address,
        namespace: str,
        credentials: Credentials,
        *,
        timeout: float | None = None,  # noqa: ASYNC109  it is counted for each wait
    ) -> "AioSession":
        """Connect and authenticate.

        Args:
            address: the server.
            namespace: `llm`, `system` or `files`.
            credentials: one pair for all sessions of a client.
            timeout: how long a wait may take in which nothing arrives for it, in seconds, from now on.

        Raises:
            CannotConnect: there is no answer, or it is not that of LM Studio.
            NotAllowed: the server refused the credentials.
            TimedOut: `timeout` passed in silence.
        """
        self = cls(await AioTransport.open(address, namespace, timeout=timeout), timeout=timeout)
        try:
            await self._authenticate(credentials)
        except (ConnectionLost, RemoteProtocolError) as error:
            self._transport.abort()
            raise CannotConnect(f"what answers at {address} is not LM Studio: {error.message}") from error
        except BaseException:
            self._transport.abort()
            raise
        return self

    @property
    def takes_requests(self) -> bool:
        """Whether a new request is certain to get an answer or a warning."""
        return self._transport.is_open and not self._multiplexer.is_mute

    async def ask(self, query: Query[Answer]) -> Answer:
        """Make one call, wait for its result and read it.

        Raises:
            LmError: the server reported a failure.
            ConnectionLost, TimedOut, RemoteProtocolError: no answer came.
        """
        return query.read(await self.call(query.endpoint, query.parameter))

    async def call(self, endpoint: str, parameter: Any = ABSENT) -> Any:
        """Make one call and wait for its result; None where the answer has none. Raises as `ask` does."""
        await self._expect_requests(endpoint)
        call = self._multiplexer.call(endpoint, parameter)
        try:
            await self._sent()
            await self._flow.ready(call)
        finally:
            if not call.is_ready:
                self._multiplexer.give_up(call, ConnectionLost(f"the wait for an answer to {endpoint} was given up"))
        return call.result()

    async def load(self, request: ChannelRequest) -> Loading:
        """Have a model loaded, see `requests.get_or_load`."""
        await self._expect_requests(request.endpoint)
        loading = self._multiplexer.load(request)
        await self._begun(loading)
        return loading

    async def predict(self, request: ChannelRequest, fallback: ChannelRequest | None = None) -> Prediction:
        """Begin a prediction, see `Session.predict`."""
        await self._expect_requests(request.endpoint)
        prediction = self._multiplexer.predict(request, fallback)
        await self._begun(prediction)
        return prediction

    async def read(self, channel: Channel) -> list[Value]:
        """What has arrived on a channel; waits for the first value or the end. Empty: this is the end.

        Raises:
            LmError: the server reported a failure; raised once, after all that arrived before it has been read.
            TimedOut: nothing arrived for as long as the timeout.
        """
        await self._flow.ready(channel)
        return channel.read()

    def cancel(self, channel: Channel) -> None:
        """Ask the server to end a channel soon; read on for what it still sends."""
        if self._transport.is_open:
            self._multiplexer.cancel(channel)
            self._send()

    def abandon(self, channel: Channel) -> None:
        """Cancel, and drop what the server still sends."""
        self.cancel(channel)
        self._flow.abandon(channel)

    def abandon_soon(self, channel: Channel) -> None:
        """`abandon` from wherever the last reference was dropped, another thread included."""
        if self._loop.is_closed() or channel.is_over:
            return
        with suppress(RuntimeError):  # there is no running loop, or this one is being closed
            if asyncio.get_running_loop() is self._loop:
                self.abandon(channel)
                return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.abandon, channel)

    async def stopped(self, channel: Channel) -> None:
        """Wait a little until the server has ended an abandoned channel."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not channel.is_over:
                    await self._flow.ready(channel)
                    self._flow.drop_abandoned()
        except (LmError, TimeoutError):
            channel.is_over = True

    @property
    def is_closed(self) -> bool:
        """Whether the socket is closed."""
        return self._transport.is_closed

    def close_when_idle(self) -> None:
        """Close the socket, without waiting, as soon as nothing runs on it."""
        self._closes_when_idle = True
        self._close_if_done()

    async def aclose(self) -> None:
        """Cancel what runs, and close the socket; who waits gets ConnectionLost."""
        for channel in self._multiplexer.running:
            self.cancel(channel)
        self._transport.close()
        await self._transport.wait_closed()

    async def _authenticate(self, credentials: Credentials) -> None:
        limit = CONNECT_SECONDS if self._timeout is None else self._timeout
        self._multiplexer.authenticate(credentials)
        self._send()
        try:
            async with asyncio.timeout(limit):
                await self._answered
        except TimeoutError as error:
            if self._timeout is not None:
                raise TimedOut(f"no answer to the authentication within {limit:g} s") from error
        if self._refusal is not None:
            raise self._refusal
        if self._multiplexer.error is not None:
            raise self._multiplexer.error
        if not self._multiplexer.is_authenticated:
            silence = RemoteProtocolError("the server did not answer the authentication")
            raise silence if self._transport.is_open else self._transport.loss

    async def _expect_requests(self, endpoint: str) -> None:
        """Wait until a request can be sent; one that a server may ignore without a warning is refused."""
        if self._multiplexer.is_mute:
            raise RequestRejected(f"{endpoint} was not sent: {UNANSWERED}")
        await self._transport.drain()

    async def _sent(self) -> None:
        """Send what was asked, and wait until the server has accepted most of it."""
        self._send()
        await self._transport.drain()

    async def _begun(self, channel: Channel) -> None:
        try:
            await self._sent()
        except BaseException:
            self.abandon(channel)
            raise

    def _send(self) -> None:
        for text in self._multiplexer.texts_to_send():
            self._transport.send(text)

    def _take(self, texts: list[bytes], bytes_count: int) -> None:
        """Dispatch what has arrived."""
        try:
            self._multiplexer.receive(texts)
        except NotAllowed as refusal:
            self._refusal = refusal
        wake(self._answered)
        if self._multiplexer.error is not None:
            self._transport.abort()
            return
        self._send()
        if self._multiplexer.is_mute and self._muted is None:
            self._muted = self._loop.call_later(MUTE_SECONDS, self._give_up_unanswered)
        self._flow.hold_back(len(texts), bytes_count)
        self._send()
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._closes_when_idle and self._multiplexer.is_idle:
            self._transport.close()

    def _give_up_unanswered(self) -> None:
        for pending in self._multiplexer.unanswered:
            self._multiplexer.give_up(pending, RequestRejected(UNANSWERED))

    def _lost(self) -> None:
        """End all that runs; whoever reads it gets what had arrived first."""
        if self._muted is not None:
            self._muted.cancel()
        self._multiplexer.give_up_all(self._loss)
        wake(self._answered)
        self._flow.drop_abandoned()

    def _loss(self) -> LmError:
        error = self._multiplexer.error
        return self._transport.loss if error is None else RemoteProtocolError(error.message, *error.hints)
