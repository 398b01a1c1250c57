"""A WebSocket without its socket: whatever the pieces that bytes arrive in, the texts are the same."""

import re
from itertools import pairwise

import pytest
from faults import text_frame
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from lmcli.client.address import Address
from lmcli.client.websocket import WebSocket


def accepted(websocket: WebSocket) -> bytes:
    """What a server answers to the handshake."""
    server = ServerProtocol()
    server.receive_data(websocket.data_to_send())
    [request] = server.events_received()
    server.send_response(server.accept(request))  # type: ignore[arg-type]
    return b"".join(server.data_to_send())


def connected() -> WebSocket:
    """One after its handshake."""
    websocket = WebSocket(Address("studio"), "llm")
    assert websocket.receive(accepted(websocket)) == []
    assert websocket.is_open
    return websocket


@pytest.mark.parametrize(
    "address",
    [
        Address("127.0.0.1"),
        Address("studio", 80),
        Address("studio", 443),
        Address("studio", 443, secure=True),
        Address("studio", 80, secure=True, prefix="/lm"),
        Address("::1", 1234),
        Address("fe80::1%eth0", 80),
    ],
    ids=str,
)
def test_the_handshake_is_that_of_websockets(address: Address) -> None:
    """The request is written here, and is the one that the package would send."""
    uri = WebSocketURI(address.secure, address.host, address.port, f"{address.prefix}/llm", "")
    theirs = ClientProtocol(uri)
    theirs.send_request(theirs.connect())
    key = re.compile(rb"Sec-WebSocket-Key: [A-Za-z0-9+/]{22}==")
    ours = WebSocket(address, "llm").data_to_send()
    assert key.sub(b"", ours) == key.sub(b"", b"".join(theirs.data_to_send()))


def framed(*frames: Frame) -> bytes:
    """What a server sends."""
    return b"".join(frame.serialize(mask=False) for frame in frames)


texts = st.binary(max_size=300) | st.integers(0, 3).map(lambda count: b"x" * (65_534 + count))


@st.composite
def frames_of(draw: st.DrawFn, text: bytes) -> list[Frame]:
    """A text in one frame, or in several with a ping between."""
    if draw(st.booleans()):
        return [Frame(Opcode.TEXT, text)]
    cut = draw(st.integers(0, len(text)))
    ping = [Frame(Opcode.PING, b"")] * draw(st.integers(0, 1))
    return [Frame(Opcode.TEXT, text[:cut], fin=False), *ping, Frame(Opcode.CONT, text[cut:])]


@QUICK
@given(st.data())
def test_any_pieces(data: st.DataObject) -> None:
    """Texts of every length, whole or in several frames, arrive whole in any pieces, the handshake's end included."""
    sent = data.draw(st.lists(texts, max_size=4))
    websocket = WebSocket(Address("studio"), "llm")
    stream = accepted(websocket) + framed(*(frame for text in sent for frame in data.draw(frames_of(text))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    received = [
        text
        for start, stop in pairwise([0, *cuts, len(stream)])
        if start < stop
        for text in websocket.receive(memoryview(stream)[start:stop])
    ]
    assert received == sent
    assert websocket.is_open


def test_byte_by_byte() -> None:
    """A length that is cut is not taken for another."""
    websocket = connected()
    stream = framed(Frame(Opcode.TEXT, b"x" * 70_000), Frame(Opcode.TEXT, b"y" * 200), Frame(Opcode.TEXT, b""))
    received = [text for index in range(len(stream)) for text in websocket.receive(stream[index : index + 1])]
    assert received == [b"x" * 70_000, b"y" * 200, b""]


def test_a_ping_is_answered() -> None:
    """A control frame between two texts gets its answer."""
    websocket = connected()
    assert websocket.receive(framed(Frame(Opcode.PING, b"here?")) + text_frame(b"a")) == [b"a"]
    assert websocket.data_to_send()[0] == 0x80 | Opcode.PONG


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"\xc1\x01x", "reserved bits must be 0"),
        (b"\x83\x01x", "invalid opcode"),
        (b"\x81\x81\0\0\0\0x", "incorrect masking"),
        (b"\x80\x01x", "unexpected continuation frame"),
        (b"\x01\x01x\x81\x01x", "expected a continuation frame"),
    ],
)
def test_what_is_not_allowed(bad: bytes, why: str) -> None:
    """What breaks the protocol ends it, after the texts before it, and before those behind it."""
    websocket = connected()
    assert websocket.receive(text_frame(b"a") + bad + text_frame(b"b")) == [b"a"]
    assert f"it broke the WebSocket protocol, {why}" in str(websocket.lost)
    assert not websocket.is_open


def test_a_close_frame_ends_it() -> None:
    """The reason is kept, control characters escaped; what follows is not read."""
    websocket = connected()
    goodbye = Frame(Opcode.CLOSE, (1001).to_bytes(2) + b"so\x1blong")
    assert websocket.receive(framed(goodbye) + text_frame(b"b")) == []
    assert websocket.lost == r"it closed the connection: so\x1blong"


def test_a_refused_handshake() -> None:
    """Another status than 101 is named."""
    websocket = WebSocket(Address("studio"), "llm")
    websocket.receive(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    websocket.receive(b"")
    assert not websocket.is_connecting
    assert "is not LM Studio: HTTP status 403" in str(websocket.refusal)


@pytest.mark.parametrize(("answer", "is_refusal"), [(b"", False), (b"HTTP/1.1 1", True), (b"220 mail\r\n", True)])
def test_an_end_during_the_handshake(answer: bytes, *, is_refusal: bool) -> None:
    """Who says nothing before it closes is not reached; who says something else is another kind of server."""
    websocket = WebSocket(Address("studio"), "llm")
    if answer:
        websocket.receive(answer)
    websocket.receive(b"")
    assert not websocket.is_connecting
    assert (websocket.refusal is not None) is is_refusal
    assert is_refusal or websocket.lost == "it closed the connection"
