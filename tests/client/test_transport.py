"""One socket: handshakes that fail, connections that end, signs of life, waits that end, back pressure, TLS."""

import json
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import trustme
from conftest import FOREVER, PATIENCE
from faults import (
    HOST,
    End,
    Listener,
    Peer,
    Proxy,
    ScriptedServer,
    after_bytes,
    after_texts,
    byte_by_byte,
    reset,
    text_frame,
    without_pongs,
)
from websockets.frames import Frame, Opcode

from lmcli.client.address import Address
from lmcli.client.transport import Transport
from lmcli.client.waiting import Interrupt, Woken, is_broken, wait
from lmcli.client.websocket import FRAME_BYTES
from lmcli.errors import CannotConnect, ConnectionLost, LmError, TimedOut
from lmcli.server.background import Running
from lmcli.wire.pieces import in_pieces, joined

Dial = Callable[..., Transport]


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Open transports, which are closed when the test ends."""
    with ExitStack() as cleanup:

        def to(address: Address | int, namespace: str = "llm", **options: Any) -> Transport:
            address = Address(HOST, address) if isinstance(address, int) else address
            transport = Transport.open(address, namespace, **options)
            cleanup.callback(transport.close)
            return transport

        yield to


def answering(data: bytes) -> Listener:
    """A server that says one thing to whatever it is asked, and ends."""

    def attend(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)

    return Listener(attend)


def silent() -> Listener:
    """A server that takes everything and never answers."""

    def attend(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    return Listener(attend)


def saying(*values: Any) -> Callable[[Peer], None]:
    """A script that says something and then waits for the client to leave."""

    def script(peer: Peer) -> None:
        peer.send(*values)
        peer.wait_until_left()

    return script


def wait_for(event: threading.Event) -> None:
    """Read nothing meanwhile."""
    assert event.wait(PATIENCE)


def texts(transport: Transport, count: int) -> list[Any]:
    """So many texts, decoded."""
    found: list[Any] = []
    while len(found) < count:
        found += map(json.loads, transport.receive())
    return found


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


def test_refused_handshake_tells_the_status(server: Running, dial: Dial) -> None:
    """A server without the namespace is named with its HTTP status."""
    with pytest.raises(CannotConnect, match=rf"127\.0\.0\.1:{server.port} is not LM Studio: HTTP status 404"):
        dial(server.port, "repository")


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


def test_a_pong_keeps_a_silent_connection(dial: Dial) -> None:
    """A server that thinks for long is asked whether it lives, and its pong is enough, again and again."""

    def script(peer: Peer) -> None:
        pings = 0
        while pings < 3:
            pings += peer.frame().opcode is Opcode.PING
        peer.send("at last")
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port)
        transport.ping_after, transport.lost_after = 0.02, 5.0
        assert texts(transport, 1) == ["at last"]
        transport.close()


def test_without_a_pong_the_connection_is_lost(dial: Dial) -> None:
    """A server that gives no sign of life is not waited for."""
    with ScriptedServer(saying(1)) as behind, Proxy(behind.port, without_pongs) as server:
        transport = dial(server.port)
        assert texts(transport, 1) == [1]
        transport.ping_after = transport.lost_after = 0.05
        with pytest.raises(ConnectionLost, match="it no longer answers"):
            transport.receive()


def test_a_text_is_a_sign_of_life_too(dial: Dial) -> None:
    """A server that answers a ping with what it has to say, and never with a pong, is alive."""

    def script(peer: Peer) -> None:
        for number in range(3):
            while not peer.protocol.close_expected() and peer.frame().opcode is not Opcode.PING:
                pass
            peer.send(number)
        peer.wait_until_left()

    with ScriptedServer(script) as behind, Proxy(behind.port, without_pongs) as server:
        transport = dial(server.port)
        transport.ping_after, transport.lost_after = 0.02, 5.0
        assert texts(transport, 3) == [0, 1, 2]
        transport.close()


def counting_pings(peer: Peer) -> None:
    """A script that answers each text with the number of pings so far, until the client leaves."""
    pings = 0
    while (frame := peer.frame()).opcode is not Opcode.CLOSE:
        pings += frame.opcode is Opcode.PING
        if frame.opcode is Opcode.TEXT:
            peer.send(pings)


def pings(transport: Transport) -> int:
    """How often a server of `counting_pings` was asked for a sign of life."""
    transport.send(b"0")
    count: int = texts(transport, 1)[0]
    return count


def wait_in_short_steps(transport: Transport, seconds: float) -> None:
    """Wait for a server that says nothing."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert transport.receive(within=0.01) == []


