"""Configuration keys → what llama.cpp takes; which keys it has nothing for; and what would be too much for it.

Pure: no engine is needed to read it. A key that is neither translated nor neutral is reported by `unmet`.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts; llama.cpp, tools/server/README.md (POST /completion).
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from lmcli.server.failures import Refused
from lmcli.values import JsonObject
from lmcli.wire.config import PREDICTION_PREFIX, PROMPT_TEMPLATE_KEY

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

# How much form an answer may be asked to have. llama.cpp writes repetitions out and reads what is nested on its stack:
# without limits, one request takes all memory, or the process.
MOST_FORM_CHARACTERS: Final = 100_000
MOST_NESTING: Final = 100
MOST_PARENTHESES: Final = 500
MOST_REPETITIONS: Final = 2_000
# All repetitions in a grammar or a pattern together, times its length: what is written out is no longer than that.
MOST_WRITTEN_OUT: Final = 20_000_000
_REPEATING: Final = frozenset(
    {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties", "minContains", "maxContains"}
)
# Every part may be missing, so that no text makes the search slow.
_REPETITION: Final = re.compile(r"\{\s*(\d{0,9})[\s,]*(\d{0,9})")

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


_TRANSLATED: Final[Mapping[str, Callable[[str, Any], JsonObject]]] = {
    "llama.mirostatSampling": _mirostat,
    "llama.logitBias": _logit_bias,
    "structured": _structured,
}


def excess(body: JsonObject) -> Iterator[str]:
    """What in a request is too much for llama.cpp to read, in words that follow "does not support"."""
    if "json_schema" in body:
        yield from _excess_of_schema(body["json_schema"])
    if "grammar" in body:
        yield from _excess_of_text("grammar", body["grammar"])


def _excess_of_schema(schema: Any) -> Iterator[str]:
    characters = 0
    for depth, key, value in _walk(schema):
        characters += len(key) + (len(value) if isinstance(value, str) else 1)
        if depth > MOST_NESTING:
            yield f"a JSON schema that is nested deeper than {MOST_NESTING}"
            return
        if characters > MOST_FORM_CHARACTERS:
            yield f"a JSON schema of more than {MOST_FORM_CHARACTERS} characters"
            return
        if key in _REPEATING and isinstance(value, int | float) and value > MOST_REPETITIONS:
            yield f"a {key} above {MOST_REPETITIONS} in a JSON schema"
        if key == "pattern" and isinstance(value, str):
            yield from _excess_of_text("pattern", value)


def _walk(value: Any) -> Iterator[tuple[int, str, Any]]:
    """Everything inside of a JSON value: how deep, under which key (else an empty one), and what.

    A loop, and not a function that calls itself: how deep it goes is what is asked.
    """
    waiting: list[tuple[int, str, Any]] = [(0, "", value)]
    while waiting:
        depth, key, found = waiting.pop()
        yield depth, key, found
        if isinstance(found, Mapping):
            waiting.extend((depth + 1, name, inner) for name, inner in found.items())
        elif isinstance(found, list):
            waiting.extend((depth + 1, "", inner) for inner in found)


def _excess_of_text(kind: str, text: str) -> Iterator[str]:
    counts = [int(count or 0) for pair in _REPETITION.findall(text) for count in pair]
    if len(text) > MOST_FORM_CHARACTERS:
        yield f"a {kind} of more than {MOST_FORM_CHARACTERS} characters"
    elif max(counts, default=0) > MOST_REPETITIONS:
        yield f"more than {MOST_REPETITIONS} repetitions in a {kind}"
    elif sum(counts) * len(text) > MOST_WRITTEN_OUT:
        yield f"so many repetitions in a {kind} of this length"
    elif _nesting(text) > MOST_PARENTHESES:
        yield f"a {kind} with more than {MOST_PARENTHESES} parentheses in each other"


def _nesting(text: str) -> int:
    """How deep parentheses go; those in quotes count, too, so that nothing depends on reading quotes as llama.cpp."""
    deepest = depth = 0
    for parenthesis in re.findall(r"[()]", text):
        depth = depth + 1 if parenthesis == "(" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


class Count(NamedTuple):
    """A load key that is a number of something for llama.cpp, too, and what it survives."""

    name: str
    least: int
    most: int


LOAD_COUNTS: Final[Mapping[str, Count]] = {
    "llama.evalBatchSize": Count("n_batch", 32, 65_536),
    "numParallelSessions": Count("n_parallel", 1, 1023),
    "llama.contextCheckpoints": Count("n_ctx_checkpoints", 1, 1024),
    # Threads wait for each other: more than the cores do no work, and very many are more than the system gives.
    "llama.cpuThreadPoolSize": Count("n_threads", 1, 4 * (os.cpu_count() or 1)),
}
LOAD_MET_ELSEWHERE: Final = frozenset(
    {
        "contextLength",
        "llama.acceleration.offloadRatio",
        "offloadKVCacheToGpu",
        "llama.tryMmap",
        "llama.flashAttention",
        # Each session has its whole context, so whether they share one cache changes nothing.
        "useUnifiedKvCache",
    }
)
# The SDK sends these whether or not anybody asked.
LOAD_NEUTRAL: Final[Mapping[str, Any]] = {"llama.autoFit": False, "llama.keepModelInMemory": True}


def load_parameters(values: Mapping[str, Any]) -> JsonObject:
    """Translate how to load, as far as it is a matter of names.

    Raises:
        Refused: a value is not one that llama.cpp survives.
    """
    found: JsonObject = {}
    for name, count in LOAD_COUNTS.items():
        key = LOAD_PREFIX + name
        value = values.get(key)
        if value is not None:
            if type(value) is not int or not count.least <= value <= count.most:
                raise Refused(f"Invalid load config: {key} must be a whole number, {count.least} to {count.most}")
            found[count.name] = value
    return found


def unmet_load(values: Mapping[str, Any]) -> Iterator[str]:
    """The load keys that ask for something that this engine does not do; other engines' keys are none of them."""
    for key, value in values.items():
        name = key.removeprefix(LOAD_PREFIX)
        is_ours = key.startswith(LOAD_PREFIX) and not name.startswith(("mlx.", "yuzu."))
        is_met = name in LOAD_COUNTS or name in LOAD_MET_ELSEWHERE or LOAD_NEUTRAL.get(name, _NOTHING) == value
        if is_ours and not is_met and not _asks_for_nothing(value):
            yield key
