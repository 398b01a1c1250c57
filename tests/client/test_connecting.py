"""The way to an open WebSocket: names, addresses, handshakes, and what is no LM Studio."""

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from conftest import FOREVER
from faults import HOST, End, Listener, Proxy, ScriptedServer, after_bytes, reset
from transports import Dial, answering, saying, silent, texts

from lmcli.client.address import Address
from lmcli.client.waiting import Interrupt
from lmcli.errors import CannotConnect, TimedOut
from lmcli.server.background import Running


def test_refused_handshake_tells_the_status(server: Running, dial: Dial) -> None:
    """A server without the namespace is named with its HTTP status."""
    with pytest.raises(CannotConnect, match=rf"127\.0\.0\.1:{server.port} is not LM Studio: HTTP status 200"):
        dial(server.port, "unknown")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\x16\x03\x01\x00\x00\r\n\r\n",
        b"\x00" * 70_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Sw",
        b"",
    ],
    ids=["web page", "ssh", "binary", "long line", "no accept key", "cut", "nothing"],
)
def test_what_is_no_websocket_server_is_refused(dial: Dial, answer: bytes) -> None:
    """Whatever answers in another language ends in CannotConnect, at once."""
    with answering(answer) as server, pytest.raises(CannotConnect, match=r"127\.0\.0\.1"):
        dial(server.port)


def test_nobody_there(dial: Dial) -> None:
    """A port where nobody listens is said to refuse the connection."""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        with pytest.raises(CannotConnect, match=rf"cannot reach LM Studio at {HOST}:\d+: connection refused") as caught:
            dial(unused.getsockname()[1])
    assert caught.value.hints == ("lms server start starts the server of LM Studio",)


def test_nobody_there_on_another_machine(dial: Dial) -> None:
    """The hint is about that machine."""
    with socket.socket(type=socket.SOCK_DGRAM) as any_route, socket.socket() as unused:
        try:
            any_route.connect(("192.0.2.1", 9))  # sends nothing; says by which address this machine is seen
        except OSError:
            pytest.skip("this machine has no network")
        host = any_route.getsockname()[0]
        unused.bind((host, 0))
        with pytest.raises(CannotConnect, match="connection refused") as caught:
            dial(Address(host, unused.getsockname()[1]))
    assert caught.value.hints == (f"on {host}, start the server of LM Studio and have it serve the local network",)


def test_reset_at_once(dial: Dial) -> None:
    """A server that hangs up before the handshake was sent cannot be connected to either."""
    with Listener(reset) as server:
        for _ in range(30):  # it depends on who is faster
            with pytest.raises(CannotConnect, match="cannot reach"):
                dial(server.port)


def test_unknown_host(dial: Dial) -> None:
    """A host name that does not exist is an error of the connection, not a crash."""
    with pytest.raises(CannotConnect, match=r"cannot reach LM Studio at nobody\.invalid:1234") as caught:
        dial(Address("nobody.invalid"))
    assert caught.value.hints == ("check the host name 'nobody.invalid'",)


@pytest.mark.parametrize("secure", [False, True])
def test_silent_server_costs_no_more_than_the_timeout(dial: Dial, *, secure: bool) -> None:
    """A server that takes the connection and says nothing is given up after the timeout, with TLS too."""
    with silent() as server, pytest.raises(TimedOut, match=r"within 0\.1 s"):
        dial(Address(HOST, server.port, secure=secure), timeout=0.1)


