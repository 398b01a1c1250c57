"""Waits: signs of life, limits of time, interrupts, and why a wait ended."""

import os
import socket
import threading
import time
from queue import SimpleQueue

import pytest
from conftest import PATIENCE
from faults import Peer, Proxy, ScriptedServer, without_pongs
from transports import Dial, saying, texts
from websockets.frames import Opcode

from lmcli.client.transport import Transport
from lmcli.client.waiting import Interrupt, Woken, is_broken, wait
from lmcli.errors import ConnectionLost


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
