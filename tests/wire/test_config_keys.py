"""The table of config keys, held against the official schema, and the names by which people call them."""

from contextlib import suppress
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, any_json, fields_of

from lmcli.errors import UsageError
from lmcli.wire.config import prediction_stack
from lmcli.wire.config_keys import find_option, unknown_key, whole_key, write_field
from lmcli.wire.load_config import LOAD_KEYS, LOAD_PREFIX, LoadConfig, load_stack
from lmcli.wire.prediction_config import OPTIONS, PREDICTION_PREFIX, UNNAMED, PredictionConfig


class Key(NamedTuple):
    """A key of the official schema, a value that it accepts there, and values that it refuses.

    Source: npm @lmstudio/sdk 2.0.0, the bundled schematics of `llm.prediction`, `llm.load`, `load` and `envVars`.
    """

    name: str
    accepted: Any
    refused: tuple[Any, ...]


def on(value: Any) -> dict[str, Any]:
    """A value with its switch."""
    return {"checked": True, "value": value}


def switched(accepted: Any, *refused: Any) -> tuple[Any, tuple[Any, ...]]:
    """A key with a switch: the bare value, or one without a part of it, is refused as well."""
    boxes = (accepted, {"checked": True}, {"checked": 1, "value": accepted}, {"value": accepted})
    return on(accepted), (*map(on, refused), {"checked": False, "value": "x"}, *boxes)


JINJA = {"type": "jinja", "jinjaPromptTemplate": {"template": "x"}}
AFFIXES = {f"{place}{role}": "" for place in ("before", "after") for role in ("System", "User", "Assistant")}
MANUAL = {"type": "manual", "stopStrings": [], "manualPromptTemplate": AFFIXES}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
PARSING = {"enabled": True, "startString": "<a>", "endString": "</a>"}
MIROSTAT = {"version": 2, "learningRate": 0.1, "targetEntropy": 5}
SPLIT: dict[str, Any] = {"strategy": "evenly", "disabledGpus": [], "priority": [0], "customRatio": [0.5]}
BITS = {"enabled": True, "bits": 8, "groupSize": 64, "quantizedStart": 5000}
ARGUMENTS: dict[str, Any] = {
    "enabled": False,
    "disabledParameters": ["a"],
    "overrideParameters": [{"key": "a", "value": "b"}],
    "excludeAllConfig": False,
}
FLAG: tuple[Any, tuple[Any, ...]] = (True, (1, "true", None, on(True)))
TEXT: tuple[Any, tuple[Any, ...]] = ("x", (5, None, ["x"]))
SHARE: tuple[Any, tuple[Any, ...]] = (0.5, (-0.1, 1.1, "0.5", True))
RATIO: tuple[Any, tuple[Any, ...]] = ("max", (1.1, -1, "full", True, None))
COUNT: tuple[Any, tuple[Any, ...]] = (1, (0, 1.5, "1", True))
AMOUNT: tuple[Any, tuple[Any, ...]] = (0, (-1, 0.5, "0", True))
LIST_OF_TEXTS: tuple[Any, tuple[Any, ...]] = (["a"], ([""], "a", [5]))