def test_who_waits_in_short_steps_notices_a_dead_server_too(dial: Dial) -> None:
    """With `within` in a loop the server is asked for a sign of life, and lost if it gives none."""
    asked: SimpleQueue[Opcode] = SimpleQueue()

    def script(peer: Peer) -> None:
        while True:
            asked.put(peer.frame().opcode)

    with ScriptedServer(script) as behind, Proxy(behind.port, without_pongs) as server:
        transport = dial(server.port)
        transport.ping_after, transport.lost_after = 0.05, 0.1
        began = time.monotonic()
        with pytest.raises(ConnectionLost, match="it no longer answers"):
            wait_in_short_steps(transport, PATIENCE)
        assert time.monotonic() - began >= 0.15
        assert asked.get(timeout=PATIENCE) is Opcode.PING


def test_time_in_which_nobody_reads_is_no_silence(dial: Dial) -> None:
    """A caller who was busy elsewhere neither asks for a sign of life nor takes the server for lost afterwards."""
    with ScriptedServer(counting_pings) as behind, Proxy(behind.port, without_pongs) as server:
        transport = dial(server.port)
        transport.ping_after = transport.lost_after = 0.5
        time.sleep(0.6)  # busy elsewhere
        assert transport.receive(within=0) == []
        assert pings(transport) == 0
        wait_in_short_steps(transport, 0.7)
        time.sleep(0.6)  # and again, with a question open
        assert transport.receive(within=0) == []
        assert pings(transport) == 1
        transport.close()


def test_waiting_ends_after_the_given_time(dial: Dial) -> None:
    """With `within`, silence is an empty list, not before its time and not an error."""
    with silent_after_handshake() as server:
        transport = dial(server.port)
        began = time.monotonic()
        assert transport.receive(within=0.05) == []
        assert time.monotonic() - began >= 0.05
        assert transport.receive(within=0) == []
        transport.close()


def silent_after_handshake() -> ScriptedServer:
    return ScriptedServer(lambda peer: peer.wait_until_left())


def test_an_interrupt_ends_a_wait(dial: Dial) -> None:
    """A descriptor that becomes readable ends `receive`; the connection goes on."""
    reader, writer = os.pipe()
    proceed = threading.Event()

    def script(peer: Peer) -> None:
        proceed.wait(5)
        peer.send("after")
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        transport = dial(server.port, interrupts=lambda: [Interrupt(reader)])
        threading.Timer(0.05, os.write, (writer, b"!")).start()
        assert transport.receive() == []
        os.read(reader, 1)
        proceed.set()
        assert transport.receive() == [b'"after"']
        transport.close()
    os.close(reader)
    os.close(writer)


def test_a_broken_pipe_ends_a_wait(dial: Dial) -> None:
    """When the reader of stdout leaves, a wait for a silent server ends; that the pipe can be written does not."""
    reader, writer = os.pipe()
    with silent_after_handshake() as server:
        transport = dial(server.port, interrupts=lambda: [Interrupt(writer, on_break_only=True)])
        assert transport.receive(within=0.01) == []
        assert not is_broken(writer)
        os.close(reader)
        assert transport.receive() == []
        assert is_broken(writer)
        transport.close()
    os.close(writer)


def test_wait_tells_why_it_ended() -> None:
    """Ready, interrupted and timed out are told apart."""
    near, far = socket.socketpair()
    stop, stopper = socket.socketpair()
    with near, far, stop, stopper:
        interrupts = [Interrupt(stop.fileno())]
        assert wait(near.fileno(), timeout=0.01, interrupts=interrupts) is Woken.TIMED_OUT
        assert wait(near.fileno(), to_write=True, interrupts=interrupts) is Woken.READY
        far.send(b"x")
        assert wait(near.fileno(), interrupts=interrupts) is Woken.READY
        stopper.send(b"x")
        assert wait(near.fileno(), interrupts=interrupts) is Woken.INTERRUPTED
        assert wait(near.fileno(), interrupts=[Interrupt(stop.fileno(), on_break_only=True)]) is Woken.READY


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
        assert [len(texts(transport, 1)[0]), texts(transport, 1)] == [size, [size]]
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
