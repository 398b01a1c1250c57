"""One connection to one namespace: authentication, then the dispatch of envelopes until the client disconnects.

Invalid input does not end a connection: what is not an envelope is ignored, and a request for something that does not
exist is answered with a warning only.
Source: lmstudio-js 6ec11db, lms-communication-server/src/ServerPort.ts and AuthenticatedWsServer.ts
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.server import ServerProtocol

from lmcli.errors import RemoteProtocolError, quoted
from lmcli.server.authentication import Authenticator, ConnectedClient, Credentials, read_credentials
from lmcli.server.decoding import decode, has_too_many_values, has_type, nesting_excess
from lmcli.server.endpoints import CallEndpoint, Channel, ChannelEndpoint, Context, Namespace, Shape, read
from lmcli.server.limits import (
    MAX_CALLS,
    MAX_CHANNELS,
    MAX_OPEN_BYTES,
)
from lmcli.server.request_errors import AuthenticationFailed, InvalidParameter, RequestFailed, internal_error
from lmcli.values import JsonObject
from lmcli.wire.envelopes import ABSENT, Envelope, encode, from_object

MAX_WARNINGS: Final = 5
MAX_CONCURRENT_CALLS: Final = 64
# Large enough for the longest credentials, with every character escaped.
MAX_CREDENTIALS_BYTES: Final = 4096
# After this many envelopes the event loop gets a turn, so that other clients, and a cancel, are served in between.
ENVELOPES_PER_TURN: Final = 32

_log: Final = logging.getLogger(__name__)
# Where websockets keeps the limit for incoming texts: the attribute's name depends on the release.
_LIMIT: Final = next((name for name in ("max_message_size", "max_size") if hasattr(ServerProtocol(), name)), None)


def can_raise_limit() -> bool:
    """Whether the size limit of a connection can be raised after the authentication."""
    return _LIMIT is not None


def _raise_limit(socket: ServerConnection, max_bytes: int) -> None:
    if _LIMIT is not None:
        setattr(socket.protocol, _LIMIT, max_bytes)


async def authenticate(socket: ServerConnection, seconds: float) -> Credentials:
    """Wait for the client's credentials; other texts are ignored.

    Raises:
        AuthenticationFailed: no credentials arrived in time, or a text that is too large for them.
        ConnectionClosed: the client disconnected.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                text = await socket.recv()
                if len(text) > MAX_CREDENTIALS_BYTES:  # where the limit of the connection cannot be raised later
                    raise AuthenticationFailed("The authentication is too large")
                credentials = read_credentials(decode(text))
                if credentials is not None:
                    return credentials
    except TimeoutError as error:
        raise AuthenticationFailed(f"No authentication within {seconds:g} seconds") from error


async def serve_connection(
    socket: ServerConnection,
    namespace: Namespace,
    authenticator: Authenticator,
    context: Callable[[ConnectedClient], Context],
    *,
    authentication_seconds: float,
    max_bytes: int,
) -> None:
    """Serve a connection from its first text to its end.

    Args:
        socket: the connection.
        namespace: its endpoints.
        authenticator: checks the client's credentials.
        context: makes the Context for a client.
        authentication_seconds: how long to wait for the credentials.
        max_bytes: the size limit of a text once the client is authenticated.
    """
    try:
        with authenticator.connected(await authenticate(socket, authentication_seconds)) as client:
            _raise_limit(socket, max_bytes)
            await socket.send(b'{"success":true}', text=True)
            await Connection(socket, namespace, context(client)).run()
    except AuthenticationFailed as failure:
        _log.info("authentication failed: %s", failure)
        with suppress(ConnectionClosed):
            await socket.send(orjson.dumps({"success": False, "error": str(failure)}), text=True)
    except ConnectionClosed:
        pass


