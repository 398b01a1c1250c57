"""The server: one port, with the greeting over HTTP and a WebSocket path for each namespace."""

import asyncio
import logging
import socket as sockets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Response
from websockets.protocol import State

from lmcli import __version__
from lmcli.errors import quoted
from lmcli.server import file_endpoints, model_endpoints, prediction_endpoints, system_endpoints
from lmcli.server.access import AccessPolicy, cors_headers, read_origin
from lmcli.server.authentication import Authenticator, ConnectedClient
from lmcli.server.dispatch import MAX_CREDENTIALS_BYTES, can_raise_limit, serve_connection
from lmcli.server.endpoints import Context, Namespace
from lmcli.server.engine import Engine
from lmcli.server.limits import MAX_TEXT_BYTES
from lmcli.server.model_instance import Instance
from lmcli.server.model_load import LoadParameters, ModelLoad
from lmcli.server.plain_http import HttpRequest, respond
from lmcli.server.registry import ModelRegistry
from lmcli.server.sockets import LACK_OF_RESOURCES, Connections, ListeningSocket, ServerSocket, listen
from lmcli.values import JsonObject, ModelInfo
from lmcli.wire.protocol import API_PORTS

LOOPBACK: Final = "127.0.0.1"
# How long to wait for a client's close frame when the server closes.
CLOSE_SECONDS: Final = 0.5
# Source: lmstudio-js 6ec11db, lms-communication-server/src/AuthenticatedWsServer.ts
AUTHENTICATION_SECONDS: Final = 10.0
# Clients choose what is refused, so the number of the reasons that are logged is bounded.
MAX_LOGGED_REFUSALS: Final = 100

