"""What the end of a model's process is for its clients, and for those of other models."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Connect, Serve, stats_of, text_of, wait_until
from local_servers import (
    ENDLESS,
    LONG_ANSWER,
    completing,
    engine_of,
    load,
    stopped_load,
    wait_for_fragment,
)
from processes import environment, start
from tiny_model import Shape, make_model

TOKENS = 200
ONE_THREAD = ("--set", "llama.cpuThreadPoolSize=1")
"""How a command loads a model on a busy machine, where threads that wait for each other are slow."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny models."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": make_model(folder / "one.gguf"),
        "two": make_model(folder / "two.gguf", Shape(layers=1), seed=2),
    }


def test_crash_ends_the_predictions_of_its_model(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """A crash is an error of the model's predictions; others lose nothing, and the next request loads it again."""
    server = serve(str(files["one"]), str(files["two"]))
    hit, spared = connect(server.port), connect(server.port)
    load(hit, "one")
    engine = engine_of(server)
    load(spared, "two")
    whole = text_of(spared.stream("completeRawText", completing("two", 5 * TOKENS)))
    channel = hit.open("completeRawText", completing("one", ENDLESS))
    waiting = hit.open("completeRawText", completing("one", ENDLESS))
    wait_for_fragment(hit)
    other = spared.open("completeRawText", completing("two", 5 * TOKENS))
    first = wait_for_fragment(spared)
    os.kill(engine, signal.SIGKILL)
    errors: dict[int, str] = {}
    while len(errors) < 2:
        envelope = hit.receive()
        if envelope["type"] == "channelError":
            errors[envelope["channelId"]] = envelope["error"]["title"]
    assert errors == dict.fromkeys((channel, waiting), "The model has crashed: llama.cpp was killed by SIGKILL")
    assert first + text_of(spared.packets(other)) == whole
    assert [model["identifier"] for model in hit.result("listLoaded")] == ["two"]
    assert load(hit, "one")[-1]["type"] == "loadSuccess"
    assert stats_of(hit.stream("completeRawText", completing("one", 5)))["predictedTokensCount"] == 5


def test_crash_of_an_idle_model(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """A model whose process ends while nothing runs is not loaded any more; the log says so."""
    server = serve(str(files["one"]))
    wire = connect(server.port)
    load(wire, "one")
    os.kill(engine_of(server), signal.SIGABRT)
    wait_until(lambda: wire.result("listLoaded") == [])
    assert load(wire, "one")[0]["type"] == "startLoading"
    assert "lm: one is unloaded: llama.cpp was killed by SIGABRT\n" in server.end(signal.SIGTERM)[2]


def test_crash_on_the_command_line(serve: Serve, files: dict[str, Path], tmp_path: Path) -> None:
    """The command prints what had arrived, the error and a hint, with the status of an answer that is incomplete."""
    server = serve(str(files["one"]))
    with start(*LONG_ANSWER, "-m", "one", folder=tmp_path, variables=environment(tmp_path, server.address)) as command:
        command.wait_for(b"xxxx")
        os.kill(engine_of(server), signal.SIGKILL)
        assert command.end() == 3
        assert command["stderr"] == (
            b"lm: error: The model has crashed: llama.cpp was killed by SIGKILL\nlm: hint: -m KEY loads it again\n"
        )


@pytest.mark.parametrize("key", [None, "one"])
def test_crash_in_the_middle_of_a_batch(
    serve: Serve, connect: Connect, files: dict[str, Path], tmp_path: Path, key: str | None
) -> None:
    """The model is loaded again, named or not, and the records under way go again: no answer is missing or cut."""
    server = serve(str(files["one"]))
    load(connect(server.port), "one")
    command = (*LONG_ANSWER, "-l", str(TOKENS), "--each", "line", *ONE_THREAD, *(("-m", key) if key else ()))
    variables = environment(tmp_path, server.address)
    with start(*command, folder=tmp_path, variables=variables, stdin=subprocess.PIPE) as batch:
        assert batch.process.stdin is not None
        batch.process.stdin.write(b"record\n" * 9)
        batch.process.stdin.flush()
        batch.wait_for(b"x\n")
        engine = engine_of(server)
        os.kill(engine, signal.SIGKILL)
        batch.process.stdin.write(b"record\n" * 9)
        batch.process.stdin.close()
        assert batch.end() == 0, batch["stderr"]
    assert (batch["stdout"], batch["stderr"]) == ((b"x" * TOKENS + b"\n") * 18, b"")
    assert engine_of(server) != engine


def test_file_that_aborts(serve: Serve, connect: Connect, files: dict[str, Path], tmp_path: Path) -> None:
    """A file on which llama.cpp aborts is an error of its load; what streams meanwhile goes on and loses nothing."""
    aborting = make_model(tmp_path / "aborting.gguf", Shape(layers=0))
    server = serve(str(aborting), str(files["two"]))
    hit, spared = connect(server.port), connect(server.port)
    load(spared, "two")
    channel = spared.open("completeRawText", completing("two", ENDLESS))
    first = wait_for_fragment(spared)
    error = load(hit, "aborting")[-1]["title"]
    assert error.startswith("Cannot load aborting: llama.cpp was killed by SIGABRT: ")
    then = wait_for_fragment(spared)
    spared.cancel(channel)
    packets = spared.packets(channel)
    assert stats_of(packets)["stopReason"] == "userStopped"
    text = first + then + text_of(packets)
    again = spared.stream("completeRawText", completing("two", stats_of(packets)["predictedTokensCount"]))
    assert text_of(again).startswith(text.rstrip("\ufffd"))
    assert [model["identifier"] for model in hit.result("listLoaded")] == ["two"]


def test_killed_load_is_an_error(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """A load whose process is killed is an error that says so; no log would show why."""
    server = serve(str(files["one"]))
    wire, channel, engine = stopped_load(server, connect, "one")
    os.kill(engine, signal.SIGKILL)
    error = wire.packets(channel)[-1]
    assert (error["title"], error.get("suggestion")) == ("Cannot load one: llama.cpp was killed by SIGKILL", None)
