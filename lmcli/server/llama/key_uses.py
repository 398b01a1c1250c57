"""What becomes of each config key: llama.cpp is given it, the server does it, it has no effect, or it is refused.

Nothing is dropped silently: a test holds the tables against those of the wire. lm-serve(1) lists what is refused.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from lmcli.wire.prediction_config import PREDICTION_PREFIX


class Use(Enum):
    """What becomes of a key."""

    ENGINE = "llama.cpp is given it"
    SERVER = "the server does it"
    NONE = "it has no effect here"
    REFUSED = "it is refused, unless its value has no effect"


class KeyUse(NamedTuple):
    """What becomes of a key.

    Attributes:
        use: the kind.
        reason: why it has no effect, or what to do instead of what is refused.
        neutral: the values that have no effect, besides those that are off or empty.
    """

    use: Use
    reason: str = ""
    neutral: tuple[Any, ...] = ()


_ENGINE: Final = KeyUse(Use.ENGINE)
_SERVER: Final = KeyUse(Use.SERVER)
_NO_DRAFT: Final = KeyUse(Use.NONE, "it applies to draft models, which are refused")
_NO_IMAGE: Final = KeyUse(Use.NONE, "it applies to images")
_OTHER_ENGINE: Final = KeyUse(Use.NONE, "it applies to another engine")
_DRAFT_AT_LOAD: Final = KeyUse(Use.REFUSED, "leave out the draft model", (False,))

PREDICTION_USES: Final[Mapping[str, KeyUse]] = {
    "temperature": _ENGINE,
    "maxPredictedTokens": _SERVER,
    "stopStrings": _SERVER,
    "toolCallStopStrings": _SERVER,
    "contextOverflowPolicy": _SERVER,
    "structured": _ENGINE,
    "topKSampling": _ENGINE,
    "repeatPenalty": _ENGINE,
    "minPSampling": _ENGINE,
    "topPSampling": _ENGINE,
    "seed": _ENGINE,
    "logProbs": _ENGINE,
    "systemPrompt": _SERVER,
    "contextPrefill": KeyUse(Use.REFUSED, "put the text into the messages"),
    "promptTemplate": _SERVER,
    "tools": _SERVER,
    "toolChoice": _SERVER,
    "toolNaming": KeyUse(Use.REFUSED, "name the tools as the model is to see them", ("passThrough", "removeSpecial")),
    "speculativeDecoding.draftModel": KeyUse(Use.REFUSED, "leave out the draft model"),
    "speculativeDecoding.numDraftTokensExact": _NO_DRAFT,
    "speculativeDecoding.minDraftLengthToConsider": _NO_DRAFT,
    "speculativeDecoding.minContinueDraftingProbability": _NO_DRAFT,
    "speculativeDecoding.numReuseTokens": _NO_DRAFT,
    "speculativeDecoding.maxTokensToDraft": _NO_DRAFT,
    "reasoning.parsing": _SERVER,
    "reasoning.enableThinking": _SERVER,
    "reasoning.budgetTokens": _ENGINE,
    "vision.userMaxImageDimensionPixels": _NO_IMAGE,
    "vision.ignoreModelPreferredMaxImageDimension": _NO_IMAGE,
    "llama.cpuThreads": KeyUse(Use.REFUSED, "set llm.load.llama.cpuThreadPoolSize when the model is loaded"),
    "llama.presencePenalty": _ENGINE,
    "llama.frequencyPenalty": _ENGINE,
    "llama.xtcProbability": _ENGINE,
    "llama.xtcThreshold": _ENGINE,
    "llama.mirostatSampling": _ENGINE,
    "llama.tailFreeSampling": KeyUse(Use.REFUSED, "use llm.prediction.minPSampling"),
    "llama.locallyTypicalSampling": _ENGINE,
    "llama.logitBias": _ENGINE,
}
"""By key, without `llm.prediction.`."""

LOAD_USES: Final[Mapping[str, KeyUse]] = {
    "llm.load.contextLength": _ENGINE,
    "llm.load.seed": _ENGINE,
    "llm.load.promptTemplate": _ENGINE,
    "llm.load.numExperts": KeyUse(Use.REFUSED, "leave it to the model", (0,)),
    "llm.load.offloadKVCacheToGpu": _ENGINE,
    "llm.load.numParallelSessions": _ENGINE,
    "llm.load.useUnifiedKvCache": KeyUse(Use.NONE, "the cache is large enough for the whole context of each session"),
    "llm.load.numCpuExpertLayersRatio": KeyUse(Use.REFUSED, "use llm.load.llama.acceleration.offloadRatio", ("off", 0)),
    "llm.load.autoFitMinContextLength": KeyUse(Use.REFUSED, "set llm.load.contextLength", (0,)),
    "llm.load.llama.autoFit": KeyUse(Use.NONE, "what is set holds, and llama.cpp fits the rest to the memory"),
    "llm.load.llama.acceleration.offloadRatio": _ENGINE,
    "llm.load.llama.cpuThreadPoolSize": _ENGINE,
    "llm.load.llama.evalBatchSize": _ENGINE,
    "llm.load.llama.physicalBatchSize": _ENGINE,
    "llm.load.llama.flashAttention": _ENGINE,
    "llm.load.llama.keepModelInMemory": KeyUse(Use.NONE, "the system decides what is swapped out"),
    "llm.load.llama.useFp16ForKVCache": _ENGINE,
    "llm.load.llama.kCacheQuantizationType": _ENGINE,
    "llm.load.llama.vCacheQuantizationType": _ENGINE,
    "llm.load.llama.tryMmap": _ENGINE,
    "llm.load.llama.tryDirectIO": _ENGINE,
    "llm.load.llama.ropeFrequencyBase": _ENGINE,
    "llm.load.llama.ropeFrequencyScale": _ENGINE,
    "llm.load.llama.contextCheckpoints": _ENGINE,
    "llm.load.llama.reasoningBudgetMessage": _ENGINE,
    "llm.load.llama.argumentsOverride": KeyUse(Use.REFUSED, "set the options of a load"),
    "llm.load.llama.speculativeDecoding.draftMtp": _DRAFT_AT_LOAD,
    "llm.load.llama.speculativeDecoding.draftSimple": _DRAFT_AT_LOAD,
    "llm.load.llama.speculativeDecoding.draftModel": _DRAFT_AT_LOAD,
    "llm.load.llama.speculativeDecoding.draftMaxTokens": _NO_DRAFT,
    "llm.load.llama.speculativeDecoding.draftMinTokens": _NO_DRAFT,
    "llm.load.llama.speculativeDecoding.draftMinContinueProbability": _NO_DRAFT,
    "llm.load.llama.speculativeDecoding.draftDflashSidecar": _NO_DRAFT,
    "llm.load.llama.speculativeDecoding.draftDsparkSidecar": _NO_DRAFT,
    "llm.load.llama.speculativeDecoding.draftMtpSidecar": _NO_DRAFT,
    "llm.load.mlx.autoFit": _OTHER_ENGINE,
    "llm.load.mlx.diskCache": _OTHER_ENGINE,
    "llm.load.mlx.kvCacheQuantization": _OTHER_ENGINE,
    "llm.load.yuzu.autoFit": _OTHER_ENGINE,
    "llm.load.vllm.gpuMemoryUtilization": _OTHER_ENGINE,
    "llm.load.vllm.reasoningParser": _OTHER_ENGINE,
    "llm.load.vllm.toolCallParser": _OTHER_ENGINE,
    "load.gpuSplitConfig": KeyUse(Use.REFUSED, "hide GPUs by the environment variables of their driver"),
    "load.gpuStrictVramCap": KeyUse(Use.REFUSED, "set llm.load.llama.acceleration.offloadRatio", (False,)),
    "envVars": KeyUse(Use.REFUSED, "set them where the server is started"),
}

_USES: Final = {**{PREDICTION_PREFIX + name: use for name, use in PREDICTION_USES.items()}, **LOAD_USES}
_OFF: Final[tuple[Any, ...]] = (None, "", [], {}, {"type": "none"})


def refused_keys(values: Mapping[str, Any]) -> Iterator[tuple[str, KeyUse]]:
    """The keys that are refused, with values that would have an effect."""
    for key, value in values.items():
        use = _USES.get(key)
        if use is not None and use.use is Use.REFUSED and not _is_neutral(value, use):
            yield key, use


def unknown_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """The keys that no server is known to read."""
    return (key for key in values if key not in _USES)


def _is_neutral(value: Any, use: KeyUse) -> bool:
    return value in _OFF or value in use.neutral or (isinstance(value, Mapping) and _is_switched_off(value))


def _is_switched_off(value: Mapping[str, Any]) -> bool:
    """Whether a value has a switch that is off, or is the default: all GPUs are used evenly."""
    if value.get("checked", value.get("enabled")) is False:
        return True
    return value.get("strategy") == "evenly" and not value.get("disabledGpus")
