"""Tool calls that go another way than those of the built-in models: cut, huge, hostile, beside a schema."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from processes import StubConnection, StubServer, Terminal, environment, run, start

Packet = dict[str, Any]

TOOLS = """--set tools='[{"type": "function", "function": {"name": "add"}}]'"""
START = {"type": "toolCallGenerationStart"}
NAME = {"type": "toolCallGenerationNameReceived", "name": "add"}


def piece(text: str) -> Packet:
    """A piece of the arguments."""
    return {"type": "toolCallGenerationArgumentFragmentGenerated", "content": text}


def end(**request: Any) -> Packet:
    """The end of a call."""
    return {"type": "toolCallGenerationEnd", "toolCallRequest": {"type": "function", "name": "add"} | request}


def sending(*packets: Packet, then: Callable[[StubConnection, int], None]) -> StubServer:
    """A server that answers a prediction with packets, and goes on."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            for packet in packets:
                connection.send({"type": "channelSend", "channelId": envelope["channelId"], "message": packet})
            then(connection, envelope["channelId"])

    return StubServer(handle)


def finished(connection: StubConnection, channel: int) -> None:
    """End the prediction as always."""
    connection.finish(channel)


def lost(connection: StubConnection, _: int) -> None:
    """Lose the connection."""
    connection.socket.close()


def test_a_connection_lost_in_a_call(tmp_path: Path) -> None:
    """The calls that are complete are kept: in the result, and in the history, which is marked."""
    whole = end(id="1", arguments={"a": 1})
    with sending(START, whole, START, NAME, piece('{"a"'), then=lost) as server:
        variables = environment(tmp_path, server.port)
        ran = run("lm respond -o json hi", tmp_path, variables)
        assert (ran.status, json.loads(ran.stdout)["tool_calls"]) == (
            3,
            [{"id": "1", "name": "add", "arguments": {"a": 1}}],
        )
        assert json.loads(ran.stdout)["error"]["code"] == 3
        ran = run("lm respond -o history hi", tmp_path, variables)
        entry = json.loads(ran.stdout)["messages"][-1]
        assert (ran.status, entry["partial"], len(entry["tool_calls"])) == (3, True, 1)
        assert run("lm respond hi", tmp_path, variables).stdout == b""


def test_a_call_that_the_server_does_not_end(tmp_path: Path) -> None:
    """It is reported: in the result and as a warning, beside the call that is complete."""
    with sending(START, end(), START, NAME, piece("{"), then=finished) as server:
        ran = run("lm respond -o json hi", tmp_path, environment(tmp_path, server.port))
    assert ran.status == 0
    assert json.loads(ran.stdout)["tool_calls"] == [{"id": None, "name": "add", "arguments": {}}]
    failure = {"name": "add", "message": "it is not complete", "content": None}
    assert json.loads(ran.stdout)["tool_call_failures"] == [failure]
    assert ran.stderr == "lm: warning: the tool call 'add' is not valid: it is not complete\n"


def test_interrupted_in_a_call(tmp_path: Path, start_server: StartServer) -> None:
    """Ctrl-C ends it at once; the call that was complete is there."""
    server = start_server(tokens_per_second=2)
    prompt = 'call add\ncall add {"a": "' + "word " * 1000 + '"}'
    variables = environment(tmp_path, server.port)
    command = f"exec lm respond -o jsonl {TOOLS} '{prompt}'"
    with start("sh", "-c", command, folder=tmp_path, variables=variables) as child:
        child.wait_for(b'"tool_call"')
        child.process.send_signal(signal.SIGINT)
        assert child.end() == -signal.SIGINT
        last = json.loads(child["stdout"].splitlines()[-1])
    assert last["tool_calls"] == [{"id": "call-1", "name": "add", "arguments": {}}]


def test_a_long_call_is_not_silence(tmp_path: Path, start_server: StartServer) -> None:
    """Its arguments bring the prediction on, however long they take: --timeout counts from each piece."""
    server = start_server(tokens_per_second=4)
    line = f"""lm respond --timeout 1.5 {TOOLS} -o json 'call add {{"a": "1 2 3 4 5 6 7 8 9 10 11 12 13"}}'"""
    ran = run(line, tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["tool_calls"][0]["arguments"]["a"].endswith("12 13")


def test_huge_arguments(tmp_path: Path) -> None:
    """They arrive whole, in the result and as text in the history, and as text they are read back."""
    text = "é\\u0007 " * 300_000
    call = end(id="1", arguments={"a": text, "b": [1, {"c": None}]})
    pieces = [piece(text[start : start + 10_000]) for start in range(0, len(text), 10_000)]
    with sending(START, NAME, *pieces, call, then=finished) as server:
        variables = environment(tmp_path, server.port)
        ran = run("lm respond -o json hi", tmp_path, variables)
        assert json.loads(ran.stdout)["tool_calls"] == [
            {"id": "1", "name": "add", "arguments": call["toolCallRequest"]["arguments"]}
        ]
        ran = run("lm respond -o history hi | tee h.json | lm respond --dry-run next", tmp_path, variables)
    (part,) = json.loads(ran.stdout)["predict"]["history"]["messages"][1]["content"][1:]
    assert part["toolCallRequest"]["arguments"] == call["toolCallRequest"]["arguments"]


def test_what_would_control_a_terminal(tmp_path: Path) -> None:
    """The names of tools are shown escaped, and cut."""
    name = "\x1b[2J\u202e" + "x" * 1000
    with sending(START, end(name=name), then=finished) as server:
        terminal = Terminal()
        variables = environment(tmp_path, server.port)
        with start("lm", "respond", "-n", "hi", folder=tmp_path, variables=variables, stderr=terminal) as child:
            assert child.end() == 0
    shown = child["stderr"].decode()
    assert "the model called the tool '\\x1b[2J\\u202e" in shown.replace("\r\n", "")
    assert "\x1b[2J" not in shown
    assert "x" * 100 not in shown
    assert child["stdout"] == b""


def test_a_call_beside_a_schema(tmp_path: Path) -> None:
    """An answer that only calls a tool need not conform: the one after its result does."""
    line = """lm respond --schema '{"type": "object"}' -o json hi"""
    with sending(START, end(), then=finished) as server:
        ran = run(line, tmp_path, environment(tmp_path, server.port))
        assert (ran.status, ran.stderr, json.loads(ran.stdout)["parsed"]) == (0, "", None)
    text = {"type": "fragment", "fragment": {"content": "no JSON"}}
    with sending(text, START, end(), then=finished) as server:
        assert run(line, tmp_path, environment(tmp_path, server.port)).status == 4


@pytest.mark.parametrize(
    "packet", [NAME | {"name": 5}, end(name=None), end(id={}), piece("") | {"content": 5}, START | {"toolCallId": []}]
)
def test_a_wrong_type_is_an_error_line(tmp_path: Path, packet: Packet) -> None:
    """One line that quotes it, a status for it, and what had arrived."""
    text = {"type": "fragment", "fragment": {"content": "first"}}
    with sending(text, packet, then=finished) as server:
        ran = run("lm respond hi", tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout) == (3, b"first\n")
    assert ran.stderr.startswith("lm: error: the server sent ")
    assert "Traceback" not in ran.stderr
