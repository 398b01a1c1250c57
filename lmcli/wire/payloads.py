"""Values ⇄ what envelopes carry: packets, parameters, results.

Unknown keys are ignored and optional ones may be missing, so that newer and older servers are both understood;
a required key that is missing or of another type is a `RemoteProtocolError`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import orjson

from lmcli.chat import FilePart, ImagePart, Message, Part, TextPart, ToolCallRequest, ToolCallResult, read_message
from lmcli.errors import BadInput, RemoteProtocolError, quoted
from lmcli.record import Record, distinct
from lmcli.values import Fragment, JsonObject, ModelInfo, ModelInstance, PredictionEnd, Quantization, Stats
from lmcli.wire.config import write_fields

AnyRecord = TypeVar("AnyRecord", bound=Record)


def fragment(body: Any) -> Fragment:
    """Read the piece of text inside a `fragment` packet.

    Shapes: {"fragment": {"content": str, "tokensCount": int, "containsDrafted": bool, "reasoningType": str}}.
    Units: tokens_count in model tokens; content may be empty and may end inside a grapheme.
    Raises:
        RemoteProtocolError: `content` is missing or a value has another type.
    Source: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionFragment.ts
    """
    try:
        piece = body["fragment"]
        value = Fragment(
            piece["content"],
            piece.get("tokensCount", 1),
            piece.get("containsDrafted", False),
            piece.get("reasoningType", "none"),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RemoteProtocolError(f"the server sent a fragment without content: {quoted(body, limit=80)}") from error
    if (
        type(value.content) is str
        and type(value.tokens_count) is int
        and type(value.contains_drafted) is bool
        and type(value.reasoning_type) is str
    ):
        return value
    raise RemoteProtocolError(f"the server sent a fragment with a value of the wrong type: {quoted(body, limit=80)}")


def write_fragment(value: Fragment) -> JsonObject:
    """Write a `fragment` packet with every key that either official SDK requires."""
    return {
        "type": "fragment",
        "fragment": {
            "content": value.content,
            "tokensCount": value.tokens_count,
            "containsDrafted": value.contains_drafted,
            "reasoningType": value.reasoning_type,
            "isStructural": False,
        },
    }


def progress(body: Any) -> float:
    """Read the share done from a progress packet, held to 0.0 … 1.0.

    Raises:
        RemoteProtocolError: it is not a number.
    """
    value = body.get("progress") if isinstance(body, dict) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(min(max(value, 0.0), 1.0))  # held first: a whole number may be too large for a float
    raise RemoteProtocolError(f"the server sent progress without a number: {quoted(body, limit=80)}")


def prediction_end(body: Any) -> PredictionEnd:
    """Read a `success` packet.

    Shapes: {"stats": {…}, "modelInfo": {…}, "loadModelConfig": KV, "predictionConfig": KV}; the KVs may be missing.
    Raises:
        RemoteProtocolError: stats or model info are missing or malformed.
    """
    packet = _object(body, "success")
    return PredictionEnd(
        stats=read(Stats, packet.get("stats")),
        model_info=read(ModelInstance, packet.get("modelInfo")),
        load_config=_object(packet.get("loadModelConfig", {}), "loadModelConfig"),
        prediction_config=_object(packet.get("predictionConfig", {}), "predictionConfig"),
    )


def write_prediction_end(
    stats: Stats, model: ModelInstance, load_values: Mapping[str, Any], prediction_values: Mapping[str, Any]
) -> JsonObject:
    """Write a `success` packet; the configurations are mappings of config keys to values."""
    return {
        "type": "success",
        "stats": write(stats),
        "modelInfo": write(model),
        "loadModelConfig": write_fields(load_values),
        "predictionConfig": write_fields(prediction_values),
    }


def parse_object(text: str) -> str | JsonObject:
    """The JSON object in a text; the text itself where it holds none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, dict) else text


def write_history(messages: Iterable[Message]) -> JsonObject:
    """Write a conversation in the wire's form, where content is always an array of parts."""
    return {"messages": [{"role": m.role, "content": [_write_part(p) for p in m.content]} for m in messages]}


def read_history(body: Any) -> Sequence[Message]:
    """Read a conversation from the wire; consecutive messages of one role are kept apart.

    Raises:
        BadInput: with the path of what is wrong.
        RemoteProtocolError: there is no array of messages.
    """
    entries = _object(body, "history").get("messages")
    if not isinstance(entries, list):
        raise RemoteProtocolError("history: no array of messages")
    messages = [read_message(entry, f"messages[{index}]") for index, entry in enumerate(entries)]
    for index, message in enumerate(messages):
        if any(isinstance(part, ImagePart) for part in message.content):
            raise BadInput(f"messages[{index}].content: an image has to be uploaded before it is sent")
    return messages


