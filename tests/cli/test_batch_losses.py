"""A batch outlives its connection, its server and its model."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import pytest
from conftest import Connect, StartServer
from faults import End, Peer, Proxy, ScriptedServer, after_texts, once, text_frame
from packets import INSTANCE, piece, success, warning
from predictions import Predictions
from processes import Child, StubServer, environment, run, start

from lmcli.cli.batch_run import retry_delays
from lmcli.server import listener
from lmcli.server.background import Running
from lmcli.server.listener import NAMESPACES
from lmcli.wire.multiplexer import WARNINGS

LINES = [f"{number} and some words more" for number in range(20)]
TEXT = "".join(f"{line}\n" for line in LINES).encode()


@contextmanager
def batch(folder: Path, port: int, lines: bytes, *options: str) -> Iterator[Child]:
    """Answer the lines of a file, whose end is known."""
    (folder / "lines").write_bytes(lines)
    command = ("lm", "respond", "--each", "line", *options)
    with (
        (folder / "lines").open() as stdin,
        start(*command, folder=folder, variables=environment(folder, port), stdin=stdin.fileno()) as child,
    ):
        yield child


@pytest.mark.parametrize("count", [3, 9, 30, 150])
@pytest.mark.parametrize("fault", [End.DROP, End.RESET, text_frame(b"garbage")], ids=["drop", "reset", "garbage"])
def test_a_lost_connection_is_replaced(
    fault: bytes | End, count: int, tmp_path: Path, start_server: StartServer
) -> None:
    """Wherever it is lost, the unanswered records go again; stdout is as if nothing had happened, stderr has a note."""
    with Proxy(start_server().port, once(after_texts(count, fault))) as proxy:
        ran = run("lm respond --each line --results done", tmp_path, environment(tmp_path, proxy.port), stdin=TEXT)
    assert (ran.status, ran.stdout) == (0, TEXT), ran.stderr
    if ran.stderr or count > 3:  # before the first prediction a lost connection is replaced silently
        assert ran.stderr.startswith("lm: warning: ")
        assert ran.stderr.endswith("; connecting again in 0.5 s\n")
        assert len(ran.stderr.splitlines()) == 1
    kept = [json.loads(line)["index"] for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(kept) == list(range(20))


@pytest.fixture
def older_server(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> Running:
    """A server from before `completeRawText`, which warns five times on a socket and is mute after that."""
    llm = NAMESPACES["/llm"]
    channels = {name: endpoint for name, endpoint in llm.channels.items() if name != "completeRawText"}
    monkeypatch.setattr(listener, "NAMESPACES", {**NAMESPACES, "/llm": llm._replace(channels=channels)})
    return start_server()


@pytest.mark.parametrize("jobs", [1, 5, 9])
def test_an_older_server_that_no_longer_warns(jobs: int, tmp_path: Path, older_server: Running) -> None:
    """Of the completions that it does not know, those that it passes over in silence are sent again in its own form."""
    ran = run(f"lm complete --each line -j {jobs}", tmp_path, environment(tmp_path, older_server.port), stdin=TEXT)
    assert (ran.status, ran.stdout, ran.stderr) == (0, TEXT, "")


def test_an_image_is_uploaded_once_for_each_connection(tmp_path: Path, start_server: StartServer) -> None:
    """All records share it; a server that has lost the connection has forgotten it, and gets it again."""
    (tmp_path / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    server = start_server()
    line = "lm respond --each line -v -f dot.png"
    ran = run(line, tmp_path, environment(tmp_path, server.port), stdin=TEXT)
    assert (ran.status, ran.stdout, ran.stderr.count('"uploadFileBase64"')) == (0, TEXT, 1)
    with Proxy(server.port, once(after_texts(30, End.RESET))) as proxy:
        ran = run(line, tmp_path, environment(tmp_path, proxy.port), stdin=TEXT)
    assert (ran.status, ran.stdout, ran.stderr.count('"uploadFileBase64"')) == (0, TEXT, 2)


def test_an_answer_goes_on_where_it_was_lost(tmp_path: Path) -> None:
    """What was streamed before the loss is not written again: stdout has the answer once."""
    predictions = Predictions()
    with StubServer(predictions) as stub, batch(tmp_path, stub.port, b"one\n", "hi") as child:
        asked = predictions.next()
        asked.say("the ans")
        child.wait_for(b"the ans")
        asked.lose()
        asked = predictions.next()
        asked.say("the answer ")
        asked.say("is 42")
        asked.finish()
        assert child.end() == 0
    assert child["stdout"] == b"the answer is 42\n"


def test_an_answer_that_begins_differently_has_failed(tmp_path: Path) -> None:
    """What was streamed cannot be taken back: it stands, the record fails with 3, and the next one is not touched."""
    predictions = Predictions()
    with (
        StubServer(predictions) as stub,
        batch(tmp_path, stub.port, b"one\ntwo\n", "-j", "1", "--results", "done") as child,
    ):
        asked = predictions.next()
        asked.say("It is 4")
        child.wait_for(b"It is 4")
        asked.lose()
        asked = predictions.next()
        asked.say("The answer is 42")
        asked.finish()
        predictions.next().answer()
        assert child.end() == 3
    assert child["stdout"] == b"It is 4\ntwo\n"
    assert b"record 1: after the connection was lost the answer began differently" in child["stderr"]
    first, second = map(json.loads, (tmp_path / "done").read_text().splitlines())
    assert first["error"]["code"] == 3
    assert "error" not in second


def test_an_answer_that_fails_after_a_loss_says_why(tmp_path: Path) -> None:
    """It has not come as far as the first time, which is no other beginning; what was streamed stands."""
    predictions = Predictions()
    with StubServer(predictions) as stub, batch(tmp_path, stub.port, b"one\n", "--results", "done") as child:
        asked = predictions.next()
        asked.say("It is 4")
        child.wait_for(b"It is 4")
        asked.lose()
        predictions.next().fail("no luck")
        assert child.end() == 1
    assert child["stdout"] == b"It is 4\n"
    assert b"lm: error: record 1: no luck" in child["stderr"]
    assert b"began differently" not in child["stderr"]
    (result,) = map(json.loads, (tmp_path / "done").read_text().splitlines())
    assert result["error"] == {"code": 1, "message": "no luck"}


def test_a_record_that_loses_three_connections_has_failed(tmp_path: Path) -> None:
    """It is not sent a fourth time; the others are answered."""
    predictions, asked_for = Predictions(), []
    with (
        StubServer(predictions) as stub,
        batch(tmp_path, stub.port, b"one\nbad\nthree\n", "-j", "1", "-o", "jsonl") as child,
    ):
        for asked in predictions.take(5):
            asked_for.append(asked.text)
            if asked.text == "bad":
                asked.say("so far")
                asked.lose()
            else:
                asked.answer()
        assert child.end() == 3
        assert predictions.is_all_taken
    assert asked_for == ["one", "bad", "bad", "bad", "three"]
    results = [json.loads(line) for line in child["stdout"].splitlines()]
    assert [result.get("error", {}).get("code") for result in results] == [None, 3, None]
    waits = [line.rpartition(b"in ")[2] for line in child["stderr"].splitlines() if b"connecting again" in line]
    assert waits == [b"0.5 s", b"1 s"]


def test_only_what_was_running_has_lost_a_connection(tmp_path: Path) -> None:
    """Of four that run together three are answered on the second connection: none of them is asked for again."""
    predictions = Predictions()
    with StubServer(predictions) as stub, batch(tmp_path, stub.port, b"1\n2\n3\n4\n5\n") as child:
        first = list(predictions.take(4))
        first[2].answer()
        predictions.next()
        first[0].lose()
        again = list(predictions.take(4))
        assert [asked.text for asked in again] == ["1", "2", "4", "5"]
        for asked in again:
            asked.answer()
        assert child.end() == 0
    assert child["stdout"] == b"1\n2\n3\n4\n5\n"


def test_waits_between_connections() -> None:
    """Half a second at first, doubled up to half a minute, for some five minutes in all."""
    delays = list(retry_delays())
    assert delays[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert all(delay == 30 for delay in delays[6:])
    assert 300 <= list(accumulate(delays))[-1] < 330


def test_a_server_that_is_restarted_in_the_middle(tmp_path: Path, start_server: StartServer) -> None:
    """It comes back at the same address, and the batch goes on with it."""
    server = start_server(tokens_per_second=40)
    with batch(tmp_path, server.port, TEXT, "--results", "done") as child:
        child.wait_for(LINES[4].encode() + b"\n")
        server.close()
        child.wait_for(b"connecting again in 0.5 s", "stderr")
        start_server(options={"port": server.port})
        assert child.end() == 0, child["stderr"]
    assert child["stdout"] == TEXT
    assert len((tmp_path / "done").read_text().splitlines()) == len(LINES)


def test_a_signal_while_a_batch_waits_to_connect_again(tmp_path: Path) -> None:
    """The wait is over at once, and what is done is written."""
    predictions = Predictions()
    with StubServer(predictions) as stub, batch(tmp_path, stub.port, b"one\ntwo\nthree\n", "-j", "2") as child:
        first, second = predictions.take(2)
        second.answer()
        predictions.next()
        first.lose()
        child.wait_for(b"connecting again", "stderr")
        child.process.send_signal(signal.SIGINT)
        assert child.end() == -signal.SIGINT
    assert child["stdout"].split() in ([], [b"two"])
    assert b"lm: stopped: 1 done, 2 left\n" in child["stderr"]


@pytest.mark.parametrize("key", ["echo-jit", None])
def test_a_model_that_is_unloaded_in_the_middle(
    key: str | None, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """It is loaded again, by the key that was given or by its own, and the unanswered records go again."""
    server = start_server(tokens_per_second=40)
    with batch(tmp_path, server.port, TEXT, *(("-m", key) if key else ())) as child:
        child.wait_for(LINES[4].encode() + b"\n")
        connect(server).call("unloadModel", {"identifier": key or "echo"})
        assert child.end() == 0, child["stderr"]
    assert child["stdout"] == TEXT
    assert child["stderr"] == b""


def test_a_model_that_is_unloaded_before_the_first_answer(
    tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """Nobody named it, and no answer has: the batch ends, and says how to name one."""
    server = start_server(tokens_per_second=0.3)
    with batch(tmp_path, server.port, TEXT) as child:
        child.wait_for(b"0")
        connect(server).call("unloadModel", {"identifier": "echo"})
        assert child.end() == 69
    assert b"lm: error: the model echo is no longer loaded\nlm: hint: -m KEY loads one\n" in child["stderr"]
    assert b"lm: stopped: 0 done, 20 left\n" in child["stderr"]


def test_a_server_that_falls_silent(tmp_path: Path) -> None:
    """`--timeout` ends a connection like a loss; after three of them the record has failed with 75."""
    predictions, count = Predictions(), 0
    with (
        StubServer(predictions) as stub,
        batch(tmp_path, stub.port, b"silent\nfine\n", "-j", "1", "--timeout", "0.3") as child,
    ):
        while (asked := predictions.next()).text == "silent":
            count += 1
        asked.answer()
        assert child.end() == 75
    assert count == 3
    assert child["stdout"] == b"\nfine\n"
    assert b"lm: error: record 1: the server was silent for 0.3 s" in child["stderr"]


def test_an_input_that_falls_silent_is_not_a_server_that_does(tmp_path: Path, start_server: StartServer) -> None:
    """`--timeout` is about the server: a pause of the input is nobody's silence."""
    variables = environment(tmp_path, start_server().port)
    ran = run("(echo one; sleep 1; echo two) | lm respond --each line --timeout 0.3", tmp_path, variables)
    assert (ran.status, ran.stdout, ran.stderr) == (0, b"one\ntwo\n", "")


