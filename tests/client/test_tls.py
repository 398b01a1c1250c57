"""TLS: a certificate that is trusted, and every kind that is not; TLS expected by one side only."""

import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme
from faults import HOST, Listener, Peer, ScriptedServer
from transports import Dial, answering, saying, texts

from lmcli.client.waiting import Interrupt
from lmcli.errors import CannotConnect, LmError


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who vouches for the servers of this module."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority is trusted, as a user would say it."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))


def encrypted(authority: trustme.CA, name: str) -> ssl.SSLContext:
    """A server's end of TLS, with a certificate for a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_tls(authority: trustme.CA, trusted: None, dial: Dial) -> None:
    """With a certificate of a trusted authority texts go there and back, also more than one TLS record holds."""

    def script(peer: Peer) -> None:
        peer.send(peer.receive(), *range(3))
        peer.wait_until_left()

    with ScriptedServer(script, tls=encrypted(authority, HOST)) as server:
        transport = dial(server.address._replace(secure=True))
        transport.send(b'"' + b"x" * 1_000_000 + b'"')
        assert texts(transport, 4) == ["x" * 1_000_000, 0, 1, 2]
        transport.close()


def test_an_interrupt_ends_a_wait_under_tls(authority: trustme.CA, trusted: None, dial: Dial) -> None:
    """Signs of life and interrupts are the same under TLS."""
    reader, writer = os.pipe()
    with ScriptedServer(saying(1), tls=encrypted(authority, HOST)) as server:
        transport = dial(server.address._replace(secure=True), interrupts=lambda: [Interrupt(reader)])
        transport.ping_after, transport.lost_after = 0.02, 5.0
        assert texts(transport, 1) == [1]
        threading.Timer(0.1, os.write, (writer, b"!")).start()
        assert transport.receive() == []
        transport.close()
    os.close(reader)
    os.close(writer)


def refusal(dial: Dial, server: Listener) -> LmError:
    """How a TLS connection to a server fails."""
    with pytest.raises(CannotConnect) as caught:
        dial(server.address._replace(secure=True))
    return caught.value


def test_untrusted_certificate_is_refused(authority: trustme.CA, dial: Dial) -> None:
    """A certificate of an unknown authority is refused and named, with what to set."""
    with ScriptedServer(saying(1), tls=encrypted(authority, HOST)) as server:
        error = refusal(dial, server)
    assert "its certificate is not trusted" in error.message
    assert "unable to get local issuer" in error.message
    assert "SSL_CERT_FILE" in error.hints[0]


def test_certificate_of_another_host_is_refused(authority: trustme.CA, trusted: None, dial: Dial) -> None:
    """A trusted certificate for another name is refused, and the sentence has no period."""
    with ScriptedServer(saying(1), tls=encrypted(authority, "elsewhere.example")) as server:
        error = refusal(dial, server)
    assert "certificate is not valid for '127.0.0.1'" in error.message
    assert not error.message.endswith(".")


def plain(peer: socket.socket) -> None:
    """Wait for the end of a line, and answer as servers of HTTP do, some to anything, some to what they understand."""
    lines = peer.makefile("rb")
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" if lines.readline().startswith(b"GET ") else b"")
    lines.read()


def test_tls_to_a_server_without_tls(dial: Dial) -> None:
    """https:// to a plain port is found out, whether the server answers, waits for the end of a line, or leaves."""
    for server in (answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Listener(plain), Listener(leaving_strangers)):
        with server:
            port, error = server.port, refusal(dial, server)
        assert error.message == f"cannot reach LM Studio at https://{HOST}:{port}: the server does not use TLS"
        assert error.hints == (f"{HOST}:{port} is the address without TLS",)


def leaving_strangers(peer: socket.socket) -> None:
    """Answer HTTP, and leave whoever says something else."""
    if peer.recv(65536).startswith(b"GET "):
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


@pytest.mark.parametrize("kind", ["leaves", "alerts", "answers", "waits"])
def test_a_server_with_tls_without_tls(authority: trustme.CA, dial: Dial, kind: str) -> None:
    """ws:// to a TLS port is found out, whatever the server does about it."""
    context = encrypted(authority, HOST)

    def attend(connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) != b"G":
            context.wrap_socket(connection, server_side=True).close()
        elif kind == "alerts":
            connection.recv(65536)
            connection.sendall(b"\x15\x03\x01\0\x02\x02\x46")
        elif kind == "answers":
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        elif kind == "waits":
            while connection.recv(65536):
                pass

    with Listener(attend) as server:
        port = server.port
        with pytest.raises(CannotConnect) as caught:
            dial(port)
    assert caught.value.message == f"cannot reach LM Studio at {HOST}:{port}: the server expects TLS"
    assert caught.value.hints == (f"https://{HOST}:{port} is the address with TLS",)
