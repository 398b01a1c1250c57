"""One socket: texts there and back, connections that end, back pressure."""

import json
import os
import select
import socket
import sys
import threading
from queue import SimpleQueue
from typing import Any

import pytest
from conftest import PATIENCE
from faults import End, Peer, Proxy, ScriptedServer, after_texts, byte_by_byte, text_frame
from transports import Dial, saying, texts, wait_for
from websockets.frames import Frame, Opcode

from lmcli.client.waiting import Interrupt
from lmcli.client.websocket import FRAME_BYTES
from lmcli.errors import ConnectionLost
from lmcli.wire.pieces import in_pieces, joined


def test_a_text_goes_there_and_back(dial: Dial) -> None:
    """What is sent arrives, and what is answered arrives; the namespace is the path."""

    def script(peer: Peer) -> None:
        assert peer.path == "/files"
        peer.send({"heard": peer.receive()})
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port, "files")
        transport.send(b'"hello"')
        assert texts(transport, 1) == [{"heard": "hello"}]
        transport.close()


def test_texts_that_arrived_together_are_handed_over_together(dial: Dial) -> None:
    """One write of the server is one list, so that a burst costs one turn of the loop."""
    with ScriptedServer(saying(1, 2, 3)) as server:
        transport = dial(server.port)
        assert transport.receive() == [b"1", b"2", b"3"]
        transport.close()


def test_reason_of_a_goodbye_is_told(dial: Dial) -> None:
    """A close frame ends the connection, and its reason is shown with control characters escaped."""
    with ScriptedServer(lambda peer: peer.close("going\x1bhome")) as server:
        transport = dial(server.port)
        with pytest.raises(ConnectionLost, match=r"it closed the connection: going\\x1bhome$"):
            transport.receive()
        assert not transport.is_open


def test_what_was_said_before_the_goodbye_is_read_first(dial: Dial) -> None:
    """Texts in the same segment as the close frame are not lost."""

    def script(peer: Peer) -> None:
        peer.protocol.send_text(b'"last words"')
        peer.close()

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        assert transport.receive() == [b'"last words"']
        with pytest.raises(ConnectionLost, match=r"it closed the connection$"):
            transport.receive()


def test_reset_is_a_lost_connection(dial: Dial) -> None:
    """RST in the middle of a wait ends it."""
    with ScriptedServer(lambda peer: peer.reset()) as server:
        transport = dial(server.port)
        with pytest.raises(ConnectionLost, match="reset"):
            transport.receive()


def test_end_in_the_middle_of_a_frame(dial: Dial) -> None:
    """Half a text is no text: the whole ones come, then the loss."""
    frame = text_frame(b'{"success": true}')
    with ScriptedServer(saying(1)) as behind, Proxy(behind.port, after_texts(1, frame[:7], End.DROP)) as server:
        transport = dial(server.port)
        assert transport.receive() == [b"1"]
        with pytest.raises(ConnectionLost, match="it closed the connection"):
            transport.receive()


def test_sending_on_a_lost_connection(dial: Dial) -> None:
    """Once the loss is known, sending tells of it too."""
    with ScriptedServer(lambda peer: peer.close("enough")) as server:
        transport = dial(server.port)
        with pytest.raises(ConnectionLost):
            transport.receive()
        with pytest.raises(ConnectionLost, match="enough"):
            transport.send(b"{}")


def test_fragmented_texts_are_joined(dial: Dial) -> None:
    """A text in several frames arrives whole and in its place; a ping in between is answered at once."""

    def script(peer: Peer) -> None:
        peer.send(1)
        peer.protocol.send_text(b'"one ', fin=False)
        peer.protocol.send_ping(b"still there?")
        peer.flush()
        pong = peer.frame()
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"still there?")
        peer.protocol.send_continuation(b"two ", fin=False)
        peer.protocol.send_continuation(b'three"', fin=True)
        peer.send(2)
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        assert texts(transport, 3) == [1, "one two three", 2]
        transport.close()


def test_pings_are_answered_together(dial: Dial) -> None:
    """A burst of them is answered with few writes: one each would keep a flood of them from being left for seconds."""
    pings, writes = 10_000, 0

    def count(_: object, event: str, function: Any) -> None:
        nonlocal writes
        writes += event == "c_call" and function.__name__ == "send"

    def script(peer: Peer) -> None:
        peer.socket.sendall(Frame(Opcode.PING, b"").serialize(mask=False) * pings + text_frame(b"1"))
        assert {peer.frame().opcode for _ in range(pings)} == {Opcode.PONG}
        peer.send(2)
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        sys.setprofile(count)
        try:
            transport = dial(server.port)
            assert texts(transport, 2) == [1, 2]
        finally:
            sys.setprofile(None)
        transport.close()
    assert 0 < writes < pings / 100


