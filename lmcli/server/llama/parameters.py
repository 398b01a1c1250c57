"""Config keys → parameters of llama.cpp, the keys that it does not support, and its limits.

Pure: does not import llama.cpp.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts; llama.cpp, tools/server/README.md (POST /completion).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from lmcli.server.request_errors import RequestFailed
from lmcli.values import JsonObject
from lmcli.wire.config import PROMPT_TEMPLATE_KEY
from lmcli.wire.prediction_config import PREDICTION_PREFIX

LOAD_PREFIX: Final = "llm.load."
EMBEDDING_LOAD_PREFIX: Final = "embedding.load."
CONTEXT_LENGTH_KEY: Final = LOAD_PREFIX + "contextLength"

# Keys whose values are passed unchanged.
PLAIN: Final[Mapping[str, str]] = {"temperature": "temperature", "topKSampling": "top_k"}

# Keys of {"checked": bool, "value": number}: the parameter, and its value if unchecked.
CHECKED: Final[Mapping[str, tuple[str, float]]] = {
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

# Keys that other modules implement: by counting tokens, processing the text, or making the prompt.
IMPLEMENTED_ELSEWHERE: Final = frozenset(
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

# Keys that have an effect only with another key, which is reported itself, or with images.
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

# The limits of schemas and grammars. llama.cpp expands repetitions and parses recursively: without limits, one request
# could exhaust the memory or overflow the stack.
MAX_CHARACTERS: Final = 100_000
MAX_NESTED_SCHEMAS: Final = 100
MAX_NESTED_PARENTHESES: Final = 500
MAX_REPETITIONS: Final = 2_000
# The sum of all repetitions in a grammar or a pattern times its length, which bounds the expanded length.
MAX_EXPANDED_CHARACTERS: Final = 20_000_000
_REPETITION_KEYWORDS: Final = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains"}
)
# Every part is optional, so that the search takes linear time.
_REPETITION: Final = re.compile(r"\{\s*(\d{0,9})[\s,]*(\d{0,9})")

# Values that have no effect.
_NEUTRAL: Final[Sequence[Any]] = (None, "", [], {}, {"type": "none"})


def sampling_parameters(values: Mapping[str, Any]) -> JsonObject:
    """Translate the prediction config.

    Raises:
        RequestFailed: a value is invalid.
    """
    body: JsonObject = {}
    for key, value in values.items():
        name = key.removeprefix(PREDICTION_PREFIX)
        if name in PLAIN:
            body[PLAIN[name]] = value
        elif name in CHECKED:
            body[CHECKED[name][0]] = _checked_number(key, value, CHECKED[name][1])
        elif name in _TRANSLATED:
            body.update(_TRANSLATED[name](key, value))
    return body


def unsupported_prediction_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """The prediction keys that would have an effect and are not supported."""
    for key, value in values.items():
        name = key.removeprefix(PREDICTION_PREFIX)
        is_supported = (
            name in PLAIN
            or name in CHECKED
            or name in _TRANSLATED
            or name in IMPLEMENTED_ELSEWHERE
            or name in DEPENDENT
        )
        if not is_supported and not _is_neutral(value) and not (key == PROMPT_TEMPLATE_KEY and _is_manual(value)):
            yield key


def _is_checked(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("checked") is True


def _is_neutral(value: Any) -> bool:
    return value in _NEUTRAL or (isinstance(value, Mapping) and value.get("checked") is False)


def _is_manual(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("type") == "manual"


def _invalid(key: str) -> RequestFailed:
    return RequestFailed(f"Invalid config: {key} has an invalid value")


def _number(key: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise _invalid(key)


def _checked_number(key: str, value: Any, default: float) -> float:
    return _number(key, value.get("value")) if _is_checked(value) else default


def _mirostat(key: str, value: Any) -> JsonObject:
    if not isinstance(value, Mapping):
        raise _invalid(key)
    names = {"version": "mirostat", "learningRate": "mirostat_eta", "targetEntropy": "mirostat_tau"}
    return {name: _number(key, value[field]) for field, name in names.items() if field in value}


def _logit_bias(key: str, value: Any) -> JsonObject:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise _invalid(key)
    return {"logit_bias": [[token, False if bias == "-inf" else _number(key, bias)] for token, bias in value]}


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


def _log_probs(key: str, value: Any) -> JsonObject:
    """Candidates for each token: llama.cpp sends no probabilities without one."""
    return {"logprobs": max(1, int(_number(key, value.get("value"))))} if _is_checked(value) else {}


_TRANSLATED: Final[Mapping[str, Callable[[str, Any], JsonObject]]] = {
    "llama.mirostatSampling": _mirostat,
    "llama.logitBias": _logit_bias,
    "logProbs": _log_probs,
    "structured": _structured,
}


def exceeded_limits(body: JsonObject) -> Iterator[str]:
    """The limits that a request exceeds, as an object of "does not support"."""
    if "json_schema" in body:
        yield from _limits_exceeded_by_schema(body["json_schema"])
    if "grammar" in body:
        yield from _limits_exceeded_by_text("grammar", body["grammar"])


def _limits_exceeded_by_schema(schema: Any) -> Iterator[str]:
    characters = 0
    for depth, key, value in _walk(schema):
        characters += len(key) + (len(value) if isinstance(value, str) else 1)
        if depth > MAX_NESTED_SCHEMAS:
            yield f"a JSON schema that is nested deeper than {MAX_NESTED_SCHEMAS}"
            return
        if characters > MAX_CHARACTERS:
            yield f"a JSON schema of more than {MAX_CHARACTERS} characters"
            return
        if key in _REPETITION_KEYWORDS and isinstance(value, int | float) and value > MAX_REPETITIONS:
            yield f"a {key} above {MAX_REPETITIONS} in a JSON schema"
        if key == "pattern" and isinstance(value, str):
            yield from _limits_exceeded_by_text("pattern", value)


def _walk(value: Any) -> Iterator[tuple[int, str, Any]]:
    """All values inside a JSON value with their depths and their keys, which are empty for the items of arrays.

    A loop, because a recursive function would overflow the stack on the values that the limits are for.
    """
    pending: list[tuple[int, str, Any]] = [(0, "", value)]
    while pending:
        depth, key, found = pending.pop()
        yield depth, key, found
        if isinstance(found, Mapping):
            pending.extend((depth + 1, name, inner) for name, inner in found.items())
        elif isinstance(found, list):
            pending.extend((depth + 1, "", inner) for inner in found)


def _limits_exceeded_by_text(kind: str, text: str) -> Iterator[str]:
    counts = [int(count or 0) for pair in _REPETITION.findall(text) for count in pair]
    if len(text) > MAX_CHARACTERS:
        yield f"a {kind} of more than {MAX_CHARACTERS} characters"
    elif max(counts, default=0) > MAX_REPETITIONS:
        yield f"more than {MAX_REPETITIONS} repetitions in a {kind}"
    elif sum(counts) * len(text) > MAX_EXPANDED_CHARACTERS:
        yield f"this number of repetitions in a {kind} of this length"
    elif _nesting(text) > MAX_NESTED_PARENTHESES:
        yield f"a {kind} with more than {MAX_NESTED_PARENTHESES} nested parentheses"


def _nesting(text: str) -> int:
    """The depth of parentheses, including those in quotes, so that quotes need not be parsed as llama.cpp does."""
    deepest = depth = 0
    for parenthesis in re.findall(r"[()]", text):
        depth = depth + 1 if parenthesis == "(" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


class Count(NamedTuple):
    """A load key with an integer: the parameter, and the range that llama.cpp accepts without aborting."""

    name: str
    minimum: int
    maximum: int


LOAD_COUNTS: Final[Mapping[str, Count]] = {
    "llama.evalBatchSize": Count("n_batch", 32, 65_536),
    "numParallelSessions": Count("n_parallel", 1, 1023),
    "llama.contextCheckpoints": Count("n_ctx_checkpoints", 1, 1024),
    # Threads beyond the number of cores make it slower, and the system limits their number.
    "llama.cpuThreadPoolSize": Count("n_threads", 1, 4 * (os.cpu_count() or 1)),
}
LOAD_IMPLEMENTED_ELSEWHERE: Final = frozenset(
    {
        "contextLength",
        "llama.acceleration.offloadRatio",
        "offloadKVCacheToGpu",
        "llama.tryMmap",
        "llama.flashAttention",
        # Has no effect: the cache is large enough for the whole context of each session.
        "useUnifiedKvCache",
    }
)
# The SDK sends these by default.
LOAD_NEUTRAL: Final[Mapping[str, Any]] = {"llama.autoFit": False, "llama.keepModelInMemory": True}


def load_parameters(values: Mapping[str, Any]) -> JsonObject:
    """Translate the load keys of LOAD_COUNTS.

    Raises:
        RequestFailed: a value is not in its range.
    """
    found: JsonObject = {}
    for name, count in LOAD_COUNTS.items():
        key = LOAD_PREFIX + name
        value = values.get(key)
        if value is not None:
            if type(value) is not int or not count.minimum <= value <= count.maximum:
                raise RequestFailed(
                    f"Invalid load config: {key} must be a whole number, {count.minimum} to {count.maximum}"
                )
            found[count.name] = value
    return found


def unsupported_load_keys(values: Mapping[str, Any]) -> Iterator[str]:
    """The load keys that would have an effect and are not supported, except the keys of other engines."""
    for key, value in values.items():
        name = key.removeprefix(LOAD_PREFIX).removeprefix(EMBEDDING_LOAD_PREFIX)
        is_ours = key.startswith((LOAD_PREFIX, EMBEDDING_LOAD_PREFIX)) and not name.startswith(("mlx.", "yuzu."))
        is_supported = (
            name in LOAD_COUNTS or name in LOAD_IMPLEMENTED_ELSEWHERE or LOAD_NEUTRAL.get(name, _NEUTRAL) == value
        )
        if is_ours and not is_supported and not _is_neutral(value):
            yield key
