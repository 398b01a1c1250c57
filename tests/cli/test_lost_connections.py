"""A connection that ends in the middle, and an answer whose end is told in part."""

import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Packet, StartServer
from faults import Peer, ScriptedServer
from packets import piece, success
from processes import INSTANCE, StubConnection, StubServer, environment, run, start
from stopping import WORDS


def abort(connection: socket.socket) -> None:
    """End a connection without a goodbye."""
    connection.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    """Throw a connection away, as a machine does that starts again."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)  # its owner sees the end and closes it


@pytest.mark.parametrize("end", [abort, reset])
def test_a_connection_lost_in_the_middle(end: Callable[[socket.socket], None], tmp_path: Path) -> None:
    """Status 3, with what had arrived on stdout, its line ended."""
    connections: list[StubConnection] = []

    def begin(connection: StubConnection, envelope: Packet) -> None:
        connections.append(connection)
        connection.say(envelope["channelId"], "one")
        connection.say(envelope["channelId"], " two")

    with StubServer(begin) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "hi", folder=tmp_path, variables=variables) as child:
            child.wait_for(b"one two")
            end(connections[0].socket.socket)
            assert child.end() == 3
    assert child["stdout"] == b"one two\n"
    assert child["stderr"].startswith(b"lm: error: the connection to 127.0.0.1:")
    assert b" was lost: " in child["stderr"]


@pytest.mark.parametrize("form", ["json", "jsonl", "history"])
def test_a_server_that_ends_in_the_middle(form: str, tmp_path: Path, start_server: StartServer) -> None:
    """Status 3; every form of output holds what had arrived, and says that it is not all."""
    server = start_server(tokens_per_second=15)
    line = ["lm", "respond", "--progress", "-o", form, WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"reading 100%", "stderr")
        if form == "jsonl":
            child.wait_for(b"word2")
        server.close()
        assert child.end() == 3
    last = json.loads(child["stdout"].splitlines()[-1]) if child["stdout"] else {}
    if form == "json":
        assert last["error"]["code"] == 3
    elif form == "jsonl":
        assert (last["type"], last["code"]) == ("error", 3)
        assert last["content"].startswith("word0 word1")
    elif last:
        assert last["messages"][-1]["partial"] is True


@pytest.mark.parametrize("then", ["waits", "leaves"])
def test_an_answer_whose_channel_is_not_closed(then: str, tmp_path: Path) -> None:
    """With its result an answer is complete: status 0, although no close comes, or the connection is lost."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send({"type": "rpcResult", "callId": peer.receive()["callId"], "result": [INSTANCE]})
        number = peer.receive()["channelId"]
        peer.send(piece("hi", number), success(number))
        if then == "waits":
            peer.wait_until_left()

    with ScriptedServer(script) as server:
        ran = run("lm respond --timeout 5 hi", tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout, ran.stderr) == (0, b"hi\n", "")
