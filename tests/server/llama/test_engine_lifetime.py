"""The process of a model: what it holds, and when it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, Connect, Serve, stats_of, wait_until
from local_servers import (
    ENDLESS,
    LONG_ANSWER,
    REAL_KEY,
    completing,
    engine_of,
    is_running,
    load,
    load_parameter,
    real_model,
    stopped_load,
    wait_for_fragment,
)
from processes import Child, children_of, environment, start
from tiny_model import make_model

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_model(tmp_path_factory.mktemp("models") / "one.gguf")


@ON_LINUX
def test_memory_of_a_model_is_that_of_its_process(serve: Serve, connect: Connect) -> None:
    """A model is not in the memory of the server, and its process is gone when the call that unloads it returns."""
    server = serve(str(real_model()))
    wire = connect(server.port)
    before = resident_bytes(server.process.pid)
    load(wire, REAL_KEY)
    engine = engine_of(server)
    size = real_model().stat().st_size
    assert resident_bytes(server.process.pid) - before < size / 4
    assert resident_bytes(engine) > size
    assert wire.call("unloadModel", {"identifier": REAL_KEY})["type"] == "rpcResult"
    assert not is_running(engine)


def resident_bytes(process: int) -> int:
    """The memory of a process."""
    return int(Path(f"/proc/{process}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_server_leaves_no_process_behind(serve: Serve, connect: Connect, file: Path, number: signal.Signals) -> None:
    """The process of a model ends with the server, however it ends, also while it predicts."""
    server = serve(str(file))
    wire = connect(server.port)
    load(wire, "one")
    engine = engine_of(server)
    wire.open("completeRawText", completing("one", ENDLESS))
    wait_for_fragment(wire)
    server.end(number)
    wait_until(lambda: not is_running(engine))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the process ends only after llama.cpp has loaded")
def test_killed_server_leaves_no_process_that_stands_still(serve: Serve, connect: Connect) -> None:
    """The process of a model ends with a killed server even while it does nothing itself, as during a load."""
    server = serve(str(real_model()))
    wire = connect(server.port)
    wire.open("getOrLoad", load_parameter(REAL_KEY))
    while not wire.receive()["message"].get("progress"):
        pass
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    server.end(signal.SIGKILL)
    wait_until(lambda: not is_running(engine))


def test_cancelled_load_ends_its_process(serve: Serve, connect: Connect, file: Path) -> None:
    """A cancel ends the process that loads, whatever it is doing, and the model can be loaded again."""
    server = serve(str(file))
    wire, channel, engine = stopped_load(server, connect, "one")
    wire.send({"type": "channelSend", "channelId": channel, "message": {"type": "cancel"}})
    wait_until(lambda: not is_running(engine))
    wire.packets(channel)
    assert load(wire, "one")[-1]["type"] == "loadSuccess"


@ON_LINUX
def test_process_has_no_sockets_of_the_server(serve: Serve, connect: Connect, file: Path) -> None:
    """The process of a model inherits neither the listening socket nor connections."""
    server = serve(str(file))
    load(connect(server.port), "one")
    assert sockets_of(server.process.pid)
    assert sockets_of(server.process.pid) & sockets_of(engine_of(server)) == set()


def sockets_of(process: int) -> set[str]:
    """The sockets that a process has open."""
    links = (str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


def test_signals_to_all_processes_are_for_the_server(serve: Serve, connect: Connect, file: Path) -> None:
    """What a terminal or `timeout` sends to a group of processes does not take the model from its server."""
    server = serve(str(file))
    wire = connect(server.port)
    load(wire, "one")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(engine_of(server), number)
    assert stats_of(wire.stream("completeRawText", completing("one", 5)))["predictedTokensCount"] == 5


def engine_of_command(command: Child) -> int:
    """The process of the model that a command runs, once the answer has begun."""
    command.wait_for(b"xxxx")
    (engine,) = children_of(command.process.pid)
    return engine


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_file_as_host_leaves_no_process_behind(file: Path, tmp_path: Path, number: signal.Signals) -> None:
    """A command that runs a model itself ends its process when it is stopped."""
    variables = environment(tmp_path, str(file))
    with start(*LONG_ANSWER, folder=tmp_path, variables=variables) as command:
        engine = engine_of_command(command)
        command.process.send_signal(number)
        assert command.end() == -number
    wait_until(lambda: not is_running(engine))


def test_file_as_host_and_a_reader_that_leaves(file: Path, tmp_path: Path) -> None:
    """`lm complete … | head -1` leaves no process behind."""
    variables = environment(tmp_path, str(file))
    with subprocess.Popen(LONG_ANSWER, env=variables, cwd=tmp_path, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert command.stdout.read(4) == b"xxxx"
        (engine,) = children_of(command.pid)
        command.stdout.close()
        assert command.wait(PATIENCE) == -signal.SIGPIPE
    wait_until(lambda: not is_running(engine))
