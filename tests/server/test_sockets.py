"""Scarce descriptors, a full stderr or stdout, and clients that hold connections: the server goes on, and ends."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from conftest import FOREVER, GUEST, PATIENCE, Connect, Process, Serve, StartServer, query, wait_until
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from lmcli.server.background import Running
from lmcli.server.sockets import MAX_CONNECTIONS, MAX_PONG_BYTES, RESERVED_DESCRIPTORS, max_connections

# A server with so few free descriptors that a handful of connections takes all of them.
SCARCE = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
while (taken := os.dup(0)) < 54: os.set_inheritable(taken, True)
os.execv(sys.executable, [sys.executable, "-m", "lmcli", "serve", "--port", "0"])
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@contextmanager
def scarce() -> Iterator[Process]:
    command = [sys.executable, "-c", SCARCE]
    streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **streams, text=True) as process:
        assert process.stdout is not None
        try:
            yield Process(process, process.stdout.readline().rstrip("\n"))
        finally:
            process.kill()


@contextmanager
def crowd(port: int, size: int) -> Iterator[list[socket.socket]]:
    """Connections that send nothing."""
    with ExitStack() as cleanup:
        yield [cleanup.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(size)]


def test_exhausted_descriptors_are_reported_once(connect: Connect) -> None:
    """Connected clients are served, new ones wait until a connection ends, and the log has one line about it."""
    with scarce() as process:
        wire = connect(process.port)
        with crowd(process.port, 30):
            for _ in range(100):
                assert wire.result("listLoaded")
        assert connect(process.port).result("listLoaded")
        status, _, stderr = process.end(signal.SIGTERM)
    assert status == -signal.SIGTERM
    assert stderr.count("lm: warning: new connections have to wait: too many open files\n") == 1
    assert "Traceback" not in stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_a_server_without_descriptors(connect: Connect, number: signal.Signals) -> None:
    """A signal ends the server while new connections wait for descriptors."""
    with scarce() as process:
        wire = connect(process.port)
        with crowd(process.port, 30):
            assert wire.result("listLoaded")
            assert process.end(number)[0] == -number


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_a_server_with_a_full_stderr(serve: Serve, connect: Connect, number: signal.Signals) -> None:
    """A signal ends the server although nobody reads its log."""
    process = serve(verbose=True)
    wire = connect(process.port, "/system")
    for _ in range(3000):
        wire.begin("rpcCall", "notify", {"title": "x" * 200})
    assert {wire.receive()["type"] for _ in range(3000)} == {"rpcResult"}
    process.process.send_signal(number)
    assert process.process.wait(PATIENCE) == -number


@contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that is full and never read."""
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags)
    yield writer
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_signal_ends_a_server_whose_output_was_full_before(
    connect: Connect, number: signal.Signals, stream: str
) -> None:
    """A server with a full stdout or stderr serves its clients, and is ended by a signal."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lmcli", "serve", "--port", str(port)]
    with full_pipe() as full, subprocess.Popen(command, **{stream: full, **QUIET_EXCEPT[stream]}) as process:
        try:
            wait_until(lambda: is_listening(port))
            assert connect(port).result("listLoaded")
            process.send_signal(number)
            assert process.wait(PATIENCE) == -number
        finally:
            process.kill()


QUIET_EXCEPT: dict[str, dict[str, Any]] = {
    "stdout": {"stderr": subprocess.DEVNULL},
    "stderr": {"stdout": subprocess.DEVNULL},
}


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_signal_ends_a_server_with_silent_connections(serve: Serve) -> None:
    """The server does not wait for connections that have sent no request."""
    process = serve()
    with crowd(process.port, 10):
        assert is_listening(process.port)
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(PATIENCE / 2) == -signal.SIGTERM


def test_signal_ends_a_server_that_computes(serve: Serve, connect: Connect) -> None:
    """The server does not wait for a thread that counts the tokens of a long text."""
    process = serve()
    wire = connect(process.port)
    texts = 60
    for _ in range(texts):
        wire.begin("rpcCall", "tokenize", {"specifier": query(), "inputString": "a " * 1_000_000})
    wire.receive()
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(PATIENCE / 2) == -signal.SIGTERM


def test_connections_are_limited(
    start_server: StartServer, connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the limit a connection waits until another one ends, and is served then."""
    monkeypatch.setattr("lmcli.server.sockets.MAX_CONNECTIONS", 8)
    server = start_server(options={"authentication_seconds": 0.2})
    wire = connect(server)
    with crowd(server.port, 12):
        assert connect(server).result("listLoaded"), "as soon as some of the crowd have had their time"
        assert server._server._connections.accepted <= 8
        assert wire.result("listLoaded")
    assert caplog.text.count("new connections have to wait: there are 8 connections") == 1


