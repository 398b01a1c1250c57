"""HTTP requests that are not WebSocket handshakes: every one of them is answered."""

import http.client
import json
import signal
import socket
from collections.abc import Mapping
from typing import NamedTuple

import pytest
from conftest import PATIENCE, Connect, Serve, StartServer
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

import lmcli
from lmcli.server.background import Running
from lmcli.server.limits import MAX_HEAD_BYTES, MAX_HEADER_LINE_BYTES, MAX_HEADERS
from lmcli.server.plain_http import HttpRequest, InvalidRequest, read_head

JSON_TYPE = "application/json; charset=utf-8"
STATUS = {"package": "lmcli", "version": lmcli.__version__}
HOST = b"Host: 127.0.0.1\r\n"
HANDSHAKE = b"Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"


class Answer(NamedTuple):
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(port: int, method: str, path: str, body: bytes | None = None) -> Answer:
    """Send a request with the client of the standard library."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, body)
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.headers), response.read())
    connection.close()
    return answer


def exchange(server: Running, *pieces: bytes, ending: bool = False) -> bytes:
    """Send bytes, piece by piece, and read the answer to its end."""
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        for piece in pieces:
            client.sendall(piece)
        if ending:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(4096), b""))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/lmstudio-greeting", {"lmstudio": True}),
        ("/lmstudio-greeting?x=1", {"lmstudio": True}),
        ("/lms-status", STATUS),
    ],
)
def test_probes_are_answered(server: Running, path: str, body: object) -> None:
    """Both probes are answered as JSON, on the port of the WebSockets."""
    answer = ask(server.port, "GET", path)
    assert (answer.status, answer.headers["Content-Type"], json.loads(answer.body)) == (200, JSON_TYPE, body)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", ["/", "/v1/models", "/v1/messages?beta=true", "//[", "/llm", "/repository/x"])
def test_unknown_endpoint_is_answered_as_by_lm_studio(server: Running, method: str, path: str) -> None:
    """Whatever the method, the status is 200, and the body names the method and the path with its query."""
    answer = ask(server.port, method, path, None if method == "GET" else b'{"model": "echo"}')
    assert (answer.status, answer.headers["Content-Type"]) == (200, JSON_TYPE)
    assert json.loads(answer.body) == {"error": f"Unexpected endpoint or method. ({method} {path})"}


def test_method_of_a_page_is_checked(server: Running) -> None:
    """A page can be read, and nothing else; HEAD has the header of GET and no body."""
    assert json.loads(ask(server.port, "POST", "/lms-status").body) == {
        "error": "Unexpected endpoint or method. (POST /lms-status)"
    }
    answer = ask(server.port, "HEAD", "/lms-status")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(json.dumps(STATUS, separators=(",", ":"))))


def test_large_body_is_read_before_the_connection_closes(server: Running) -> None:
    """A client that sends all of its request first reads the answer afterwards."""
    answer = ask(server.port, "POST", "/v1/chat/completions", b"x" * 20_000_000)
    assert answer.status == 200


def test_chunked_body_is_read(server: Running) -> None:
    """A body without a length is received as well."""
    head = b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    assert exchange(server, head, b"3\r\nabc\r\n", b"0\r\n\r\n").endswith(b'(POST /x)"}')


def test_answer_reaches_a_client_that_has_ended_its_side(server: Running) -> None:
    """As `printf … | nc` does; a request that ends in the middle is reported."""
    assert exchange(server, b"GET /x HTTP/1.0\r\n" + HOST + b"\r\n", ending=True).endswith(b'(GET /x)"}')
    assert exchange(server, b"GET /x HTTP/1.1\r\nHo", ending=True).startswith(b"HTTP/1.1 400 ")
    assert exchange(server, ending=True) == b""


@pytest.mark.parametrize("path", ["/unknown", "/llm/", "/LLM"])
def test_unknown_namespace_is_answered(server: Running, connect: Connect, path: str) -> None:
    """A WebSocket for an unknown path fails in the handshake, with the answer to any unknown path."""
    with pytest.raises(InvalidStatus) as refused:
        connect(server, path)
    response = refused.value.response
    assert (response.status_code, response.body and json.loads(response.body)) == (
        200,
        {"error": f"Unexpected endpoint or method. (GET {path})"},
    )


def test_handshake_without_a_key_is_refused(server: Running) -> None:
    """A namespace answers incomplete handshakes with an error of HTTP."""
    head = b"GET /llm HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert exchange(server, head).startswith(b"HTTP/1.1 4")


def test_handshake_with_a_body_is_not_one(server: Running) -> None:
    """It is not passed to websockets, which would close the connection; it is answered as any other request."""
    head = b"GET /llm HTTP/1.1\r\n" + HOST + HANDSHAKE + b"Content-Length: 2\r\n\r\n{}"
    assert exchange(server, head).endswith(b'(GET /llm)"}')


@pytest.mark.parametrize("method", [b"POST", b"OPTIONS", b"HEAD"])
def test_every_method_is_refused_to_web_pages(server: Running, method: bytes) -> None:
    """The protection against other sites does not depend on the method or the path."""
    for header in (b"Host: evil.example\r\n", HOST + b"Origin: https://evil.example\r\n"):
        answer = exchange(server, method + b" /nothing HTTP/1.1\r\n" + header + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"Access-Control-Allow-Origin" not in answer


MALFORMED = [
    b"\x16\x03\x01\x02",  # the beginning of TLS
    b"SSH-2.0-OpenSSH_9.9\r\n",
    b"GET / HTTP/2.0\r\n",
    b"GET /\r\n",
    b"GET / HTTP/1.1\nHost: 127.0.0.1\n\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\n\n",
    b"GET / HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \x00\r\n\r\n",
    b" GET / HTTP/1.1\r\n\r\n",
]
TOO_LARGE = [
    b"GET /" + b"a" * MAX_HEAD_BYTES,
    b"a" * (MAX_HEAD_BYTES + 1),
    b"GET / HTTP/1.1\r\nA: " + b"a" * MAX_HEADER_LINE_BYTES + b"\r\n\r\n",
    b"GET /" + b"a" * MAX_HEADER_LINE_BYTES + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * MAX_HEADERS + b"\r\n",
]


@pytest.mark.parametrize(("status", "request_"), [*((400, r) for r in MALFORMED), *((431, r) for r in TOO_LARGE)])
def test_invalid_request_is_answered(server: Running, status: int, request_: bytes) -> None:
    """What is not HTTP, or too large, has an answer of its own, as soon as that is certain."""
    assert exchange(server, request_).startswith(b"HTTP/1.1 %d " % status)


@given(st.binary() | st.lists(st.sampled_from([*MALFORMED, HOST, b"GET / HTTP/1.1\r\n", b"\r\n"])).map(b"".join))
def test_any_bytes_are_a_request_or_not(received: bytes) -> None:
    """Nothing else is raised, and what follows after the head does not change it."""
    try:
        request = read_head(received)
    except InvalidRequest as problem:
        with pytest.raises(InvalidRequest, match=str(problem)):
            read_head(received + b"x")
    else:
        assert request is None or read_head(received + b"\r\nx") == request


@given(st.integers(0, 80))
def test_head_arrives_in_any_pieces(split: int) -> None:
    """A head is read when it is complete, not before."""
    head = b"POST /a?b=c HTTP/1.1\r\n" + HOST + b"A:  b \t\r\na: c\r\nEmpty:\r\n\r\n"
    assert read_head(head[: min(split, len(head) - 1)]) is None
    request = read_head(head)
    assert isinstance(request, HttpRequest)
    assert (request.method, request.path, request.is_handshake) == ("POST", "/a", False)
    assert list(request.headers.raw_items()) == [("Host", "127.0.0.1"), ("A", "b"), ("a", "c"), ("Empty", "")]


def test_request_that_never_ends_is_closed(start_server: StartServer) -> None:
    """A client that goes on to send after the answer has as long as for the whole request."""
    server = start_server(options={"authentication_seconds": 0.2})
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
        client.sendall(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000000\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        with pytest.raises(ConnectionError):
            flood(client)


def flood(client: socket.socket) -> None:
    """Send until the connection is closed."""
    while True:
        client.sendall(b"x" * 4096)


def test_unknown_endpoint_is_logged_once(serve: Serve) -> None:
    """Who uses a program for LM Studio's other API sees why it does not work."""
    process = serve()
    for _ in range(3):
        ask(process.port, "POST", "/v1/chat/completions", b"{}")
    logged = process.end(signal.SIGTERM)[2].splitlines()
    hints = [line for line in logged if line.startswith("lm: hint: ")]  # where models are installed that it can serve
    assert [line for line in logged if line not in hints] == [
        "lm: serving, Ctrl-C stops the server",
        "lm: warning: unexpected endpoint or method: 'POST /v1/chat/completions'",
    ]