PREDICTION = [
    Key("temperature", 0, (-0.1, "hot", True, None, on(0))),
    Key("maxPredictedTokens", *switched(1, 0, 1.5, True)),
    Key("stopStrings", *LIST_OF_TEXTS),
    Key("toolCallStopStrings", *LIST_OF_TEXTS),
    Key("contextOverflowPolicy", "rollingWindow", ("stop", 5)),
    Key("structured", {"type": "gbnf", "gbnfGrammar": "root ::= x"}, ({"type": "xml"}, "json", {})),
    Key("topKSampling", 500, (501, -2, 1.5, on(40))),
    Key("repeatPenalty", *switched(-1, -1.1, "1")),
    Key("minPSampling", *switched(1, 1.1, -0.1)),
    Key("topPSampling", *switched(0, 1.1, -0.1)),
    Key("logProbs", *switched(100, 101, -1, 0.5)),
    Key("seed", *switched(-1, -2, 0.5)),
    Key("systemPrompt", *TEXT),
    Key("contextPrefill", [{"type": "jsonFile", "absPath": "/a"}], ([{"type": "pdf", "absPath": "/a"}], ["/a"], {})),
    Key("tools", {"type": "toolArray", "tools": [TOOL]}, ({}, [TOOL], {"type": "toolArray", "tools": [{}]})),
    Key("toolChoice", {"type": "generic", "mode": "required"}, ({"type": "generic", "mode": "always"}, "auto")),
    Key("toolNaming", "snakeCase", ("kebab", 5)),
    Key("promptTemplate", MANUAL, (JINJA, MANUAL | {"manualPromptTemplate": {"beforeUser": ""}}, "jinja")),
    Key("speculativeDecoding.draftModel", "", (5, None)),
    Key("speculativeDecoding.numDraftTokensExact", *COUNT),
    Key("speculativeDecoding.minDraftLengthToConsider", *AMOUNT),
    Key("speculativeDecoding.minContinueDraftingProbability", *SHARE),
    Key("speculativeDecoding.numReuseTokens", *COUNT),
    Key("speculativeDecoding.maxTokensToDraft", *COUNT),
    Key("reasoning.parsing", PARSING, ({"enabled": True}, PARSING | {"endString": None}, True)),
    Key("reasoning.enableThinking", *FLAG),
    Key("reasoning.budgetTokens", *switched(0, -1, 0.5)),
    Key("vision.userMaxImageDimensionPixels", *switched(1, 0, 1.5)),
    Key("vision.ignoreModelPreferredMaxImageDimension", *FLAG),
    Key("llama.cpuThreads", *COUNT),
    Key("llama.presencePenalty", *switched(-2.5, "1", True)),
    Key("llama.frequencyPenalty", *switched(2.5, "1", True)),
    Key("llama.xtcProbability", *switched(1, 1.1)),
    Key("llama.xtcThreshold", *switched(0, -0.1)),
    Key("llama.mirostatSampling", MIROSTAT, (MIROSTAT | {"version": 3}, {}, {"version": 1})),
    Key("llama.tailFreeSampling", *switched(0.95, 1.1)),
    Key("llama.locallyTypicalSampling", *switched(0.9, 1.1)),
    Key("llama.logitBias", [[5, -1.5], [6, "-inf"]], ([[5]], [[5, "inf"]], [5, 1], [["a", 1]], {})),
]
LOAD = [
    Key("llm.load.contextLength", *COUNT),
    Key("llm.load.autoFitMinContextLength", *AMOUNT),
    Key("llm.load.numExperts", *AMOUNT),
    Key("llm.load.seed", *switched(-1, -2)),
    Key("llm.load.promptTemplate", JINJA, ({"type": "manual"}, {"type": "jinja"}, "x")),
    Key("llm.load.offloadKVCacheToGpu", *FLAG),
    Key("llm.load.numCpuExpertLayersRatio", *RATIO),
    Key("llm.load.numParallelSessions", 1023, (0, 1024, 1.5)),
    Key("llm.load.useUnifiedKvCache", *FLAG),
    Key("llm.load.llama.autoFit", *FLAG),
    Key("llm.load.llama.acceleration.offloadRatio", *RATIO),
    Key("llm.load.llama.cpuThreadPoolSize", 1.5, (0, "4")),
    Key("llm.load.llama.evalBatchSize", *COUNT),
    Key("llm.load.llama.physicalBatchSize", *COUNT),
    Key("llm.load.llama.flashAttention", *FLAG),
    Key("llm.load.llama.contextCheckpoints", *AMOUNT),
    Key("llm.load.llama.reasoningBudgetMessage", *TEXT),
    Key("llm.load.llama.speculativeDecoding.draftMtp", *FLAG),
    Key("llm.load.llama.speculativeDecoding.draftSimple", *FLAG),
    Key("llm.load.llama.speculativeDecoding.draftDflashSidecar", *FLAG),
    Key("llm.load.llama.speculativeDecoding.draftDsparkSidecar", *FLAG),
    Key("llm.load.llama.speculativeDecoding.draftMtpSidecar", *FLAG),
    Key("llm.load.llama.speculativeDecoding.draftModel", *TEXT),
    Key("llm.load.llama.speculativeDecoding.draftMaxTokens", *AMOUNT),
    Key("llm.load.llama.speculativeDecoding.draftMinTokens", *AMOUNT),
    Key("llm.load.llama.speculativeDecoding.draftMinContinueProbability", *SHARE),
    Key("llm.load.llama.ropeFrequencyBase", *switched(0, -1)),
    Key("llm.load.llama.ropeFrequencyScale", *switched(0.5, -1)),
    Key("llm.load.llama.keepModelInMemory", *FLAG),
    Key("llm.load.llama.useFp16ForKVCache", *FLAG),
    Key("llm.load.llama.tryMmap", *FLAG),
    Key("llm.load.llama.tryDirectIO", *FLAG),
    Key("llm.load.llama.argumentsOverride", ARGUMENTS, ({}, ARGUMENTS | {"disabledParameters": "a"}, "--x")),
    Key("llm.load.llama.kCacheQuantizationType", *switched("q8_0", "q1", 8)),
    Key("llm.load.llama.vCacheQuantizationType", *switched("iq4_nl", "q1", 8)),
    Key("llm.load.mlx.autoFit", *FLAG),
    Key("llm.load.mlx.diskCache", *FLAG),
    Key("llm.load.mlx.kvCacheQuantization", BITS, (BITS | {"bits": 5}, {"enabled": False}, on(BITS))),
    Key("llm.load.yuzu.autoFit", *FLAG),
    Key("llm.load.vllm.gpuMemoryUtilization", *SHARE),
    Key("llm.load.vllm.reasoningParser", *TEXT),
    Key("llm.load.vllm.toolCallParser", *TEXT),
    Key("load.gpuSplitConfig", SPLIT, (SPLIT | {"strategy": "oddly"}, SPLIT | {"priority": [-1]}, {})),
    Key("load.gpuStrictVramCap", *FLAG),
    Key("envVars", {"HSA_OVERRIDE_GFX_VERSION": "10.3.0"}, ({"HSA_OVERRIDE_GFX_VERSION": 10}, {"A": "b"}, "A=b")),
]