def test_a_record_that_waits_for_a_mute_server_fails(tmp_path: Path) -> None:
    """It fails after a while, those whose answers have begun go on, and the next ones go over a new socket."""
    (tmp_path / "sitecustomize.py").write_text("import lmcli.client.session as s\ns.MUTE_SECONDS = 0.05\n")
    sockets = iter(("mute", "new"))

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send({"type": "rpcResult", "callId": peer.receive()["callId"], "result": [INSTANCE]})
        is_mute = next(sockets) == "mute"
        for number in (1, 2, 3) if is_mute else (1,):
            assert peer.receive()["channelId"] == number
        if is_mute:
            peer.send(piece("one", 1), *[warning("?", kind="channelUnknown")] * WARNINGS, piece("three", 3))
            peer.send(success(1), success(3))
        else:
            peer.send(piece("four"), success())
        peer.wait_until_left()

    with ScriptedServer(script) as server:
        variables = environment(tmp_path, server.port, PYTHONPATH=str(tmp_path))
        (tmp_path / "lines").write_text("a\nb\nc\nd\n")
        ran = run("lm respond --each line -j 3 -q < lines", tmp_path, variables)
    assert (ran.status, ran.stdout) == (1, b"one\n\nthree\nfour\n")
    assert ran.stderr.startswith("lm: error: record 2: the server has used up its warnings")
