"""The server: one port, the greeting over HTTP, one WebSocket path for each namespace."""

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
from lmcli.server import catalog_endpoints as models
from lmcli.server import files, loading, prediction, system
from lmcli.server.dispatch import MAX_CREDENTIALS_BYTES, attend, can_raise_limit
from lmcli.server.endpoints import Context, Namespace
from lmcli.server.engine import Engine
from lmcli.server.identities import Identities, Identity
from lmcli.server.instances import Instances
from lmcli.server.model_instance import Instance
from lmcli.values import JsonObject

MAX_TEXT_BYTES: Final = 256 * 1024 * 1024
# How long a client may take to say goodbye when the server ends.
CLOSE_SECONDS: Final = 0.5
# Source: lmstudio-js 6ec11db, lms-communication-server/src/AuthenticatedWsServer.ts
AUTHENTICATION_SECONDS: Final = 10.0

NAMESPACES: Final[Mapping[str, Namespace]] = {
    "/llm": Namespace(
        "llm",
        {**models.CALLS, **models.LLM_ONLY_CALLS, **prediction.CALLS},
        {**loading.STREAMS, **prediction.STREAMS},
    ),
    "/embedding": Namespace("embedding", models.EMBEDDING_CALLS, loading.STREAMS),
    "/system": Namespace("", system.CALLS, system.STREAMS),
    "/files": Namespace("", files.CALLS, {}),
}
# Source: lmstudio-js 6ec11db, lms-client/src/LMStudioClient.ts and lms-common-server/src/findOrStartLlmster.ts
PAGES: Final[Mapping[str, JsonObject]] = {
    "/lmstudio-greeting": {"lmstudio": True},
    "/lms-status": {"package": system.PACKAGE, "version": __version__},
}


class _Quiet(logging.Filter):
    """Keeps out the tracebacks about strangers who do not speak WebSocket."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != "opening handshake failed"


_log: Final = logging.getLogger(__name__)
_socket_log: Final = logging.getLogger(f"{__name__}.sockets")
_socket_log.addFilter(_Quiet())
_socket_log.setLevel(logging.WARNING)
logging.getLogger("lmcli").addHandler(logging.NullHandler())


class Server:
    """A server with its engine, its loaded models and its clients.

    Args:
        engine: what answers.
        api_tokens: passkeys by identifier, of the API tokens that are admitted; None admits everybody.
        authentication_seconds: how long a client may take to say who it is.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        api_tokens: Mapping[str, str] | None = None,
        authentication_seconds: float = AUTHENTICATION_SECONDS,
    ) -> None:
        self._engine = engine
        self._instances = Instances()
        self._identities = Identities(api_tokens)
        self._authentication_seconds = authentication_seconds
        self._sockets: SocketServer | None = None
        self._attended: set[ServerConnection] = set()

    async def start(self, host: str, port: int) -> int:
        """Load what is there from the beginning, then listen; gives the port.

        Raises:
            OSError: the address cannot be listened on.
        """
        for model_info, model in await self._engine.start():
            identifier = self._instances.reserve(model_info, None)
            self._instances.add(Instance(model_info=model_info, model=model, identifier=identifier))
            self._instances.release(identifier)
        self._sockets = await serve(
            self._attend,
            host,
            port,
            process_request=answer_page,
            compression=None,
            # Who has not said who they are may not send much; `attend` is told the limit for the others.
            max_size=MAX_CREDENTIALS_BYTES if can_raise_limit() else MAX_TEXT_BYTES,
            # A client that reads slowly or sleeps is alive: its socket says when it is not, see `_keep_alive`.
            ping_interval=None,
            close_timeout=CLOSE_SECONDS,
            server_header=None,
            logger=_socket_log,
        )
        bound: int = next(iter(self._sockets.sockets)).getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, end all predictions, close all connections, unload all models."""
        if self._sockets is not None:
            self._sockets.close()
            await self._end_clients(self._sockets)
        await self._instances.close()

    async def _end_clients(self, listening: SocketServer) -> None:
        """Wait for all clients to leave; one that does not read does not even see the goodbye, and is cut off."""
        ended = asyncio.ensure_future(listening.wait_closed())
        await asyncio.wait((ended,), timeout=2 * CLOSE_SECONDS)
        for socket in self._attended:
            socket.transport.abort()
        await ended

    async def _attend(self, socket: ServerConnection) -> None:
        if socket.request is None:  # not without a handshake
            return
        path = _path(socket.request)
        _log.debug("a client on %s", path)
        _keep_alive(socket)
        self._attended.add(socket)
        try:
            await self._serve(socket, NAMESPACES[path])
        finally:
            self._attended.discard(socket)

    async def _serve(self, socket: ServerConnection, namespace: Namespace) -> None:
        def context(client: Identity) -> Context:
            return Context(domain=namespace.domain, engine=self._engine, instances=self._instances, client=client)

        await attend(
            socket,
            namespace,
            self._identities,
            context,
            authentication_seconds=self._authentication_seconds,
            most_bytes=MAX_TEXT_BYTES,
        )


def _keep_alive(socket: ServerConnection) -> None:
    """Have the system notice when a client's machine is gone: nothing else would."""
    connected = socket.transport.get_extra_info("socket")
    if connected is not None:
        connected.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)


def answer_page(connection: ServerConnection, request: Request) -> Response | None:
    """Answer plain HTTP; a namespace goes on to the WebSocket handshake, any other path is not there."""
    path = _path(request)
    if path in NAMESPACES:
        return None
    if path not in PAGES:
        return connection.respond(HTTPStatus.NOT_FOUND, "there is nothing here\n")
    response = connection.respond(HTTPStatus.OK, orjson.dumps(PAGES[path]).decode())
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response


def _path(request: Request) -> str:
    """The path, whatever the query.

    Source: lmstudio-js 6ec11db, lms-communication-server/src/WsServer.ts
    """
    return request.path.partition("?")[0]
