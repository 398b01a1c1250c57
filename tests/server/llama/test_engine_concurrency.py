"""What a model's process does at the same time: predictions, calls, cancels; and what waits for whom."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Connect, Serve, query, stack, stats_of, user, wait_until
from local_servers import (
    ENDLESS,
    completing,
    load,
    stopped_load,
    wait_for_fragment,
)
from tiny_model import Shape, make_model

from lmcli.server import background
from lmcli.server.llama.engine_messages import WINDOW, LoadOptions, Message, Token
from lmcli.server.llama.engine_process import EngineProcess
from lmcli.server.llama.llama_engine import LlamaEngine

TOKENS = 200


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model, and one with slow prompts."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": make_model(folder / "one.gguf"),
        "slow": make_model(folder / "slow.gguf", Shape(layers=6, width=384, heads=6, context_length=8192)),
    }


def test_calls_are_answered_during_a_load(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """The calls of other clients do not wait for a load, even for one that stands still."""
    server = serve(str(files["one"]))
    loading, channel, engine = stopped_load(server, connect, "one")
    calling = connect(server.port)
    assert [calling.result("listLoaded") for _ in range(10)] == [[]] * 10
    os.kill(engine, signal.SIGCONT)
    assert loading.packets(channel)[-1]["type"] == "loadSuccess"


def test_output_waits_in_the_process(files: dict[str, Path]) -> None:
    """Of an answer that is not read, the server holds WINDOW messages; the rest waits, and the session is free."""

    async def predict(process: EngineProcess) -> None:
        options = LoadOptions(256, 1, 0, 1, load_mode="AUTO", has_flash_attention=None, parameters={"n_batch": 256})
        async for _ in process.load([files["one"]], options._asdict(), asyncio.Event()):
            pass
        body = {"prompt": "hello", "max_tokens": TOKENS, "logit_bias": [[2, False]]}
        output = await process.predict(body)
        unread = aiter(output)
        await anext(unread)  # it has begun: what is requested from now on is computed after it
        assert await predicted_tokens(aiter(await process.predict(body))) == TOKENS
        assert len(output) == WINDOW - 1
        assert await process.count_tokens("abc") == 3
        assert await predicted_tokens(unread) == TOKENS

    async def run() -> None:
        process = await EngineProcess.start()
        try:
            await predict(process)
        finally:
            await process.close()

    asyncio.run(run())


async def predicted_tokens(output: AsyncIterator[Message]) -> int | None:
    """Read an answer to its end; gives its tokens."""
    *_, last = [message async for message in output]
    assert isinstance(last, Token)
    return last.predicted


def test_calls_are_answered_during_a_prediction(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """Tokens are counted and templates applied while the only session of the model is occupied."""
    server = serve(str(files["one"]))
    wire, running = connect(server.port), connect(server.port)
    load(wire, "one", numParallelSessions=1)
    channel = running.open("completeRawText", completing("one", ENDLESS))
    wait_for_fragment(running)
    assert wire.result("countTokens", {"specifier": query("one"), "inputString": "abc"}) == {"tokenCount": 3}
    formatted = {"specifier": query("one"), "history": user("hi"), "predictionConfigStack": stack(), "opts": {}}
    assert wire.result("applyPromptTemplate", formatted)["formatted"].startswith("<|user|>hi")
    running.cancel(channel)
    assert stats_of(running.packets(channel))["stopReason"] == "userStopped"


@pytest.fixture
def verbose(files: dict[str, Path]) -> Iterator[background.Running]:
    """A server that logs what llama.cpp does."""
    with background.start(LlamaEngine(list(files.values()), is_verbose=True)) as running:
        yield running


Lengths = Callable[[], list[int]]


@pytest.fixture
def stopped(caplog: pytest.LogCaptureFixture) -> Lengths:
    """Gives how many tokens the sessions had when they stopped, according to the log of llama.cpp."""

    def lengths() -> list[int]:
        log = "\n".join(record.getMessage() for record in list(caplog.records))
        return [int(found) for found in re.findall(r"stop processing: n_tokens = (\d+)", log)]

    return lengths


def test_cancel_stops_llama_cpp(verbose: background.Running, connect: Connect, stopped: Lengths) -> None:
    """A cancelled prediction ends at once, in llama.cpp, too."""
    wire = connect(verbose)
    load(wire, "slow", contextLength=8192)
    wait_until(lambda: len(stopped()) == 1)  # the token that ends a load
    channel = wire.open("completeRawText", completing("slow", 8000))
    wait_for_fragment(wire)
    wire.cancel(channel)
    assert stats_of(wire.packets(channel))["stopReason"] == "userStopped"
    wait_until(lambda: len(stopped()) == 2)
    assert stopped()[-1] < 4000


def test_disconnecting_stops_llama_cpp(verbose: background.Running, connect: Connect, stopped: Lengths) -> None:
    """A closed socket cancels the prediction, also while the prompt is read."""
    wire = connect(verbose)
    load(wire, "slow", contextLength=8192)
    wait_until(lambda: len(stopped()) == 1)  # the token that ends a load
    leaving = connect(verbose)
    leaving.open("completeRawText", completing("slow", 10, "word " * 1000))
    while leaving.receive()["message"].get("progress", 0) < 0.05:
        pass
    leaving.socket.close()
    wait_until(lambda: len(stopped()) == 2)
    assert stopped()[-1] < 5000


def test_unread_log_of_llama_cpp_blocks_nothing(files: dict[str, Path], connect: Connect) -> None:
    """With --verbose, models are loaded and run while nobody reads stderr; the log of llama.cpp goes there."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n" * 4096)
    os.set_blocking(writing, True)
    command = [sys.executable, "-m", "lmcli", "serve", "--verbose", "--port", "0", str(files["one"])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, text=True) as process:
        os.close(writing)
        assert process.stdout is not None
        wire = connect(int(process.stdout.readline().rpartition(":")[2]))
        assert load(wire, "one")[-1]["type"] == "loadSuccess"
        for _ in range(20):
            wire.stream("completeRawText", completing("one", 5))
        with os.fdopen(reading) as stderr:
            assert any("loading model" in line and line.startswith("lm: ") for line in stderr)
            process.kill()
