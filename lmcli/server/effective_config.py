"""The effective prediction config: the model's defaults, overridden by the preset, overridden by the client."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from lmcli.server.limits import check_stop_strings
from lmcli.server.request_errors import RequestFailed, preset_not_found
from lmcli.values import JsonObject
from lmcli.wire.config import PROMPT_TEMPLATE_KEY, invalid_fields, read_stack
from lmcli.wire.prediction_config import PREDICTION_PREFIX

# Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts
DEFAULT_VALUES: Final[Mapping[str, Any]] = {
    PREDICTION_PREFIX + "temperature": 0.8,
    PREDICTION_PREFIX + "topKSampling": 40,
    PREDICTION_PREFIX + "topPSampling": {"checked": True, "value": 0.95},
    PREDICTION_PREFIX + "minPSampling": {"checked": True, "value": 0.05},
    PREDICTION_PREFIX + "repeatPenalty": {"checked": True, "value": 1.1},
    PREDICTION_PREFIX + "maxPredictedTokens": {"checked": False, "value": 1000},
    PREDICTION_PREFIX + "stopStrings": [],
    PREDICTION_PREFIX + "contextOverflowPolicy": "truncateMiddle",
    PREDICTION_PREFIX + "structured": {"type": "none"},
    PREDICTION_PREFIX + "reasoning.parsing": {"enabled": True, "startString": "<think>", "endString": "</think>"},
}
REASONING_PARSING_KEY: Final = PREDICTION_PREFIX + "reasoning.parsing"


class Preset(NamedTuple):
    """A named config that the server offers."""

    name: str
    values: Mapping[str, Any]


PRESETS: Final[Mapping[str, Preset]] = {
    "short": Preset("Short", {PREDICTION_PREFIX + "maxPredictedTokens": {"checked": True, "value": 8}}),
}

_MESSAGE_CONTENT = r"(?:(\w+)\s*\[\s*['\"]content['\"]\s*\]|(\w+)\.content)"
_CONTENT_ONLY_JINJA = re.compile(
    r"\s*\{%-?\s*for\s+(\w+)\s+in\s+messages\s*-?%\}"
    rf"\s*\{{\{{-?\s*{_MESSAGE_CONTENT}\s*-?\}}\}}"
    r"\s*\{%-?\s*endfor\s*-?%\}\s*"
)


def effective_config(model_values: Mapping[str, Any], preset: str | None, stack: Any) -> JsonObject:
    """Merge the configs.

    Raises:
        RequestFailed: the preset does not exist, or an option has an invalid value or exceeds a limit.
    """
    values = {**model_values, **(find_preset(preset).values if preset else {}), **read_stack(stack)}
    for problem in invalid_fields(values):
        raise RequestFailed(f"Invalid prediction config: {problem}")
    check_stop_strings(values)
    return values


def context_length(values: Mapping[str, Any], key: str, default: int, most: int) -> int:
    """The length of the context that a load config requests, `most` at most; `default` if it requests none.

    Raises:
        RequestFailed: the value is invalid.
    """
    length = values.get(key, default)
    if type(length) is not int or length < 1:
        raise RequestFailed(f"Invalid load config: {key} must be a positive whole number")
    return min(length, most)


def find_preset(name: str) -> Preset:
    """Find a preset by identifier or name, ignoring case.

    Raises:
        RequestFailed: there is none.
    """
    for identifier, preset in PRESETS.items():
        if name.casefold() in (identifier.casefold(), preset.name.casefold()):
            return preset
    raise preset_not_found(name, ((identifier, preset.name) for identifier, preset in PRESETS.items()))


def is_content_only(values: Mapping[str, Any]) -> bool:
    """Whether the prompt template adds nothing to the messages: the older way to request a raw completion.

    Source: lmstudio-python 1.5.0 sends such a template in the layer `completeModeFormatting`.
    """
    match values.get(PROMPT_TEMPLATE_KEY):
        case {"type": "jinja", "jinjaPromptTemplate": {"template": str(template)}}:
            found = _CONTENT_ONLY_JINJA.fullmatch(template)
            return found is not None and found[1] in (found[2], found[3])
        case {"type": "manual", "manualPromptTemplate": Mapping() as affixes}:
            return not any(affixes.values())
    return False
