"""The server: one port, the greeting over HTTP, one WebSocket path for each namespace."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.server import Server as SocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from lmcli import __version__
from lmcli.server import files, loading, models, prediction, system
from lmcli.server.connection import attend
from lmcli.server.endpoints import Context, Namespace
from lmcli.server.engine import Engine
from lmcli.server.identities import Identities, Identity
from lmcli.server.instances import Instance, Instances
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
            max_size=MAX_TEXT_BYTES,
            # A client that reads slowly or sleeps is alive: its socket says when it is not.
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
            await self._sockets.wait_closed()
        for instance in self._instances:
            await self._instances.unload(instance)

    async def _attend(self, socket: ServerConnection) -> None:
        if socket.request is None:  # not without a handshake
            return
        path = _path(socket.request)
        namespace = NAMESPACES[path]
        _log.debug("a client on %s", path)

        def context(client: Identity) -> Context:
            return Context(domain=namespace.domain, engine=self._engine, instances=self._instances, client=client)

        seconds = self._authentication_seconds
        await attend(socket, namespace, self._identities, context, authentication_seconds=seconds)


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
    return urlsplit(request.path).path