def sent(key: Key, value: Any) -> Any:
    """What a server gets for a raw key."""
    raw = {key.name: value}
    if key in LOAD:
        return fields_of(load_stack(LoadConfig(raw=raw)))[key.name]
    return fields_of(prediction_stack(PredictionConfig(raw={PREDICTION_PREFIX + key.name: value})))[
        PREDICTION_PREFIX + key.name
    ]


def test_every_key_is_in_this_table() -> None:
    """The keys that are known are those of the official schema, and no others."""
    known = {option.key for option in (*OPTIONS.values(), *UNNAMED)}
    assert known == {PREDICTION_PREFIX + key.name for key in PREDICTION}
    assert set(LOAD_KEYS) == {key.name for key in LOAD}


@pytest.mark.parametrize("key", [*PREDICTION, *LOAD], ids=lambda key: key.name)
def test_a_value_that_the_official_schema_accepts(key: Key) -> None:
    """It is sent as it is, whether as a raw key or on a command line."""
    assert sent(key, key.accepted) == key.accepted
    option = find_option(key.name)
    assert option is not None
    assert write_field(option, key.name, key.accepted) == key.accepted


@pytest.mark.parametrize("key", [*PREDICTION, *LOAD], ids=lambda key: key.name)
def test_a_value_that_the_official_schema_refuses(key: Key) -> None:
    """A server would drop it without a word, so it is refused before it is sent."""
    for value in key.refused:
        with pytest.raises(UsageError) as refused:
            sent(key, value)
        assert key.name in refused.value.message, value


