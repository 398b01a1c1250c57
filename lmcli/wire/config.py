"""Prediction and load options ⇄ KV config stacks; camelCase and config keys end here.

A stack is {"layers": [{"layerName": str, "config": {"fields": [{"key": str, "value": any}]}}]}.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts and lms-shared-types/src/KVConfig.ts
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from lmcli.errors import UsageError, quoted
from lmcli.values import JsonObject, LoadConfig
from lmcli.wire.prediction_config import NUMBER, OPTIONS, UNNAMED, Option, PredictionConfig

PREDICTION_PREFIX: Final = "llm.prediction."
PROMPT_TEMPLATE_KEY: Final = PREDICTION_PREFIX + "promptTemplate"

_OPTION_OF_KEY: Mapping[str, str] = {PREDICTION_PREFIX + option.key: name for name, option in OPTIONS.items()}

# A template with nothing around the messages: how a server without `completeRawText` is told not to format.
RAW_TEMPLATE: Final = {
    "type": "jinja",
    "stopStrings": [],
    "jinjaPromptTemplate": {"template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"},
}


def prediction_config(options: Mapping[str, Any] | PredictionConfig | None) -> PredictionConfig:
    """Read options under the SDK's names, camelCase or snake_case.

    Raises:
        UsageError: an unknown option, or a value that it cannot have.
    """
    if options is None:
        return PredictionConfig()
    if isinstance(options, PredictionConfig):
        return options
    known = {_snake(name): value for name, value in options.items()}
    for name in known:
        if name not in OPTIONS and name != "raw":
            hints = (f"did you mean {near}?" for near in nearest(name, OPTIONS))
            raise UsageError(f"unknown prediction option {quoted(name)}", *hints)
    if (raw := known.get("raw")) is not None and not isinstance(raw, Mapping):
        raise UsageError(f"raw must be an object of config keys, not {quoted(raw)}")
    values: JsonObject = {name: tuple(v) if isinstance(v, list) else v for name, v in known.items() if v is not None}
    return PredictionConfig(**values)


def prediction_stack(config: PredictionConfig, *, is_raw: bool = False, unformatted: bool = False) -> JsonObject:
    """Write prediction options as a stack of one layer; what is None is left out.

    Args:
        config: the options.
        is_raw: it is for raw completion, which does not take all of them.
        unformatted: add the layer that asks for the prompt to be used without the model's chat template.

    Raises:
        UsageError: a value is out of range or of the wrong type, or raw completion does not take the option.
    """
    for name, option in OPTIONS.items() if is_raw else ():
        if not option.is_in_raw_completion and getattr(config, name) not in (None, False):
            raise UsageError(f"raw completion does not take {name.replace('_', ' ')}")
    values = {
        PREDICTION_PREFIX + OPTIONS[name].key: _write(name, value)
        for name in OPTIONS
        if (value := getattr(config, name)) is not None
    } | dict(_raw_values(config.raw))
    layers = [_layer("apiOverride", values)]
    if unformatted:
        layers.append(_layer("completeModeFormatting", {PROMPT_TEMPLATE_KEY: RAW_TEMPLATE}))
    return {"layers": layers}


def _raw_values(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Wire keys and values, given as such or as the official SDK has them: {"fields": [{"key": str, "value": any}]}."""
    if raw.keys() != {"fields"}:
        return raw
    values = read_fields(raw)
    if not isinstance(raw["fields"], list | tuple) or len(values) != len(raw["fields"]):
        raise UsageError(f"the fields of raw must be objects with a key and a value, each key once, not {quoted(raw)}")
    return values


def load_stack(config: LoadConfig) -> JsonObject:
    """Write load options as a stack of one layer.

    Raises:
        UsageError: a value is out of range.
    """
    values: JsonObject = {}
    if config.context_length is not None:
        if config.context_length < 1:
            raise UsageError(f"context length must be at least 1, not {config.context_length}")
        values["llm.load.contextLength"] = config.context_length
    if (ratio := config.gpu_ratio) is not None:
        if ratio not in ("max", "off") and not (isinstance(ratio, NUMBER) and 0 <= ratio <= 1):
            raise UsageError(f"gpu ratio must be between 0 and 1, 'max' or 'off', not {quoted(ratio)}")
        values["llm.load.llama.acceleration.offloadRatio"] = ratio
    values |= config.fields
    return {"layers": [_layer("apiOverride", values)]}


def read_stack(stack: Any) -> JsonObject:
    """Collapse a stack into one mapping of keys to values; a later layer wins.

    Shapes: as `prediction_stack` writes; anything of another form is passed over, as real servers do.
    """
    layers = stack.get("layers") if isinstance(stack, Mapping) else None
    values: JsonObject = {}
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, Mapping):
            values.update(read_fields(layer.get("config")))
    return values


