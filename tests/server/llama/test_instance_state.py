"""What the server reports of a loaded GGUF model: its load config, its prediction config, and what it is doing."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Packet, Wire, query, wait_until
from local_servers import completing, load_parameter, wait_for_fragment
from processes import children_of
from tiny_encoder import make_encoder
from tiny_model import Shape, make_model

from lmcli.server import background
from lmcli.server.effective_config import DEFAULT_VALUES
from lmcli.server.llama.llama_engine import LlamaEngine


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[background.Running]:
    """A server of a language model and an embedding model."""
    files = [make_model(tmp_path / "text.gguf", Shape(layers=1)), make_encoder(tmp_path / "encoder.gguf")]
    with background.start(LlamaEngine(files)) as running:
        yield running


def load(wire: Wire, key: str, **values: Any) -> int:
    """Load a model; gives the number of its process."""
    before = children_of(os.getpid())
    wire.stream("getOrLoad", load_parameter(key, **values))
    (process,) = set(children_of(os.getpid())) - set(before)
    return process


def state(wire: Wire, key: str) -> Packet:
    """What an instance is doing."""
    found: Packet = wire.result("getInstanceProcessingState", {"specifier": query(key), "throwIfNotFound": True})
    return found


def test_the_load_config_is_what_the_model_was_loaded_with(llama: background.Running, connect: Connect) -> None:
    """Limits are applied, defaults are stated, and what was ignored is not there."""
    wire = connect(llama)
    load(wire, "text", contextLength=100_000, numParallelSessions=3, **{"llama.evalBatchSize": 64, "llama.unknown": 2})
    asked = {"specifier": query("text")}
    fields = {field["key"]: field["value"] for field in wire.result("getLoadConfig", asked)["fields"]}
    assert fields == {
        "llm.load.contextLength": 256,
        "llm.load.numParallelSessions": 3,
        "llm.load.llama.evalBatchSize": 64,
        "llm.load.llama.cpuThreadPoolSize": 1,
        "llm.load.llama.tryMmap": True,
    }
    base = {field["key"]: field["value"] for field in wire.result("getBasePredictionConfig", asked)["fields"]}
    assert base == DEFAULT_VALUES


def test_the_state_of_a_language_model(llama: background.Running, connect: Connect) -> None:
    """Idle, reading the prompt, generating, idle; with the number of predictions."""
    wire, watch = connect(llama), connect(llama)
    process = load(wire, "text")
    assert state(watch, "text") == {"status": "idle", "queued": 0}
    os.kill(process, signal.SIGSTOP)
    first, second = (wire.open("completeRawText", completing("text", 60_000)) for _ in range(2))
    wait_until(lambda: state(watch, "text") == {"status": "processingPrompt", "queued": 2})
    os.kill(process, signal.SIGCONT)
    wait_for_fragment(wire)
    wait_until(lambda: state(watch, "text") == {"status": "generating", "queued": 2})
    for channel in (first, second):
        wire.cancel(channel)
    wait_until(lambda: state(watch, "text") == {"status": "idle", "queued": 0})


def test_the_state_of_an_embedding_model(llama: background.Running, connect: Connect) -> None:
    """Idle, computing, idle; with the number of texts. Meanwhile other calls are answered."""
    wire, watch = connect(llama, "/embedding"), connect(llama, "/embedding")
    process = load(wire, "encoder")
    assert state(watch, "encoder") == {"status": "idle", "queued": 0}
    os.kill(process, signal.SIGSTOP)
    asked = {"modelSpecifier": query("encoder"), "inputString": "hello"}
    calls = [wire.begin("rpcCall", "embedString", asked) for _ in range(3)]
    wait_until(lambda: state(watch, "encoder") == {"status": "computingEmbedding", "queued": 3})
    os.kill(process, signal.SIGCONT)
    assert sorted(wire.receive()["callId"] for _ in calls) == calls
    assert state(watch, "encoder") == {"status": "idle", "queued": 0}


def test_a_crash_is_an_error_of_the_embeddings(llama: background.Running, connect: Connect) -> None:
    """Which say so, and the model can be loaded again."""
    wire = connect(llama, "/embedding")
    process = load(wire, "encoder")
    os.kill(process, signal.SIGSTOP)
    asked = {"modelSpecifier": query("encoder"), "inputString": "hello"}
    wire.begin("rpcCall", "embedString", asked)
    wait_until(lambda: state(connect(llama, "/embedding"), "encoder")["queued"] == 1)
    os.kill(process, signal.SIGKILL)
    assert wire.receive()["error"]["title"] == "The model has crashed: llama.cpp was killed by SIGKILL"
    load(wire, "encoder")
    assert len(wire.result("embedString", asked)["embedding"]) == 32
