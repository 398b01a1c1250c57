"""Predictions by llama.cpp on a tiny model, through the socket: stats, sampling, stop strings, the context."""

from pathlib import Path
from typing import Any

import pytest
import xllamacpp
from conftest import Packet, Wire, checked, stats_of, text_of
from tiny_model import token_of
from tiny_server import CONTEXT, complete, nested, only, options

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine


def test_same_seed_same_text(tiny: Wire) -> None:
    """The same seed gives the same text, and so does temperature 0."""
    texts = [text_of(tiny.predict("hello", options(seed=checked(s)), identifier="one")) for s in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    greedy = options(temperature=0, seed={"checked": False, "value": -1})
    assert len({text_of(complete(tiny, "hello", greedy)) for _ in range(3)}) == 1


def test_stats_are_the_engines(tiny: Wire) -> None:
    """The stats are those of llama.cpp, and add up."""
    packets = complete(tiny, "abc", options())
    stats = stats_of(packets)
    assert stats["stopReason"] == "maxPredictedTokensReached"
    assert stats["predictedTokensCount"] == 20
    assert stats["promptTokensCount"] == 4, "three bytes, and the token for the beginning"
    assert stats["totalTokensCount"] == 24
    assert stats["tokensPerSecond"] > 0
    counts = [packet["fragment"]["tokensCount"] for packet in packets if packet["type"] == "fragment"]
    assert sum(counts) <= 20
    assert all(count >= 1 for count in counts)


def test_prompt_progress(tiny: Wire) -> None:
    """The progress of the prompt is reported up to 1, before the first fragment."""
    packets = complete(tiny, "never seen before", options())
    kinds = [packet["type"] for packet in packets]
    read = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
    assert kinds[: len(read)] == ["promptProcessingProgress"] * len(read)
    assert (read[0]["progress"], read[-1]["progress"]) == (0.0, 1.0)
    for packet in read:
        details = packet["details"]
        assert details["totalPromptTokenCount"] == 18
        assert sum(details.values()) == 2 * 18, "cached, processed and unprocessed are the whole"


def test_prompt_that_is_cached(tiny: Wire) -> None:
    """The progress begins with 0 all the same, and has the number of tokens that were cached."""
    complete(tiny, "the same beginning", options())
    packets = complete(tiny, "the same beginning, another end", options())
    read = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
    assert (read[0]["progress"], read[-1]["progress"]) == (0.0, 1.0)
    assert read[0]["details"]["processedPromptTokenCount"] == 0
    assert {packet["details"]["cachedTokenCount"] for packet in read} == {19}
    steps = [packet["progress"] for packet in read]
    assert steps == sorted(set(steps)), "it only grows"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_log_probabilities(tiny: Wire, count: int) -> None:
    """Each token has its own, and its candidates, the likeliest first; the tokens are those of the text."""
    text = "only this"
    packets = complete(tiny, "a", options(structured=only(text), logProbs={"checked": True, "value": count}))
    tokens = [token for p in packets if p["type"] == "fragment" for token in p["fragment"]["tokens"]]
    assert "".join(token["text"] for token in tokens) == text
    for token in tokens:
        assert token["logProb"] <= 0
        likely = [candidate["logProb"] for candidate in token.get("candidates", [])]
        assert len(likely) == count
        assert likely == sorted(likely, reverse=True)
    assert not any("tokens" in p["fragment"] for p in complete(tiny, "a", options()) if p["type"] == "fragment")


def test_log_probabilities_are_those_of_llama_cpp(tiny: Wire, tiny_files: dict[str, Path]) -> None:
    """Tokens, numbers, probabilities and candidates are those that llama.cpp gives when it is called directly.

    What has run at the same time before has changed the order of the cache, and so how sums are rounded.
    """
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.port = str(tiny_files["one"]), CONTEXT, 0
    parameters.verbosity = parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    body = {"prompt": "abc", "max_tokens": 8, "temperature": 0, "logprobs": 3, "repeat_penalty": 1.1}
    direct = xllamacpp.Server(parameters).handle_completions(body)["choices"][0]["logprobs"]["content"]
    packets = complete(tiny, "abc", options(temperature=0, logProbs=checked(3), maxPredictedTokens=checked(8)))
    tokens = [token for p in packets if p["type"] == "fragment" for token in p["fragment"]["tokens"]]
    assert [token["id"] for token in tokens] == [token["id"] for token in direct]
    assert [token["logProb"] for token in tokens] == pytest.approx([token["logprob"] for token in direct], abs=1e-2)
    for ours, theirs in zip(tokens, direct, strict=True):
        assert [c["id"] for c in ours["candidates"]] == [c["id"] for c in theirs["top_logprobs"]]
        assert [c["text"] for c in ours["candidates"]] == [c["token"] for c in theirs["top_logprobs"]]


def test_characters_are_whole(tiny: Wire) -> None:
    """A character of several tokens is not split, and its fragment counts all of them."""
    packets = complete(tiny, "a", options(structured=only("aé€😀b")))
    fragments = [packet["fragment"] for packet in packets if packet["type"] == "fragment"]
    assert [(f["content"], f["tokensCount"]) for f in fragments] == [
        ("a", 1), ("é", 2), ("€", 3), ("😀", 4), ("b", 1)
    ]  # fmt: skip
    assert stats_of(packets)["stopReason"] == "eosFound"
    assert stats_of(packets)["predictedTokensCount"] == 12, "eleven bytes and the end"


def test_stop_strings(tiny: Wire) -> None:
    """The text ends before a stop string, also across tokens, and the stats contain it."""
    config = options(structured=only("one two three"), stopStrings=["zzz", "o th"])
    packets = complete(tiny, "a", config)
    assert text_of(packets) == "one tw"
    stats = stats_of(packets)
    assert (stats["stopReason"], stats["stopString"]) == ("stopStringFound", "o th")
    called = complete(tiny, "a", options(structured=only("one two"), toolCallStopStrings=["tw"]))
    assert (text_of(called), stats_of(called)["stopReason"]) == ("one ", "toolCalls")


@pytest.mark.parametrize(
    ("stop", "text", "count"),
    [("o th", "one tw", 6), ("one", "", 0), ("three", "one two ", 8), ("nothing", "one two three", 14)],
)
def test_stop_strings_are_not_counted(tiny: Wire, stop: str, text: str, count: int) -> None:
    """The predicted tokens are those of the text, and the end if the model predicts it, not those of a stop string."""
    packets = complete(tiny, "a", options(structured=only("one two three"), stopStrings=[stop]))
    stats = stats_of(packets)
    assert (text_of(packets), stats["predictedTokensCount"]) == (text, count)
    assert stats["totalTokensCount"] == stats["promptTokensCount"] + count
    assert sum(p["fragment"]["tokensCount"] for p in packets if p["type"] == "fragment") == len(text)
    assert ("tokensPerSecond" in stats) == (count > 1)


def test_layers_on_the_gpu(tiny: Wire) -> None:
    """Every prediction says how many layers are on a GPU: none, where there is none."""
    gpus = [device for device in xllamacpp.get_device_info() if "GPU" in device["type"].name]
    layers = stats_of(complete(tiny, "abc", options()))["numGpuLayers"]
    assert layers == (3 if gpus else 0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"llama.logitBias": [[token_of(ord("x")), 100]]}, "xxxx"),
        ({"temperature": 0.0, "llama.logitBias": [[token_of(ord("y")), 100], [token_of(ord("x")), 50]]}, "yyyy"),
        ({"topKSampling": 1, "temperature": 5, "llama.logitBias": [[token_of(ord("z")), 40]]}, "zzzz"),
        ({"llama.logitBias": [[token_of(ord("x")), 100], [token_of(ord("x")), "-inf"]]}, None),
    ],
)
def test_sampling_reaches_the_engine(tiny: Wire, values: Packet, expected: str | None) -> None:
    """Sampling options have an effect."""
    text = text_of(complete(tiny, "a", options(maxPredictedTokens=checked(4), **values)))
    assert text == expected if expected else "x" not in text


