"""Real predictions by llama.cpp, through the socket, on a tiny model: every option does what it says."""

import asyncio
import json
import os
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    Connect,
    Packet,
    Serve,
    Wire,
    checked,
    predicting,
    query,
    stack,
    stats_of,
    text_of,
    user,
    wait_until,
)
from tiny_model import Shape, make_model, token_of

from lmcli.server import background
from lmcli.server.engine import PredictionRequest
from lmcli.server.llama.backend import LlamaEngine
from lmcli.server.llama.generator import Prediction
from lmcli.server.llama.preflight import preflight
from lmcli.server.llama.runtime import LoadSettings, Runtime
from lmcli.server.llama.sampling import excess
from lmcli.values import Stats
from lmcli.wire.prediction_config import PredictionConfig

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
CONTEXT = 256
RAW = {"enabled": False, "startString": "<think>", "endString": "</think>"}
NO_END = {"llama.logitBias": [[2, "-inf"]]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny models, one with a template, one without; and one whose prompts take a while."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": make_model(folder / "one.gguf"),
        "two": make_model(folder / "two.gguf", Shape(layers=1), seed=2, template=None),
        "slow": make_model(folder / "slow.gguf", Shape(layers=6, width=384, heads=6, context_length=8192)),
    }


@pytest.fixture(scope="module")
def llama(files: dict[str, Path]) -> Iterator[background.Running]:
    """A server with the models, kept for all tests here."""
    with background.start(LlamaEngine(list(files.values()))) as running:
        yield running


def load(wire: Wire, key: str, **values: Any) -> list[Packet]:
    """Have a model loaded."""
    values = {"llama.cpuThreadPoolSize": 1} | values  # threads that wait for each other are slow on a busy machine
    fields = [{"key": f"llm.load.{name}", "value": value} for name, value in values.items()]
    layers = [{"layerName": "apiOverride", "config": {"fields": fields}}]
    return wire.stream("getOrLoad", {"identifier": key, "loadConfigStack": {"layers": layers}})


@pytest.fixture
def wire(llama: background.Running, connect: Connect) -> Wire:
    """A connection to the server, with the model `one` loaded."""
    wire = connect(llama)
    load(wire, "one")
    return wire


def options(**values: Any) -> Packet:
    """Prediction options that leave nothing to chance but what a test asks for."""
    return stack(**{"seed": checked(7), "maxPredictedTokens": checked(20), "reasoning.parsing": RAW} | values)


def complete(wire: Wire, text: str, config: Packet, identifier: str = "one") -> list[Packet]:
    """Continue a text as it is."""
    parameter = {"modelSpecifier": query(identifier), "rawPrompt": text, "predictionConfigStack": config}
    return wire.stream("completeRawText", parameter)


def only(*texts: str) -> Packet:
    """A grammar that admits these texts and nothing else."""
    return {
        "type": "gbnf",
        "gbnfGrammar": "root ::= " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts),
    }


def test_load_on_first_use(llama: background.Running, connect: Connect) -> None:
    """A model is loaded when it is asked for, with progress from 0 to 1, and is there from then on."""
    wire = connect(llama)
    packets = load(wire, "two", contextLength=100)
    assert [packet["type"] for packet in packets[:2]] == ["startLoading", "loadProgress"]
    progress = [packet["progress"] for packet in packets if packet["type"] == "loadProgress"]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    info = packets[-1]["info"]
    assert packets[-1]["type"] == "loadSuccess"
    assert (info["modelKey"], info["architecture"], info["contextLength"]) == ("two", "llama", 100)
    assert [packet["type"] for packet in load(wire, "two")] == ["alreadyLoaded"]
    assert wire.call("unloadModel", {"identifier": "two"})["type"] == "rpcResult"
    assert "two" not in [model["identifier"] for model in wire.result("listLoaded")]