def test_limit_leaves_descriptors_for_the_rest() -> None:
    """The number of connections follows from that of the descriptors."""
    import resource

    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < max_connections() <= MAX_CONNECTIONS
    assert descriptors == resource.RLIM_INFINITY or max_connections() <= descriptors - RESERVED_DESCRIPTORS


def silent(_: socket.socket) -> None:
    """Send nothing."""


def dripping(client: socket.socket) -> None:
    """Send one more byte of a request whose headers never end."""
    client.send(b"x")


def started(client: socket.socket) -> None:
    """Send half a handshake, and nothing more."""
    with suppress(BlockingIOError):
        client.send(b"GET /llm HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nX: ")


@pytest.mark.parametrize("step", [silent, dripping, started])
def test_slow_request_is_ended(start_server: StartServer, step: Callable[[socket.socket], None]) -> None:
    """A connection whose HTTP request is not complete in time is closed, however slowly it goes on."""
    server = start_server(options={"authentication_seconds": 0.1})
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /llm HTTP/1.1\r\n" if step is dripping else b"")
        client.settimeout(0.02)
        deadline = time.monotonic() + PATIENCE / 2
        while is_open(client):
            assert time.monotonic() < deadline, "it may go on for ever"
            with suppress(ConnectionError):
                step(client)


def is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1024) != b""
    except TimeoutError:
        return True
    except ConnectionError:
        return False


def test_dripping_credentials_are_ended(start_server: StartServer) -> None:
    """A connection whose credentials are not complete in time is closed, however slowly they go on."""
    server = start_server(options={"authentication_seconds": 0.2})
    with handshaken(server.port) as client:
        client.sendall(Frame(Opcode.TEXT, b" " * 4000).serialize(mask=True)[:8])
        client.settimeout(0.02)
        deadline = time.monotonic() + PATIENCE / 2
        while is_open(client):
            assert time.monotonic() < deadline, "it may go on for ever"
            with suppress(ConnectionError):
                client.send(b"x")


@contextmanager
def handshaken(port: int) -> Iterator[socket.socket]:
    """A socket after the WebSocket handshake."""
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/llm"))
    protocol.send_request(protocol.connect())
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"".join(protocol.data_to_send()))
        assert client.recv(4096).startswith(b"HTTP/1.1 101")
        yield client


def test_pings_of_a_client_that_reads_nothing_are_bounded(start_server: StartServer, connect: Connect) -> None:
    """The answers to its pings do not fill the server's memory: it is disconnected, and others are served."""
    server = start_server(options={"authentication_seconds": FOREVER})
    pings = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 1000
    with handshaken(server.port) as client:
        client.settimeout(PATIENCE)
        with pytest.raises(ConnectionError):
            client.sendall(pings * (64 * 1024**2 // len(pings)))
    assert connect(server).result("listLoaded")
    assert MAX_PONG_BYTES <= 1024**2


def test_pings_of_a_client_that_reads_are_answered(server: Running) -> None:
    """A client that reads the answers may send any number of pings."""
    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    size = len(Frame(Opcode.PONG, b"x" * 125).serialize(mask=False))
    with handshaken(server.port) as client:
        client.settimeout(PATIENCE)
        for _ in range(2000):
            client.sendall(ping)
            rest = size
            while rest:
                rest -= len(client.recv(rest))
        assert GUEST
