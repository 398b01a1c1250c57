"""The server: one port, with the greeting over HTTP and a WebSocket path for each namespace."""

import asyncio
import logging
import socket as sockets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

import orjson
from websockets.asyncio.server import Server as SocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from lmcli import __version__
from lmcli.server import file_endpoints, model_endpoints, prediction_endpoints, system_endpoints
from lmcli.server.authentication import Authenticator, ConnectedClient
from lmcli.server.dispatch import MAX_CREDENTIALS_BYTES, can_raise_limit, serve_connection
from lmcli.server.endpoints import Context, Namespace
from lmcli.server.engine import Engine
from lmcli.server.model_instance import Instance
from lmcli.server.registry import ModelRegistry
from lmcli.values import JsonObject

MAX_TEXT_BYTES: Final = 256 * 1024 * 1024
# How long to wait for a client's close frame when the server closes.
CLOSE_SECONDS: Final = 0.5
# Source: lmstudio-js 6ec11db, lms-communication-server/src/AuthenticatedWsServer.ts
AUTHENTICATION_SECONDS: Final = 10.0

NAMESPACES: Final[Mapping[str, Namespace]] = {
    "/llm": Namespace(
        "llm",
        {**model_endpoints.LLM_CALLS, **prediction_endpoints.CALLS},
        {**model_endpoints.CHANNELS, **prediction_endpoints.CHANNELS},
    ),
    "/embedding": Namespace("embedding", model_endpoints.EMBEDDING_CALLS, model_endpoints.CHANNELS),
    "/system": Namespace("", system_endpoints.CALLS, system_endpoints.CHANNELS),
    "/files": Namespace("", file_endpoints.CALLS, {}),
}
# Source: lmstudio-js 6ec11db, lms-client/src/LMStudioClient.ts and lms-common-server/src/findOrStartLlmster.ts
PAGES: Final[Mapping[str, JsonObject]] = {
    "/lmstudio-greeting": {"lmstudio": True},
    "/lms-status": {"package": system_endpoints.PACKAGE, "version": __version__},
}


class _HandshakeFilter(logging.Filter):
    """Drops the tracebacks of connections that are not WebSocket handshakes."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "opening handshake failed"


_log: Final = logging.getLogger(__name__)
_socket_log: Final = logging.getLogger(f"{__name__}.sockets")
_socket_log.addFilter(_HandshakeFilter())
_socket_log.setLevel(logging.WARNING)
logging.getLogger("lmcli").addHandler(logging.NullHandler())


class Server:
    """A server with its engine, its loaded models and its clients.

    Args:
        engine: provides the models.
        api_tokens: passkeys by identifier, of the accepted API tokens; None accepts all clients.
        authentication_seconds: how long to wait for a client's credentials.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        api_tokens: Mapping[str, str] | None = None,
        authentication_seconds: float = AUTHENTICATION_SECONDS,
    ) -> None:
        self._engine = engine
        self._registry = ModelRegistry()
        self._authenticator = Authenticator(api_tokens)
        self._authentication_seconds = authentication_seconds
        self._sockets: SocketServer | None = None
        self._connections: set[ServerConnection] = set()

    async def start(self, host: str, port: int) -> int:
        """Load the models that the engine has at startup, then listen; returns the port.

        Raises:
            OSError: the address cannot be listened on.
        """
        for model_info, model in await self._engine.start():
            identifier = self._registry.reserve(model_info, None)
            self._registry.add(Instance(model_info=model_info, model=model, identifier=identifier))
            self._registry.release(identifier)
        self._sockets = await serve(
            self._handle,
            host,
            port,
            process_request=answer_page,
            compression=None,
            # The limit before the authentication, which raises it.
            max_size=MAX_CREDENTIALS_BYTES if can_raise_limit() else MAX_TEXT_BYTES,
            # A client that is slow or suspended is not disconnected; TCP keepalive detects the others.
            ping_interval=None,
            close_timeout=CLOSE_SECONDS,
            server_header=None,
            logger=_socket_log,
        )
        bound: int = next(iter(self._sockets.sockets)).getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, close all connections, which cancels their predictions, and unload all models."""
        if self._sockets is not None:
            self._sockets.close()
            await self._wait_closed(self._sockets)
        await self._registry.close()

    async def _wait_closed(self, listening: SocketServer) -> None:
        """Wait for all connections to close, and abort those whose clients do not read the close frame."""
        closed = asyncio.ensure_future(listening.wait_closed())
        await asyncio.wait((closed,), timeout=2 * CLOSE_SECONDS)
        for socket in self._connections:
            socket.transport.abort()
        await closed

    async def _handle(self, socket: ServerConnection) -> None:
        if socket.request is None:  # never the case after the handshake
            return
        path = _path(socket.request)
        _log.debug("connection to %s", path)
        _enable_keepalive(socket)
        self._connections.add(socket)
        try:
            await self._serve(socket, NAMESPACES[path])
        finally:
            self._connections.discard(socket)

    async def _serve(self, socket: ServerConnection, namespace: Namespace) -> None:
        def context(client: ConnectedClient) -> Context:
            return Context(domain=namespace.domain, engine=self._engine, registry=self._registry, client=client)

        await serve_connection(
            socket,
            namespace,
            self._authenticator,
            context,
            authentication_seconds=self._authentication_seconds,
            max_bytes=MAX_TEXT_BYTES,
        )


def _enable_keepalive(socket: ServerConnection) -> None:
    """Enable TCP keepalive, which detects that a client's machine is gone."""
    connected = socket.transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)


def answer_page(connection: ServerConnection, request: Request) -> Response | None:
    """Answer HTTP requests; None continues with the WebSocket handshake, for the path of a namespace."""
    path = _path(request)
    if path in NAMESPACES:
        return None
    if path not in PAGES:
        return connection.respond(HTTPStatus.NOT_FOUND, "not found\n")
    response = connection.respond(HTTPStatus.OK, orjson.dumps(PAGES[path]).decode())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response


def _path(request: Request) -> str:
    """The path without the query.

    Source: lmstudio-js 6ec11db, lms-communication-server/src/WsServer.ts
    """
    return request.path.partition("?")[0]
