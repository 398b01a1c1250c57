"""GGUF files on the command line, and with the official SDK."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmstudio as lms
import pytest
from conftest import Serve
from local_servers import ONLY_X
from tiny_encoder import make_encoder
from tiny_model import make_model
from tiny_projector import IMAGE_TOKENS, make_projector, png

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_model(tmp_path_factory.mktemp("models") / "Tiny-F32.gguf")


def lm(*arguments: str | Path, stdin: str | None = None, python: str = "pass") -> subprocess.CompletedProcess[str]:
    """Run `lm`; `python` is run before it in the same process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LM_")}
    run = f"import sys; sys.argv = sys.argv[1:]; {python}; from lmcli.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "lm", *map(str, arguments)]
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False, **source)


def test_file_as_host(file: Path) -> None:
    """A model runs inside the command, which prints only the answer."""
    words = ("respond", "--host", file, "--seed", "3", "-l", "9", "hello")
    one, two = lm(*words), lm(*words)
    assert (one.returncode, one.stderr) == (0, "")
    assert one.stdout == two.stdout != ""


def test_grammar(file: Path, tmp_path: Path) -> None:
    """The answer conforms to the grammar."""
    grammar = tmp_path / "yes or no.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    for command in ("complete", "respond"):
        assert lm(command, "--host", file, "--grammar", grammar, stdin="is it?").stdout.strip() in ("yes", "no")


def test_models_of_a_file(file: Path) -> None:
    """`lm models` prints the key of a file."""
    assert lm("models", "--host", file).stdout == "tiny\n"


def test_embedding_model_as_host(tmp_path: Path) -> None:
    """It is listed, and refused where an answer is wanted."""
    file = make_encoder(tmp_path / "encoder.gguf")
    assert lm("models", "--host", file).stdout == "encoder\n"
    done = lm("respond", "--host", file, "hello")
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("lm: error: model 'encoder' is of the kind 'embedding', not 'llm'\n")


def test_image_as_host(tmp_path: Path) -> None:
    """A projector beside the file lets the model read images, of a file with spaces in its name too."""
    file = make_model(tmp_path / "see.gguf")
    make_projector(tmp_path / "mmproj-see.gguf")
    (tmp_path / "a red dot.png").write_bytes(png((255, 0, 0)))
    words = ("respond", "--host", file, ONLY_X, "-l", "3", "-o", "json", "hi")
    plain, seen = lm(*words), lm(*words, "-f", tmp_path / "a red dot.png")
    assert (seen.returncode, seen.stderr) == (0, "")
    counts = [json.loads(done.stdout)["stats"]["prompt_tokens_count"] for done in (plain, seen)]
    assert counts[1] == counts[0] + IMAGE_TOKENS


def test_refused_option(file: Path) -> None:
    """An option that llama.cpp cannot be given is an error, with what to do instead."""
    done = lm("complete", "--host", file, "-l", "1", "--set", "llama.cpuThreads=2", "a")
    assert (done.returncode, done.stdout) == (1, "")
    assert "does not support the option llm.prediction.llama.cpuThreads" in done.stderr
    assert "hint: set llm.load.llama.cpuThreadPoolSize when the model is loaded" in done.stderr


def test_tool_call(file: Path, tmp_path: Path) -> None:
    """A call that the model writes is in the result."""
    call = '<tool_call>{"name": "add", "arguments": {"a": 2}}</tool_call>'
    grammar = tmp_path / "call.gbnf"
    grammar.write_text(f"root ::= {json.dumps(call)}\n")
    tools = 'tools=[{"type": "function", "function": {"name": "add"}}]'
    done = lm(
        "respond", "--host", file, "--grammar", grammar, "--set", tools, "-o", "json", "--overflow", "middle", "hi"
    )
    assert (done.returncode, done.stderr) == (0, "")
    (called,) = json.loads(done.stdout)["tool_calls"]
    assert (called["name"], called["arguments"]) == ("add", {"a": 2})


def test_log_probabilities(file: Path) -> None:
    """Those of each token and its candidates are in the result."""
    done = lm("complete", "--host", file, "--logprobs", "2", "-l", "3", "--seed", "1", "-o", "json", "hi")
    tokens = json.loads(done.stdout)["tokens"]
    assert tokens
    assert all(token["log_prob"] <= 0 and len(token["candidates"]) == 2 for token in tokens)


