"""The server against clients that send anything: it logs no error, and answers others.

A longer run: LMCLI_EXAMPLES=500 python -m pytest tests/server/test_fuzz.py --timeout 0
"""

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import recordings
from conftest import GUEST, PATIENCE, Connect, Packet, StartServer, Wire, predicting, query, stack, user, wait_until
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from packets import AFFIXES
from properties import any_json, examples, garbled
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect as open_socket
from websockets.uri import parse_uri

from lmcli.server.background import Running

FUZZED = examples(40, *HealthCheck)
MODEL: Packet = {"specifier": query(), "throwIfNotFound": False, "inputString": "a b", "identifier": "echo"}
REQUESTS = [
    line.value
    for name in recordings.NAMES
    for line in recordings.lines(name)
    if not line.is_from_server and "type" in line.value
]


def addressed(request: Packet) -> Packet:
    """A request for a model that is there."""
    text = json.dumps(request)
    return json.loads(text.replace("qwen2.5-7b-instruct", "echo"))  # type: ignore[no-any-return]


VALID: list[Packet] = [
    *(addressed(request) for request in REQUESTS),
    *(
        {"type": "channelCreate", "channelId": number, "endpoint": "predict", "creationParameter": predicting("a", c)}
        for number, c in enumerate(
            [
                stack(stopStrings=["a"], maxPredictedTokens={"checked": True, "value": 2}),
                stack(structured={"type": "json", "jsonSchema": {"type": "object", "required": ["a"]}}),
                stack(promptTemplate={"type": "manual", "stopStrings": [], "manualPromptTemplate": AFFIXES}),
                stack(**{"reasoning.parsing": {"enabled": True, "startString": "<", "endString": ">"}}),
            ]
        )
    ),
    *(
        {"type": "rpcCall", "callId": 1, "endpoint": endpoint, "parameter": MODEL}
        for endpoint in ("tokenize", "countTokens", "getModelInfo", "getLoadConfig", "unloadModel", "embedString")
    ),
    {
        "type": "rpcCall",
        "callId": 2,
        "endpoint": "applyPromptTemplate",
        "parameter": {**MODEL, "history": user("a"), "predictionConfigStack": stack(), "opts": {}},
    },
    {"type": "channelSend", "channelId": 1, "message": {"type": "cancel"}},
]
TEXTS = st.sampled_from(VALID).flatmap(garbled).map(json.dumps) | any_json.map(json.dumps) | st.text()


def frame(first: int, data: bytes) -> bytes:
    """A masked frame with any first byte, valid or not."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0x80 | 126]) + len(data).to_bytes(2)
    return bytes([first]) + size + bytes(4) + data


OPCODES = [0x80, 0x81, 0x01, 0x00, 0x82, 0x88, 0x89, 0x8A]
FRAMES = st.builds(frame, st.sampled_from(OPCODES) | st.integers(0, 255), st.binary(max_size=300))
LINES = st.sampled_from(
    [
        b"GET /llm HTTP/1.1",
        b"POST /llm HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET /lmstudio-greeting HTTP/1.0",
        b"Host: 127.0.0.1",
        b"Host: [::1",
        b"Origin: null",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Connection: ,",
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Extensions: permessage-deflate; a",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"",
        b"\x16\x03\x01",
    ]
)


class Errors(logging.Handler):
    """Keeps what is logged as an error, or with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.texts.append(logging.Formatter().format(record))


@pytest.fixture
def errors() -> Iterator[Errors]:
    """What is logged as an error by the server or its libraries, not by those of the clients here."""
    handler = Errors()
    handler.addFilter(lambda record: record.name != "websockets.client")
    log = logging.getLogger()
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@pytest.fixture
def fuzzed(start_server: StartServer) -> Running:
    """A server that soon ends connections without credentials."""
    return start_server(options={"authentication_seconds": 3.0})


@pytest.fixture
def healthy(fuzzed: Running, connect: Connect) -> Wire:
    """A client that is connected all the time."""
    return connect(fuzzed, "/system")


def check(healthy: Wire, errors: Errors) -> None:
    """The server is well."""
    assert healthy.result("version")
    assert errors.texts == []


@FUZZED
@given(
    namespace=st.sampled_from(["/llm", "/system", "/files", "/embedding"]),
    texts=st.lists(TEXTS, max_size=8),
    is_read=st.booleans(),
)
def test_any_text(
    fuzzed: Running, healthy: Wire, errors: Errors, namespace: str, texts: list[str], *, is_read: bool
) -> None:
    """Requests with a wrong value anywhere, and texts that are no requests; the client may leave at any time."""
    url = f"ws://127.0.0.1:{fuzzed.port}{namespace}"
    with open_socket(url, max_size=None, compression=None, close_timeout=0.01) as client:
        wire = Wire(client)
        wire.send({**GUEST, "clientIdentifier": "guest:fuzz"})
        wire.receive()
        for text in texts:
            wire.send(text.encode("utf-8", "replace").decode())
        wire.send({"type": "keepAlive"})
        while is_read and wire.receive()["type"] != "keepAliveAck":
            pass
    check(healthy, errors)


@FUZZED
@given(pieces=st.lists(FRAMES | st.binary(max_size=40), max_size=8), is_authenticated=st.booleans())
def test_any_frame(
    fuzzed: Running, healthy: Wire, errors: Errors, pieces: list[bytes], *, is_authenticated: bool
) -> None:
    """Frames and bytes in any order after the handshake, with and without credentials."""
    protocol = ClientProtocol(parse_uri("ws://127.0.0.1/llm"))
    protocol.send_request(protocol.connect())
    with socket.create_connection(("127.0.0.1", fuzzed.port), PATIENCE) as client, suppress(ConnectionError):
        client.sendall(b"".join(protocol.data_to_send()))
        client.recv(4096)
        if is_authenticated:
            client.sendall(Frame(Opcode.TEXT, json.dumps(GUEST).encode()).serialize(mask=True))
        for piece in pieces:
            client.sendall(piece)
    check(healthy, errors)


@FUZZED
@given(lines=st.lists(LINES | st.binary(max_size=40), max_size=12), end=st.sampled_from([b"\r\n", b"\n", b"\r"]))
def test_any_http_request(fuzzed: Running, healthy: Wire, errors: Errors, lines: list[bytes], end: bytes) -> None:
    """Lines in any order, valid and invalid ones."""
    with socket.create_connection(("127.0.0.1", fuzzed.port), PATIENCE) as client, suppress(ConnectionError):
        client.sendall(end.join(lines) + end + end)
    check(healthy, errors)


@pytest.mark.parametrize("rest", [b"", b"\xff\xff", b"\x00" * 100])
def test_client_that_goes_on_before_the_answer(fuzzed: Running, healthy: Wire, errors: Errors, rest: bytes) -> None:
    """A request that arrives together with invalid bytes, or with the end of the connection, is no error."""
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", fuzzed.port), PATIENCE) as client, suppress(ConnectionError):
            client.sendall(b"GET /lmstudio-greeting HTTP/1.1\r\nHost: localhost\r\n\r\n" + rest)
            client.shutdown(socket.SHUT_WR)
            client.recv(1024)
    check(healthy, errors)


def test_nothing_is_left_of_fuzzing(fuzzed: Running, healthy: Wire, errors: Errors) -> None:
    """A connection that sent garbage is closed in the end, and the server counts it no more."""
    clients: Any = [socket.create_connection(("127.0.0.1", fuzzed.port)) for _ in range(20)]
    for client in clients:
        client.sendall(b"\x00" * 100)
        client.close()
    wait_until(lambda: fuzzed._server._connections.accepted == 1)
    check(healthy, errors)