def test_silent_server_is_given_up_without_a_timeout_too(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no timeout is wanted a handshake still ends some day, as a server that cannot be reached."""
    monkeypatch.setattr("lmcli.client.dialing.CONNECT_SECONDS", 0.1)
    with silent() as server, pytest.raises(CannotConnect, match="no answer to the handshake"):
        dial(server.port)


@pytest.mark.parametrize("count", [0, 1, 20, 150])
@pytest.mark.parametrize("end", [End.DROP, End.RESET])
def test_end_in_the_middle_of_the_handshake(dial: Dial, count: int, end: End) -> None:
    """A server that leaves while shaking hands cannot be connected to, wherever it breaks off."""
    with (
        ScriptedServer(saying()) as behind,
        Proxy(behind.port, after_bytes(min(count, 100), end)) as server,
        pytest.raises(CannotConnect, match="127"),
    ):
        dial(server.port)


def dripping(data: bytes, then: bytes) -> Listener:
    """A server that says something to whatever it is asked, and then some bytes, again and again."""

    def attend(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)
        while True:
            connection.sendall(then)

    return Listener(attend)


SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\n"


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("data", "then"),
    [
        (b"", b"x"),
        (SWITCHING, b"x"),
        (SWITCHING, b"X-More: more\r\n"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n", b"x" * 1000),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"x" * 1000 + b"\r\n"),
    ],
    ids=["a line", "a header", "headers", "a body", "a huge body", "chunks"],
)
def test_an_answer_to_the_handshake_without_an_end(dial: Dial, data: bytes, then: bytes) -> None:
    """It is refused as soon as it is too long, and it does not last longer than the timeout."""
    with dripping(data, then) as server:
        with pytest.raises(CannotConnect, match="is not LM Studio"):
            dial(server.port)
        with pytest.raises((CannotConnect, TimedOut)):
            dial(server.port, timeout=0.01)


@pytest.fixture
def interrupted(interrupt: Interrupt) -> Callable[[], list[Interrupt]]:
    """An interrupt that has come already, as what ends every wait."""
    return lambda: [interrupt]


@pytest.fixture
def unaccepting() -> Iterator[int]:
    """A port whose queue of connections is full, so that another one is not answered."""
    with ExitStack() as cleanup:
        listener = cleanup.enter_context(socket.create_server((HOST, 0), backlog=0))
        while True:
            waiting = cleanup.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
            if not select.select([], [waiting], [], 0.2)[1]:
                break
        yield listener.getsockname()[1]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("secure", [False, True])
def test_an_interrupt_ends_connecting(
    interrupted: Callable[[], list[Interrupt]], unaccepting: int, dial: Dial, *, secure: bool
) -> None:
    """While the connection is not accepted, and while nothing answers the first message; with a timeout, too."""
    with silent() as server:
        for port in (unaccepting, server.port):
            for timeout in (None, FOREVER):
                with pytest.raises(CannotConnect, match="interrupted"):
                    dial(Address(HOST, port, secure=secure), interrupts=interrupted, timeout=timeout)


def test_a_connection_that_is_not_accepted(unaccepting: int, dial: Dial) -> None:
    """It is not waited for longer than the timeout."""
    with pytest.raises(TimedOut, match=r"no connection to .* within 0\.1 s"):
        dial(unaccepting, timeout=0.1)


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system that does not resolve names."""
    resolve, is_left = socket.getaddrinfo, threading.Event()

    def hang(*arguments: Any, **options: Any) -> Any:
        if not options.get("flags", 0) & socket.AI_NUMERICHOST:
            is_left.wait()
        return resolve(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", hang)
        yield
        is_left.set()


@pytest.mark.timeout(30)
@pytest.mark.usefixtures("hanging_resolver")
def test_a_name_that_is_not_resolved(
    dial: Dial, interrupted: Callable[[], list[Interrupt]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for as long as for a connection, and an interrupt ends the wait."""
    address = Address("studio.example")
    with pytest.raises(TimedOut, match=r"no connection to studio\.example:1234 within 0\.1 s"):
        dial(address, timeout=0.1)
    with pytest.raises(CannotConnect, match="interrupted"):
        dial(address, interrupts=interrupted)
    monkeypatch.setattr("lmcli.client.dialing.CONNECT_SECONDS", 0.1)
    with pytest.raises(CannotConnect, match=r"cannot reach LM Studio at studio\.example:1234: no answer"):
        dial(address)


def test_all_addresses_of_a_host_are_tried(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first one refuses, or does not answer within its share of the time, the next one may accept."""
    with ScriptedServer(saying(1)) as server, socket.socket() as unused:
        unused.bind((HOST, 0))
        ports = (unused.getsockname()[1], server.port)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (HOST, port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        transport = dial(Address("studio.example"))
        assert texts(transport, 1) == [1]
        transport.close()
