"""One authenticated namespace as a state machine: texts in, events out, texts to send; no socket, no clock.

The rules, and where they come from (lmstudio-js 6ec11db):
- The first text is the authentication; nothing else may be sent before `success: true` came back, because a server
  drops what arrives earlier (lms-communication-server/src/AuthenticatedWsServer.ts).
- The client numbers calls and channels, with a counter for each; a number is never reused.
- A call ends with `rpcResult` or `rpcError`; a channel with `channelClose` or `channelError`, never both.
- A `communicationWarning` means that a request of ours was not understood and gets no other answer
  (lms-communication-server/src/ServerPort.ts). Here it ends the request that it is about, with an error instead of an
  endless wait: the one whose number the warning names, and no other; where it names none, the oldest of its family
  that has no answer yet, one whose endpoint it names first. A warning about a message on a channel ends nothing: a
  cancel that raced the channel's end causes it.
- Unknown kinds and packets are ignored: a newer server may send them.
"""

import re
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Any, NamedTuple

import orjson

from lmcli.errors import NotAllowed, RemoteProtocolError, RequestRejected, escaped
from lmcli.record import distinct
from lmcli.wire.envelopes import ABSENT, KINDS, Envelope, encode, encode_in_pieces, from_object, loads
from lmcli.wire.pieces import Text

_SEND = "channelSend"
_ID_KEY, _BODY_KEY = KINDS[_SEND].id_key or "", KINDS[_SEND].body_key or ""
API_PORTS = (41343, 52993, 16141, 39414, 22931)
"""Where clients look for a server, and LM Studio listens even while its HTTP server is off.
Source: lmstudio-js 6ec11db, lms-common/src/apiServerPorts.ts"""
AUTH_VERSION = 1
GUEST_PREFIX = "guest:"
_ENDS_NOTHING = ("channelUnknown", "channelMessage", "signal", "writableSignal")


@distinct
class Credentials(NamedTuple):
    """Who the client is; one pair for all the sockets of one client. Its text never shows the passkey."""

    identifier: str
    passkey: str

    @property
    def is_guest(self) -> bool:
        """Whether they are made up, so that they are worth nothing to anybody else."""
        return self.identifier.startswith(GUEST_PREFIX)

    def __repr__(self) -> str:
        return "Credentials(…)"


class State(Enum):
    """What may be sent and received next."""

    UNAUTHENTICATED = auto()
    WAITING = auto()
    OPEN = auto()
    CLOSED = auto()


@distinct
class Authenticated(NamedTuple):
    """The server accepted the credentials."""

    def __bool__(self) -> bool:
        return True  # though it has no fields


@distinct
class Packets(NamedTuple):
    """What arrived on an open channel without anything else between; each body is as it came."""

    channel_id: int
    bodies: list[Any]


@distinct
class ChannelClosed(NamedTuple):
    """A channel ended normally."""

    channel_id: int


@distinct
class ChannelFailed(NamedTuple):
    """A channel ended with an error: the server's error object, or ours where it refused the request."""

    channel_id: int
    error: Any


@distinct
class CallReturned(NamedTuple):
    """A call was answered; ABSENT for one without a result."""

    call_id: int
    result: Any


@distinct
class CallFailed(NamedTuple):
    """A call ended with an error: the server's error object, or ours where it refused the request."""

    call_id: int
    error: Any


Event = Authenticated | Packets | ChannelClosed | ChannelFailed | CallReturned | CallFailed


class Rejection(RequestRejected):
    """A request that the server answered with a warning; `endpoint` is what was asked."""

    def __init__(self, warning: str, kind: str, endpoint: str) -> None:
        super().__init__(f"the server did not understand the request {endpoint}: {escaped(warning)}")
        self.kind = kind
        self.endpoint = endpoint

    @property
    def is_unknown_endpoint(self) -> bool:
        """Whether the server does not have the endpoint at all."""
        return self.kind.endswith(("EndpointUnknown", "EndpointUnhandled"))