def file_part(body: Any, name: str) -> FilePart:
    """Read the answer to an upload; the name is the client's own.

    Raises:
        RemoteProtocolError: a key is missing or has another type.
    """
    match body:
        case {"identifier": str(identifier), "fileType": str(file_type), "sizeBytes": int(size)}:
            return FilePart(name, identifier, size, file_type)
    raise RemoteProtocolError(f"the server answered an upload with {quoted(body, limit=80)}")


def _write_part(part: Part) -> JsonObject:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case FilePart(name, identifier, size, kind):
            return {"type": "file", "name": name, "identifier": identifier, "sizeBytes": size, "fileType": kind}
        case ToolCallRequest(name, arguments, id_):
            request = {"id": id_, "type": "function", "name": name, "arguments": arguments}
            return {"type": "toolCallRequest", "toolCallRequest": _present(request)}
        case ToolCallResult(content, call_id, name):
            return _present({"type": "toolCallResult", "content": content, "toolCallId": call_id, "name": name})
        case ImagePart(source):
            raise TypeError(f"this image has to be uploaded first: {source[:60]}")


def _present(value: JsonObject) -> JsonObject:
    """Leave out what is None: optional keys are absent on the wire, never null."""
    return {key: item for key, item in value.items() if item is not None}


# A figure that no double can hold, such as 1e400, is infinite. JSON has no such number: it is unknown, as null is.
_UNKNOWN = (None, math.inf, -math.inf)
_LARGEST = 2.0**63
_NUMBERS = (int, float)

# Null is a value, not an absence, for these keys: the JavaScript SDK drops a model info without them.
_NULLABLE = frozenset({"device_identifier", "ttl_ms", "last_used_time"})


def read(cls: type[AnyRecord], body: Any) -> AnyRecord:
    """Read a record whose wire keys are its field names in camelCase.

    Raises:
        RemoteProtocolError: a required key is missing, or a key has another type.
    """
    layout, found = _LAYOUTS[cls], JsonObject()
    for key, value in _object(body, cls.__name__).items():
        if (field := layout.get(key)) is None:
            continue
        name, type_, convert = field
        if type(value) is type_:
            found[name] = value
        elif value not in _UNKNOWN:
            if (converted := convert(value)) is None:
                raise RemoteProtocolError(f"the server sent {key} as {quoted(value, limit=40)}")
            found[name] = converted
    for name in cls.required:
        if name not in found:
            raise RemoteProtocolError(f"the server left out {camel(name)}")
    return cls(**found)


def write(record: Record) -> JsonObject:
    """Write a record; None is left out but for the keys where null is a value."""
    written: JsonObject = {}
    for key, field in _LAYOUTS[type(record)].items():
        value = getattr(record, field.name)
        if isinstance(value, Record):
            value = write(value)
        if value is not None or field.name in _NULLABLE:
            written[key] = value
    return written


def camel(name: str) -> str:
    """`time_to_first_token_sec` → `timeToFirstTokenSec`."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


@distinct
class _Field(NamedTuple):
    """A field of a record: its name, the type of values that are taken as they are, and what converts or refuses."""

    name: str
    type: type | None
    convert: Callable[[Any], Any]


def _layout(cls: type[Record]) -> Mapping[str, _Field]:
    """The fields of a record by their wire keys."""
    return {camel(name): _Field(name, *_CONVERT[_type_name(annotation)]) for name, annotation in cls.fields.items()}


def _type_name(annotation: Any) -> str:
    name = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return name.removesuffix(" | None").rsplit(".", 1)[-1]


def _whole(value: Any) -> int | None:
    """A whole number of 64 bits, also where JavaScript wrote it as 7.0."""
    return int(value) if type(value) in _NUMBERS and abs(value) <= _LARGEST and value == int(value) else None


def _number(value: Any) -> float | None:
    return value if type(value) in _NUMBERS else None


def _refused(_: Any) -> None:
    """No other type is converted."""


_CONVERT: Mapping[str, tuple[type | None, Callable[[Any], Any]]] = MappingProxyType(
    {
        "str": (str, _refused),
        "bool": (bool, _refused),
        "int": (None, _whole),
        "float": (None, _number),
        "Quantization": (None, lambda value: read(Quantization, value)),
    }
)


_LAYOUTS: Mapping[type[Record], Mapping[str, _Field]] = {
    cls: _layout(cls) for cls in (Stats, ModelInfo, ModelInstance, Quantization)
}


def _object(body: Any, what: str) -> JsonObject:
    if isinstance(body, dict):
        return body
    raise RemoteProtocolError(f"the server sent something that is not a valid {what}: {quoted(body, limit=40)}")
