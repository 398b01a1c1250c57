"""What an endpoint is: the shape of its parameter, as a table, and a function that serves it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from lmcli.server.engine import Engine
from lmcli.server.failures import Malformed
from lmcli.server.identities import Identity
from lmcli.server.instances import Instances
from lmcli.values import JsonObject
from lmcli.wire.envelopes import ABSENT


class Check(NamedTuple):
    """Whether a value will do, and what would."""

    passes: Callable[[Any], bool]
    expected: str


class Field(NamedTuple):
    """One key of a parameter."""

    check: Check
    optional: bool = False


Shape = Mapping[str, Field]


def read(parameter: Any, shape: Shape | None) -> JsonObject:
    """Check a parameter against its shape; None is an endpoint that takes no parameter.

    Raises:
        Malformed: naming the first key that does not fit.
    """
    if shape is None:
        if parameter is not ABSENT:
            raise Malformed("it takes no parameter")
        return {}
    if not isinstance(parameter, dict):
        raise Malformed("its parameter must be an object")
    for key, field in shape.items():
        value = parameter.get(key, ABSENT)
        if value is ABSENT and field.optional:
            continue
        if not field.check.passes(value):
            raise Malformed(f"{key} must be {field.check.expected}" + (" and is missing" if value is ABSENT else ""))
    return parameter


def _is_query(query: Any) -> bool:
    return isinstance(query, dict) and all(
        check.passes(query[key]) for key, check in QUERY_KEYS.items() if key in query
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
        case {"layerName": str(), "config": {"fields": list(fields)}}:
            return all(isinstance(field, dict) and isinstance(field.get("key"), str) for field in fields)
    return False


def _is_history(value: Any) -> bool:
    messages = value.get("messages") if isinstance(value, dict) else None
    return isinstance(messages, list) and all(_is_message(message) for message in messages)


def _is_message(message: Any) -> bool:
    match message:
        case {"role": str(role), "content": list(parts)}:
            kinds = PART_KINDS.get(role, ())
            return all(isinstance(part, dict) and part.get("type") in kinds for part in parts)
    return False


MAX_SAFE_INTEGER: Final = 2**53  # JavaScript's
DOMAINS: Final = ("llm", "embedding", "drafter", "imageGen", "transcription", "tts")
PART_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "system": ("text", "file"),
    "user": ("text", "file"),
    "assistant": ("text", "file", "toolCallRequest"),
    "tool": ("toolCallResult",),
}

TEXT: Final = Check(lambda value: isinstance(value, str), "a string")
FLAG: Final = Check(lambda value: isinstance(value, bool), "true or false")
POSITIVE: Final = Check(lambda value: type(value) is int and 1 <= value < MAX_SAFE_INTEGER, "a positive whole number")
OBJECT: Final = Check(lambda value: isinstance(value, dict), "an object")
TEXT_OR_NULL: Final = Check(lambda value: value is None or isinstance(value, str), "a string or null")
SPECIFIER: Final = Check(_is_specifier, "a model specifier")
STACK: Final = Check(_is_stack, "a config stack")
HISTORY: Final = Check(_is_history, "a chat history")
QUERY_KEYS: Final[Mapping[str, Check]] = {
    "domain": Check(lambda value: value in DOMAINS, "a domain"),
    "deviceIdentifier": TEXT_OR_NULL,
    "identifier": TEXT,
    "path": Check(lambda value: isinstance(value, str) and 1 <= len(value) <= 1024, "a path"),
    "vision": FLAG,
}
CANCEL: Final[Shape] = {"type": Field(Check(lambda value: value == "cancel", "'cancel'"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a function that serves an endpoint may use.

    Attributes:
        domain: what the namespace is about: `llm`, `embedding`, or nothing.
        client: who asks, over however many connections.
    """

    domain: str
    engine: Engine
    instances: Instances
    client: Identity


class Channel(Protocol):
    """The way back to the client that opened a channel."""

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the client asks for a cancel, or is gone."""
        ...

    async def send(self, packet: JsonObject) -> None:
        """Send a packet; returns when the client's side can take more."""
        ...


class Call(NamedTuple):
    """An endpoint with one answer; ABSENT is the answer that says nothing.

    `serve` may raise `Refused`, which becomes an `rpcError`.
    """

    shape: Shape | None
    serve: Callable[[Context, JsonObject], Awaitable[Any]]


class Stream(NamedTuple):
    """An endpoint that opens a channel.

    `serve` sends packets and returns at the end; `Refused` becomes a `channelError`. `messages` is the shape of what
    the client may send meanwhile: a cancel, or None for nothing at all.
    """

    shape: Shape | None
    serve: Callable[[Context, Channel, JsonObject], Awaitable[None]]
    messages: Shape | None = None


class Namespace(NamedTuple):
    """The endpoints behind one path."""

    domain: str
    calls: Mapping[str, Call]
    streams: Mapping[str, Stream]