def unknown_field(key: str) -> str | None:
    """Say that a config key is none that servers are known to read, and which one is near; None if it is one."""
    name = key.removeprefix(PREDICTION_PREFIX)
    known = [option.key for option in (*OPTIONS.values(), *UNNAMED)]
    if name in known:
        return None
    near = nearest(name, known)
    return f"unknown prediction field {quoted(name)}" + "".join(f", did you mean {n}?" for n in near)


def read_fields(config: Any) -> JsonObject:
    """Read {"fields": [{"key": str, "value": any}]} into a mapping."""
    entries = config.get("fields") if isinstance(config, Mapping) else None
    return {
        entry["key"]: entry["value"]
        for entry in (entries if isinstance(entries, list) else ())
        if isinstance(entry, Mapping) and isinstance(entry.get("key"), str) and "value" in entry
    }


def write_fields(values: Mapping[str, Any]) -> JsonObject:
    """Write a mapping of config keys as {"fields": [{"key": str, "value": any}]}."""
    return {"fields": [{"key": key, "value": value} for key, value in values.items()]}


def read_prediction_config(values: Mapping[str, Any]) -> PredictionConfig:
    """Read collapsed config values back into options; what is switched off, unknown or invalid is left out."""
    found: JsonObject = {}
    for key, value in values.items():
        if (name := _OPTION_OF_KEY.get(key)) is not None:
            with suppress(UsageError):
                found[name] = _read(name, key, value)
    return PredictionConfig(**found)


def invalid_fields(values: Mapping[str, Any]) -> Iterator[str]:
    """Say which collapsed config values their options cannot have, such as `checked` without a number."""
    for key, value in values.items():
        if (name := _OPTION_OF_KEY.get(key)) is not None:
            try:
                _read(name, key, value)
            except UsageError as error:
                yield error.message


def _read(name: str, key: str, value: Any) -> Any:
    """The value of an option on the wire; None where it is switched off."""
    option = OPTIONS[name]
    if option.off is not None:
        if not isinstance(value, Mapping) or type(value.get("checked")) is not bool:
            raise UsageError(f"{key} cannot be {quoted(value)}")
        if not value["checked"]:
            return None
        value = value.get("value")
    value = _counted(option, value)
    try:
        check(option, name, value)
    except UsageError as error:
        raise UsageError(f"{key}: {error.message}") from error
    return tuple(value) if isinstance(value, list) else value


def _counted(option: Option, value: Any) -> Any:
    """A whole number may come as a float: programs, and the official Python SDK, write `topKSampling` so."""
    return int(value) if isinstance(value, float) and option.type is int and value.is_integer() else value


def _write(name: str, value: Any) -> Any:
    return write_value(OPTIONS[name], name, value)


def write_value(option: Option, name: str, value: Any) -> Any:
    """Write the value of an option as it is sent, with its switch if it has one; False switches it off.

    Raises:
        UsageError: the option cannot have this value.
    """
    if value is False and option.off is not None:
        return {"checked": False, "value": option.off}
    value = _counted(option, value)
    check(option, name, value)
    if isinstance(value, tuple):
        value = list(value)
    return value if option.off is None else {"checked": True, "value": value}


def check(option: Option, name: str, value: Any) -> None:
    """Refuse a value that an option cannot have.

    Raises:
        UsageError: it has another type, form or range.
    """
    label = name.replace("_", " ")
    expected = option.type if isinstance(option.type, tuple) else (option.type,)
    is_endless = isinstance(value, float) and not math.isfinite(value)  # JSON has no such number
    if type(value) not in expected or is_endless:  # exact: to isinstance, True is a number
        raise UsageError(f"{label} cannot be {quoted(value)}")
    if isinstance(value, list | tuple) and not all(isinstance(item, str) and item for item in value):
        raise UsageError(f"{label} must be texts that are not empty")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UsageError(f"{label} cannot be a number of more than 64 bits")
    if option.choices and value not in option.choices:
        raise UsageError(f"{label} must be one of {', '.join(option.choices)}, not {quoted(value)}")
    if option.form is not None and isinstance(value, dict) and not option.form.is_met(value):
        raise UsageError(f"{label} must have {option.form.text}, not be {quoted(value, limit=80)}")
    low, high = option.range
    if low is not None and not value >= low:  # pyright: ignore[reportOperatorIssue]  only numbers have a range
        raise UsageError(f"{label} must be at least {low}, not {value}")
    if high is not None and not value <= high:  # pyright: ignore[reportOperatorIssue]
        raise UsageError(f"{label} must be at most {high}, not {value}")


def _layer(name: str, values: Mapping[str, Any]) -> JsonObject:
    return {"layerName": name, "config": write_fields(values)}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known name that is most like one that is not, if one is."""
    from difflib import get_close_matches  # noqa: PLC0415  only what is mistyped pays for it

    return get_close_matches(name, list(known), n=1, cutoff=0.5)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()