def test_same_seed_same_text(wire: Wire) -> None:
    """A seed decides the text, another one another; so does temperature 0 without any."""
    texts = [text_of(wire.predict("hello", options(seed=checked(s)), identifier="one")) for s in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    greedy = options(temperature=0, seed={"checked": False, "value": -1})
    assert len({text_of(complete(wire, "hello", greedy)) for _ in range(3)}) == 1


def test_stats_are_the_engines(wire: Wire) -> None:
    """Tokens are counted one by one, and the figures add up."""
    packets = complete(wire, "abc", options())
    stats = stats_of(packets)
    assert stats["stopReason"] == "maxPredictedTokensReached"
    assert stats["predictedTokensCount"] == 20
    assert stats["promptTokensCount"] == 4, "three bytes, and the mark for the beginning"
    assert stats["totalTokensCount"] == 24
    assert stats["tokensPerSecond"] > 0
    counts = [packet["fragment"]["tokensCount"] for packet in packets if packet["type"] == "fragment"]
    assert sum(counts) <= 20
    assert all(count >= 1 for count in counts)


def test_prompt_progress(wire: Wire) -> None:
    """The reading of the prompt is shown up to its end, before the first fragment."""
    packets = complete(wire, "never seen before", options())
    kinds = [packet["type"] for packet in packets]
    read = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
    assert kinds[: len(read)] == ["promptProcessingProgress"] * len(read)
    assert read[-1]["progress"] == 1.0
    for packet in read:
        details = packet["details"]
        assert details["totalPromptTokenCount"] == 18
        assert sum(details.values()) == 2 * 18, "cached, processed and unprocessed are the whole"


def test_characters_are_whole(wire: Wire) -> None:
    """A character of several tokens arrives whole, in a fragment that counts them all."""
    packets = complete(wire, "a", options(structured=only("aé€😀b")))
    fragments = [packet["fragment"] for packet in packets if packet["type"] == "fragment"]
    assert [(f["content"], f["tokensCount"]) for f in fragments] == [
        ("a", 1), ("é", 2), ("€", 3), ("😀", 4), ("b", 1)
    ]  # fmt: skip
    assert stats_of(packets)["stopReason"] == "eosFound"
    assert stats_of(packets)["predictedTokensCount"] == 12, "eleven bytes and the end"


def test_stop_strings(wire: Wire) -> None:
    """The text ends before a stop string, also where it spans tokens, and the stats name it."""
    config = options(structured=only("one two three"), stopStrings=["zzz", "o th"])
    packets = complete(wire, "a", config)
    assert text_of(packets) == "one tw"
    stats = stats_of(packets)
    assert (stats["stopReason"], stats["stopString"]) == ("stopStringFound", "o th")
    called = complete(wire, "a", options(structured=only("one two"), toolCallStopStrings=["tw"]))
    assert (text_of(called), stats_of(called)["stopReason"]) == ("one ", "toolCalls")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"llama.logitBias": [[token_of(ord("x")), 100]]}, "xxxx"),
        ({"temperature": 0.0, "llama.logitBias": [[token_of(ord("y")), 100], [token_of(ord("x")), 50]]}, "yyyy"),
        ({"topKSampling": 1, "temperature": 5, "llama.logitBias": [[token_of(ord("z")), 40]]}, "zzzz"),
        ({"llama.logitBias": [[token_of(ord("x")), 100], [token_of(ord("x")), "-inf"]]}, None),
    ],
)
def test_sampling_reaches_the_engine(wire: Wire, values: Packet, expected: str | None) -> None:
    """What is to be sampled is."""
    text = text_of(complete(wire, "a", options(maxPredictedTokens=checked(4), **values)))
    assert text == expected if expected else "x" not in text


def test_penalty_reaches_the_engine(wire: Wire) -> None:
    """A penalty keeps a token from coming again."""
    bias = {"llama.logitBias": [[token_of(ord("x")), 20]], "temperature": 0}
    free = {"repeatPenalty": {"checked": False, "value": 1.1}}
    assert text_of(complete(wire, "a", options(**bias, **free))) == "x" * 20
    punished = {"repeatPenalty": checked(1.0), "llama.presencePenalty": checked(100.0)}
    assert text_of(complete(wire, "a", options(**bias, **punished))).count("x") == 1


def test_schema_is_kept_to(wire: Wire) -> None:
    """Every answer is an instance of the schema."""
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 23]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    config = options(structured={"type": "json", "jsonSchema": schema}, temperature=0, maxPredictedTokens=checked(200))
    for text in ("a", "b", "c"):
        packets = complete(wire, text, config)
        if stats_of(packets)["stopReason"] == "eosFound":
            assert json.loads(text_of(packets))["n"] in (1, 23)
        else:  # white space is JSON, too
            assert text_of(packets).lstrip().startswith("{")


