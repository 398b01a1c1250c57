"""The models that `lm serve` is started for: which is loaded at the start, under which key, and what waits for it."""

import os
import signal
from pathlib import Path

import pytest
from conftest import Connect, Process, Serve, Wire, stats_of, wait_until
from local_servers import ENDLESS, completing, engine_of, is_running, load_parameter, wait_for_fragment
from processes import children_of, environment, run
from tiny_model import Shape, make_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in a folder of its own, both with spaces in their names."""
    folder = tmp_path_factory.mktemp("my models")
    return make_model(folder / "Tiny One-F32.gguf", Shape(layers=1))


def loaded(wire: Wire) -> list[str]:
    """The identifiers of the loaded models."""
    return [instance["identifier"] for instance in wire.result("listLoaded")]


@pytest.mark.parametrize("is_folder", [False, True])
def test_the_only_model_is_loaded_at_the_start(
    serve: Serve, connect: Connect, file: Path, tmp_path: Path, *, is_folder: bool
) -> None:
    """A file, or a folder with one model: its key is in the log, stdout has the address, and no `-m` is needed."""
    server = serve(str(file.parent if is_folder else file), lazy=False)
    ran = run("lm respond -t 0 -l 3 hi", tmp_path, environment(tmp_path, server.address))
    assert (ran.status, ran.stderr) == (0, "")
    assert loaded(connect(server.port)) == ["tiny one"]
    status, stdout, stderr = server.end(signal.SIGTERM)
    assert (status, stdout) == (-signal.SIGTERM, "")
    assert stderr.splitlines()[-2:] == ["lm: loading tiny one", "lm: tiny one is loaded"]


def test_lazy_loads_nothing_at_the_start(serve: Serve, connect: Connect, file: Path) -> None:
    """Nor is one of several models loaded."""
    other = make_model(file.parent.parent / "other.gguf", Shape(layers=1))
    for server in (serve(str(file), lazy=True), serve(str(file), str(other), lazy=False)):
        assert loaded(connect(server.port)) == []
        assert children_of(server.process.pid) == []


def stopped_at_the_start(serve: Serve, connect: Connect, file: Path) -> tuple[Process, int, Wire, int]:
    """A server whose load at the start stands still; gives its engine, too, and an open call for the loaded models."""
    while True:
        server = serve(str(file), lazy=False)
        engine = engine_of(server)
        os.kill(engine, signal.SIGSTOP)
        wire = connect(server.port)
        call = wire.begin("rpcCall", "listLoaded")
        for _ in range(10):
            wire.send({"type": "keepAlive"})
        if all(wire.receive()["type"] == "keepAliveAck" for _ in range(10)):
            return server, engine, wire, call


def test_requests_wait_for_the_load_at_the_start(serve: Serve, connect: Connect, file: Path) -> None:
    """Connections are accepted and other calls answered meanwhile; what needs the model waits for it."""
    server, engine, wire, call = stopped_at_the_start(serve, connect, file)
    predicting, loading = connect(server.port), connect(server.port)
    prediction = predicting.open("completeRawText", completing("tiny one", 2))
    loads = loading.open("getOrLoad", load_parameter("tiny one"))
    assert loading.receive()["message"]["type"] == "startLoading"
    (downloaded,) = connect(server.port, "/system").result("listDownloadedModels")
    assert downloaded["modelKey"] == "tiny one"
    os.kill(engine, signal.SIGCONT)
    answer = wire.receive()
    assert (answer["callId"], [model["identifier"] for model in answer["result"]]) == (call, ["tiny one"])
    assert stats_of(predicting.packets(prediction))["predictedTokensCount"] == 2
    assert loading.packets(loads)[-1]["type"] == "loadSuccess"
    assert children_of(server.process.pid) == [engine]


def test_client_that_cancels_does_not_end_the_load_at_the_start(serve: Serve, connect: Connect, file: Path) -> None:
    """It ends its own request only."""
    server, engine, wire, _ = stopped_at_the_start(serve, connect, file)
    loading = connect(server.port)
    channel = loading.open("getOrLoad", load_parameter("tiny one"))
    assert loading.receive()["message"]["type"] == "startLoading"
    loading.cancel(channel)
    assert loading.packets(channel)[-1]["title"] == "Model loading was cancelled"
    os.kill(engine, signal.SIGCONT)
    assert [model["identifier"] for model in wire.receive()["result"]] == ["tiny one"]


def test_prediction_that_waits_can_be_cancelled(serve: Serve, connect: Connect, file: Path) -> None:
    """It ends while the model is still being loaded."""
    server, engine, _, _ = stopped_at_the_start(serve, connect, file)
    wire = connect(server.port)
    channel = wire.open("completeRawText", completing("tiny one", 2))
    wire.cancel(channel)
    assert wire.packets(channel)[-1]["type"] == "error"
    os.kill(engine, signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_load_at_the_start(serve: Serve, connect: Connect, file: Path, number: signal.Signals) -> None:
    """The server dies of it at once, without its model's process and without an error."""
    server, engine, _, _ = stopped_at_the_start(serve, connect, file)
    status, stdout, stderr = server.end(number)
    assert (status, stdout) == (-number, "")
    assert "error" not in stderr
    wait_until(lambda: not is_running(engine))


