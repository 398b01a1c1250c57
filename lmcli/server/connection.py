"""One connection to one namespace: authentication, then envelopes, until the client leaves.

What a client sends is taken with patience: what is no envelope is passed over, what asks for something that does not
exist gets a warning and no answer.
Source: lmstudio-js 6ec11db, lms-communication-server/src/ServerPort.ts and AuthenticatedWsServer.ts
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from lmcli.client.envelopes import ABSENT, Envelope, encode, from_object, loads
from lmcli.errors import RemoteProtocolError, quoted
from lmcli.server.endpoints import Context, Namespace, Stream
from lmcli.server.failures import Malformed, NotAdmitted, Refused
from lmcli.server.identities import Credentials, Identities, Identity, read_credentials
from lmcli.server.parameters import read
from lmcli.values import JsonObject

MAX_WARNINGS: Final = 5
MAX_CALLS_AT_ONCE: Final = 64
# After so many texts the event loop gets its turn, so that a cancel is seen in a flood and nobody else starves.
TEXTS_PER_TURN: Final = 32

_log: Final = logging.getLogger(__name__)


async def authenticate(socket: ServerConnection, seconds: float) -> Credentials:
    """Wait for the client's credentials; texts that are none are passed over.

    Raises:
        NotAdmitted: none came in time.
        ConnectionClosed: the client left.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                credentials = read_credentials(_json(await socket.recv()))
                if credentials is not None:
                    return credentials
                _log.debug("passed over what is no authentication")
    except TimeoutError as error:
        raise NotAdmitted(f"No authentication within {seconds:g} seconds") from error


async def attend(
    socket: ServerConnection,
    namespace: Namespace,
    identities: Identities,
    context: Callable[[Identity], Context],
    *,
    authentication_seconds: float,
) -> None:
    """Serve a connection from its first text to its end; `context` makes the Context for an Identity."""
    try:
        with identities.admit(await authenticate(socket, authentication_seconds)) as client:
            await socket.send(b'{"success":true}', text=True)
            await Connection(socket, namespace, context(client)).run()
    except NotAdmitted as refusal:
        _log.info("refused a client: %s", refusal)
        with suppress(ConnectionClosed):
            await socket.send(orjson.dumps({"success": False, "error": str(refusal)}), text=True)
    except ConnectionClosed:
        pass


