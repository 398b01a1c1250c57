"""Prediction and load options ⇄ KV config stacks; camelCase and config keys end here.

A stack is {"layers": [{"layerName": str, "config": {"fields": [{"key": str, "value": any}]}}]}.
Source: lmstudio-js 6ec11db, lms-kv-config/src/schema.ts and lms-shared-types/src/KVConfig.ts
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from lmcli.errors import UsageError, quoted
from lmcli.values import JsonObject
from lmcli.wire.config_entries import Option, Table, snake_case
from lmcli.wire.prediction_config import OPTIONS, PREDICTION_PREFIX, UNNAMED, PredictionConfig

PROMPT_TEMPLATE_KEY: Final = PREDICTION_PREFIX + "promptTemplate"
STOP_STRINGS_KEY: Final = OPTIONS["stop_strings"].key

_OPTION_OF_KEY: Mapping[str, str] = {option.key: name for name, option in OPTIONS.items()}
_KNOWN_KEYS: Mapping[str, Option] = {option.key: option for option in (*OPTIONS.values(), *UNNAMED)}
LAYER_NAMES: Final = frozenset(
    {
        *("currentlyEditing", "currentlyLoaded", "apiOverride", "conversationSpecific", "conversationGlobal"),
        *("preset", "serverSession", "httpServerRequestOverride", "completeModeFormatting", "instance"),
        *("userModelDefault", "virtualModel", "modelDefault", "hardware"),
    }
)
"""The layers that a stack may have. Source: lmstudio-js 6ec11db, lms-shared-types/src/KVConfig.ts"""

_UNSET: Final = (None, False, {"type": "none"})

# A template with nothing around the messages: how a server without `completeRawText` is told not to format.
RAW_TEMPLATE: Final = {
    "type": "jinja",
    "stopStrings": [],
    "jinjaPromptTemplate": {"template": "{% for message in messages %}{{ message['content'] }}{% endfor %}"},
}


def prediction_config(options: Mapping[str, Any] | PredictionConfig | None) -> PredictionConfig:
    """Read options under the SDK's names, camelCase or snake_case; those that are unknown are left out.

    Raises:
        UsageError: `raw` is not an object.
    """
    if options is None:
        return PredictionConfig()
    if isinstance(options, PredictionConfig):
        return options
    return PredictionConfig(**known_options(options, OPTIONS))


def known_options(options: Mapping[str, Any], table: Table) -> JsonObject:
    """The options of a table, and `raw`, that are not None, by their Python names.

    Raises:
        UsageError: `raw` is not an object.
    """
    given = {snake_case(name): value for name, value in options.items() if value is not None}
    if not isinstance(raw := given.get("raw", {}), Mapping):
        raise UsageError(f"raw must be an object of config keys, not {quoted(raw)}")
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if name in table or name == "raw"
    }


def unknown_options(options: Mapping[str, Any] | PredictionConfig | None) -> Iterator[str]:
    """Say which names and raw keys are none that servers are known to read, and which ones are near.

    Servers, and the official Python SDK, pass over what they do not know: a mistyped name has no visible effect.
    """
    if isinstance(options, PredictionConfig):
        yield from unknown_keys(options.raw, _KNOWN_KEYS)
    elif options is not None:
        yield from unknown_names(options, (*OPTIONS, "raw"), "prediction option")
        yield from unknown_keys(options.get("raw"), _KNOWN_KEYS)


def unknown_names(names: Iterable[str], known: Collection[str], kind: str) -> Iterator[str]:
    """A sentence for each name, in camelCase or snake_case, that is not known."""
    for name in names:
        if snake_case(name) not in known:
            yield f"unknown {kind} {quoted(name)}{did_you_mean(snake_case(name), known)}"


def unknown_keys(raw: Any, known: Collection[str]) -> Iterator[str]:
    """A sentence for each raw key that is not known."""
    for key in raw_values(raw) if isinstance(raw, Mapping) else ():
        if key not in known:
            yield f"unknown config key {quoted(key)}{did_you_mean(key, known)}"


def prediction_stack(config: PredictionConfig, *, is_raw: bool = False, unformatted: bool = False) -> JsonObject:
    """Write prediction options as a stack of one layer; what is None is left out.

    Args:
        config: the options.
        is_raw: it is for raw completion, which does not take all of them, and in which no stop strings of a preset
            apply: as the official JavaScript SDK does, none are sent as an empty list.
        unformatted: add the layer that asks for the prompt to be used without the model's chat template.

    Raises:
        UsageError: a value is out of range or of the wrong type, or raw completion does not take the option.
    """
    values: JsonObject = {STOP_STRINGS_KEY: []} if is_raw else {}
    for name, option in OPTIONS.items():
        if (value := getattr(config, name)) is not None:
            _refuse_in_raw_completion(option, value, is_raw=is_raw)
            values[option.key] = write_value(option, name, value)
    for key, value in raw_values(config.raw).items():
        if (known := _KNOWN_KEYS.get(key)) is not None:
            check_field(known, key, value)
            _refuse_in_raw_completion(known, value, is_raw=is_raw)
        values[key] = value
    layers = [_layer("apiOverride", values)]
    if unformatted:
        layers.append(_layer("completeModeFormatting", {PROMPT_TEMPLATE_KEY: RAW_TEMPLATE}))
    return {"layers": layers}


def _refuse_in_raw_completion(option: Option, value: Any, *, is_raw: bool) -> None:
    is_off = isinstance(value, Mapping) and value.get("checked") is False
    if is_raw and not option.is_in_raw_completion and value not in _UNSET and not is_off:
        name = _OPTION_OF_KEY[option.key].replace("_", " ")
        raise UsageError(f"raw completion does not take {name}")


def raw_values(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Wire keys and values, given as such or as the official SDK has them: {"fields": [{"key": str, "value": any}]}."""
    if raw.keys() != {"fields"}:
        return raw
    values = read_fields(raw)
    if not isinstance(raw["fields"], list | tuple) or len(values) != len(raw["fields"]):
        raise UsageError(f"the fields of raw must be objects with a key and a value, each key once, not {quoted(raw)}")
    return values


