"""Predictions by llama.cpp on a tiny model, through the socket: the effect of every option."""

import json
import struct
import sys
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
)
from local_servers import load
from packets import AFFIXES
from processes import children_of
from tiny_model import Shape, make_model, token_of

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine
from lmcli.server.llama.parameters import exceeded_limits

IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
CONTEXT = 256
RAW = {"enabled": False, "startString": "<think>", "endString": "</think>"}
NO_END = {"llama.logitBias": [[2, "-inf"]]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two tiny models, with and without a template, and one with slow prompts."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "one": make_model(folder / "one.gguf"),
        "two": make_model(folder / "two.gguf", Shape(layers=1), seed=2, template=None),
        "slow": make_model(folder / "slow.gguf", Shape(layers=6, width=384, heads=6, context_length=8192)),
    }


@pytest.fixture(scope="module")
def llama(files: dict[str, Path]) -> Iterator[background.Running]:
    """A server with the models, for all tests of this module."""
    with background.start(LlamaEngine(list(files.values()))) as running:
        yield running


@pytest.fixture
def wire(llama: background.Running, connect: Connect) -> Wire:
    """A connection to the server, with the model `one` loaded."""
    wire = connect(llama)
    load(wire, "one")
    return wire


def options(**values: Any) -> Packet:
    """Deterministic prediction options, and those of a test."""
    return stack(**{"seed": checked(7), "maxPredictedTokens": checked(20), "reasoning.parsing": RAW} | values)


def complete(wire: Wire, text: str, config: Packet, identifier: str = "one") -> list[Packet]:
    """Continue a raw text."""
    parameter = {"modelSpecifier": query(identifier), "rawPrompt": text, "predictionConfigStack": config}
    return wire.stream("completeRawText", parameter)


def only(*texts: str) -> Packet:
    """A grammar that permits only these texts."""
    return {
        "type": "gbnf",
        "gbnfGrammar": "root ::= " + " | ".join(json.dumps(text, ensure_ascii=False) for text in texts),
    }


