"""What an endpoint is: a shape for its parameter, and a function that serves it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lmcli.server.engine import Engine
from lmcli.server.identities import Identity
from lmcli.server.instances import Instances
from lmcli.server.parameters import Shape
from lmcli.values import JsonObject


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

    async def send(self, packet: JsonObject) -> None:
        """Send a packet; returns when the client's side can take more."""


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