def config_stack(values: Mapping[str, Any]) -> JsonObject:
    """Config keys and values as a stack of one layer."""
    return {"layers": [_layer("apiOverride", values)]}


def read_stack(stack: Any) -> JsonObject:
    """Collapse a stack into one mapping of keys to values; a later layer wins.

    Shapes: as `prediction_stack` writes; anything of another form is passed over, as real servers do. So is an option
        that is switched on without a value: the official Python SDK writes one that is False in this way.
    """
    layers = stack.get("layers") if isinstance(stack, Mapping) else None
    values: JsonObject = {}
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, Mapping):
            fields = read_fields(layer.get("config"))
            values.update((key, value) for key, value in fields.items() if not _lacks_value(value))
    return values


def _lacks_value(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get("checked") is True and value.get("value") is False


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


def check_field(option: Option, name: str, value: Any) -> None:
    """Refuse a value, as it is sent, that an option cannot have.

    Raises:
        UsageError: it has another type, form or range, or no switch although the option has one.
    """
    if option.off is not None:
        if not isinstance(value, Mapping) or type(value.get("checked")) is not bool or "value" not in value:
            raise UsageError(f'{name} must be {{"checked": true or false, "value": …}}, not {quoted(value)}')
        value = value["value"]
    check(option, name, _counted(option, value))


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
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UsageError(f"{label} cannot be a number of more than 64 bits")
    match value:
        case str():
            _check_choice(option, label, value)
        case int() | float():
            _check_range(option, label, value)
        case list() | tuple() if option.shape is None:
            if not all(isinstance(item, str) and item for item in value):
                raise UsageError(f"{label} must be texts that are not empty")
        case _ if option.shape is not None:
            _check_shape(option, label, value)


def _check_choice(option: Option, label: str, text: str) -> None:
    if option.choices and text not in option.choices:
        words = ("a number", *option.choices) if isinstance(option.type, tuple) else option.choices
        raise UsageError(f"{label} must be one of {', '.join(words)}, not {quoted(text)}")


def _check_range(option: Option, label: str, number: float) -> None:
    low, high = option.range
    if low is not None and number < low:
        raise UsageError(f"{label} must be at least {low}, not {number}")
    if high is not None and number > high:
        raise UsageError(f"{label} must be at most {high}, not {number}")


def _check_shape(option: Option, label: str, value: Any) -> None:
    from lmcli.wire.shapes import described, fits  # noqa: PLC0415  only objects and arrays have shapes

    if not fits(value, option.shape):
        raise UsageError(f"{label} must be {described(option.shape)}, not {quoted(value, limit=80)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question after an unknown name, if a known one is near."""
    return "".join(f", did you mean {near}?" for near in nearest(name, known))


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known name that is most like one that is not, if one is."""
    from difflib import get_close_matches  # noqa: PLC0415  only what is mistyped pays for it

    return get_close_matches(name, list(known), n=1, cutoff=0.5)


def _layer(name: str, values: Mapping[str, Any]) -> JsonObject:
    return {"layerName": name, "config": write_fields(values)}