@pytest.mark.parametrize("schema", [{"type": "nope"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
def test_schema_that_cannot_be_kept_to(wire: Wire, schema: Packet) -> None:
    """What llama.cpp does not understand, and would pass over, is refused."""
    packets = complete(wire, "a", options(structured={"type": "json", "jsonSchema": schema}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"
    assert text_of(packets) == ""


def nested(depth: int) -> Packet:
    """A schema of arrays in arrays."""
    schema: Packet = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "minItems": 10**9},
        {"anyOf": [{"type": "object", "properties": {"a": {"type": "string", "maxLength": 1e9}}}]},
        {"type": "string", "pattern": "^a{3,100000}$"},
        {"type": "string", "pattern": "^" + "(" * 50_000 + "a" + ")" * 50_000 + "$"},
        {"const": "x" * 200_000},
        nested(400),
    ],
)
def test_schema_that_is_too_much(wire: Wire, schema: Packet) -> None:
    """What would take all memory, or the process, is refused before llama.cpp sees it."""
    packets = complete(wire, "a", options(structured={"type": "json", "jsonSchema": schema}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000,
        "root ::= " + "(" * 501 + '"a"' + ")" * 501,
        'root ::= "a"{2001}',
        'root ::= "' + "a" * 90_000 + '"{2000}',
    ],
)
def test_grammar_that_is_too_much(wire: Wire, grammar: str) -> None:
    """What would take all memory, or the process, is refused before llama.cpp sees it."""
    packets = complete(wire, "a", options(structured={"type": "gbnf", "gbnfGrammar": grammar}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"


def test_form_within_its_limits() -> None:
    """What is at the limits is not refused; words that look like limits are no limits."""
    for schema in ({"maxLength": 2000}, {"pattern": "(a{2000}|b{,7}|c{3,})"}, {"properties": {"minItems": nested(90)}}):
        assert not list(excess({"json_schema": schema}))
    assert not list(excess({"grammar": "root ::= " + "(" * 500 + '"a"{1999}' + ")" * 500}))


@pytest.mark.parametrize(
    "values",
    [
        {"structured": {"type": "json", "jsonSchema": {"const": "\ud800"}}},
        {"structured": {"type": "json", "jsonSchema": {"type": "string", "description": "\ud83d"}}},
        {"structured": {"type": "gbnf", "gbnfGrammar": 'root ::= "\ud800"'}},
        {"llama.logitBias": [["\ud800", 1]]},
        {
            "reasoning.budgetTokens": checked(2**62),
            "reasoning.parsing": {**RAW, "enabled": True, "endString": "\ud800"},
        },
    ],
)
def test_half_a_pair_of_surrogates(wire: Wire, values: Packet) -> None:
    """Half of a surrogate pair is replaced, wherever it stands."""
    assert stats_of(complete(wire, "a", options(**values)))["stopReason"] in ("maxPredictedTokensReached", "eosFound")


@pytest.mark.parametrize("bias", [5, {"a": 1}, [[1]], [[nested(400), 1]]])
def test_bias_that_cannot_be(wire: Wire, bias: Any) -> None:
    """A value that the engine cannot even read is an error, and no failed prediction."""
    assert complete(wire, "a", options(**{"llama.logitBias": bias}))[-1]["type"] == "error"


def test_bad_grammar_is_refused(wire: Wire) -> None:
    """A grammar with a mistake is an error, and the server lives on."""
    packets = complete(wire, "a", options(structured={"type": "gbnf", "gbnfGrammar": "root := nope"}))
    assert "grammar" in packets[-1]["title"]
    assert text_of(complete(wire, "a", options(structured=only("fine")))) == "fine"


def test_template_and_raw(wire: Wire) -> None:
    """`respond` goes through the model's template, `complete` through none."""
    shown = wire.result(
        "applyPromptTemplate",
        {"specifier": query("one"), "history": user("hi"), "predictionConfigStack": stack(), "opts": {}},
    )
    assert shown == {"formatted": "<|user|>hi\n<|assistant|>"}
    tokens = len(wire.result("tokenize", {"specifier": query("one"), "inputString": shown["formatted"]})["tokens"])
    assert stats_of(wire.predict("hi", options(), identifier="one"))["promptTokensCount"] == tokens + 1
    assert stats_of(complete(wire, "hi", options()))["promptTokensCount"] == 3


def test_system_prompt_and_manual_template(wire: Wire) -> None:
    """A system prompt and a template of the configuration are heeded."""
    manual = {
        "type": "manual",
        "stopStrings": [],
        "manualPromptTemplate": {"beforeUser": "Q:", "beforeAssistant": "A:"},
    }
    for config, expected in (
        (stack(systemPrompt="S"), "<|system|>S\n<|user|>hi\n<|assistant|>"),
        (stack(promptTemplate=manual), "Q:hiA:"),
    ):
        parameter = {"specifier": query("one"), "history": user("hi"), "predictionConfigStack": config, "opts": {}}
        assert wire.result("applyPromptTemplate", parameter) == {"formatted": expected}


def test_tokens(wire: Wire) -> None:
    """Tokens are the model's own; half a surrogate pair breaks nothing."""
    text = {"specifier": query("one"), "inputString": "ab<think>"}
    assert wire.result("tokenize", text) == {"tokens": [token_of(97), token_of(98), 259]}
    assert wire.result("countTokens", text) == {"tokenCount": 3}
    assert wire.result("countTokens", text | {"inputString": "\ud83d"}) == {"tokenCount": 3}
    assert stats_of(complete(wire, "\ud83d", options()))["predictedTokensCount"] == 20


def kinds(packets: list[Packet]) -> list[tuple[str, str]]:
    """Reasoning type and text, with neighbours of one type joined."""
    joined: list[tuple[str, str]] = []
    for packet in packets:
        if packet["type"] == "fragment":
            kind, content = packet["fragment"]["reasoningType"], packet["fragment"]["content"]
            if joined and joined[-1][0] == kind:
                content = joined.pop()[1] + content
            joined.append((kind, content))
    return joined


def test_reasoning_is_told_apart(wire: Wire) -> None:
    """What is between the tags is reasoning, and so are the tags."""
    parsing = {**RAW, "enabled": True}
    packets = complete(wire, "a", options(structured=only("<think>hm</think>yes"), **{"reasoning.parsing": parsing}))
    assert kinds(packets) == [
        ("reasoningStartTag", "<think>"),
        ("reasoning", "hm"),
        ("reasoningEndTag", "</think>"),
        ("none", "yes"),
    ]


def test_reasoning_that_the_template_begins(wire: Wire) -> None:
    """Where the template opens the reasoning, the answer begins in the middle of it; the tag is made good."""
    thinking = {"reasoning.enableThinking": True, "reasoning.parsing": {**RAW, "enabled": True}}
    bias = {"llama.logitBias": [[token_of(ord("x")), 100]]}
    packets = wire.predict("hi", options(**thinking, **bias), identifier="one")
    assert kinds(packets) == [("reasoningStartTag", "<think>"), ("reasoning", "x" * 20)]
    counts = [packet["fragment"]["tokensCount"] for packet in packets if packet["type"] == "fragment"]
    assert sum(counts) == 20
    off = wire.predict("hi", options(**{**thinking, "reasoning.enableThinking": False}, **bias), identifier="one")
    assert kinds(off) == [("none", "x" * 20)]


def test_reasoning_budget(wire: Wire) -> None:
    """The engine ends the reasoning when its budget is spent."""
    values = {
        "llama.logitBias": [[259, 30]],
        "reasoning.budgetTokens": checked(3),
        "reasoning.parsing": {**RAW, "enabled": True},
    }
    text = text_of(wire.predict("hi", options(**values), identifier="one"))
    assert text.startswith("<think>" * 4 + "</think>")


def test_context_overflow(wire: Wire) -> None:
    """`stopAtLimit` ends at the last token that fits; the other policies go on."""
    bias = {"llama.logitBias": [[token_of(ord("x")), 100]], "maxPredictedTokens": {"checked": False, "value": 1}}
    packets = complete(wire, "abc", options(contextOverflowPolicy="stopAtLimit", **bias))
    assert stats_of(packets)["stopReason"] == "contextLengthReached"
    assert stats_of(packets)["totalTokensCount"] == CONTEXT
    assert text_of(packets) == "x" * (CONTEXT - 4)
    for policy in ("rollingWindow", "truncateMiddle"):
        longer = options(contextOverflowPolicy=policy, **{**bias, "maxPredictedTokens": checked(2 * CONTEXT)})
        assert stats_of(complete(wire, "abc", longer))["predictedTokensCount"] == 2 * CONTEXT


def test_prompt_that_is_too_long(wire: Wire) -> None:
    """`stopAtLimit` says so, the other policies cut the prompt and answer."""
    text = "word " * 100
    stats = stats_of(complete(wire, text, options(contextOverflowPolicy="stopAtLimit")))
    assert (stats["stopReason"], stats["promptTokensCount"]) == ("contextLengthReached", 501)
    assert stats["predictedTokensCount"] == 0
    for policy in ("rollingWindow", "truncateMiddle"):
        config = options(contextOverflowPolicy=policy, **{"llama.logitBias": [[2, "-inf"]]})
        stats = stats_of(complete(wire, text, config))
        assert (stats["promptTokensCount"], stats["predictedTokensCount"]) == (192, 20)


def test_predictions_at_once(wire: Wire) -> None:
    """More predictions than there are sessions run on one connection, and none is mixed up with another."""
    words = [f"answer {number}" for number in range(9)]
    channels = {
        wire.open("predict", predicting("hi", options(structured=only(word)), identifier="one")): word for word in words
    }
    texts = dict.fromkeys(channels, "")
    ended = 0
    while ended < len(channels):
        envelope = wire.receive()
        ended += envelope["type"] == "channelClose"
        message = envelope.get("message", {})
        if message.get("type") == "fragment":
            texts[envelope["channelId"]] += message["fragment"]["content"]
    assert texts == channels


def test_cancel_stops_the_engine(wire: Wire) -> None:
    """A cancelled prediction ends at once, and the engine does nothing more for it."""
    endless = options(contextOverflowPolicy="rollingWindow", maxPredictedTokens={"checked": False, "value": 1})
    bias = {"llama.logitBias": [[2, "-inf"]]}
    endless["layers"][0]["config"]["fields"] += stack(**bias)["layers"][0]["config"]["fields"]
    channel = wire.open("predict", predicting("hi", endless, identifier="one"))
    while wire.receive()["message"]["type"] != "fragment":
        pass
    wire.cancel(channel)
    assert stats_of(wire.packets(channel))["stopReason"] == "userStopped"
    wait_until(lambda: not running_predictions())


def running_predictions() -> list[str]:
    """The threads that are inside of llama.cpp for a prediction."""
    return [thread.name for thread in threading.enumerate() if thread.name == "llama.cpp prediction"]


def test_client_that_leaves_stops_the_engine(llama: background.Running, wire: Wire, connect: Connect) -> None:
    """A closed socket is a cancel, also in the middle of a prompt."""
    load(wire, "slow", contextLength=8192)
    leaving = connect(llama)
    leaving.open("predict", predicting("word " * 1000, options(), identifier="slow"))
    while leaving.receive()["message"].get("progress", 0) < 0.05:
        pass
    leaving.socket.close()
    wait_until(lambda: not running_predictions())


def test_others_wait_outside(wire: Wire) -> None:
    """No more threads than sessions, and one, are inside of the engine; who waits is cancelled at once."""
    load(wire, "two", numParallelSessions=1)
    endless = options(contextOverflowPolicy="rollingWindow", maxPredictedTokens=checked(60_000), **NO_END)
    channels = [wire.open("predict", predicting("hi", endless, identifier="two")) for _ in range(20)]
    while wire.receive()["message"]["type"] != "fragment":
        pass
    assert len(running_predictions()) == 2
    for channel in reversed(channels):
        wire.cancel(channel)
        stats = stats_of([end_of(wire, channel)])
        assert stats["stopReason"] == "userStopped"
        assert channel in channels[:2] or stats["predictedTokensCount"] == 0
    assert stats_of(wire.predict("hi", options(), identifier="two"))["predictedTokensCount"] > 0
    wire.call("unloadModel", {"identifier": "two"})


def end_of(wire: Wire, channel: int) -> Packet:
    """The last packet of a channel, and its close; what others say is passed over."""
    last: Packet = {}
    while (envelope := wire.receive())["type"] != "channelClose" or envelope["channelId"] != channel:
        if envelope.get("channelId") == channel:
            last = envelope["message"]
    return last


def test_slow_readers_keep_nobody_out(files: dict[str, Path]) -> None:
    """The engine is left as soon as everything is computed, read or not."""

    async def compute() -> None:
        runtime = Runtime(files["one"], LoadSettings(CONTEXT, 1, 0, 1, {}))
        has_left = asyncio.Event()
        request = PredictionRequest(
            messages=(),
            raw_prompt="a",
            values={"llm.prediction.llama.logitBias": [[2, "-inf"]]},
            options=PredictionConfig(max_tokens=200),
            files={},
            cancelled=asyncio.Event(),
        )
        loop = asyncio.get_running_loop()

        def leave() -> None:
            loop.call_soon_threadsafe(has_left.set)

        prediction = Prediction(
            runtime=runtime,
            request=request,
            context_length=CONTEXT,
            warn=lambda *_: None,
            leave=leave,
        )
        prediction.start()
        await has_left.wait()
        events = [event async for event in prediction.events()]
        assert isinstance(events[-1], Stats)
        assert events[-1].predicted_tokens_count == 200
        runtime.close()

    asyncio.run(compute())


def test_cancel_while_the_prompt_is_read(wire: Wire) -> None:
    """The answer to a cancel does not wait for the prompt: it comes while the engine is still reading."""
    load(wire, "slow", contextLength=8192)
    channel = wire.open("predict", predicting("other " * 1000, options(), identifier="slow"))
    assert wire.receive()["message"]["progress"] < 1
    wire.cancel(channel)
    packets = wire.packets(channel)
    assert running_predictions()
    assert stats_of(packets)["stopReason"] == "userStopped"
    assert text_of(packets) == ""


def test_unload_in_the_middle(wire: Wire) -> None:
    """A model that is unloaded ends its predictions with what they have, and another goes on."""
    load(wire, "two")
    endless = options(contextOverflowPolicy="rollingWindow", maxPredictedTokens=checked(60_000), **NO_END)
    channel = wire.open("predict", predicting("hi", endless, identifier="two"))
    while wire.receive()["message"]["type"] != "fragment":
        pass
    wire.begin("rpcCall", "unloadModel", {"identifier": "two"})
    last: Packet = {}
    is_answered = False
    while last.get("type") != "channelClose" or not is_answered:
        envelope = wire.receive()
        if envelope["type"] == "rpcResult":
            is_answered = True
            continue
        last = envelope
        if envelope.get("message", {}).get("type") == "success":
            assert envelope["message"]["stats"]["stopReason"] == "modelUnloaded"
    assert channel == last["channelId"]
    assert text_of(complete(wire, "a", options(structured=only("fine")))) == "fine"


def test_image_is_refused(llama: background.Running, wire: Wire, connect: Connect) -> None:
    """A model without a vision part says so."""
    files = connect(llama, "/files")
    image = files.result("uploadFileBase64", {"name": "pixel.png", "contentBase64": IMAGE})
    part = {"type": "file", "name": "pixel.png", **image}
    history = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]}
    packets = wire.predict("", options(), identifier="one", history=history)
    assert "vision" in packets[-1]["title"]


def test_what_is_not_met_is_said_once(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """A setting without an equivalent is a warning on the log, the first time."""
    config = options(**{"llama.cpuThreads": 3, "tools": {"type": "none"}, "speculativeDecoding.draftModel": ""})
    for _ in range(2):
        complete(wire, "a", config)
    warnings = [record.getMessage() for record in caplog.records if record.name == "lmcli.server.llama.backend"]
    assert len(warnings) == 1
    assert "llama.cpuThreads" in warnings[0]


def test_warnings_are_bounded(llama: background.Running, files: dict[str, Path]) -> None:
    """Keys that a client makes up fill neither memory nor log."""
    engine = LlamaEngine([files["one"]])
    for number in range(1000):
        engine.warn(f"{number}{'x' * 3000}", "there")
    assert len(engine._warned) == 256
    assert max(map(len, engine._warned)) == 100


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("llama.evalBatchSize", (1, 31, 65_537)),
        ("numParallelSessions", (0, 1024, True)),
        ("llama.contextCheckpoints", (0, 1025)),
        ("llama.cpuThreadPoolSize", (0, 100_000, "1")),
    ],
)
def test_load_values_have_bounds(wire: Wire, key: str, values: tuple[Any, ...]) -> None:
    """A number that llama.cpp does not survive is refused by name."""
    for value in values:
        assert f"Invalid load config: llm.load.{key} must be" in load(wire, "two", **{key: value})[-1]["title"]


def test_more_sessions_than_a_batch_has_room_for(wire: Wire) -> None:
    """The batch grows with the sessions: llama.cpp aborts where it does not."""
    assert load(wire, "two", numParallelSessions=64, **{"llama.evalBatchSize": 32})[-1]["type"] == "loadSuccess"
    assert stats_of(wire.predict("hi", options(), identifier="two"))["stopReason"]
    wire.call("unloadModel", {"identifier": "two"})


def test_value_that_the_engine_refuses(wire: Wire) -> None:
    """A value out of the engine's range is an error in its words."""
    packets = complete(wire, "a", options(repeatPenalty=checked(-1)))
    assert "penalty_repeat" in packets[-1]["title"]


def test_damaged_file_is_refused(connect: Connect, tmp_path: Path) -> None:
    """A file that was damaged after the start, or that only llama.cpp sees through, is an error by name."""
    cut, odd, fatal = (make_model(tmp_path / f"{name}.gguf") for name in ("cut", "odd", "fatal"))
    odd.write_bytes(odd.read_bytes().replace(b"output_norm.weight", b"output_nope.weight"))
    layers = b"llama.block_count" + struct.pack("<I", 4)
    two, none = (layers + struct.pack("<I", number) for number in (2, 0))
    fatal.write_bytes(fatal.read_bytes().replace(two, none))
    with background.start(LlamaEngine([cut, odd, fatal])) as running:
        cut.write_bytes(cut.read_bytes()[:200_000])
        wire = connect(running)
        assert "cut short" in load(wire, "cut")[-1]["title"]
        answer = load(wire, "odd")[-1]
        assert "Cannot load odd" in answer["title"]
        assert "'output_norm.weight' not found" in answer["title"]
        assert answer["suggestion"] == "lm serve --verbose shows what llama.cpp says"
        aborted = load(wire, "fatal")[-1]["title"]
        assert "damaged" in aborted
        assert "GGML_ASSERT" in aborted, "llama.cpp aborts on this one"
        assert wire.result("listLoaded") == []


def test_verbose_shows_what_the_trial_says(connect: Connect, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With --verbose, llama.cpp's own words about a file are on stderr."""
    odd = make_model(tmp_path / "odd.gguf")
    odd.write_bytes(odd.read_bytes().replace(b"output_norm.weight", b"output_nope.weight"))
    with background.start(LlamaEngine([odd], is_verbose=True)) as running:
        assert "suggestion" not in load(connect(running), "odd")[-1]
    assert "'output_norm.weight' not found" in capfd.readouterr().err


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that llama.cpp never comes to the end of; it can be opened for writing once llama.cpp reads it."""
    os.mkfifo(tmp_path / "endless.gguf")
    return tmp_path / "endless.gguf"


def test_trial_ends_with_a_cancel(endless: Path) -> None:
    """A cancel does not wait for the end of the trial."""

    async def cancel() -> bool:
        cancelled = asyncio.Event()
        trial = asyncio.create_task(preflight(endless, cancelled))
        pipe = await asyncio.to_thread(os.open, endless, os.O_WRONLY)
        cancelled.set()
        is_proven = await trial
        os.close(pipe)
        return is_proven

    assert not asyncio.run(cancel())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the trial's end waits for llama.cpp")
def test_trial_ends_with_its_parent(endless: Path) -> None:
    """A trial does not outlive a parent that is killed."""
    code = (
        "import asyncio, pathlib, sys; from lmcli.server.llama.preflight import preflight; "
        "asyncio.run(preflight(pathlib.Path(sys.argv[1]), asyncio.Event()))"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(endless)]) as parent:
        pipe = os.open(endless, os.O_WRONLY)
        parent.kill()
    poll = select.poll()
    poll.register(pipe, 0)
    assert poll.poll(10_000), "somebody still reads"
    os.close(pipe)


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_memory_stays(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """Predictions leave nothing behind in the server: 300 of them, not even 5 KiB each."""
    process = serve(str(files["one"]), quiet=True)
    wire = connect(process.port)
    load(wire, "one")
    status = Path(f"/proc/{process.process.pid}/status")

    def resident_kib_after(times: int) -> int:
        for _ in range(times):
            complete(wire, "hello", options(maxPredictedTokens=checked(4)))
        return int(status.read_text().split("VmRSS:")[1].split()[0])

    before = resident_kib_after(100)
    assert resident_kib_after(300) - before < 300 * 5
