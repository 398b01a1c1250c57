"""What an endpoint is: the shape of its parameter, and the function that serves it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from websockets.exceptions import ConnectionClosed

from lmcli.chat import FILE_TYPES
from lmcli.errors import quoted
from lmcli.server.authentication import ConnectedClient
from lmcli.server.engine import Engine
from lmcli.server.limits import config_excess, history_excess, name_excess
from lmcli.server.registry import ModelRegistry
from lmcli.server.request_errors import InvalidParameter, RequestFailed
from lmcli.values import JsonObject
from lmcli.wire.config import LAYER_NAMES
from lmcli.wire.envelopes import ABSENT, Envelope
from lmcli.wire.identifiers import identifier_violation
from lmcli.wire.prediction_config import TOOL
from lmcli.wire.shapes import fits


class Check(NamedTuple):
    """A condition for a value, and its description.

    Attributes:
        excess: says which limit a value exceeds, of whatever type it is; the condition is not tested then.
    """

    is_met_by: Callable[[Any], bool]
    expected: str
    excess: Callable[[Any], str | None] = lambda _: None


class Field(NamedTuple):
    """One key of a parameter."""

    check: Check
    optional: bool = False


Shape = Mapping[str, Field]


def read(parameter: Any, shape: Shape | None) -> JsonObject:
    """Validate a parameter against its shape; None is the shape of an absent parameter.

    Raises:
        InvalidParameter: with the first key that is missing or has an invalid value.
        RequestFailed: a value exceeds a limit, and all others are valid.
    """
    if shape is None:
        if parameter is not ABSENT:
            raise InvalidParameter("no parameter is expected")
        return {}
    if not isinstance(parameter, dict):
        raise InvalidParameter("the parameter must be an object")
    excess = None
    for key, field in shape.items():
        value = parameter.get(key, ABSENT)
        if value is ABSENT and field.optional:
            continue
        if (found := field.check.excess(value)) is not None:
            excess = excess or found
        elif not field.check.is_met_by(value):
            missing = " and is missing" if value is ABSENT else ""
            raise InvalidParameter(f"{key} must be {field.check.expected}{missing}")
    if excess is not None:
        raise RequestFailed(excess)
    return parameter


def _is_whole(value: Any) -> bool:
    """Whether a value is a whole number: also 1.0, which is no other number for JavaScript."""
    return type(value) is int or (isinstance(value, float) and value.is_integer())


def _is_query(query: Any) -> bool:
    return isinstance(query, dict) and all(
        check.is_met_by(query[key]) for key, check in QUERY_KEYS.items() if key in query
    )


def _is_specifier(value: Any) -> bool:
    match value:
        case {"type": "query", "query": query}:
            return _is_query(query)
        case {"type": "instanceReference", "instanceReference": str()}:
            return True
    return False


def _is_stack(value: Any) -> bool:
    layers = value.get("layers") if isinstance(value, dict) else None
    return isinstance(layers, list) and all(_is_layer(layer) for layer in layers)


def _is_layer(layer: Any) -> bool:
    match layer:
        case {"layerName": str(name), "config": {"fields": list(fields)}} if name in LAYER_NAMES:
            return all(isinstance(field, dict) and isinstance(field.get("key"), str) for field in fields)
    return False


def _is_history(value: Any) -> bool:
    messages = value.get("messages") if isinstance(value, dict) else None
    return isinstance(messages, list) and all(_is_message(message) for message in messages)


def _is_message(message: Any) -> bool:
    match message:
        case {"role": str(role), "content": list(parts)} if role in PARTS:
            return all(_is_part(part, PARTS[role]) for part in parts)
    return False


def _is_part(part: Any, shapes: Mapping[str, Shape]) -> bool:
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind in shapes and _has_shape(part, shapes[kind])


def known_keys(message: JsonObject) -> JsonObject:
    """A valid message without the keys that the schema does not have, which have other meanings in files."""
    keys = _PART_KEYS[message["role"]]
    content = [part if part.keys() <= keys[part["type"]] else _restricted(part, keys) for part in message["content"]]
    return {"role": message["role"], "content": content}


def _restricted(part: JsonObject, keys: Mapping[str, frozenset[str]]) -> JsonObject:
    return {key: part[key] for key in keys[part["type"]] if key in part}


def _has_shape(value: JsonObject, shape: Shape) -> bool:
    """Whether an object has all keys that it must have, and those that it may have are valid; null is not absent."""
    return all(field.check.is_met_by(value[key]) if key in value else field.optional for key, field in shape.items())


def _identifier_problem(value: Any) -> str | None:
    """Why a model cannot be loaded under an identifier: no query could name it."""
    violation = identifier_violation(value) if isinstance(value, str) else None
    return violation and f"Invalid identifier: {quoted(value, limit=60)} {violation}"


DOMAINS: Final = ("llm", "embedding", "drafter", "imageGen", "transcription", "tts")
TEXT: Final = Check(lambda value: isinstance(value, str), "a string")
NAME: Final = TEXT._replace(excess=name_excess)
NEW_IDENTIFIER: Final = TEXT._replace(excess=_identifier_problem)
IDENTIFIER: Final = Check(
    lambda value: isinstance(value, str) and identifier_violation(value) is None,
    "a text of 1 to 1024 characters without control characters",
)
FLAG: Final = Check(lambda value: isinstance(value, bool), "true or false")
WHOLE: Final = Check(_is_whole, "a whole number")
POSITIVE: Final = Check(lambda value: _is_whole(value) and value >= 1, "a positive whole number")
OBJECT: Final = Check(lambda value: isinstance(value, dict), "an object")
TEXT_OR_NULL: Final = Check(lambda value: value is None or isinstance(value, str), "a string or null")
SPECIFIER: Final = Check(_is_specifier, "a model specifier")
STACK: Final = Check(_is_stack, "a config stack", config_excess)
TEMPLATE_OPTIONS: Final = Check(
    lambda value: fits(value, {"omitBosToken?": bool, "omitEosToken?": bool, "toolDefinitions?": [TOOL]}),
    "an object with the options of the template",
)
HISTORY: Final = Check(_is_history, "a chat history", history_excess)
QUERY_KEYS: Final[Mapping[str, Check]] = {
    "domain": Check(lambda value: value in DOMAINS, "a domain"),
    "deviceIdentifier": TEXT_OR_NULL,
    "identifier": IDENTIFIER,
    "path": IDENTIFIER,
    "vision": FLAG,
}

_TOOL_CALL: Final[Shape] = {
    "id": Field(TEXT, optional=True),
    "type": Field(Check(lambda value: value == "function", "'function'")),
    "name": Field(TEXT),
    "arguments": Field(OBJECT, optional=True),
}
_TEXT_OR_FILE: Final[Mapping[str, Shape]] = {
    "text": {"text": Field(TEXT)},
    "file": {
        "name": Field(TEXT),
        "identifier": Field(TEXT),
        "sizeBytes": Field(WHOLE),
        "fileType": Field(Check(lambda value: value in FILE_TYPES, "a type of file")),
    },
}
_TOOL_CALL_CHECK: Final = Check(lambda value: isinstance(value, dict) and _has_shape(value, _TOOL_CALL), "a tool call")
# Which parts the messages of a role can have. Source: lmstudio-js 6ec11db, lms-shared-types/src/ChatHistoryData.ts
PARTS: Final[Mapping[str, Mapping[str, Shape]]] = {
    "system": _TEXT_OR_FILE,
    "user": _TEXT_OR_FILE,
    "assistant": {**_TEXT_OR_FILE, "toolCallRequest": {"toolCallRequest": Field(_TOOL_CALL_CHECK)}},
    "tool": {
        "toolCallResult": {
            "content": Field(TEXT),
            "toolCallId": Field(TEXT, optional=True),
            "name": Field(TEXT, optional=True),
        }
    },
}
_PART_KEYS: Final = {
    role: {kind: frozenset(("type", *shape)) for kind, shape in shapes.items()} for role, shapes in PARTS.items()
}
CANCEL: Final[Shape] = {"type": Field(Check(lambda value: value == "cancel", "'cancel'"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the function of an endpoint has access to.

    Attributes:
        domain: the domain of the namespace: `llm`, `embedding`, or empty.
        client: the client that sent the request.
    """

    domain: str
    engine: Engine
    registry: ModelRegistry
    client: ConnectedClient