class Connection:
    """A connection with an authenticated client."""

    def __init__(self, socket: ServerConnection, namespace: Namespace, context: Context) -> None:
        self._socket = socket
        self._namespace = namespace
        self._context = context
        self._channels: dict[int, Channel] = {}
        self._calls = 0
        self._call_slots = asyncio.Semaphore(MAX_CONCURRENT_CALLS)
        self._tasks = asyncio.TaskGroup()
        self._warnings = 0
        self._logged: Counter[int] = Counter()
        self._sent = 0
        # Of the text that was received last: its size, and what its parameter exceeds.
        self._size = 0
        self._excess: str | None = None
        self._open_bytes = 0
        self._handlers: Mapping[str, Callable[[Envelope], Awaitable[None]]] = {
            "rpcCall": self._call,
            "channelCreate": self._create_channel,
            "channelSend": self._receive_on_channel,
            "keepAlive": self._keep_alive,
            "signalSubscribe": self._subscribe,
            "writableSignalSubscribe": self._subscribe,
        }

    async def run(self) -> None:
        """Receive until the client disconnects, then cancel its open channels."""
        async with self._tasks:
            try:
                async for text in self._socket:
                    await self._receive(text)
            except ConnectionClosed:
                pass
            finally:
                for channel in self._channels.values():
                    channel.cancelled.set()

    async def send(self, envelope: Envelope) -> None:
        """Send an envelope; returns when the socket accepts more data.

        Raises:
            ConnectionClosed: the client disconnected.
        """
        await self._socket.send(encode(envelope), text=True)
        self._sent += 1
        if self._sent % ENVELOPES_PER_TURN == 0:
            await asyncio.sleep(0)

    async def _receive(self, text: str | bytes) -> None:
        if isinstance(text, str) and has_too_many_values(text):
            await self._socket.close(CloseCode.MESSAGE_TOO_BIG, "too many values in a text")
            return
        value = decode(text)
        try:
            envelope = from_object(value if has_type(value) else ABSENT)
        except RemoteProtocolError:
            self._log(logging.DEBUG, "ignored a text that is not an envelope: %s", quoted(text[:61], limit=60))
            return
        handle = self._handlers.get(envelope.type)
        if handle is not None:
            self._size = len(text)
            self._excess = nesting_excess(str(text), value)
            await handle(envelope)

    def _read(self, body: Any, shape: Shape | None) -> JsonObject:
        """Validate the parameter of a request.

        Raises:
            InvalidParameter: it does not have the shape.
            RequestFailed: it exceeds a limit, or the open requests of the connection do.
        """
        if self._excess is not None:
            raise RequestFailed(self._excess)
        if self._open_bytes + self._size > MAX_OPEN_BYTES:
            raise RequestFailed(f"The open requests are larger than {MAX_OPEN_BYTES // 1024**2} MiB together")
        return read(body, shape)

    def _start(self, serving: Coroutine[Any, Any, None]) -> None:
        """Start to serve the request that was received last."""
        size = self._size

        def release(_: asyncio.Task[None]) -> None:
            self._open_bytes -= size

        self._open_bytes += size
        self._tasks.create_task(serving).add_done_callback(release)

    async def _warn(self, kind: str, warning: str) -> None:
        """Warn the client about an invalid request, MAX_WARNINGS times at most; the request itself is not answered."""
        self._log(logging.INFO, "warned a client: %s", warning)
        self._warnings += 1
        if self._warnings <= MAX_WARNINGS:
            await self.send(Envelope("communicationWarning", body={"warning": warning, "kind": kind}))

    def _log(self, level: int, text: str, *values: object, **more: Any) -> None:
        """Log a problem of this connection, MAX_WARNINGS times for each level at most."""
        self._logged[level] += 1
        if self._logged[level] <= MAX_WARNINGS:
            _log.log(level, text, *values, **more)

    async def _call(self, envelope: Envelope) -> None:
        endpoint = self._namespace.calls.get(envelope.endpoint or "")
        name = quoted(envelope.endpoint)
        if endpoint is None:
            await self._warn("rpcEndpointUnknown", f"rpcCall for an unknown endpoint, endpoint = {name}")
            return
        try:
            parameter = self._read(envelope.body, endpoint.shape)
        except RequestFailed as excess:
            await self._fail("rpcError", envelope.id, excess)
            return
        except InvalidParameter as problem:
            warning = f"rpcCall with an invalid parameter, endpoint = {name}: {problem}"
            await self._warn("rpcParameterTypeError", warning)
            return
        if self._calls >= MAX_CALLS:
            await self._fail("rpcError", envelope.id, RequestFailed("Too many calls"))
            return
        self._calls += 1
        self._start(self._serve_call(envelope.id, endpoint, parameter))
        if self._calls >= MAX_CONCURRENT_CALLS:
            await asyncio.sleep(0)  # most calls are answered as soon as their task runs

    async def _serve_call(self, call_id: int, endpoint: CallEndpoint, parameter: JsonObject) -> None:
        async def serve() -> Envelope:
            async with self._call_slots:
                if self._namespace.domain:
                    await self._context.registry.wait_for_startup()
                return Envelope("rpcResult", call_id, body=await endpoint.serve(self._context, parameter))

        try:
            await self._complete(serve(), "rpcError", call_id)
        finally:
            self._calls -= 1

    async def _complete(self, serving: Coroutine[Any, Any, Envelope], failure: str, number: int) -> None:
        """Serve a call or a channel and send its last envelope; an exception does not affect the others."""
        try:
            try:
                await self.send(await serving)
            except RequestFailed as error:
                await self._fail(failure, number, error)
        except ConnectionClosed:
            pass
        except Exception:  # noqa: BLE001  a bug of the server or of an engine must not end the client's other requests
            self._log(logging.ERROR, "internal error of the server", exc_info=True)
            with suppress(ConnectionClosed):
                await self._fail(failure, number, internal_error())

    async def _fail(self, kind: str, number: int, error: RequestFailed) -> None:
        await self.send(Envelope(kind, number, body=error.serialized))

    async def _create_channel(self, envelope: Envelope) -> None:
        endpoint = self._namespace.channels.get(envelope.endpoint or "")
        if endpoint is None:
            warning = f"channelCreate for an unknown endpoint, endpoint = {quoted(envelope.endpoint)}"
            await self._warn("channelEndpointUnknown", warning)
        elif envelope.id in self._channels:
            await self._warn("channelAlreadyOpen", f"channelCreate for an open channel, channelId = {envelope.id}")
        elif len(self._channels) >= MAX_CHANNELS:
            await self._fail("channelError", envelope.id, RequestFailed("Too many channels"))
        else:
            await self._open_channel(envelope, endpoint)

    async def _open_channel(self, envelope: Envelope, endpoint: ChannelEndpoint) -> None:
        try:
            parameter = self._read(envelope.body, endpoint.shape)
        except RequestFailed as excess:
            await self._fail("channelError", envelope.id, excess)
            return
        except InvalidParameter as problem:
            name = quoted(envelope.endpoint)
            warning = f"channelCreate with an invalid creationParameter, endpoint = {name}: {problem}"
            await self._warn("channelCreationParameterTypeError", warning)
            return
        channel = self._channels[envelope.id] = Channel(envelope.id, endpoint, self.send)
        self._start(self._serve_channel(channel, parameter))

    async def _serve_channel(self, channel: Channel, parameter: JsonObject) -> None:
        """Serve a channel; its last envelope is a close or an error, never both."""

        async def serve() -> Envelope:
            try:
                await channel.endpoint.serve(self._context, channel, parameter)
            finally:
                del self._channels[channel.id]
            return Envelope("channelClose", channel.id)

        await self._complete(serve(), "channelError", channel.id)

    async def _receive_on_channel(self, envelope: Envelope) -> None:
        channel = self._channels.get(envelope.id)
        if channel is None:
            await self._warn("channelUnknown", f"channelSend for an unknown channel, channelId = {envelope.id}")
            return
        try:
            read(envelope.body, channel.endpoint.messages)
        except InvalidParameter as problem:
            warning = f"invalid message for a channel, channelId = {envelope.id}: {problem}"
            await self._warn("channelMessageTypeError", warning)
            return
        if channel.endpoint.messages is not None:
            channel.cancelled.set()  # a cancel is the only message that any shape permits

    async def _keep_alive(self, _: Envelope) -> None:
        await self.send(Envelope("keepAliveAck"))

    async def _subscribe(self, envelope: Envelope) -> None:
        kind = "signal" if envelope.type == "signalSubscribe" else "writableSignal"
        await self._warn(f"{kind}EndpointUnknown", f"unknown signal endpoint {quoted(envelope.endpoint)}")