def test_penalty_reaches_the_engine(tiny: Wire) -> None:
    """A penalty prevents repetition."""
    bias = {"llama.logitBias": [[token_of(ord("x")), 20]], "temperature": 0}
    free = {"repeatPenalty": {"checked": False, "value": 1.1}}
    assert text_of(complete(tiny, "a", options(**bias, **free))) == "x" * 20
    penalized = {"repeatPenalty": checked(1.0), "llama.presencePenalty": checked(100.0)}
    assert text_of(complete(tiny, "a", options(**bias, **penalized))).count("x") == 1


def test_context_overflow(tiny: Wire) -> None:
    """`stopAtLimit` ends at the last token that fits; the other policies continue."""
    bias = {"llama.logitBias": [[token_of(ord("x")), 100]], "maxPredictedTokens": {"checked": False, "value": 1}}
    packets = complete(tiny, "abc", options(contextOverflowPolicy="stopAtLimit", **bias))
    assert stats_of(packets)["stopReason"] == "contextLengthReached"
    assert stats_of(packets)["totalTokensCount"] == CONTEXT
    assert text_of(packets) == "x" * (CONTEXT - 4)
    for policy in ("rollingWindow", "truncateMiddle"):
        longer = options(contextOverflowPolicy=policy, **{**bias, "maxPredictedTokens": checked(2 * CONTEXT)})
        assert stats_of(complete(tiny, "abc", longer))["predictedTokensCount"] == 2 * CONTEXT


def test_prompt_that_is_too_long(tiny: Wire) -> None:
    """`stopAtLimit` ends at once; the other policies truncate the prompt."""
    text = "word " * 100
    stats = stats_of(complete(tiny, text, options(contextOverflowPolicy="stopAtLimit")))
    assert (stats["stopReason"], stats["promptTokensCount"]) == ("contextLengthReached", 501)
    assert stats["predictedTokensCount"] == 0
    for policy in ("rollingWindow", "truncateMiddle"):
        config = options(contextOverflowPolicy=policy, **{"llama.logitBias": [[2, "-inf"]]})
        stats = stats_of(complete(tiny, text, config))
        assert (stats["promptTokensCount"], stats["predictedTokensCount"]) == (192, 20)


def test_value_that_llama_cpp_rejects(tiny: Wire) -> None:
    """The error has the message of llama.cpp."""
    packets = complete(tiny, "a", options(repeatPenalty=checked(-1)))
    assert "penalty_repeat" in packets[-1]["title"]


@pytest.mark.parametrize("bias", [5, {"a": 1}, [[1]], [[nested(400), 1]]])
def test_invalid_bias(tiny: Wire, bias: Any) -> None:
    """An invalid value is an error of the request, not a failed prediction."""
    assert complete(tiny, "a", options(**{"llama.logitBias": bias}))[-1]["type"] == "error"


def test_warnings_are_bounded(tiny_server: background.Running, tiny_files: dict[str, Path]) -> None:
    """The keys that were warned about are bounded in number and length."""
    engine = LlamaEngine([tiny_files["one"]])
    for number in range(1000):
        engine.warn(f"{number}{'x' * 3000}", "there")
    assert len(engine._warned) == 256
    assert max(map(len, engine._warned)) == 100