def test_load_at_the_start_that_fails_ends_the_server(serve: Serve, connect: Connect, file: Path) -> None:
    """With an error that says why, and status 69."""
    server, engine, _, _ = stopped_at_the_start(serve, connect, file)
    os.kill(engine, signal.SIGKILL)
    stdout, stderr = server.process.communicate(timeout=60)
    assert (server.process.returncode, stdout) == (69, "")
    assert stderr.splitlines()[-1] == "lm: error: cannot load tiny one: llama.cpp was killed by SIGKILL"


def test_key_of_a_file(serve: Serve, connect: Connect, file: Path) -> None:
    """`--key` names it, in any case."""
    server = serve(str(file), lazy=False, key="My/Model")
    wire = connect(server.port)
    assert loaded(wire) == ["My/Model"]
    assert stats_of(wire.stream("completeRawText", completing("my/model", 1)))["predictedTokensCount"] == 1


def test_predictions_at_the_same_time(serve: Serve, connect: Connect, file: Path) -> None:
    """With `--parallel 1`, the second prediction begins after the end of the first; a load can ask for more."""
    server = serve(str(file), lazy=False, parallel=1)
    wire = connect(server.port)
    first = wire.open("completeRawText", completing("tiny one", ENDLESS))
    wait_for_fragment(wire)
    second = wire.open("completeRawText", completing("tiny one", 1))
    wire.cancel(first)
    ends: list[int] = []
    while len(ends) < 2:
        packet = wire.receive()
        assert ends or packet["channelId"] == first
        if packet["type"] == "channelClose":
            ends.append(packet["channelId"])
    assert ends == [first, second]
    assert wire.call("unloadModel", {"identifier": "tiny one"})["type"] == "rpcResult"
    wire.stream("getOrLoad", load_parameter("tiny one", numParallelSessions=2))
    first = wire.open("completeRawText", completing("tiny one", ENDLESS))
    wait_for_fragment(wire)
    second = wire.open("completeRawText", completing("tiny one", 1))
    while (packet := wire.receive())["type"] != "channelClose":
        pass
    assert packet["channelId"] == second


def test_a_model_loaded_on_request_gives_way_to_the_next(serve: Serve, connect: Connect, file: Path) -> None:
    """Its process ends before the next one loads; one that was loaded at the start or without a TTL stays."""
    folder = file.parent.parent
    files = [make_model(folder / f"{name}.gguf", Shape(layers=1)) for name in ("a", "b")]
    server = serve(*map(str, (file, *files)))
    wire = connect(server.port)
    wire.stream("getOrLoad", load_parameter("tiny one"))
    wire.stream("getOrLoad", {**load_parameter("a"), "loadTtlMs": 60_000})
    kept, evicted = children_of(server.process.pid)
    packets = wire.stream("getOrLoad", {**load_parameter("b"), "loadTtlMs": 60_000})
    assert [packets[0]["type"], packets[0]["info"]["identifier"]] == ["unloadingOtherJITModel", "a"]
    assert packets[-1]["type"] == "loadSuccess"
    assert loaded(wire) == ["tiny one", "b"]
    assert not is_running(evicted)
    assert is_running(kept)
