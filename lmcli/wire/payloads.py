"""Values ⇄ what envelopes carry: packets, parameters, results.

Unknown keys are ignored and optional ones may be missing, so that newer and older servers are both understood;
a required key that is missing or of another type is a `RemoteProtocolError`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from lmcli.chat import FilePart, ImagePart, Message, Part, TextPart, ToolCallResult, read_message
from lmcli.errors import BadInput, RemoteProtocolError, quoted
from lmcli.record import Record, distinct
from lmcli.values import (
    AmbiguousModel,
    CandidateToken,
    Fragment,
    JsonObject,
    LoadNote,
    ModelInfo,
    ModelInstance,
    PredictedToken,
    PredictionEnd,
    PromptDetails,
    PromptProgress,
    Quantization,
    Stats,
    ToolCallRequest,
    UnloadingModel,
)
from lmcli.wire.config import write_fields

AnyRecord = TypeVar("AnyRecord", bound=Record)
AnyToken = TypeVar("AnyToken", CandidateToken, PredictedToken)
_new: Final = tuple.__new__  # without the constructor of named tuples, a sixth of the time of a fragment


def fragment(body: Any) -> Fragment:
    """Read the piece of text inside a `fragment` packet.

    Shapes: {"fragment": {"content": str, "tokensCount": int, "containsDrafted": bool, "reasoningType": str,
        "isStructural": bool, "tokens": [token, …]}}; tokens only if log probabilities were asked for, see `_token`.
    Units: tokens_count in model tokens; content may be empty and may end inside a grapheme.
    Raises:
        RemoteProtocolError: `content` is missing or a value has another type.
    Source: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionFragment.ts
    """
    try:
        piece = body["fragment"]
        content = piece["content"]
        tokens_count = piece.get("tokensCount", 1)
        contains_drafted = piece.get("containsDrafted", False)
        reasoning_type = piece.get("reasoningType", "none")
        is_structural = piece.get("isStructural", False)
        tokens = piece.get("tokens")
    except (KeyError, TypeError, AttributeError) as error:
        raise RemoteProtocolError(f"the server sent a fragment without content: {quoted(body, limit=80)}") from error
    if (
        type(content) is str
        and type(tokens_count) is int
        and type(contains_drafted) is bool
        and type(reasoning_type) is str
        and type(is_structural) is bool
    ):
        read_tokens = () if tokens is None else _tokens(tokens, _token)
        return _new(Fragment, (content, tokens_count, contains_drafted, reasoning_type, is_structural, read_tokens))
    raise RemoteProtocolError(f"the server sent a fragment with a value of the wrong type: {quoted(body, limit=80)}")


def _tokens(entries: Any, read_one: Callable[[Any], AnyToken]) -> tuple[AnyToken, ...]:
    """Read the tokens of a fragment, or the candidates of a token; null is none.

    Raises:
        RemoteProtocolError: it is not an array of tokens.
    """
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise RemoteProtocolError(f"the server sent tokens as {quoted(entries, limit=40)}")
    return tuple(map(read_one, entries))


def _token(entry: Any) -> PredictedToken:
    return PredictedToken(*_candidate(entry), _tokens(entry.get("candidates"), _candidate))


def _candidate(entry: Any) -> CandidateToken:
    """Read a candidate, or a token but for its candidates.

    Shapes: {"text": str, "id": int, "logProb": number}; `logProb` may be missing, or null.
    Raises:
        RemoteProtocolError: `text` or `id` is missing or a value has another type.
    Source: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionFragment.ts
    """
    match entry:
        case {"text": str(text), "id": number} if (id_ := _whole(number)) is not None:
            log_prob = entry.get("logProb")
            if log_prob in _UNKNOWN:
                return CandidateToken(repaired(text), id_)
            if _number(log_prob) is not None:
                return CandidateToken(repaired(text), id_, log_prob)
    raise RemoteProtocolError(f"the server sent a token as {quoted(entry, limit=80)}")


def _write_token(token: PredictedToken) -> JsonObject:
    value = _write_candidate(token)
    return value | {"candidates": list(map(_write_candidate, token.candidates))} if token.candidates else value


def _write_candidate(token: CandidateToken | PredictedToken) -> JsonObject:
    return present({"text": token.text, "id": token.id, "logProb": token.log_prob})


def repaired(text: str) -> str:
    """A text in which U+FFFD stands for each half of a surrogate pair that is alone."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def write_fragment(value: Fragment) -> JsonObject:
    """Write a `fragment` packet with every key that either official SDK requires."""
    piece = {
        "content": value.content,
        "tokensCount": value.tokens_count,
        "containsDrafted": value.contains_drafted,
        "reasoningType": value.reasoning_type,
        "isStructural": value.is_structural,
    }
    if value.tokens:
        piece["tokens"] = list(map(_write_token, value.tokens))
    return {"type": "fragment", "fragment": piece}