class Connection:
    """A connection whose client is let in."""

    def __init__(self, socket: ServerConnection, namespace: Namespace, context: Context) -> None:
        self._socket = socket
        self._namespace = namespace
        self._context = context
        self._channels: dict[int, OpenChannel] = {}
        self._calls = asyncio.Semaphore(MAX_CALLS_AT_ONCE)
        self._tasks = asyncio.TaskGroup()
        self._warnings = 0
        self._texts = 0
        self._handlers: Mapping[str, Callable[[Envelope], Awaitable[None]]] = {
            "rpcCall": self._call,
            "channelCreate": self._open,
            "channelSend": self._message,
            "keepAlive": self._keep_alive,
            "signalSubscribe": self._subscribe,
            "writableSignalSubscribe": self._subscribe,
        }

    async def run(self) -> None:
        """Receive until the client leaves, then end what it had begun."""
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
        """Send an envelope; returns when the client's side can take more.

        Raises:
            ConnectionClosed: the client left.
        """
        await self._socket.send(encode(envelope), text=True)
        self._texts += 1
        if self._texts % TEXTS_PER_TURN == 0:
            await asyncio.sleep(0)

    async def _receive(self, text: str | bytes) -> None:
        try:
            envelope = from_object(_json(text))
        except RemoteProtocolError:
            _log.debug("passed over what is no envelope: %s", quoted(text, limit=60))
            return
        handle = self._handlers.get(envelope.type)
        if handle is not None:
            await handle(envelope)

    async def _warn(self, kind: str, warning: str) -> None:
        """Tell the client that it broke the rules; the request itself gets no answer, and a repeated sinner none."""
        _log.info("warned a client: %s", warning)
        self._warnings += 1
        if self._warnings <= MAX_WARNINGS:
            await self.send(Envelope("communicationWarning", body={"warning": warning, "kind": kind}))

    async def _call(self, envelope: Envelope) -> None:
        endpoint = self._namespace.calls.get(envelope.endpoint or "")
        if endpoint is None:
            await self._warn("rpcEndpointUnknown", f"unknown RPC endpoint {quoted(envelope.endpoint)}")
            return
        try:
            parameter = read(envelope.body, endpoint.shape)
        except Malformed as problem:
            await self._warn("rpcParameterTypeError", f"RPC endpoint {quoted(envelope.endpoint)}: {problem}")
            return
        await self._calls.acquire()
        task = self._tasks.create_task(self._answer(envelope.id, endpoint.serve(self._context, parameter)))
        task.add_done_callback(lambda _: self._calls.release())

    async def _answer(self, call_id: int, serving: Awaitable[Any]) -> None:
        try:
            answer = Envelope("rpcResult", call_id, body=await serving)
        except Refused as refusal:
            answer = Envelope("rpcError", call_id, body=refusal.serialized)
        with suppress(ConnectionClosed):
            await self.send(answer)

    async def _open(self, envelope: Envelope) -> None:
        stream = self._namespace.streams.get(envelope.endpoint or "")
        if stream is None:
            await self._warn("channelEndpointUnknown", f"unknown channel endpoint {quoted(envelope.endpoint)}")
        elif envelope.id in self._channels:
            await self._warn("channelAlreadyOpen", f"channel {envelope.id} is already open")
        else:
            await self._open_stream(envelope, stream)

    async def _open_stream(self, envelope: Envelope, stream: Stream) -> None:
        try:
            parameter = read(envelope.body, stream.shape)
        except Malformed as problem:
            name = quoted(envelope.endpoint)
            await self._warn("channelCreationParameterTypeError", f"channel endpoint {name}: {problem}")
            return
        channel = self._channels[envelope.id] = OpenChannel(self, envelope.id, stream)
        self._tasks.create_task(self._stream(channel, parameter))

    async def _stream(self, channel: "OpenChannel", parameter: JsonObject) -> None:
        """Serve a channel; its last envelope is a close or an error, never both."""
        try:
            try:
                await channel.stream.serve(self._context, channel, parameter)
                end = Envelope("channelClose", channel.id)
            except Refused as refusal:
                end = Envelope("channelError", channel.id, body=refusal.serialized)
            finally:
                del self._channels[channel.id]
            await self.send(end)
        except ConnectionClosed:
            pass

    async def _message(self, envelope: Envelope) -> None:
        channel = self._channels.get(envelope.id)
        if channel is None:
            await self._warn("channelUnknown", f"there is no open channel {envelope.id}")
            return
        try:
            read(envelope.body, channel.stream.messages)
        except Malformed as problem:
            await self._warn("channelMessageTypeError", f"message for channel {envelope.id}: {problem}")
            return
        channel.cancelled.set()  # the only message there is

    async def _keep_alive(self, _: Envelope) -> None:
        await self.send(Envelope("keepAliveAck"))

    async def _subscribe(self, envelope: Envelope) -> None:
        kind = "signal" if envelope.type == "signalSubscribe" else "writableSignal"
        await self._warn(f"{kind}EndpointUnknown", f"unknown signal endpoint {quoted(envelope.endpoint)}")


class OpenChannel:
    """A channel that has not ended."""

    def __init__(self, connection: Connection, channel_id: int, stream: Stream) -> None:
        self._connection = connection
        self.id = channel_id
        self.stream = stream
        self.cancelled = asyncio.Event()

    async def send(self, packet: JsonObject) -> None:
        """Send a packet; returns when the client's side can take more."""
        try:
            await self._connection.send(Envelope("channelSend", self.id, body=packet))
        except ConnectionClosed:
            self.cancelled.set()  # an engine's thread sees it before the connection's own end is noticed
            raise


def _json(text: str | bytes) -> Any:
    """Read JSON from a text; what is none, or no text, is nothing."""
    if isinstance(text, bytes):
        return ABSENT
    try:
        return loads(text)
    except RemoteProtocolError:
        return ABSENT