class Protocol:
    """The client's side of one socket. Verbs give texts to send, `receive` gives what texts mean."""

    def __init__(self) -> None:
        self.state = State.UNAUTHENTICATED
        self._last_call = 0
        self._last_channel = 0
        self._calls: dict[int, str] = {}
        self._channels: dict[int, str] = {}
        self._unanswered: set[int] = set()
        self.warnings_count = 0

    def authenticate(self, credentials: Credentials) -> bytes:
        """The first text on a socket."""
        self._expect(State.UNAUTHENTICATED)
        self.state = State.WAITING
        return orjson.dumps(
            {
                "authVersion": AUTH_VERSION,
                "clientIdentifier": credentials.identifier,
                "clientPasskey": credentials.passkey,
            }
        )

    def call(self, endpoint: str, parameter: Any = ABSENT) -> tuple[int, Text]:
        """Make one call; the answer arrives as CallReturned or CallFailed with the same number."""
        self._expect(State.OPEN)
        self._last_call += 1
        self._calls[self._last_call] = endpoint
        return self._last_call, encode_in_pieces(Envelope("rpcCall", self._last_call, endpoint, parameter))

    def open_channel(self, endpoint: str, parameter: Any = ABSENT) -> tuple[int, Text]:
        """Open a channel; its packets carry the same number until ChannelClosed or ChannelFailed."""
        self._expect(State.OPEN)
        self._last_channel += 1
        self._channels[self._last_channel] = endpoint
        self._unanswered.add(self._last_channel)
        return self._last_channel, encode_in_pieces(Envelope("channelCreate", self._last_channel, endpoint, parameter))

    def cancel(self, channel_id: int) -> bytes | None:
        """Ask the server to end a channel soon; None where it has ended already."""
        if channel_id not in self._channels:
            return None
        return encode(Envelope("channelSend", channel_id, body={"type": "cancel"}))

    def end_channel(self, channel_id: int) -> bool:
        """Expect nothing more on a channel; whether it was open."""
        self._unanswered.discard(channel_id)
        return self._channels.pop(channel_id, None) is not None

    def receive(self, texts: Iterable[bytes | str]) -> Iterator[Event]:
        """Read texts from the server as events, in order; what needs no attention is none.

        Nearly all texts are packets, and most follow one on the same channel: no envelope is made of them, and one
        event of all that follow each other.

        Raises:
            RemoteProtocolError: a text is not an envelope, or arrives before the answer to the authentication.
            NotAllowed: the server refused the credentials.
        """
        number: int | None = None
        bodies: list[Any] = []
        for text in texts:
            try:
                value = loads(text)
            except RemoteProtocolError:
                if packets := self._packets(number, bodies):
                    yield packets
                raise
            is_packet = type(value) is dict and value.get("type") == _SEND and type(value.get(_ID_KEY)) is int
            if is_packet and value[_ID_KEY] == number:
                bodies.append(value.get(_BODY_KEY, ABSENT))
                continue
            if packets := self._packets(number, bodies):
                yield packets
            number, bodies = None, []
            if self.state is not State.OPEN:
                yield self._authenticated(value)
            elif is_packet:
                number, bodies = value[_ID_KEY], [value.get(_BODY_KEY, ABSENT)]
            elif (event := self._rare(from_object(value))) is not None:
                yield event
        if packets := self._packets(number, bodies):
            yield packets

    def _packets(self, number: int | None, bodies: list[Any]) -> Packets | None:
        """The event of packets that follow each other; None on a channel that is not open."""
        if number not in self._channels:
            return None
        self._unanswered.discard(number)
        return Packets(number, bodies)

    def _rare(self, envelope: Envelope) -> Event | None:
        """What an envelope means that is not a packet."""
        type_, number, _, body = envelope
        match type_:
            case "channelClose" if self.end_channel(number):
                return ChannelClosed(number)
            case "channelError" if self.end_channel(number):
                return ChannelFailed(number, body)
            case "rpcResult" if self._calls.pop(number, None):
                return CallReturned(number, body)
            case "rpcError" if self._calls.pop(number, None):
                return CallFailed(number, body)
            case "communicationWarning":
                return self._warned(*(v if isinstance(v, str) else "" for v in map(body.get, ("warning", "kind"))))
        return None

    def _authenticated(self, value: Any) -> Authenticated:
        if self.state is not State.WAITING or not isinstance(value, dict) or not isinstance(value.get("success"), bool):
            raise RemoteProtocolError("the server did not answer the authentication")
        if not value["success"]:
            self.state = State.CLOSED
            reason = value.get("error")
            raise NotAllowed(
                f"the server refused access: {escaped(reason)}"
                if isinstance(reason, str)
                else "the server refused access",
                "put an API token of LM Studio into the environment variable LM_API_TOKEN",
            )
        self.state = State.OPEN
        return Authenticated()

    def _warned(self, warning: str, kind: str) -> Event | None:
        self.warnings_count += 1
        kind = kind or _kind(warning)
        if kind.startswith(_ENDS_NOTHING):
            return None
        unanswered = {number: name for number, name in self._channels.items() if number in self._unanswered}
        families = {"channel": unanswered, "rpc": self._calls}
        meant = [family for family in families if kind.startswith(family)] or list(families)
        found = _about(
            [(family, number, name) for family in meant for number, name in families[family].items()], warning
        )
        if not found:
            return None
        family, number, endpoint = found[0]
        error = Rejection(warning, kind, endpoint)
        if family == "channel":
            self.end_channel(number)
            return ChannelFailed(number, error)
        del self._calls[number]
        return CallFailed(number, error)

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise RuntimeError(f"not possible while {self.state.name.lower()}")


def _about(waiting: list[tuple[str, int, str]], warning: str) -> list[tuple[str, int, str]]:
    """Which of the requests that wait (family, number, endpoint) a warning can be about, the likeliest first."""
    words = re.split(r"\b(?:creationParameter|parameter|message) = |: ", warning, maxsplit=1)[0]  # not what it quotes
    if number := re.search(r"\b(channel|call)Id = (\d+)", words):
        family = "channel" if number[1] == "channel" else "rpc"
        return [entry for entry in waiting if entry[:2] == (family, int(number[2]))]
    endpoint = re.search(r"\bendpoint(?:Name)? = '?([\w.]+)", words)
    return [entry for entry in waiting if endpoint and entry[2] == endpoint[1]] or waiting


def _kind(warning: str) -> str:
    """The kind of a warning from a server before March 2026: its words before the values that it quotes."""
    words = warning.partition("=")[0].lower()
    family = "rpc" if "rpccall" in words else "channel"
    if "endpoint" in words and ("unknown" in words or "unhandled" in words):
        return f"{family}EndpointUnknown"
    if "unknown channel" in words:
        return "channelUnknown"
    if "invalid message" in words:
        return "channelMessageTypeError"
    return ""
