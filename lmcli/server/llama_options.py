"""Configuration keys → what llama.cpp takes; and which keys it has nothing for.

Pure: no engine is needed to read it. A key that is neither translated nor neutral is reported by `unmet`.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts; llama.cpp, tools/server/README.md (POST /completion).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from lmcli.client.config import PREDICTION_PREFIX, PROMPT_TEMPLATE_KEY
from lmcli.server.failures import Refused
from lmcli.values import JsonObject

LOAD_PREFIX: Final = "llm.load."
CONTEXT_LENGTH_KEY: Final = LOAD_PREFIX + "contextLength"

# Keys whose value is passed on as it is.
PLAIN: Final[Mapping[str, str]] = {"temperature": "temperature", "topKSampling": "top_k"}

# Keys with a switch: the engine's name, and what it takes for "off".
SWITCHED: Final[Mapping[str, tuple[str, float]]] = {
    "topPSampling": ("top_p", 1.0),
    "minPSampling": ("min_p", 0.0),
    "repeatPenalty": ("repeat_penalty", 1.0),
    "llama.presencePenalty": ("presence_penalty", 0.0),
    "llama.frequencyPenalty": ("frequency_penalty", 0.0),
    "llama.xtcProbability": ("xtc_probability", 0.0),
    "llama.xtcThreshold": ("xtc_threshold", 0.1),
    "llama.locallyTypicalSampling": ("typical_p", 1.0),
    "seed": ("seed", -1),
}

# Keys that are met elsewhere: by counting, by searching the text, by writing the prompt.
MET_ELSEWHERE: Final = frozenset(
    {
        "maxPredictedTokens",
        "stopStrings",
        "toolCallStopStrings",
        "contextOverflowPolicy",
        "systemPrompt",
        "reasoning.parsing",
        "reasoning.enableThinking",
        "reasoning.budgetTokens",
    }
)

# Keys that mean nothing unless another one is there, which is reported itself, or unless there are images.
DEPENDENT: Final = frozenset(
    {
        "toolChoice",
        "toolNaming",
        "vision.userMaxImageDimensionPixels",
        "vision.ignoreModelPreferredMaxImageDimension",
        "speculativeDecoding.numDraftTokensExact",
        "speculativeDecoding.minDraftLengthToConsider",
        "speculativeDecoding.minContinueDraftingProbability",
        "speculativeDecoding.numReuseTokens",
        "speculativeDecoding.maxTokensToDraft",
    }
)

# Values that ask for nothing.
_NOTHING: Final[Sequence[Any]] = (None, "", [], {}, {"type": "none"})


def sampling(values: Mapping[str, Any]) -> JsonObject:
    """Translate how to sample.

    Raises:
        Refused: a value has not the form that its key wants.
    """
    body: JsonObject = {}
    for key, value in values.items():
        name = key.removeprefix(PREDICTION_PREFIX)
        if name in PLAIN:
            body[PLAIN[name]] = value
        elif name in SWITCHED:
            body[SWITCHED[name][0]] = _switched(key, value, SWITCHED[name][1])
        elif name in _TRANSLATED:
            body.update(_TRANSLATED[name](key, value))
    return body


def unmet(values: Mapping[str, Any]) -> Iterator[str]:
    """The prediction keys that ask for something that this engine does not do."""
    for key, value in values.items():
        name = key.removeprefix(PREDICTION_PREFIX)
        is_met = name in PLAIN or name in SWITCHED or name in _TRANSLATED or name in MET_ELSEWHERE or name in DEPENDENT
        if not is_met and not _asks_for_nothing(value) and not (key == PROMPT_TEMPLATE_KEY and _is_manual(value)):
            yield key


def is_on(value: Any) -> bool:
    """Whether an option with a switch is on."""
    return isinstance(value, Mapping) and value.get("checked") is True


def _asks_for_nothing(value: Any) -> bool:
    return value in _NOTHING or (isinstance(value, Mapping) and value.get("checked") is False)


def _is_manual(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") == "manual"


def _invalid(key: str) -> Refused:
    return Refused(f"Invalid config: {key} has not the form that it must have")


def _number(key: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise _invalid(key)


def _switched(key: str, value: Any, off: float) -> float:
    return _number(key, value.get("value")) if is_on(value) else off


def _mirostat(key: str, value: Any) -> JsonObject:
    if not isinstance(value, Mapping):
        raise _invalid(key)
    names = {"version": "mirostat", "learningRate": "mirostat_eta", "targetEntropy": "mirostat_tau"}
    return {name: _number(key, value[ours]) for ours, name in names.items() if ours in value}


def _logit_bias(key: str, value: Any) -> JsonObject:
    pairs = [tuple(pair) for pair in value if isinstance(pair, list) and len(pair) == 2] if value else []
    if value and len(pairs) != len(value):
        raise _invalid(key)
    return {"logit_bias": [[token, False if bias == "-inf" else _number(key, bias)] for token, bias in pairs]}


def _structured(key: str, value: Any) -> JsonObject:
    match value:
        case {"type": "json"}:
            schema = value.get("jsonSchema")
            return {"json_schema": {"type": "object"} if schema is None else schema}
        case {"type": "gbnf", "gbnfGrammar": str(grammar)}:
            return {"grammar": grammar}
        case {"type": "none"}:
            return {}
    raise _invalid(key)


_TRANSLATED: Final[Mapping[str, Callable[[str, Any], JsonObject]]] = {
    "llama.mirostatSampling": _mirostat,
    "llama.logitBias": _logit_bias,
    "structured": _structured,
}


# Load keys that are a number of something for llama.cpp, too.
LOAD_COUNTS: Final[Mapping[str, str]] = {
    "llama.evalBatchSize": "n_batch",
    "numParallelSessions": "n_parallel",
    "llama.contextCheckpoints": "n_ctx_checkpoints",
}
LOAD_MET_ELSEWHERE: Final = frozenset(
    {
        "contextLength",
        "llama.acceleration.offloadRatio",
        "offloadKVCacheToGpu",
        "llama.tryMmap",
        "llama.flashAttention",
        "llama.cpuThreadPoolSize",
        # Each session has its whole context, so whether they share one cache changes nothing.
        "useUnifiedKvCache",
    }
)
# The SDK sends these whether or not anybody asked.
LOAD_NEUTRAL: Final[Mapping[str, Any]] = {"llama.autoFit": False, "llama.keepModelInMemory": True}


def load_parameters(values: Mapping[str, Any]) -> JsonObject:
    """Translate how to load, as far as it is a matter of names.

    Raises:
        Refused: a value has not the form that its key wants.
    """
    found: JsonObject = {}
    for key, name in LOAD_COUNTS.items():
        value = values.get(LOAD_PREFIX + key)
        if value is not None:
            if type(value) is not int or value < 1:
                raise _invalid(LOAD_PREFIX + key)
            found[name] = value
    return found


def unmet_load(values: Mapping[str, Any]) -> Iterator[str]:
    """The load keys that ask for something that this engine does not do; other engines' keys are none of them."""
    for key, value in values.items():
        name = key.removeprefix(LOAD_PREFIX)
        is_ours = key.startswith(LOAD_PREFIX) and not name.startswith(("mlx.", "yuzu."))
        is_met = name in LOAD_COUNTS or name in LOAD_MET_ELSEWHERE or LOAD_NEUTRAL.get(name, _NOTHING) == value
        if is_ours and not is_met and not _asks_for_nothing(value):
            yield key