@QUICK
@given(st.sampled_from([*PREDICTION, *LOAD]), any_json)
def test_any_value(key: Key, value: Any) -> None:
    """Whatever is given as the value of a key, it is sent as it is or refused."""
    with suppress(UsageError):
        assert sent(key, value) == value


@pytest.mark.parametrize("key", [key for key in (*PREDICTION, *LOAD) if "checked" in str(key.accepted)], ids=str)
def test_a_switch_may_be_left_to_the_command_line(key: Key) -> None:
    """The bare value is switched on, and false is the switch itself."""
    option = find_option(key.name)
    assert option is not None
    assert write_field(option, key.name, key.accepted["value"]) == key.accepted
    assert write_field(option, key.name, False) == {"checked": False, "value": option.off}
    assert sent(key, {"checked": False, "value": option.off}) == {"checked": False, "value": option.off}


BOTH = (PREDICTION_PREFIX, LOAD_PREFIX)
FLASH = "llm.load.llama.flashAttention"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llm.prediction.temperature", "llm.prediction.temperature"),
        ("temperature", "llm.prediction.temperature"),
        ("maxPredictedTokens", "llm.prediction.maxPredictedTokens"),
        ("maxTokens", "llm.prediction.maxPredictedTokens"),
        ("max_tokens", "llm.prediction.maxPredictedTokens"),
        ("llama.logitBias", "llm.prediction.llama.logitBias"),
        (FLASH, FLASH),
        ("llm.load.flashAttention", FLASH),
        ("llama.flashAttention", FLASH),
        ("flashAttention", FLASH),
        ("flash_attention", FLASH),
        ("maxParallelPredictions", "llm.load.numParallelSessions"),
        ("llamaKCacheQuantizationType", "llm.load.llama.kCacheQuantizationType"),
        ("offloadKVCacheToGpu", "llm.load.offloadKVCacheToGpu"),
        ("gpu.ratio", "llm.load.llama.acceleration.offloadRatio"),
        ("gpu.numCpuExpertLayersRatio", "llm.load.numCpuExpertLayersRatio"),
        ("load.gpuSplitConfig", "load.gpuSplitConfig"),
        ("gpuStrictVramCap", "load.gpuStrictVramCap"),
        ("envVars", "envVars"),
        ("seed", "llm.prediction.seed"),
        ("llm.load.seed", "llm.load.seed"),
        ("promptTemplate", "llm.prediction.promptTemplate"),
        ("llm.load.promptTemplate", "llm.load.promptTemplate"),
    ],
)
def test_a_key_by_its_names(name: str, key: str) -> None:
    """The whole key, its end, and the SDK's name; where two keys have a name, the prediction's is meant."""
    option = find_option(name, BOTH)
    assert option is not None
    assert option.key == key
    assert unknown_key(name, BOTH) is None


def test_a_name_where_only_loads_are_configured() -> None:
    """There the load's key is meant."""
    option = find_option("seed", (LOAD_PREFIX,))
    assert option is not None
    assert option.key == "llm.load.seed"


@pytest.mark.parametrize(
    ("name", "sentence", "key"),
    [
        (
            "temprature",
            "unknown prediction field 'temprature', did you mean temperature?",
            "llm.prediction.temprature",
        ),
        (
            "llm.prediction.temprature",
            "unknown prediction field 'temprature', did you mean temperature?",
            "llm.prediction.temprature",
        ),
        (
            "flashAttenton",
            "unknown prediction field 'flashAttenton', did you mean flashAttention?",
            "llm.prediction.flashAttenton",
        ),
        (
            "llm.load.flash_attenton",
            "unknown load field 'flash_attenton', did you mean flash_attention?",
            "llm.load.flash_attenton",
        ),
        ("embedding.load.zzz", "unknown prediction field 'embedding.load.zzz'", "embedding.load.zzz"),
    ],
)
def test_an_unknown_name(name: str, sentence: str, key: str) -> None:
    """It is sent under the key that it would have, with the nearest name proposed."""
    assert find_option(name, BOTH) is None
    assert unknown_key(name, BOTH) == sentence
    assert whole_key(name, PREDICTION_PREFIX) == key