def test_load_on_first_use(llama: background.Running, connect: Connect) -> None:
    """A model is loaded on request, with progress from 0 to 1, and stays loaded."""
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
    """The same seed gives the same text, and so does temperature 0."""
    texts = [text_of(wire.predict("hello", options(seed=checked(s)), identifier="one")) for s in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    greedy = options(temperature=0, seed={"checked": False, "value": -1})
    assert len({text_of(complete(wire, "hello", greedy)) for _ in range(3)}) == 1


def test_stats_are_the_engines(wire: Wire) -> None:
    """The stats are those of llama.cpp, and add up."""
    packets = complete(wire, "abc", options())
    stats = stats_of(packets)
    assert stats["stopReason"] == "maxPredictedTokensReached"
    assert stats["predictedTokensCount"] == 20
    assert stats["promptTokensCount"] == 4, "three bytes, and the token for the beginning"
    assert stats["totalTokensCount"] == 24
    assert stats["tokensPerSecond"] > 0
    counts = [packet["fragment"]["tokensCount"] for packet in packets if packet["type"] == "fragment"]
    assert sum(counts) <= 20
    assert all(count >= 1 for count in counts)


def test_prompt_progress(wire: Wire) -> None:
    """The progress of the prompt is reported up to 1, before the first fragment."""
    packets = complete(wire, "never seen before", options())
    kinds = [packet["type"] for packet in packets]
    read = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
    assert kinds[: len(read)] == ["promptProcessingProgress"] * len(read)
    assert (read[0]["progress"], read[-1]["progress"]) == (0.0, 1.0)
    for packet in read:
        details = packet["details"]
        assert details["totalPromptTokenCount"] == 18
        assert sum(details.values()) == 2 * 18, "cached, processed and unprocessed are the whole"


def test_prompt_that_is_cached(wire: Wire) -> None:
    """The progress begins with 0 all the same, and has the number of tokens that were cached."""
    complete(wire, "the same beginning", options())
    packets = complete(wire, "the same beginning, another end", options())
    read = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
    assert (read[0]["progress"], read[-1]["progress"]) == (0.0, 1.0)
    assert read[0]["details"]["processedPromptTokenCount"] == 0
    assert {packet["details"]["cachedTokenCount"] for packet in read} == {19}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_log_probabilities(wire: Wire, count: int) -> None:
    """Each token has its own, and its candidates, the likeliest first; the tokens are those of the text."""
    text = "only this"
    packets = complete(wire, "a", options(structured=only(text), logProbs={"checked": True, "value": count}))
    tokens = [token for p in packets if p["type"] == "fragment" for token in p["fragment"]["tokens"]]
    assert "".join(token["text"] for token in tokens) == text
    for token in tokens:
        assert token["logProb"] <= 0
        likely = [candidate["logProb"] for candidate in token.get("candidates", [])]
        assert len(likely) == count
        assert likely == sorted(likely, reverse=True)
    assert not any("tokens" in p["fragment"] for p in complete(wire, "a", options()) if p["type"] == "fragment")


def test_characters_are_whole(wire: Wire) -> None:
    """A character of several tokens is not split, and its fragment counts all of them."""
    packets = complete(wire, "a", options(structured=only("aé€😀b")))
    fragments = [packet["fragment"] for packet in packets if packet["type"] == "fragment"]
    assert [(f["content"], f["tokensCount"]) for f in fragments] == [
        ("a", 1), ("é", 2), ("€", 3), ("😀", 4), ("b", 1)
    ]  # fmt: skip
    assert stats_of(packets)["stopReason"] == "eosFound"
    assert stats_of(packets)["predictedTokensCount"] == 12, "eleven bytes and the end"


def test_stop_strings(wire: Wire) -> None:
    """The text ends before a stop string, also across tokens, and the stats contain it."""
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
    """Sampling options have an effect."""
    text = text_of(complete(wire, "a", options(maxPredictedTokens=checked(4), **values)))
    assert text == expected if expected else "x" not in text


def test_penalty_reaches_the_engine(wire: Wire) -> None:
    """A penalty prevents repetition."""
    bias = {"llama.logitBias": [[token_of(ord("x")), 20]], "temperature": 0}
    free = {"repeatPenalty": {"checked": False, "value": 1.1}}
    assert text_of(complete(wire, "a", options(**bias, **free))) == "x" * 20
    penalized = {"repeatPenalty": checked(1.0), "llama.presencePenalty": checked(100.0)}
    assert text_of(complete(wire, "a", options(**bias, **penalized))).count("x") == 1


def test_schema_is_enforced(wire: Wire) -> None:
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
        else:  # leading white space is valid JSON
            assert text_of(packets).lstrip().startswith("{")


@pytest.mark.parametrize("schema", [{"type": "nope"}, {"$ref": "#/nowhere"}, {"type": "string", "pattern": "("}])
def test_unsupported_schema_is_rejected(wire: Wire, schema: Packet) -> None:
    """A schema that llama.cpp does not support, and would ignore, is an error."""
    packets = complete(wire, "a", options(structured={"type": "json", "jsonSchema": schema}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"
    assert text_of(packets) == ""


def nested(depth: int) -> Packet:
    """A schema of nested arrays."""
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
        nested(150),
    ],
)
def test_schema_beyond_the_limits_is_rejected(wire: Wire, schema: Packet) -> None:
    """A schema that could exhaust the memory or overflow the stack is not passed to llama.cpp."""
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
def test_grammar_beyond_the_limits_is_rejected(wire: Wire, grammar: str) -> None:
    """A grammar that could exhaust the memory or overflow the stack is not passed to llama.cpp."""
    packets = complete(wire, "a", options(structured={"type": "gbnf", "gbnfGrammar": grammar}))
    assert packets[-1]["displayData"]["code"] == "generic.engineDoesNotSupportFeature"


def test_limits_are_inclusive() -> None:
    """Values at the limits are accepted; the names of keywords are not taken for keywords elsewhere."""
    for schema in ({"maxLength": 2000}, {"pattern": "(a{2000}|b{,7}|c{3,})"}, {"properties": {"minItems": nested(90)}}):
        assert not list(exceeded_limits({"json_schema": schema}))
    assert not list(exceeded_limits({"grammar": "root ::= " + "(" * 500 + '"a"{1999}' + ")" * 500}))


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
def test_lone_surrogates(wire: Wire, values: Packet) -> None:
    """A lone surrogate is replaced, wherever it occurs."""
    assert stats_of(complete(wire, "a", options(**values)))["stopReason"] in ("maxPredictedTokensReached", "eosFound")


@pytest.mark.parametrize("bias", [5, {"a": 1}, [[1]], [[nested(400), 1]]])
def test_invalid_bias(wire: Wire, bias: Any) -> None:
    """An invalid value is an error of the request, not a failed prediction."""
    assert complete(wire, "a", options(**{"llama.logitBias": bias}))[-1]["type"] == "error"


def test_invalid_grammar_is_rejected(wire: Wire) -> None:
    """An invalid grammar is an error, and the server stays up."""
    packets = complete(wire, "a", options(structured={"type": "gbnf", "gbnfGrammar": "root := nope"}))
    assert "grammar" in packets[-1]["title"]
    assert text_of(complete(wire, "a", options(structured=only("fine")))) == "fine"


def test_template_and_raw(wire: Wire) -> None:
    """`respond` applies the model's template, `complete` does not."""
    shown = wire.result(
        "applyPromptTemplate",
        {"specifier": query("one"), "history": user("hi"), "predictionConfigStack": stack(), "opts": {}},
    )
    assert shown == {"formatted": "<|user|>hi\n<|assistant|>"}
    tokens = len(wire.result("tokenize", {"specifier": query("one"), "inputString": shown["formatted"]})["tokens"])
    assert stats_of(wire.predict("hi", options(), identifier="one"))["promptTokensCount"] == tokens + 1
    assert stats_of(complete(wire, "hi", options()))["promptTokensCount"] == 3


def test_system_prompt_and_manual_template(wire: Wire) -> None:
    """A system prompt and a manual template of the config are applied."""
    manual = {
        "type": "manual",
        "stopStrings": [],
        "manualPromptTemplate": AFFIXES | {"beforeUser": "Q:", "beforeAssistant": "A:"},
    }
    for config, expected in (
        (stack(systemPrompt="S"), "<|system|>S\n<|user|>hi\n<|assistant|>"),
        (stack(promptTemplate=manual), "Q:hiA:"),
    ):
        parameter = {"specifier": query("one"), "history": user("hi"), "predictionConfigStack": config, "opts": {}}
        assert wire.result("applyPromptTemplate", parameter) == {"formatted": expected}


def test_tokens(wire: Wire) -> None:
    """Tokens are the model's own; lone surrogates are replaced."""
    text = {"specifier": query("one"), "inputString": "ab<think>"}
    assert wire.result("tokenize", text) == {"tokens": [token_of(97), token_of(98), 259]}
    assert wire.result("countTokens", text) == {"tokenCount": 3}
    assert wire.result("countTokens", text | {"inputString": "\ud83d"}) == {"tokenCount": 3}
    assert stats_of(complete(wire, "\ud83d", options()))["predictedTokensCount"] == 20


def kinds(packets: list[Packet]) -> list[tuple[str, str]]:
    """Reasoning types and texts, with adjacent texts of the same type joined."""
    joined: list[tuple[str, str]] = []
    for packet in packets:
        if packet["type"] == "fragment":
            kind, content = packet["fragment"]["reasoningType"], packet["fragment"]["content"]
            if joined and joined[-1][0] == kind:
                content = joined.pop()[1] + content
            joined.append((kind, content))
    return joined


def test_reasoning_is_separated(wire: Wire) -> None:
    """The text between the tags is reasoning, and the tags have their own types."""
    parsing = {**RAW, "enabled": True}
    packets = complete(wire, "a", options(structured=only("<think>hm</think>yes"), **{"reasoning.parsing": parsing}))
    assert kinds(packets) == [
        ("reasoningStartTag", "<think>"),
        ("reasoning", "hm"),
        ("reasoningEndTag", "</think>"),
        ("none", "yes"),
    ]


def test_reasoning_that_the_template_starts(wire: Wire) -> None:
    """The start tag that ends the prompt is added before the answer."""
    thinking = {"reasoning.enableThinking": True, "reasoning.parsing": {**RAW, "enabled": True}}
    bias = {"llama.logitBias": [[token_of(ord("x")), 100]]}
    packets = wire.predict("hi", options(**thinking, **bias), identifier="one")
    assert kinds(packets) == [("reasoningStartTag", "<think>"), ("reasoning", "x" * 20)]
    counts = [packet["fragment"]["tokensCount"] for packet in packets if packet["type"] == "fragment"]
    assert sum(counts) == 20
    off = wire.predict("hi", options(**{**thinking, "reasoning.enableThinking": False}, **bias), identifier="one")
    assert kinds(off) == [("none", "x" * 20)]


def test_reasoning_budget(wire: Wire) -> None:
    """llama.cpp ends the reasoning when the budget is used up."""
    values = {
        "llama.logitBias": [[259, 30]],
        "reasoning.budgetTokens": checked(3),
        "reasoning.parsing": {**RAW, "enabled": True},
    }
    text = text_of(wire.predict("hi", options(**values), identifier="one"))
    assert text.startswith("<think>" * 4 + "</think>")


def test_context_overflow(wire: Wire) -> None:
    """`stopAtLimit` ends at the last token that fits; the other policies continue."""
    bias = {"llama.logitBias": [[token_of(ord("x")), 100]], "maxPredictedTokens": {"checked": False, "value": 1}}
    packets = complete(wire, "abc", options(contextOverflowPolicy="stopAtLimit", **bias))
    assert stats_of(packets)["stopReason"] == "contextLengthReached"
    assert stats_of(packets)["totalTokensCount"] == CONTEXT
    assert text_of(packets) == "x" * (CONTEXT - 4)
    for policy in ("rollingWindow", "truncateMiddle"):
        longer = options(contextOverflowPolicy=policy, **{**bias, "maxPredictedTokens": checked(2 * CONTEXT)})
        assert stats_of(complete(wire, "abc", longer))["predictedTokensCount"] == 2 * CONTEXT


def test_prompt_that_is_too_long(wire: Wire) -> None:
    """`stopAtLimit` ends at once; the other policies truncate the prompt."""
    text = "word " * 100
    stats = stats_of(complete(wire, text, options(contextOverflowPolicy="stopAtLimit")))
    assert (stats["stopReason"], stats["promptTokensCount"]) == ("contextLengthReached", 501)
    assert stats["predictedTokensCount"] == 0
    for policy in ("rollingWindow", "truncateMiddle"):
        config = options(contextOverflowPolicy=policy, **{"llama.logitBias": [[2, "-inf"]]})
        stats = stats_of(complete(wire, text, config))
        assert (stats["promptTokensCount"], stats["predictedTokensCount"]) == (192, 20)


def test_concurrent_predictions(wire: Wire) -> None:
    """More predictions than sessions run on one connection, each with its own text."""
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


def test_predictions_wait_for_a_slot(wire: Wire) -> None:
    """Predictions that wait for a session can be cancelled at once, in any order."""
    load(wire, "two", numParallelSessions=1)
    endless = options(contextOverflowPolicy="rollingWindow", maxPredictedTokens=checked(60_000), **NO_END)
    channels = [wire.open("predict", predicting("hi", endless, identifier="two")) for _ in range(20)]
    while (envelope := wire.receive())["message"]["type"] != "fragment":
        pass
    running = envelope["channelId"]
    for channel in sorted(channels, key=lambda channel: channel == running):
        wire.cancel(channel)
        stats = stats_of([end_of(wire, channel)])
        assert stats["stopReason"] == "userStopped"
        assert (stats["predictedTokensCount"] > 0) == (channel == running)
    assert stats_of(wire.predict("hi", options(), identifier="two"))["predictedTokensCount"] > 0
    wire.call("unloadModel", {"identifier": "two"})


def end_of(wire: Wire, channel: int) -> Packet:
    """The last packet of a channel before its close; envelopes of other channels are skipped."""
    last: Packet = {}
    while (envelope := wire.receive())["type"] != "channelClose" or envelope["channelId"] != channel:
        if envelope.get("channelId") == channel:
            last = envelope["message"]
    return last


def test_cancel_while_the_prompt_is_read(wire: Wire) -> None:
    """The answer to a cancel does not wait for the prompt: it comes while the engine is still reading."""
    load(wire, "slow", contextLength=8192)
    channel = wire.open("predict", predicting("other " * 1000, options(), identifier="slow"))
    assert wire.receive()["message"]["progress"] < 1
    wire.cancel(channel)
    packets = wire.packets(channel)
    assert all(packet["progress"] < 1 for packet in packets if packet["type"] == "promptProcessingProgress")
    assert stats_of(packets)["stopReason"] == "userStopped"
    assert text_of(packets) == ""


def test_unload_during_a_prediction(wire: Wire) -> None:
    """The predictions of an unloaded model end with what they have; other models continue."""
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


def test_image_is_rejected(llama: background.Running, wire: Wire, connect: Connect) -> None:
    """A model without a vision part does not support images."""
    files = connect(llama, "/files")
    image = files.result("uploadFileBase64", {"name": "pixel.png", "contentBase64": IMAGE})
    part = {"type": "file", "name": "pixel.png", **image}
    history = {"messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, part]}]}
    packets = wire.predict("", options(), identifier="one", history=history)
    assert "vision" in packets[-1]["title"]


def test_unsupported_option_is_warned_about_once(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """An option that llama.cpp does not support is logged as a warning, the first time."""
    config = options(**{"llama.cpuThreads": 3, "tools": {"type": "none"}, "speculativeDecoding.draftModel": ""})
    for _ in range(2):
        complete(wire, "a", config)
    warnings = [record.getMessage() for record in caplog.records if record.name == "lmcli.server.llama.llama_engine"]
    assert len(warnings) == 1
    assert "llama.cpuThreads" in warnings[0]


def test_warnings_are_bounded(llama: background.Running, files: dict[str, Path]) -> None:
    """The keys that were warned about are bounded in number and length."""
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
    """A number on which llama.cpp would abort is an error that names the option."""
    for value in values:
        assert f"Invalid load config: llm.load.{key} must be" in load(wire, "two", **{key: value})[-1]["title"]


def test_more_sessions_than_the_batch_size(wire: Wire) -> None:
    """The batch is enlarged for the sessions: llama.cpp aborts otherwise."""
    assert load(wire, "two", numParallelSessions=64, **{"llama.evalBatchSize": 32})[-1]["type"] == "loadSuccess"
    assert stats_of(wire.predict("hi", options(), identifier="two"))["stopReason"]
    wire.call("unloadModel", {"identifier": "two"})


def test_value_that_llama_cpp_rejects(wire: Wire) -> None:
    """The error has the message of llama.cpp."""
    packets = complete(wire, "a", options(repeatPenalty=checked(-1)))
    assert "penalty_repeat" in packets[-1]["title"]


def test_invalid_file_is_rejected(connect: Connect, tmp_path: Path) -> None:
    """A file that became invalid after the start, or that only llama.cpp detects, is an error."""
    cut, odd, fatal = (make_model(tmp_path / f"{name}.gguf") for name in ("cut", "odd", "fatal"))
    odd.write_bytes(odd.read_bytes().replace(b"output_norm.weight", b"output_nope.weight"))
    layers = b"llama.block_count" + struct.pack("<I", 4)
    two, none = (layers + struct.pack("<I", number) for number in (2, 0))
    fatal.write_bytes(fatal.read_bytes().replace(two, none))
    with background.start(LlamaEngine([cut, odd, fatal])) as running:
        cut.write_bytes(cut.read_bytes()[:200_000])
        wire = connect(running)
        assert "truncated" in load(wire, "cut")[-1]["title"]
        answer = load(wire, "odd")[-1]
        assert "Cannot load odd" in answer["title"]
        assert "'output_norm.weight' not found" in answer["title"]
        assert answer["suggestion"] == "lm serve --verbose shows the log of llama.cpp"
        aborted = load(wire, "fatal")[-1]["title"]
        assert "Cannot load fatal: llama.cpp was killed by SIGABRT: " in aborted
        assert "GGML_ASSERT" in aborted, "llama.cpp aborts on this one"
        assert wire.result("listLoaded") == []


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_memory_does_not_grow(serve: Serve, connect: Connect, files: dict[str, Path]) -> None:
    """300 predictions leave less than 5 KiB each in memory, that of the server and of the model's process."""
    process = serve(str(files["one"]), quiet=True)
    wire = connect(process.port)
    load(wire, "one")
    processes = [process.process.pid, *children_of(process.process.pid)]
    assert len(processes) == 2

    def resident_kib_after(times: int) -> int:
        for _ in range(times):
            complete(wire, "hello", options(maxPredictedTokens=checked(4)))
        statuses = [Path(f"/proc/{process}/status").read_text() for process in processes]
        return sum(int(status.split("VmRSS:")[1].split()[0]) for status in statuses)

    before = resident_kib_after(100)
    assert resident_kib_after(300) - before < 300 * 5