def test_byte_by_byte(dial: Dial) -> None:
    """Texts of every length form arrive whole when each byte comes alone."""
    values = ["", "x" * 200, {"ü": "😀"}, "y" * 66_000]
    with ScriptedServer(saying(*values)) as behind, Proxy(behind.port, byte_by_byte) as server:
        transport = dial(server.port)
        assert texts(transport, len(values)) == values
        transport.close()


def test_binary_frame_is_taken_for_a_text(dial: Dial) -> None:
    """A server that chose the wrong opcode is understood."""

    def script(peer: Peer) -> None:
        peer.protocol.send_binary(b'"text"')
        peer.flush()
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        assert texts(transport, 1) == ["text"]
        transport.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\x81\x81\x00\x00\x00\x00x", b"\xc1\x01x", b"\x88\x01x", b"\x80\x01x"],
    ids=["reserved bits", "masked", "compressed", "bad close", "continues nothing"],
)
def test_garbage_is_a_lost_connection(dial: Dial, garbage: bytes) -> None:
    """Bytes that WebSocket does not allow end the connection; the texts before them are read first."""
    with ScriptedServer(saying(1)) as behind, Proxy(behind.port, after_texts(1, garbage)) as server:
        transport = dial(server.port)
        assert transport.receive() == [b"1"]
        with pytest.raises(ConnectionLost, match=r"it broke the WebSocket protocol|it closed the connection"):
            transport.receive()


def test_a_large_text_is_sent_whole(dial: Dial) -> None:
    """A text larger than all buffers goes out piece by piece while the server takes its time."""
    size = 12_000_000

    def script(peer: Peer) -> None:
        peer.send(len(peer.receive()))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        transport.send(b'"' + b"x" * size + b'"')
        assert texts(transport, 1) == [size]
        transport.close()


def frames_of_text(peer: Peer) -> list[Frame]:
    """The frames of the next text."""
    frames = [peer.frame()]
    while not frames[-1].fin:
        frames.append(peer.frame())
    return frames


@pytest.mark.parametrize("is_in_pieces", [False, True])
def test_a_long_text_is_sent_in_frames_and_a_short_one_in_one(dial: Dial, *, is_in_pieces: bool) -> None:
    """No frame is longer than FRAME_BYTES: it would be copied to be masked. RFC 6455, 5.4."""
    content = "ä" * (2 * FRAME_BYTES)
    long = in_pieces([content]) if is_in_pieces else json.dumps([content]).encode()
    short = in_pieces([b"x" * 1000])

    def script(peer: Peer) -> None:
        for _ in range(2):
            frames = frames_of_text(peer)
            opcodes = [frame.opcode.name for frame in frames]
            peer.send([opcodes, max(len(frame.data) for frame in frames)])
            peer.send(json.loads(b"".join(frame.data for frame in frames)))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        transport.send(long)
        (opcodes, most), read = texts(transport, 2)
        assert opcodes == ["TEXT", *["CONT"] * (len(joined(long)) // FRAME_BYTES)]
        assert (most, read) == (FRAME_BYTES, [content])
        transport.send(short)
        assert texts(transport, 2)[0][0] == ["TEXT"]
        transport.close()


def test_an_interrupted_send_leaves_the_frame_whole(dial: Dial) -> None:
    """Ctrl-C works while the server does not accept what is sent; the rest goes out with what comes after it."""
    reader, writer = os.pipe()
    proceed = threading.Event()
    size = 50_000_000

    def script(peer: Peer) -> None:
        wait_for(proceed)
        peer.send(len(peer.receive()), peer.receive())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port, interrupts=lambda: [] if proceed.is_set() else [Interrupt(reader)])
        threading.Timer(0.1, os.write, (writer, b"!")).start()
        transport.send(b'"' + b"x" * size + b'"')
        assert transport.receive() == [], "the interrupt ends this wait, too"
        proceed.set()
        transport.send(b'"cancel"')
        assert texts(transport, 2) == [size, "cancel"]
        transport.close()
    os.close(reader)
    os.close(writer)


def test_a_send_reads_what_a_server_says_meanwhile(dial: Dial) -> None:
    """A server that accepts nothing before its own words are read is not waited for in vain."""
    size = 20_000_000

    def script(peer: Peer) -> None:
        peer.send("x" * size)
        peer.send(len(peer.receive()))
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port, timeout=PATIENCE)
        transport.send(b'"' + b"y" * size + b'"')
        said, received_count = texts(transport, 2)  # they may arrive together
        assert (len(said), received_count) == (size, size)
        transport.close()


