"""Signals end a run in good order: the process dies of the signal, the server cancels, nothing that came is lost."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import Connect, Packet, StartServer
from processes import StubConnection, StubServer, environment, start
from stopping import LOADING, READING, SIGNALS, STREAMING, WORDS, Flood, is_writable, last_line, wait_until_idle


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_an_answer(
    number: signal.Signals, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """The process dies of the signal; stdout has what had arrived, the stats file the server's word that it stopped."""
    command, pace = STREAMING
    server = start_server(**pace)
    line = ["lm", command, "--stats-file", "stats", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"word2")
        child.process.send_signal(number)
        assert child.end() == -number
        assert child["stderr"] == b""
    assert WORDS.encode().startswith(child["stdout"])
    record = last_line(tmp_path / "stats")
    assert record["stats"]["stop_reason"] == "userStopped"
    assert record["stats"]["predicted_tokens_count"] == len(child["stdout"].split())
    assert record["exit_status"] == 128 + number
    wait_until_idle(connect, server)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_the_reading_of_a_prompt(
    number: signal.Signals, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """Nothing has come yet, so nothing is on stdout, not even a newline; the server stops reading."""
    command, pace = READING
    server = start_server(**pace)
    line = ["lm", command, "--progress", "--stats-file", "stats", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"reading 0%", "stderr")
        child.process.send_signal(number)
        assert child.end() == -number
        assert child["stdout"] == b""
    assert last_line(tmp_path / "stats")["stats"]["stop_reason"] == "userStopped"
    wait_until_idle(connect, server)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_a_load(
    number: signal.Signals, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """The model does not go on loading, and nobody else has to wait for it."""
    command, pace = LOADING
    server = start_server(**pace)
    line = ["lm", *command.split(), "--progress", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"loading 0%", "stderr")
        child.process.send_signal(number)
        assert child.end() == -number
        assert child["stdout"] == b""
    assert [model["identifier"] for model in connect(server).result("listLoaded")] == ["echo"]


def test_a_text_that_was_to_be_continued_is_not_lost(tmp_path: Path, start_server: StartServer) -> None:
    """With `--echo` the input is on stdout, also where a signal comes before anything else does."""
    _, pace = LOADING
    line = ["lm", "complete", "--echo", "-m", "echo-jit", "--progress", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, start_server(**pace).port)) as child:
        child.wait_for(b"loading 0%", "stderr")
        child.process.send_signal(signal.SIGTERM)
        assert child.end() == -signal.SIGTERM
    assert child["stdout"].decode() == WORDS


def test_the_server_has_data_to_cancel_a_load(tmp_path: Path) -> None:
    """A `cancel` goes to the channel of the load before the connection is closed."""
    with StubServer() as stub:
        line = ["lm", "respond", "-m", "big", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            load = stub.wait_for("channelCreate")
            assert load["endpoint"] == "getOrLoad"
            child.process.send_signal(signal.SIGINT)
            cancel = stub.wait_for("channelSend")
            assert cancel == {"type": "channelSend", "channelId": load["channelId"], "message": {"type": "cancel"}}
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT


def test_a_signal_while_stdin_is_read(tmp_path: Path) -> None:
    """It ends the process at once and without a word."""
    reading, writing = os.pipe()
    with start("lm", "respond", folder=tmp_path, variables=environment(tmp_path, 1), stdin=reading) as child:
        os.close(reading)
        os.write(writing, bytes(1 << 17))  # more than the pipe holds: when this is taken, lm is reading
        child.process.send_signal(signal.SIGINT)
        assert child.end() == -signal.SIGINT
        assert (child["stdout"], child["stderr"]) == (b"", b"")
    os.close(writing)


def test_a_signal_stops_a_flood_and_loses_nothing(tmp_path: Path) -> None:
    """The cancel is sent in the middle of the flood; every fragment that the server had sent by then is on stdout."""
    flood = Flood()
    with StubServer(flood) as stub:
        line = ["lm", "complete", "--stats-file", "stats", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            child.wait_for(b"piece 500\n")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    assert child["stdout"].decode() == "".join(flood.sent)
    assert last_line(tmp_path / "stats")["stats"]["stop_reason"] == "userStopped"


def test_a_flood_that_does_not_end_is_left_after_a_grace(tmp_path: Path) -> None:
    """A server that goes on in spite of the cancel keeps nobody: the process dies of the signal soon."""
    bench = Path(__file__).parents[1] / "bench" / "fast_server.py"
    with start(sys.executable, str(bench), folder=tmp_path, variables=os.environ) as server:
        server.wait_for(b"\n")
        variables = environment(tmp_path, int(server["stdout"]))
        with start("lm", "complete", "n=1000000000", folder=tmp_path, variables=variables) as child:
            child.wait_for(b" token" * 10_000)
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """Where the server does not answer the cancel, nobody waits for the end of the grace."""

    def say_one(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "one\n")

    with StubServer(say_one) as stub:
        line = ["lm", "complete", "--stats-file", "stats", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            child.wait_for(b"one\n")
            child.process.send_signal(signal.SIGINT)
            stub.wait_for("channelSend")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    assert not (tmp_path / "stats").exists()  # what is done after the grace was not done


def test_a_server_that_does_not_answer_the_cancel_costs_only_the_grace(tmp_path: Path) -> None:
    """After one signal the stats are written without the server's word, and the process dies."""
    with StubServer() as stub:
        line = ["lm", "respond", "--stats-file", "stats", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            stub.wait_for("channelCreate")
            child.process.send_signal(signal.SIGTERM)
            assert child.end() == -signal.SIGTERM
    record = last_line(tmp_path / "stats")
    assert (record["stats"], record["exit_status"]) == (None, 128 + signal.SIGTERM)


@pytest.mark.parametrize("name", ["INT", "HUP"])
def test_what_the_caller_ignores_stays_ignored(name: str, tmp_path: Path, start_server: StartServer) -> None:
    """Under nohup, or in the background of a script, the answer goes on to its end."""
    server = start_server(tokens_per_second=40)
    words = "one two three four five six seven eight"
    line = f"trap '' {name}; exec lm complete {words}"
    with start("sh", "-c", line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"two")
        child.process.send_signal(getattr(signal, f"SIG{name}"))
        assert child.end() == 0
    assert child["stdout"].decode() == words


def test_a_signal_while_the_last_fragment_is_written_loses_nothing(tmp_path: Path) -> None:
    """The rest of a fragment that stdout did not accept at once is written, though nothing is written after it."""
    text = "word " * (1 << 14)  # more than a pipe holds

    def say_all(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            connection.say(envelope["channelId"], text)

    reading, writing = os.pipe()
    with StubServer(say_all) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "complete", "hi", folder=tmp_path, variables=variables, stdout=writing) as child:
            while is_writable(writing):
                assert child.process.poll() is None
            os.close(writing)
            child.process.send_signal(signal.SIGTERM)
            assert stub.wait_for("channelSend")["message"] == {"type": "cancel"}
            with os.fdopen(reading, "rb") as pipe:
                assert pipe.read().decode() == text
            assert child.end() == -signal.SIGTERM


@pytest.mark.parametrize("form", ["json", "jsonl", "history"])
def test_a_signal_completes_the_output(form: str, tmp_path: Path) -> None:
    """An interrupted answer is whole JSON on stdout, with what had arrived; a history marks it as partial."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            connection.say(envelope["channelId"], "one two")
        else:
            connection.finish(envelope["channelId"], "userStopped")

    with StubServer(handle) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "-o", form, "hi", folder=tmp_path, variables=variables) as child:
            stub.wait_for("channelCreate")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    last = json.loads(child["stdout"].splitlines()[-1])
    answer = last["messages"][-1] if form == "history" else last
    assert answer["content"] == "one two"
    assert answer["stats"]["stop_reason"] == "userStopped"
    assert answer.get("partial", False) is (form == "history")
