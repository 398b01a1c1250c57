"""Loading a model by llama.cpp: values, progress, invalid files, memory."""

import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Serve, Wire, checked, stats_of
from local_servers import load
from processes import children_of
from tiny_model import make_model
from tiny_server import complete, options

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine


def test_load_on_first_use(tiny_server: background.Running, connect: Connect) -> None:
    """A model is loaded on request, with progress from 0 to 1, and stays loaded."""
    tiny = connect(tiny_server)
    packets = load(tiny, "two", contextLength=100)
    assert [packet["type"] for packet in packets[:2]] == ["startLoading", "loadProgress"]
    progress = [packet["progress"] for packet in packets if packet["type"] == "loadProgress"]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    info = packets[-1]["info"]
    assert packets[-1]["type"] == "loadSuccess"
    assert (info["modelKey"], info["architecture"], info["contextLength"]) == ("two", "llama", 100)
    assert [packet["type"] for packet in load(tiny, "two")] == ["alreadyLoaded"]
    assert tiny.call("unloadModel", {"identifier": "two"})["type"] == "rpcResult"
    assert "two" not in [model["identifier"] for model in tiny.result("listLoaded")]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("llama.evalBatchSize", (1, 31, 65_537)),
        ("numParallelSessions", (0, 1024, True)),
        ("llama.contextCheckpoints", (0, 1025)),
        ("llama.cpuThreadPoolSize", (0, 100_000, "1")),
    ],
)
def test_load_values_have_bounds(tiny: Wire, key: str, values: tuple[Any, ...]) -> None:
    """A number on which llama.cpp would abort is an error that names the option."""
    for value in values:
        assert f"Invalid load config: llm.load.{key} must be" in load(tiny, "two", **{key: value})[-1]["title"]


def test_more_sessions_than_the_batch_size(tiny: Wire) -> None:
    """The batch is enlarged for the sessions: llama.cpp aborts otherwise."""
    assert load(tiny, "two", numParallelSessions=64, **{"llama.evalBatchSize": 32})[-1]["type"] == "loadSuccess"
    assert stats_of(tiny.predict("hi", options(), identifier="two"))["stopReason"]
    tiny.call("unloadModel", {"identifier": "two"})


def test_invalid_file_is_rejected(connect: Connect, tmp_path: Path) -> None:
    """A file that became invalid after the start, or that only llama.cpp detects, is an error."""
    cut, odd, fatal = (make_model(tmp_path / f"{name}.gguf") for name in ("cut", "odd", "fatal"))
    odd.write_bytes(odd.read_bytes().replace(b"output_norm.weight", b"output_nope.weight"))
    layers = b"llama.block_count" + struct.pack("<I", 4)
    two, none = (layers + struct.pack("<I", number) for number in (2, 0))
    fatal.write_bytes(fatal.read_bytes().replace(two, none))
    with background.start(LlamaEngine([cut, odd, fatal])) as running:
        cut.write_bytes(cut.read_bytes()[:200_000])
        tiny = connect(running)
        assert "truncated" in load(tiny, "cut")[-1]["title"]
        answer = load(tiny, "odd")[-1]
        assert "Cannot load odd" in answer["title"]
        assert "'output_norm.weight' not found" in answer["title"]
        assert answer["suggestion"] == "lm serve --verbose shows the log of llama.cpp"
        aborted = load(tiny, "fatal")[-1]["title"]
        assert "Cannot load fatal: llama.cpp was killed by SIGABRT: " in aborted
        assert "GGML_ASSERT" in aborted, "llama.cpp aborts on this one"
        assert tiny.result("listLoaded") == []


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_memory_does_not_grow(serve: Serve, connect: Connect, tiny_files: dict[str, Path]) -> None:
    """300 predictions leave less than 5 KiB each in memory, that of the server and of the model's process."""
    process = serve(str(tiny_files["one"]), quiet=True)
    tiny = connect(process.port)
    load(tiny, "one")
    processes = [process.process.pid, *children_of(process.process.pid)]
    assert len(processes) == 2

    def resident_kib_after(times: int) -> int:
        for _ in range(times):
            complete(tiny, "hello", options(maxPredictedTokens=checked(4)))
        statuses = [Path(f"/proc/{process}/status").read_text() for process in processes]
        return sum(int(status.split("VmRSS:")[1].split()[0]) for status in statuses)

    before = resident_kib_after(100)
    assert resident_kib_after(300) - before < 300 * 5
