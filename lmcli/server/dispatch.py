"""One connection to one namespace: authentication, then envelopes, until the client leaves.

What a client sends is taken with patience: what is no envelope is passed over, what asks for something that does not
exist gets a warning and no answer.
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
from websockets.server import ServerProtocol

from lmcli.errors import RemoteProtocolError, quoted
from lmcli.server.endpoints import Call, Context, Namespace, Stream, read
from lmcli.server.engine import off_loop
from lmcli.server.failures import Malformed, NotAdmitted, Refused, internal_error
from lmcli.server.identities import Credentials, Identities, Identity, read_credentials
from lmcli.values import JsonObject
from lmcli.wire.envelopes import ABSENT, Envelope, encode, from_object, loads

MAX_WARNINGS: Final = 5
MAX_CALLS_AT_ONCE: Final = 64
MAX_CALLS: Final = 1024
MAX_CHANNELS: Final = 1024
# No credentials are longer, however their characters are escaped.
MAX_CREDENTIALS_BYTES: Final = 4096
# After so many texts the event loop gets its turn, so that a cancel is seen in a flood and nobody else starves.
TEXTS_PER_TURN: Final = 32

_log: Final = logging.getLogger(__name__)
# Where websockets keeps the limit for the texts that come in; the name is not the same in all releases.
_LIMIT: Final = next((name for name in ("max_message_size", "max_size") if hasattr(ServerProtocol(), name)), None)


def can_raise_limit() -> bool:
    """Whether websockets takes a small limit for the authentication and a large one for what follows."""
    return _LIMIT is not None


def _raise_limit(socket: ServerConnection, most_bytes: int) -> None:
    if _LIMIT is not None:
        setattr(socket.protocol, _LIMIT, most_bytes)


async def authenticate(socket: ServerConnection, seconds: float) -> Credentials:
    """Wait for the client's credentials; texts that are none are passed over.

    Raises:
        NotAdmitted: none came in time, or something that is too large to be any.
        ConnectionClosed: the client left.
    """
    try:
        async with asyncio.timeout(seconds):
            while True:
                text = await socket.recv()
                if len(text) > MAX_CREDENTIALS_BYTES:  # for a websockets that takes one limit only
                    raise NotAdmitted("This is too large for an authentication")
                credentials = read_credentials(_json(text))
                if credentials is not None:
                    return credentials
    except TimeoutError as error:
        raise NotAdmitted(f"No authentication within {seconds:g} seconds") from error


async def attend(
    socket: ServerConnection,
    namespace: Namespace,
    identities: Identities,
    context: Callable[[Identity], Context],
    *,
    authentication_seconds: float,
    most_bytes: int,
) -> None:
    """Serve a connection from its first text to its end.

    Args:
        socket: the connection.
        namespace: what can be asked for on it.
        identities: who is there.
        context: makes the Context for an Identity.
        authentication_seconds: how long the client may take to say who it is.
        most_bytes: how large a text may be once the client is let in.
    """
    try:
        with identities.admit(await authenticate(socket, authentication_seconds)) as client:
            _raise_limit(socket, most_bytes)
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
        self._calls = 0
        self._turns = asyncio.Semaphore(MAX_CALLS_AT_ONCE)
        self._tasks = asyncio.TaskGroup()
        self._warnings = 0
        self._remarks: Counter[int] = Counter()
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
            envelope = from_object(ABSENT if isinstance(text, bytes) else await off_loop(_json, text))
        except RemoteProtocolError:
            self._remark(logging.DEBUG, "passed over what is no envelope: %s", quoted(text[:61], limit=60))
            return
        handle = self._handlers.get(envelope.type)
        if handle is not None:
            await handle(envelope)

    async def _warn(self, kind: str, warning: str) -> None:
        """Tell the client that it broke the rules; the request itself gets no answer, and a repeated sinner none."""
        self._remark(logging.INFO, "warned a client: %s", warning)
        self._warnings += 1
        if self._warnings <= MAX_WARNINGS:
            await self.send(Envelope("communicationWarning", body={"warning": warning, "kind": kind}))

    def _remark(self, level: int, text: str, *values: object, **more: Any) -> None:
        """Log what goes wrong on this connection, of each level no more often than the client is warned."""
        self._remarks[level] += 1
        if self._remarks[level] <= MAX_WARNINGS:
            _log.log(level, text, *values, **more)

    async def _call(self, envelope: Envelope) -> None:
        endpoint = self._namespace.calls.get(envelope.endpoint or "")
        if endpoint is None:
            await self._warn(
                "rpcEndpointUnknown", f"rpcCall for an unknown endpoint, endpoint = {quoted(envelope.endpoint)}"
            )
            return
        try:
            parameter = read(envelope.body, endpoint.shape)
        except Malformed as problem:
            name = quoted(envelope.endpoint)
            await self._warn(
                "rpcParameterTypeError", f"rpcCall with an invalid parameter, endpoint = {name}: {problem}"
            )
            return
        if self._calls >= MAX_CALLS:
            await self._fail("rpcError", envelope.id, Refused("Too many calls"))
            return
        self._calls += 1
        self._tasks.create_task(self._answer(envelope.id, endpoint, parameter))
        if self._calls >= MAX_CALLS_AT_ONCE:
            await asyncio.sleep(0)  # most calls are answered at once when they get their turn

    async def _answer(self, call_id: int, endpoint: Call, parameter: JsonObject) -> None:
        async def serve() -> Envelope:
            async with self._turns:
                return Envelope("rpcResult", call_id, body=await endpoint.serve(self._context, parameter))

        try:
            await self._conclude(serve(), "rpcError", call_id)
        finally:
            self._calls -= 1

    async def _conclude(self, serving: Coroutine[Any, Any, Envelope], failure: str, number: int) -> None:
        """Serve a call or a channel and send its last envelope; whatever happens to it, the others go on."""
        try:
            try:
                await self.send(await serving)
            except Refused as refusal:
                await self._fail(failure, number, refusal)
        except ConnectionClosed:
            pass
        except Exception:  # noqa: BLE001  our own bug, or an engine's: it must not end what else the client does here
            self._remark(logging.ERROR, "internal error of the server", exc_info=True)
            with suppress(ConnectionClosed):
                await self._fail(failure, number, internal_error())

    async def _fail(self, kind: str, number: int, refusal: Refused) -> None:
        await self.send(Envelope(kind, number, body=refusal.serialized))

    async def _open(self, envelope: Envelope) -> None:
        endpoint = self._namespace.streams.get(envelope.endpoint or "")
        if endpoint is None:
            await self._warn(
                "channelEndpointUnknown",
                f"channelCreate for an unknown endpoint, endpoint = {quoted(envelope.endpoint)}",
            )
        elif envelope.id in self._channels:
            await self._warn("channelAlreadyOpen", f"channelCreate for an open channel, channelId = {envelope.id}")
        elif len(self._channels) >= MAX_CHANNELS:
            await self._fail("channelError", envelope.id, Refused("Too many channels"))
        else:
            await self._begin(envelope, endpoint)

    async def _begin(self, envelope: Envelope, endpoint: Stream) -> None:
        try:
            parameter = read(envelope.body, endpoint.shape)
        except Malformed as problem:
            name = quoted(envelope.endpoint)
            warning = f"channelCreate with an invalid creationParameter, endpoint = {name}: {problem}"
            await self._warn("channelCreationParameterTypeError", warning)
            return
        channel = self._channels[envelope.id] = OpenChannel(self, envelope.id, endpoint)
        self._tasks.create_task(self._serve(channel, parameter))

    async def _serve(self, channel: "OpenChannel", parameter: JsonObject) -> None:
        """Serve a channel; its last envelope is a close or an error, never both."""

        async def serve() -> Envelope:
            try:
                await channel.endpoint.serve(self._context, channel, parameter)
            finally:
                del self._channels[channel.id]
            return Envelope("channelClose", channel.id)

        await self._conclude(serve(), "channelError", channel.id)

    async def _message(self, envelope: Envelope) -> None:
        channel = self._channels.get(envelope.id)
        if channel is None:
            await self._warn("channelUnknown", f"channelSend for an unknown channel, channelId = {envelope.id}")
            return
        try:
            read(envelope.body, channel.endpoint.messages)
        except Malformed as problem:
            await self._warn(
                "channelMessageTypeError", f"invalid message for a channel, channelId = {envelope.id}: {problem}"
            )
            return
        channel.cancelled.set()  # the only message there is

    async def _keep_alive(self, _: Envelope) -> None:
        await self.send(Envelope("keepAliveAck"))

    async def _subscribe(self, envelope: Envelope) -> None:
        kind = "signal" if envelope.type == "signalSubscribe" else "writableSignal"
        await self._warn(f"{kind}EndpointUnknown", f"unknown signal endpoint {quoted(envelope.endpoint)}")


class OpenChannel:
    """A channel that has not ended."""

    def __init__(self, connection: Connection, channel_id: int, endpoint: Stream) -> None:
        self._connection = connection
        self.id = channel_id
        self.endpoint = endpoint
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