def progress(body: Any) -> float:
    """Read the share done from a progress packet, held to 0.0 … 1.0.

    Raises:
        RemoteProtocolError: it is not a number.
    """
    value = body.get("progress") if isinstance(body, dict) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(min(max(value, 0.0), 1.0))  # held first: a whole number may be too large for a float
    raise RemoteProtocolError(f"the server sent progress without a number: {quoted(body, limit=80)}")


def load_note(body: Any) -> LoadNote | None:
    """Read a `resolved` or `unloadingOtherJITModel` packet; None where one model matches, as is usual.

    Shapes: {"type": "resolved", "info": {"modelKey": str}, "ambiguous": [str, …]}, `ambiguous` may be missing;
    {"type": "unloadingOtherJITModel", "info": {"modelKey": str, "identifier": str}}, a model of any kind.
    Raises:
        RemoteProtocolError: a value is missing or has another type.
    Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/baseModelBackendInterface.ts
    """
    match body:
        case {"type": "unloadingOtherJITModel", "info": {"modelKey": str(key), "identifier": str(identifier)}}:
            return UnloadingModel(model_key=repaired(key), identifier=repaired(identifier))
        case {"type": "resolved"} if body.get("ambiguous") in (None, []):
            return None
        case {"type": "resolved", "info": {"modelKey": str(key)}, "ambiguous": [*keys]}:
            if all(isinstance(candidate, str) for candidate in keys):
                return AmbiguousModel(model_key=repaired(key), candidates=tuple(map(repaired, keys)))
    raise RemoteProtocolError(f"the server sent a note on a load as {quoted(body, limit=80)}")


def prompt_progress(body: Any) -> PromptProgress:
    """Read a `promptProcessingProgress` packet.

    Shapes: {"progress": number, "details": {"cachedTokenCount": int, …}}; the details may be missing.
    Raises:
        RemoteProtocolError: a value has another type.
    """
    share, details = progress(body), body.get("details")
    return PromptProgress(share, None if details is None else read(PromptDetails, details))


def prediction_end(body: Any, details: PromptDetails | None = None) -> PredictionEnd:
    """Read a `success` packet.

    Shapes: {"stats": {…}, "modelInfo": {…}, "loadModelConfig": KV, "predictionConfig": KV}; the KVs may be missing.
    Args:
        body: the packet.
        details: the last that the progress said about the prompt; the stats do not say how much of it was cached.

    Raises:
        RemoteProtocolError: stats or model info are missing or malformed.
    """
    packet = _object(body, "success")
    stats = packet.get("stats")
    if details is not None and isinstance(stats, dict):
        stats = stats | {"cachedPromptTokensCount": details.cached_token_count}
    return PredictionEnd(
        stats=read(Stats, stats),
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


def parse_object(text: str) -> JsonObject | None:
    """The JSON object in a text; None where it holds none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


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
        case ToolCallRequest():
            return {"type": "toolCallRequest", "toolCallRequest": write_tool_call_request(part)}
        case ToolCallResult(content, call_id, name):
            return present({"type": "toolCallResult", "content": content, "toolCallId": call_id, "name": name})
        case ImagePart(source):
            raise TypeError(f"this image has to be uploaded first: {source[:60]}")


def write_tool_call_request(request: ToolCallRequest) -> JsonObject:
    """Write a tool call, as messages and packets have it."""
    body = {"id": request.id, "type": "function", "name": request.name, "arguments": request.arguments}
    return present(body)


def present(value: JsonObject) -> JsonObject:
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
        elif isinstance(value, tuple):
            value = list(value)
        if value is not None or field.name in _NULLABLE:
            written[key] = value
    return written


def snake(key: str) -> str:
    """`timeToFirstTokenSec` → `time_to_first_token_sec`."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in key)


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
    return name.removesuffix(" | None").partition("[")[0].rsplit(".", 1)[-1]


def _whole(value: Any) -> int | None:
    """A whole number of 64 bits, also where JavaScript wrote it as 7.0."""
    return int(value) if type(value) in _NUMBERS and abs(value) <= _LARGEST and value == int(value) else None


def _number(value: Any) -> float | None:
    return value if type(value) in _NUMBERS else None


def _texts(value: Any) -> tuple[str, ...] | None:
    is_list_of_texts = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return tuple(value) if is_list_of_texts else None


def _refused(_: Any) -> None:
    """No other type is converted."""


_CONVERT: Mapping[str, tuple[type | None, Callable[[Any], Any]]] = MappingProxyType(
    {
        "str": (str, _refused),
        "bool": (bool, _refused),
        "int": (None, _whole),
        "float": (None, _number),
        "tuple": (None, _texts),
        "Quantization": (None, lambda value: read(Quantization, value)),
    }
)


_LAYOUTS: Mapping[type[Record], Mapping[str, _Field]] = {
    cls: _layout(cls) for cls in (Stats, ModelInfo, ModelInstance, Quantization, PromptDetails)
}


def _object(body: Any, what: str) -> JsonObject:
    if isinstance(body, dict):
        return body
    raise RemoteProtocolError(f"the server sent something that is not a valid {what}: {quoted(body, limit=40)}")
