"""JSON text ⇄ envelopes: one envelope is one text on the socket.

Pure: text in, record out. Which envelope may follow which is defined in `protocol`, what is inside in `payloads`,
`histories` and `objects`.
Source of the kinds and their keys: lmstudio-js 6ec11db, lms-communication/src/Transport.ts
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from lmcli.errors import BadInput, RemoteProtocolError, quoted
from lmcli.record import distinct
from lmcli.wire.pieces import Text, base64_text, in_pieces

AnyText = TypeVar("AnyText", bytes, Text)


class _Absent:
    """Stands for a key that is absent, which the wire distinguishes from null."""

    def __repr__(self) -> str:
        return "ABSENT"

    def __bool__(self) -> bool:
        return False


ABSENT: Final = _Absent()
NO_ID: Final = -1


@distinct
class Envelope(NamedTuple):
    """One text on the socket, either way.

    Attributes:
        type: the kind, such as `channelSend`; a kind that is not in `KINDS` is carried unread.
        id: the number of the call, channel or subscription that it belongs to; NO_ID where it belongs to none.
        endpoint: what is called or opened, in the kinds that begin something.
        body: what it carries: a packet, parameter, result or error. ABSENT where there is none. For a kind with no
            body key (`communicationWarning`, an unknown one) the whole object.
    """

    type: str
    id: int = NO_ID
    endpoint: str | None = None
    body: Any = ABSENT


@distinct
class Kind(NamedTuple):
    """The keys of one kind of envelope: its number, its body, and whether it names an endpoint."""

    id_key: str | None = None
    body_key: str | None = None
    has_endpoint: bool = False


KINDS: Mapping[str, Kind] = {
    "rpcCall": Kind("callId", "parameter", has_endpoint=True),
    "rpcResult": Kind("callId", "result"),
    "rpcError": Kind("callId", "error"),
    "channelCreate": Kind("channelId", "creationParameter", has_endpoint=True),
    "channelSend": Kind("channelId", "message"),
    "channelAck": Kind("channelId", "ackId"),
    "channelClose": Kind("channelId"),
    "channelError": Kind("channelId", "error"),
    "signalSubscribe": Kind("subscribeId", "creationParameter", has_endpoint=True),
    "signalUnsubscribe": Kind("subscribeId"),
    "signalUpdate": Kind("subscribeId", "patches"),
    "signalError": Kind("subscribeId", "error"),
    "writableSignalSubscribe": Kind("subscribeId", "creationParameter", has_endpoint=True),
    "writableSignalUnsubscribe": Kind("subscribeId"),
    "writableSignalUpdate": Kind("subscribeId", "patches"),
    "writableSignalError": Kind("subscribeId", "error"),
    "keepAlive": Kind(),
    "keepAliveAck": Kind(),
    "communicationWarning": Kind(),
}
_UNKNOWN: Final = Kind()


def decode(data: bytes | str) -> Envelope:
    """Read one text from the socket.

    Raises:
        RemoteProtocolError: not JSON, not an object, no string `type`, or a known kind without its number.
    """
    return from_object(loads(data))


def loads(data: bytes | str) -> Any:
    """Read JSON, also where a JavaScript server cut an emoji in two and sent half a surrogate pair.

    Raises:
        RemoteProtocolError: it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass  # most often garbage, sometimes a lone surrogate: orjson refuses it, the standard library does not
    try:
        return json.loads(data, parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        text = data if isinstance(data, str) else data.decode(errors="replace")
        raise RemoteProtocolError(f"the server sent something that is not JSON: {quoted(text, limit=60)}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _integer(digits: str) -> float:
    """An integer, as orjson reads it: a float if it has more than 64 bits, and infinite if that is too small."""
    number = float(digits)
    return int(digits) if abs(number) <= 2.0**64 and -(2**63) <= int(digits) < 2**64 else number


def from_object(value: object) -> Envelope:
    """Read one envelope from decoded JSON.

    Raises:
        RemoteProtocolError: as for `decode`.
    """
    if not isinstance(value, dict) or not isinstance(kind_name := value.get("type"), str):
        raise RemoteProtocolError(f"the server sent something that is not an envelope: {quoted(value, limit=60)}")
    kind = KINDS.get(kind_name, _UNKNOWN)
    if kind.id_key is None:
        return Envelope(kind_name, body=value)
    number = value.get(kind.id_key)
    if type(number) is not int:
        if not (isinstance(number, float) and number.is_integer()):  # 1.0 is 1 for JavaScript
            raise RemoteProtocolError(f"the server sent {kind_name} without a {kind.id_key}")
        number = int(number)
    endpoint = value.get("endpoint") if kind.has_endpoint else None
    if kind.has_endpoint and not isinstance(endpoint, str):
        raise RemoteProtocolError(f"the server sent {kind_name} without an endpoint")
    return Envelope(kind_name, number, endpoint, value.get(kind.body_key, ABSENT) if kind.body_key else ABSENT)


def encode(envelope: Envelope) -> bytes:
    """Write one envelope as JSON text; an ABSENT body leaves its key out, bytes are written as base64.

    Raises:
        BadInput: the body is nested too deeply.
    """
    return _written(envelope, _dumps)


def encode_in_pieces(envelope: Envelope) -> Text:
    """Write one envelope as JSON text, in pieces if it contains long strings; raises as `encode` does."""
    return _written(envelope, in_pieces)


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=base64_text)


def _written(envelope: Envelope, write: Callable[[Any], AnyText]) -> AnyText | bytes:
    kind = KINDS[envelope.type]
    value: dict[str, Any] = {"type": envelope.type}
    if kind.has_endpoint:
        value["endpoint"] = envelope.endpoint
    if kind.id_key is not None:
        value[kind.id_key] = envelope.id
    if envelope.body is not ABSENT:
        if kind.body_key is None:
            value.update(envelope.body)
        else:
            value[kind.body_key] = envelope.body
    try:
        return write(value)
    except orjson.JSONEncodeError:  # half a surrogate pair, or an integer of more than 64 bits
        try:
            text = json.dumps(value, default=base64_text)
            finite = json.loads(text, parse_constant=lambda _: None)  # null for infinity, as orjson has it
            return json.dumps(finite).encode()
        except RecursionError as error:
            raise BadInput("the request is nested too deeply") from error
