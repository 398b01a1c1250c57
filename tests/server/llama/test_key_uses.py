"""What becomes of each config key with llama.cpp: nothing is dropped silently."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Packet, Wire, checked, text_of
from local_servers import load
from tiny_model import token_of
from tiny_server import complete, options

from lmcli.server.llama.key_uses import LOAD_USES, PREDICTION_USES, Use, refused_keys
from lmcli.server.llama.load_parameters import load_options
from lmcli.server.llama.parameters import sampling_parameters
from lmcli.wire.load_config import LOAD_KEYS
from lmcli.wire.prediction_config import OPTIONS, PREDICTION_PREFIX, UNNAMED

MAN_PAGE = (Path(__file__).parents[3] / "man" / "prose" / "lm-serve.mdoc").read_text()
JINJA = {"type": "jinja", "jinjaPromptTemplate": {"template": "x"}}
CONTEXT_OF = {"max_context_length": 256, "layers": 3}


def keys(uses: Any, use: Use) -> list[str]:
    """The keys of a table that have a use."""
    return [key for key, found in uses.items() if found.use is use]


def test_every_key_has_a_use() -> None:
    """The tables have the keys of the wire, and no others."""
    known = {option.key.removeprefix(PREDICTION_PREFIX) for option in (*OPTIONS.values(), *UNNAMED)}
    assert set(PREDICTION_USES) == known
    assert set(LOAD_USES) == set(LOAD_KEYS)


GIVEN: dict[str, Any] = {
    "temperature": 0.1,
    "topKSampling": 3,
    "structured": {"type": "gbnf", "gbnfGrammar": 'root ::= "x"'},
    "llama.mirostatSampling": {"version": 2, "learningRate": 0.1, "targetEntropy": 5},
    "llama.logitBias": [[5, "-inf"]],
}


@pytest.mark.parametrize("key", sorted(set(keys(PREDICTION_USES, Use.ENGINE)) - {"reasoning.budgetTokens"}))
def test_llama_cpp_is_given_it(key: str) -> None:
    """A value changes the parameters of llama.cpp; the budget of reasoning has a test of its own."""
    value = GIVEN.get(key, checked(1))
    assert sampling_parameters({PREDICTION_PREFIX + key: value}) != {}


GIVEN_AT_LOAD: dict[str, Any] = {
    "llm.load.contextLength": 99,
    "llm.load.seed": checked(5),
    "llm.load.promptTemplate": JINJA,
    "llm.load.numParallelSessions": 7,
    "llm.load.llama.acceleration.offloadRatio": "max",
    "llm.load.llama.cpuThreadPoolSize": 1,
    "llm.load.llama.evalBatchSize": 64,
    "llm.load.llama.physicalBatchSize": 64,
    "llm.load.llama.useFp16ForKVCache": False,
    "llm.load.llama.kCacheQuantizationType": checked("q8_0"),
    "llm.load.llama.vCacheQuantizationType": checked("q8_0"),
    "llm.load.llama.tryMmap": False,
    "llm.load.llama.ropeFrequencyBase": checked(10_000),
    "llm.load.llama.ropeFrequencyScale": checked(0.5),
    "llm.load.llama.contextCheckpoints": 3,
}


@pytest.mark.parametrize("key", sorted(set(keys(LOAD_USES, Use.ENGINE)) - {"llm.load.llama.reasoningBudgetMessage"}))
def test_llama_cpp_is_given_it_at_the_load(key: str) -> None:
    """A value changes how the model is loaded; the message of the reasoning budget has a test of its own."""
    assert load_options({key: GIVEN_AT_LOAD.get(key, True)}, **CONTEXT_OF) != load_options({}, **CONTEXT_OF)


@pytest.mark.parametrize(
    "values",
    [
        {"llama.kCacheQuantizationType": checked("q8_0"), "llama.vCacheQuantizationType": checked("q8_0")},
        {"llama.useFp16ForKVCache": False, "llama.flashAttention": False},
        {"llama.physicalBatchSize": 32, "numParallelSessions": 64},
        {"llama.ropeFrequencyBase": checked(10_000), "llama.ropeFrequencyScale": checked(0.5)},
        {"llama.tryMmap": False},
    ],
)
def test_values_of_a_load_are_accepted(tiny: Wire, values: Packet) -> None:
    """llama.cpp loads a model with them, which answers."""
    tiny.call("unloadModel", {"identifier": "slow"})
    assert load(tiny, "slow", contextLength=64, **values)[-1]["type"] == "loadSuccess"
    bias = {"llama.logitBias": [[token_of(ord("x")), 100]]}
    assert text_of(complete(tiny, "a", options(maxPredictedTokens=checked(2), **bias), identifier="slow")) == "xx"


def test_seed_of_a_load(tiny: Wire) -> None:
    """The seed that a model is loaded with is that of predictions without one."""
    texts = []
    for seed in (1, 2, 1):
        tiny.call("unloadModel", {"identifier": "two"})
        load(tiny, "two", seed=checked(seed))
        config = options(seed={"checked": False, "value": -1}, temperature=2)
        config["layers"][0]["config"]["fields"] = [
            field for field in config["layers"][0]["config"]["fields"] if not field["key"].endswith(".seed")
        ]
        texts.append(text_of(complete(tiny, "a", config, identifier="two")))
    assert texts[0] == texts[2] != texts[1]


REFUSED: dict[str, Any] = {
    "contextPrefill": [{"type": "jsonFile", "absPath": "/a"}],
    "toolNaming": "snakeCase",
    "speculativeDecoding.draftModel": "two",
    "llama.cpuThreads": 3,
    "llama.tailFreeSampling": checked(0.9),
}


@pytest.mark.parametrize("key", keys(PREDICTION_USES, Use.REFUSED))
def test_refused(tiny: Wire, key: str) -> None:
    """The error names the option, and says what to do instead."""
    error = complete(tiny, "a", options(**{key: REFUSED[key]}))[-1]
    assert error["type"] == "error"
    assert error["title"] == f"The engine llama.cpp does not support the option llm.prediction.{key}"
    assert error["displayData"]["code"] == "generic.engineDoesNotSupportFeature"
    assert error["suggestion"] == PREDICTION_USES[key].reason


def test_draft_model_that_is_unknown(tiny: Wire) -> None:
    """It is not found, as any other model."""
    error = complete(tiny, "a", options(**{"speculativeDecoding.draftModel": "acme/nothing"}))[-1]
    assert error["displayData"]["code"] == "generic.pathNotFound"
    assert error["displayData"]["path"] == "acme/nothing"


REFUSED_AT_LOAD: dict[str, Any] = {
    "llm.load.numExperts": 2,
    "llm.load.numCpuExpertLayersRatio": 0.5,
    "llm.load.autoFitMinContextLength": 9,
    "llm.load.llama.argumentsOverride": {"enabled": True, "overrideParameters": []},
    "llm.load.llama.speculativeDecoding.draftModel": "two",
    "load.gpuSplitConfig": {"strategy": "evenly", "disabledGpus": [0], "priority": [], "customRatio": []},
    "envVars": {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"},
}


@pytest.mark.parametrize("key", keys(LOAD_USES, Use.REFUSED))
def test_refused_at_the_load(tiny: Wire, key: str) -> None:
    """The model is not loaded."""
    tiny.call("unloadModel", {"identifier": "two"})
    fields = [{"key": key, "value": REFUSED_AT_LOAD.get(key, True)}]
    stack = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    error = tiny.stream("getOrLoad", {"identifier": "two", "loadConfigStack": stack})[-1]
    assert error["title"] == f"The engine llama.cpp does not support the option {key}"
    assert error["suggestion"] == LOAD_USES[key].reason


@pytest.mark.parametrize(
    "values",
    [
        {"llm.prediction.speculativeDecoding.draftModel": "", "llm.prediction.toolNaming": "removeSpecial"},
        {"llm.prediction.llama.tailFreeSampling": {"checked": False, "value": 0.95}},
        {"llm.prediction.contextPrefill": [], "envVars": {}, "llm.load.numExperts": 0},
        {"load.gpuSplitConfig": {"strategy": "evenly", "disabledGpus": [], "priority": [], "customRatio": []}},
        {"load.gpuStrictVramCap": False, "llm.load.numCpuExpertLayersRatio": "off"},
        {"llm.load.llama.argumentsOverride": {"enabled": False, "overrideParameters": [{"key": "a", "value": "b"}]}},
    ],
)
def test_values_without_an_effect_are_accepted(values: Packet) -> None:
    """What switches an option off, or is its default, as the official SDKs send it."""
    assert list(refused_keys(values)) == []


def test_reasons_are_documented() -> None:
    """Each key without an effect has a reason; lm-serve(1) names those that are refused."""
    every = {**{PREDICTION_PREFIX + key: use for key, use in PREDICTION_USES.items()}, **LOAD_USES}
    for key, use in every.items():
        assert bool(use.reason) == (use.use in (Use.NONE, Use.REFUSED)), key
        if use.use is Use.REFUSED:
            assert key in MAN_PAGE.replace("\\-", "-"), key


def test_unknown_key_is_warned_about_once(tiny: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """A key that no server is known to read is ignored, as LM Studio does, with a warning, the first time."""
    for _ in range(2):
        complete(tiny, "a", options(**{"llama.noSuchKey": 3, "tools": {"type": "none"}}))
    warnings = [record.getMessage() for record in caplog.records if record.name == "lmcli.server.llama.llama_engine"]
    assert len(warnings) == 1
    assert "llama.noSuchKey" in warnings[0]


def test_message_of_the_reasoning_budget(tiny: Wire) -> None:
    """The message of the load ends reasoning whose budget is used up."""
    tiny.call("unloadModel", {"identifier": "one"})
    load(tiny, "one", **{"llama.reasoningBudgetMessage": "enough"})
    parsing = {"enabled": True, "startString": "<think>", "endString": "</think>"}
    values = {"llama.logitBias": [[259, 30]], "reasoning.budgetTokens": checked(3), "reasoning.parsing": parsing}
    text = text_of(tiny.predict("hi", options(**values), identifier="one"))
    tiny.call("unloadModel", {"identifier": "one"})
    assert text.startswith("<think>" * 4 + "enough</think>"), json.dumps(text)