class Channel:
    """An open channel.

    Args:
        channel_id: its number on the connection.
        endpoint: the endpoint that the client opened.
        send: sends an envelope to the client.

    Attributes:
        cancelled: set when the client cancels or disconnects.
    """

    def __init__(
        self, channel_id: int, endpoint: "ChannelEndpoint", send: Callable[[Envelope], Awaitable[None]]
    ) -> None:
        self.id = channel_id
        self.endpoint = endpoint
        self.cancelled = asyncio.Event()
        self._send = send

    async def send(self, packet: JsonObject) -> None:
        """Send a packet; returns when the socket accepts more data.

        Raises:
            ConnectionClosed: the client disconnected.
        """
        try:
            await self._send(Envelope("channelSend", self.id, body=packet))
        except ConnectionClosed:
            self.cancelled.set()  # an engine's thread sees it before the connection itself is ended
            raise


class CallEndpoint(NamedTuple):
    """An endpoint with one result; ABSENT is a result without a value.

    `serve` may raise `RequestFailed`, which is sent as an `rpcError`.
    """

    shape: Shape | None
    serve: Callable[[Context, JsonObject], Awaitable[Any]]


class ChannelEndpoint(NamedTuple):
    """An endpoint that opens a channel.

    `serve` sends packets and returns at the end; `RequestFailed` is sent as a `channelError`. `messages` is the shape
    of what the client may send on the channel: a cancel, or None for no message at all.
    """

    shape: Shape | None
    serve: Callable[[Context, Channel, JsonObject], Awaitable[None]]
    messages: Shape | None = None


class Namespace(NamedTuple):
    """The endpoints of one path."""

    domain: str
    calls: Mapping[str, CallEndpoint]
    channels: Mapping[str, ChannelEndpoint]