def test_unknown_draft_model(file: Path) -> None:
    """A draft model that is not there is an error."""
    done = lm("complete", "--host", file, "--draft-model", "acme/nothing", "a")
    assert (done.returncode, done.stdout) == (69, "")
    assert "acme/nothing" in done.stderr


def test_settings_of_a_load(file: Path) -> None:
    """A context and a GPU share, with which `autoFit` is switched off, and other settings load a model quietly."""
    load = ("--context-length", "128", "--gpu", "off", "--set", "flashAttention=false", "--set", "evalBatchSize=64")
    done = lm("respond", "--host", file, *load, "--seed", "3", "-l", "3", "-o", "json", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    with background.start(LlamaEngine([file])) as running:
        host = f"127.0.0.1:{running.port}"
        assert lm("models", "load", "--host", host, "tiny", *load).stdout == "tiny\n"
        with lms.Client(host) as client:
            model = client.llm.model("tiny")
            assert model.get_context_length() == 128
            assert dict(model.get_load_config().to_dict())["evalBatchSize"] == 64


def test_without_the_extra(file: Path) -> None:
    """Without llama.cpp, a hint shows how to install it."""
    done = lm("serve", file, python="sys.modules['xllamacpp'] = None")
    assert done.returncode == 69
    assert f"hint: {sys.executable} -m pip install 'xllamacpp>=" in done.stderr


def test_invalid_and_missing_files(file: Path, tmp_path: Path) -> None:
    """An invalid file is status 69, a missing one 66; both are named."""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-1])
    for words in (("serve", file, cut), ("respond", "--host", cut, "hi")):
        done = lm(*words)
        assert (done.returncode, done.stdout) == (69, "")
        assert "cut.gguf' is truncated" in done.stderr
    gone = lm("respond", "--host", tmp_path / "gone.gguf", "hi")
    assert gone.returncode == 66
    assert "gone.gguf" in gone.stderr


def test_demo_does_not_import_llama_cpp() -> None:
    """The demo runs without llama.cpp."""
    done = lm("respond", "--host", "demo", "hello", python="sys.modules['xllamacpp'] = None")
    assert (done.returncode, done.stdout) == (0, "hello\n")


def test_serve(serve: Serve, file: Path) -> None:
    """`lm serve FILE` offers the file instead of the echo models, and does not print the log of llama.cpp."""
    process = serve(str(file), quiet=True)
    host = process.address.removeprefix("http://")
    assert lm("models", "--host", host).stdout == "tiny\n"
    answer = lm("respond", "--host", host, "-m", "tiny", "--seed", "3", "-l", "5", "hello")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert process.end(signal.SIGTERM) == (-signal.SIGTERM, "", "")


def test_official_sdk(file: Path) -> None:
    """The official SDK loads, predicts, streams, tokenizes and cancels."""
    with background.start(LlamaEngine([file])) as running, lms.Client(f"127.0.0.1:{running.port}") as client:
        progress: list[float] = []
        model = client.llm.model("tiny", config={"contextLength": 128}, on_load_progress=progress.append)
        assert (progress[0], progress[-1]) == (0.0, 1.0)
        assert model.get_context_length() == 128
        assert model.get_info().architecture == "llama"
        result = model.respond("hello", config={"maxTokens": 7, "temperature": 0})
        assert result.stats.predicted_tokens_count is not None
        assert result.stats.predicted_tokens_count <= 7
        assert (result.stats.tokens_per_second or 0) > 0
        assert result.model_info.display_name == "Tiny"
        schema = {"type": "object", "properties": {"n": {"const": 1}}, "required": ["n"], "additionalProperties": False}
        structured = model.complete("x", response_format={"type": "json", "jsonSchema": schema})
        assert structured.parsed == {"n": 1}
        assert model.count_tokens("abc") == 3
        chat = lms.Chat("S")
        chat.add_user_message("U")
        assert model.apply_prompt_template(chat) == "<|system|>S\n<|user|>U\n<|assistant|>"
        stream = model.complete_stream("y")
        for fragment in stream:
            assert fragment.content
            stream.cancel()
        assert stream.result().stats.stop_reason in ("userStopped", "eosFound")
        model.unload()
        assert client.llm.list_loaded() == []
