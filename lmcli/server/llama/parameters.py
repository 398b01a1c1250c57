"""Prediction keys → parameters of llama.cpp.

Pure: does not import llama.cpp.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts; llama.cpp, tools/server/README.md (POST /completion).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from lmcli.server.request_errors import RequestFailed
from lmcli.values import JsonObject
from lmcli.wire.prediction_config import PREDICTION_PREFIX

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


def _is_checked(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("checked") is True


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
