"""The sockets of the server: listening ones, which accept as many connections as the process can have, and theirs."""

import asyncio
import errno
import logging
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final, cast

from websockets.asyncio.server import ServerConnection
from websockets.http11 import Response
from websockets.protocol import State

from lmcli.server.plain_http import HttpRequest, InvalidRequest, read_head, respond

MAX_CONNECTIONS: Final = 1000
# The descriptors that are kept for everything else: models, subprocesses, the log.
RESERVED_DESCRIPTORS: Final = 32
MIN_CONNECTIONS: Final = 8
# The size of a read. Its frames are decoded at a stretch: of 64 KiB, that takes 30 ms if all of them are empty.
READ_BYTES: Final = 64 * 1024
# The pongs that wait for a client that sends pings and reads nothing.
MAX_PONG_BYTES: Final = 64 * 1024
# A lack of resources is logged once in this time.
REPORT_SECONDS: Final = 60.0
LACK_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log: Final = logging.getLogger(__name__)


class Connections(set["ServerSocket"]):
    """All connections of a server, from accepting to closing, and how many there may be.

    Attributes:
        accepted: their number; that of the members lags behind it for a turn of the event loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accepted = 0
        self.limit = max_connections()

    def check(self) -> None:
        """Check that one more may be accepted.

        Raises:
            OSError: there are too many.
        """
        if self.accepted >= self.limit:
            raise OSError(errno.EMFILE, f"there are {self.limit} connections")


def max_connections() -> int:
    """How many connections the server accepts: fewer than MAX_CONNECTIONS if the process cannot have so many."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, descriptors - RESERVED_DESCRIPTORS))


class ListeningSocket(socket.socket):
    """A listening socket that does not accept while the server has too many connections, or no descriptor is free.

    asyncio pauses for a second after an error that is in LACK_OF_RESOURCES, but first it tries to accept the rest of
    the backlog, with an error and a pause for each, which multiplies them. So the call after an error ends the backlog.
    """

    connections: Connections
    _has_failed = False
    _reported = -REPORT_SECONDS

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection.

        Raises:
            BlockingIOError: the backlog is empty, or to be taken for empty.
            OSError: no connection can be accepted now.
        """
        if self._has_failed:
            self._has_failed = False
            raise BlockingIOError
        try:
            self.connections.check()
            accepted = super().accept()
        except OSError as error:
            if error.errno in LACK_OF_RESOURCES:
                self._has_failed = True
                self._report(error)
            raise
        self.connections.accepted += 1
        return accepted

    def _report(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            self._reported = now
            _log.warning("new connections have to wait: %s", (error.strerror or str(error)).lower())


async def listen(host: str, port: int, connections: Connections) -> list[ListeningSocket]:
    """Listen on all addresses of a host, on one port; 0 picks a free one.

    Raises:
        OSError: an address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[ListeningSocket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            bound = (address[0], port, *address[2:])
            opened = socket.create_server(cast("Any", bound), family=family)
            listening.append(ListeningSocket(fileno=opened.detach()))
            listening[-1].connections = connections
            port = listening[0].getsockname()[1]
    except OSError:
        for opened in listening:
            opened.close()
        raise
    return listening


class ServerSocket(ServerConnection):
    """A connection: one HTTP request, which is answered, or a WebSocket handshake and what follows it.

    Args:
        connections: what it is a member of while it is open.
        answer: gives the response to a request, and None for a WebSocket handshake that is accepted.
    """

    def __init__(
        self,
        *arguments: Any,
        connections: Connections,
        answer: Callable[[HttpRequest], Response | None],
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._connections = connections
        self._answer = answer
        self._pong_bytes = 0
        # What was received of the request, until it is complete.
        self._received: bytes | None = b""
        self._is_answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare the socket: small reads, and TCP keepalive, which detects that a client's machine is gone."""
        cast("Any", transport).max_size = READ_BYTES
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Make room for another connection."""
        self._connections.accepted -= 1
        self._connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Process what was read; after the answer to a request it is dropped."""
        if self._received is not None:
            data = self._receive_request(self._received + data)
        if data and not self._is_answered:
            self._receive_frames(data)

    def _receive_request(self, received: bytes) -> bytes:
        """Answer a request when its head is complete; returns the bytes of a WebSocket, from the handshake on."""
        self._received = received
        try:
            request = read_head(received)
        except InvalidRequest as problem:
            self._respond(respond(problem.status, {"error": str(problem)}))
            return b""
        if request is None:
            return b""
        self._received = None
        response = self._answer(request)
        if response is None:
            return received
        self._respond(response)
        return b""

    def _respond(self, response: Response) -> None:
        """Send the only response of the connection, which the client closes then."""
        self._is_answered, self._received = True, None
        self.transport.write(response.serialize())
        with suppress(OSError):  # the client may have gone
            self.transport.write_eof()

    def _receive_frames(self, data: bytes) -> None:
        """Process bytes of a WebSocket; close the connection if too much of the answers to pings is not read.

        A handshake with invalid bytes after it is not answered: websockets would end the connection twice.
        """
        before = self.transport.get_write_buffer_size()
        super().data_received(data)
        if self.state is State.CONNECTING and self.request is not None and self.protocol.eof_sent:
            self.transport.abort()
        if self.paused:  # nothing else is written meanwhile
            self._pong_bytes += self.transport.get_write_buffer_size() - before
            if self._pong_bytes > MAX_PONG_BYTES:
                self.transport.abort()

    def eof_received(self) -> None:
        """End a connection whose client leaves before it is answered, which websockets would take for a bug."""
        if self._received:
            self._respond(respond(HTTPStatus.BAD_REQUEST, {"error": "The request is incomplete"}))
        if self._is_answered:
            return  # the transport sends what is left of the answer, and closes
        if self.state is State.CONNECTING:
            self.transport.abort()
        else:
            super().eof_received()

    def resume_writing(self) -> None:
        """Start again: what was written is read."""
        self._pong_bytes = 0
        super().resume_writing()