_EMPTY: Final = Namespace("", {}, {})
# All the paths to which official clients connect. Source: lmstudio-js 6ec11db, lms-client/src/LMStudioClient.ts
NAMESPACES: Final[Mapping[str, Namespace]] = {
    "/llm": Namespace(
        "llm",
        {**model_endpoints.LLM_CALLS, **prediction_endpoints.CALLS},
        {**model_endpoints.CHANNELS, **prediction_endpoints.CHANNELS},
    ),
    "/embedding": Namespace("embedding", model_endpoints.EMBEDDING_CALLS, model_endpoints.CHANNELS),
    "/system": Namespace("", system_endpoints.CALLS, system_endpoints.CHANNELS),
    "/files": Namespace("", file_endpoints.CALLS, {}),
    "/diagnostics": _EMPTY,
    "/repository": _EMPTY,
    "/plugins": _EMPTY,
    "/runtime": _EMPTY,
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
        allowed_origins: the web sites whose pages may connect, such as `https://example.com`.
        preload: the model to load at the start, while clients connect already.
        authentication_seconds: how long to wait for a client's HTTP request, and then for its credentials.

    Attributes:
        startup: the load of the model to preload, once the server has started.

    Raises:
        ValueError: an origin has another form.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        api_tokens: Mapping[str, str] | None = None,
        allowed_origins: Sequence[str] = (),
        preload: ModelInfo | None = None,
        authentication_seconds: float = AUTHENTICATION_SECONDS,
    ) -> None:
        self._engine = engine
        self._preload = preload
        self.startup: ModelLoad | None = None
        self._registry = ModelRegistry()
        self._authenticator = Authenticator(api_tokens)
        self._origins = [read_origin(origin) for origin in allowed_origins]
        self._access = AccessPolicy(())
        self._authentication_seconds = authentication_seconds
        self._listeners: list[Listener] = []
        self._connections = Connections()
        self._refused: set[str] = set()

    async def start(self, host: str, port: int) -> int:
        """Load the models that the engine has at startup, then listen; returns the port.

        Raises:
            OSError: the address cannot be listened on.
        """
        asyncio.get_running_loop().set_exception_handler(self._report)
        for model_info, model in await self._engine.start():
            identifier = self._registry.reserve(model_info, None)
            self._registry.add(Instance(model_info=model_info, model=model, identifier=identifier))
            self._registry.release(identifier)
        self._access = AccessPolicy((host, sockets.gethostname()), self._origins)
        listening = await listen(host, port, self._connections)
        if self._preload is not None:
            self.startup = self._registry.load_at_startup(LoadParameters(self._engine, self._preload, {}, None))
        self._listeners = [await self._listen(socket) for socket in listening]
        bound: int = listening[0].getsockname()[1]
        return bound

    async def listen_for_discovery(self) -> int | None:
        """Listen on the first free one of the ports where clients look, too; None if there is none.

        They look on the loopback interface only.
        """
        for port in API_PORTS:
            with suppress(OSError):
                listening = await listen(LOOPBACK, port, self._connections)
                self._listeners += [await self._listen(socket) for socket in listening]
                return port
        return None

    async def close(self) -> None:
        """Stop listening, close all connections, which cancels their predictions, and unload all models."""
        for listener in self._listeners:
            listener.close()
        for socket in self._connections:
            if socket.state is State.CONNECTING:
                socket.transport.abort()
        if self._listeners:
            await self._wait_closed()
        await self._registry.close()

    async def _listen(self, socket: ListeningSocket) -> Listener:
        return await serve(
            self._handle,
            sock=socket,
            create_connection=cast("Any", partial(ServerSocket, connections=self._connections, answer=self._answer)),
            compression=None,
            open_timeout=self._authentication_seconds,
            # The limit before the authentication, which raises it.
            max_size=MAX_CREDENTIALS_BYTES if can_raise_limit() else MAX_TEXT_BYTES,
            # A client that is slow or suspended is not disconnected; TCP keepalive detects the others.
            ping_interval=None,
            close_timeout=CLOSE_SECONDS,
            server_header=None,
            logger=_socket_log,
        )

    async def _wait_closed(self) -> None:
        """Wait for all connections to close, and abort those whose clients do not read the close frame."""
        closed = asyncio.gather(*(listener.wait_closed() for listener in self._listeners))
        await asyncio.wait((closed,), timeout=2 * CLOSE_SECONDS)
        for socket in self._connections:
            socket.transport.abort()
        await closed

    def _report(self, _: asyncio.AbstractEventLoop, problem: Mapping[str, Any]) -> None:
        """Log an exception that no code handles, which the event loop would write to stderr itself."""
        error = problem.get("exception")
        if not (isinstance(error, OSError) and error.errno in LACK_OF_RESOURCES):  # reported by the listening socket
            _log.error("%s", problem["message"], exc_info=error)

    async def _handle(self, socket: ServerConnection) -> None:
        if socket.request is None:  # never the case after the handshake
            return
        path = socket.request.path.partition("?")[0]
        _log.debug("connection to %s", path)
        namespace = NAMESPACES[path]

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

    def _answer(self, request: HttpRequest) -> Response | None:
        """Answer a request; None for a WebSocket handshake for the path of a namespace."""
        refusal = self._access.refusal(request.headers)
        if refusal is not None:
            self._log_once(f"refused a request: {refusal} is not allowed")
            return respond(HTTPStatus.FORBIDDEN, {"error": f"{refusal} is not allowed"})
        if request.is_handshake and request.path in NAMESPACES:
            return None
        response = respond(HTTPStatus.OK, self._page(request))
        response.headers.update(cors_headers(request.headers))
        if request.method == "HEAD":
            response.body = b""
        return response

    def _page(self, request: HttpRequest) -> JsonObject:
        """What is answered outside of WebSockets, in LM Studio's words where there is nothing."""
        page = PAGES.get(request.path) if request.method in ("GET", "HEAD") else None
        if page is not None:
            return page
        endpoint = f"{request.method} {request.target}"
        self._log_once(f"unexpected endpoint or method: {quoted(endpoint)}")
        return {"error": f"Unexpected endpoint or method. ({endpoint})"}

    def _log_once(self, text: str) -> None:
        """Log why a request is not answered as it is meant, once and MAX_LOGGED_REFUSALS of them at most."""
        if text not in self._refused and len(self._refused) < MAX_LOGGED_REFUSALS:
            self._refused.add(text)
            _log.warning("%s", text)
