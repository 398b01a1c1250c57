"""What goes wrong between a client and a server, over real loopback sockets.

`Proxy` stands in front of a real server and damages what it sends; `ScriptedServer` sends exactly what a test wants.
Both are context managers with a `port`; leaving the block ends their threads and raises what failed in them.
"""

import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import Any, BinaryIO, Self

from conftest import PATIENCE
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from lmcli.client.address import Address

HOST = "127.0.0.1"


class Left(Exception):
    """The other side is gone."""


class Listener:
    """Accepts connections on a free port and attends to each on a thread of its own.

    Args:
        attend: what to do with a connection; it is closed afterwards.
    """

    def __init__(self, attend: Callable[[socket.socket], None]) -> None:
        self._attend = attend
        self._listener = socket.create_server((HOST, 0))
        self._sockets: list[socket.socket] = []
        self._failures: list[BaseException] = []
        self._is_closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def address(self) -> Address:
        """Where it listens, as the client has it."""
        return Address(HOST, self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        socket.create_connection((HOST, self.port)).close()  # wakes the thread that accepts
        self._threads[0].join()
        self._listener.close()
        for connection in self._sockets:
            _end(connection)
        for thread in self._threads:
            thread.join()
        if error is None and self._failures:
            raise self._failures[0]

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._is_closing:
                connection.close()
                return
            connection.settimeout(PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(connection)
            self._threads.append(threading.Thread(target=self._guarded, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _guarded(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._attend(connection)
                _end(connection)
        except TimeoutError as failure:
            self._failures.append(failure)
        except (OSError, Left):  # the client is free to leave
            pass
        except BaseException as failure:  # noqa: BLE001  it is raised where the test can see it
            self._failures.append(failure)


class Peer:
    """The server's end of one connection, after the handshake."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.protocol = ServerProtocol(max_size=None)
        self._events: deque[Any] = deque()
        request = self._event()
        assert isinstance(request, Request)
        self.path = request.path
        self.upgrade(request)

    def upgrade(self, request: Request) -> None:
        """Answer the request for a WebSocket."""
        self.protocol.send_response(self.protocol.accept(request))
        self.flush()

    def frame(self) -> Frame:
        """The next frame of the client, of whatever kind.

        Raises:
            Left: the client closed the connection.
        """
        frame = self._event()
        assert isinstance(frame, Frame)
        return frame

    def receive(self) -> Any:
        """The next text of the client, decoded; what else it sends is passed over.

        Raises:
            Left: the client sent a close frame, or closed the connection.
        """
        text = b""
        while (frame := self.frame()).opcode is not Opcode.CLOSE:
            if frame.opcode in (Opcode.TEXT, Opcode.CONT):
                text += bytes(frame.data)
                if frame.fin:
                    return json.loads(text)
        raise Left

    def greet(self) -> Any:
        """Accept the authentication, whatever it is; gives the credentials."""
        credentials = self.receive()
        self.send({"success": True})
        return credentials

    def send(self, *values: Any) -> None:
        """Send values as JSON, each as one text, all in one write; bytes go as they are.

        Raises:
            Left: the client has sent a close frame; it may have come together with what `receive` gave.
        """
        if self.protocol.close_rcvd is not None:
            raise Left
        for value in values:
            self.protocol.send_text(value if isinstance(value, bytes) else json.dumps(value).encode())
        self.flush()

    def flush(self) -> None:
        """Write what `protocol` has to send."""
        self.socket.sendall(b"".join(self.protocol.data_to_send()))

    def close(self, reason: str = "") -> None:
        """Send a close frame."""
        self.protocol.send_close(1001, reason)
        self.flush()

    def reset(self) -> None:
        """End the connection with RST."""
        reset(self.socket)
        raise Left

    def wait_until_left(self) -> None:
        """Take in what the client sends until it leaves."""
        while True:
            self.frame()

    def _event(self) -> Any:
        while not self._events:
            data = self.socket.recv(65536)
            if not data:
                raise Left
            self.protocol.receive_data(data)
            self.flush()  # pongs, and the answer to a close frame
            self._events.extend(self.protocol.events_received())
        return self._events.popleft()


class ScriptedServer(Listener):
    """A WebSocket server that does what a function says, once for each connection.

    Args:
        script: what happens after the handshake; the connection ends when it returns.
        tls: what to encrypt with.
    """

    def __init__(self, script: Callable[[Peer], None], *, tls: ssl.SSLContext | None = None) -> None:
        def attend(connection: socket.socket) -> None:
            if tls is None:
                script(Peer(connection))
                return
            with tls.wrap_socket(connection, server_side=True) as encrypted:
                script(Peer(encrypted))

        super().__init__(attend)


class End(Enum):
    """What a proxy can do to a connection instead of sending more."""

    DROP = auto()
    RESET = auto()
    STALL = auto()


Delivered = Iterator[bytes | End]
Fault = Callable[[Iterator[bytes]], Delivered]
"""From what the server sends, HTTP head and then frame by frame, to what the client gets."""


class Proxy(Listener):
    """Stands in front of a server; what the server sends passes a fault, what the client sends is passed on.

    Args:
        port: where the server is.
        fault: how to damage it.
    """

    def __init__(self, port: int, fault: Fault) -> None:
        self._released = threading.Event()

        def attend(client: socket.socket) -> None:
            with socket.create_connection((HOST, port), timeout=PATIENCE) as server, server.makefile("rb") as stream:
                back = threading.Thread(target=_copy, args=(client, server))
                back.start()
                try:
                    is_reset = self._deliver(client, fault(_pieces(stream)))
                finally:
                    _end(server)
                    client.shutdown(socket.SHUT_RD)  # wakes the other thread: what it waits for cannot be closed
                    back.join()
                if is_reset:
                    reset(client)

        super().__init__(attend)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        super().__exit__(kind, error, trace)

    def _deliver(self, client: socket.socket, pieces: Delivered) -> bool:
        """Send what is to be sent; gives whether to reset afterwards."""
        for piece in pieces:
            if isinstance(piece, bytes):
                client.sendall(piece)
            elif piece is End.STALL:
                self._released.wait(PATIENCE)
            else:
                return piece is End.RESET
        return False


def after_bytes(count: int, *then: bytes | End) -> Fault:
    """Let so many bytes through, handshake included, then something else, then the rest."""

    def fault(pieces: Iterator[bytes]) -> Delivered:
        left = count
        for piece in pieces:
            yield piece[:left]
            if len(piece) > left:
                yield from then
                yield piece[left:]
                yield from pieces
            left -= len(piece)

    return fault


def after_texts(count: int, *then: bytes | End) -> Fault:
    """Let so many texts through, the greeting included, then something else, then the rest."""

    def fault(pieces: Iterator[bytes]) -> Delivered:
        left = count
        for piece in pieces:
            yield piece
            left -= piece[0] == 0x80 | Opcode.TEXT
            if left == 0:
                yield from then
                yield from pieces

    return fault


def intact(pieces: Iterator[bytes]) -> Delivered:
    """Nothing is damaged."""
    return pieces


def once(fault: Fault) -> Fault:
    """Damage the first connection only."""
    faults = iter([fault])

    def damage(pieces: Iterator[bytes]) -> Delivered:
        return next(faults, intact)(pieces)

    return damage


def byte_by_byte(pieces: Iterator[bytes]) -> Delivered:
    """Each byte in a segment of its own."""
    for piece in pieces:
        for index in range(len(piece)):
            yield piece[index : index + 1]


def without_pongs(pieces: Iterator[bytes]) -> Delivered:
    """No sign of life but texts."""
    return (piece for piece in pieces if piece[0] != 0x8A)


def text_frame(text: bytes) -> bytes:
    """A short text as a frame of a server."""
    return bytes([0x80 | Opcode.TEXT, len(text)]) + text


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    """The HTTP head, then whole frames."""
    head = b""
    while line := stream.readline():
        head += line
        if line == b"\r\n":
            break
    yield head
    while header := stream.read(2):
        extended = stream.read({126: 2, 127: 8}.get(header[1], 0))
        yield header + extended + stream.read(int.from_bytes(extended) if extended else header[1])


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # a reset ends it as well
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):  # the other direction has ended both
        target.shutdown(socket.SHUT_WR)


def _end(connection: socket.socket) -> None:
    """Wake the threads that read from it or write to it."""
    with suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)