def test_a_server_that_takes_nothing_is_lost(dial: Dial) -> None:
    """A send does not wait for ever for a server that has stopped reading."""
    left = threading.Event()
    with ScriptedServer(lambda _: wait_for(left)) as server:
        transport = dial(server.port)
        transport.ping_after = transport.lost_after = 0.05
        with pytest.raises(ConnectionLost, match="it accepts no data"):
            transport.send(b"x" * 50_000_000)
        assert not transport.is_open
        left.set()


def test_what_waits_for_a_server_that_reads_nothing_is_bounded(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers to its pings do not fill the memory, even if it sends texts as well."""
    monkeypatch.setattr("lmcli.client.transport.UNREAD_BYTES", 100_000)
    ping_and_text = Frame(Opcode.PING, b"x" * 125).serialize(mask=False) + text_frame(b"1")

    def script(peer: Peer) -> None:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while True:
            peer.socket.sendall(ping_and_text * 1000)

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        with pytest.raises(ConnectionLost, match="it accepts no data"):
            list(iter(transport.receive, []))
        transport.close()


def test_a_slow_consumer_holds_the_server_back(dial: Dial) -> None:
    """Who does not read is not sent more than the system's buffers hold, before the first text and later on."""
    most, size = 64_000_000, 65_536
    stuck: list[int] = []
    is_stuck, read_some = threading.Semaphore(0), threading.Semaphore(0)

    def script(peer: Peer) -> None:
        frame = b"\x81\x7f" + size.to_bytes(8) + b"x" * size
        peer.socket.setblocking(False)
        sent = 0
        while sent < most and len(stuck) < 2:
            if select.select([], [peer.socket], [], 0.2)[1]:
                sent += peer.socket.send(frame[sent % len(frame) :])
            else:  # nothing moves any more
                stuck.append(sent)
                is_stuck.release()
                read_some.acquire(timeout=5)
        is_stuck.release(2)
        peer.socket.setblocking(True)

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        assert is_stuck.acquire(timeout=10)
        taken = 0
        while taken < most // 4:
            taken += sum(map(len, transport.receive()))
            read_some.release()
        assert is_stuck.acquire(timeout=10)
        transport.close()
    assert len(stuck) == 2
    assert stuck[0] < 16_000_000
    assert stuck[1] - taken < 16_000_000


def test_close_says_goodbye(dial: Dial) -> None:
    """The server is told that the client leaves; a second close does nothing."""
    heard: SimpleQueue[Opcode] = SimpleQueue()

    def script(peer: Peer) -> None:
        heard.put(peer.frame().opcode)

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        transport.close()
        transport.close()
        assert heard.get(timeout=PATIENCE) is Opcode.CLOSE
        with pytest.raises(ConnectionLost, match="it was closed"):
            transport.receive()
        with pytest.raises(ConnectionLost, match="it was closed"):
            transport.send(b"{}")


def test_close_does_not_wait_for_a_server_that_takes_nothing(dial: Dial) -> None:
    """Leaving is immediate, even while the server does not read."""
    left = threading.Event()
    with ScriptedServer(lambda _: wait_for(left)) as server:
        transport = dial(server.port)
        transport.close()
        left.set()


@pytest.mark.timeout(30)
def test_a_text_that_is_too_long(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one frame, it is refused before it is received; in pieces, as soon as they are too many."""
    monkeypatch.setattr("lmcli.client.websocket.TEXT_BYTES", 100_000)
    for frame in (b"\x81\x7f" + (1 << 62).to_bytes(8), b"\x01\x7e\xff\xff" + b"x" * 65535 + b"\0\x7e\xff\xff"):
        with ScriptedServer(saying(1)) as behind, Proxy(behind.port, after_texts(1, frame)) as server:
            transport = dial(server.port)
            assert texts(transport, 1) == [1]
            with pytest.raises(ConnectionLost, match="it broke the WebSocket protocol"):
                transport.receive()
