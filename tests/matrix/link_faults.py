"""Faults of the connection: it ends, stalls or trickles, and frames that are wrong, too large or too many."""

import random
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

from damage import COMPLETE, ERROR, FREE, LINKED, WAIT, Damage
from stage_server import MESSAGES, NUMBERED, TEXT, Stage, Strike, as_text, framed
from websockets.frames import Opcode

_PACKETS: Final = NUMBERED - {Stage.UPLOAD}
_FLOOD: Final = 5_000
_HUGE: Final = 1 << 22


# The connection ends, stalls, or trickles.


def closed(strike: Strike) -> None:
    """End the connection with FIN."""
    strike.leave()


def was_reset(strike: Strike) -> None:
    """End the connection with RST."""
    strike.reset()


def silent(strike: Strike) -> None:
    """Send nothing more."""
    strike.hold()


def half(strike: Strike) -> None:
    """Send half of what was to come, and close."""
    strike.raw(strike.data[: len(strike.data) // 2])
    strike.leave()


def half_then_silent(strike: Strike) -> None:
    """Send half of what was to come, and no more."""
    strike.raw(strike.data[: len(strike.data) // 2])
    strike.hold()


def byte_by_byte(strike: Strike) -> None:
    """Send what was to come in many small segments."""
    strike.count()
    for index in range(len(strike.data)):
        strike.raw(strike.data[index : index + 1])


def late(strike: Strike) -> None:
    """Send what was to come, a little later than the rest."""
    time.sleep(0.3)
    strike.go_on()


def says_goodbye(code: int, reason: bytes, strike: Strike) -> None:
    """Send a close frame."""
    strike.raw(framed(struct.pack("!H", code) + reason, Opcode.CLOSE))
    strike.leave()


def goodbye_then_silent(strike: Strike) -> None:
    """Send a close frame, and keep the connection."""
    strike.raw(framed(struct.pack("!H", 1000), Opcode.CLOSE))
    strike.drain()
    strike.leave()


# Frames that the WebSocket protocol does not allow, and some that it does.


def sends(data: bytes, strike: Strike) -> None:
    """Send bytes, and close."""
    strike.raw(data)
    strike.leave()


def sends_and_holds(data: bytes, strike: Strike) -> None:
    """Send bytes, and no more."""
    strike.raw(data)
    strike.hold()


def before(data: bytes, strike: Strike) -> None:
    """Send bytes, then what was to come."""
    strike.raw(data)
    strike.go_on()


def garbage(strike: Strike) -> None:
    """Send random bytes, the same each time, and close."""
    strike.raw(random.Random(strike.stage.name).randbytes(4096))
    strike.leave()


def in_pieces(strike: Strike) -> None:
    """Send each text as continuation frames of one byte, with a ping inside."""
    strike.count()
    for value in strike.values:
        text = as_text(value)
        strike.raw(framed(text[:1], fin=False) + framed(b"", Opcode.PING))
        strike.raw(b"".join(framed(text[i : i + 1], Opcode.CONT, fin=False) for i in range(1, len(text))))
        strike.raw(framed(b"", Opcode.CONT))


def as_binary(strike: Strike) -> None:
    """Send each text as a binary frame."""
    strike.count()
    strike.raw(b"".join(framed(value, Opcode.BINARY) for value in strike.values))


def masked(strike: Strike) -> None:
    """Mask the frames, as only a client may."""
    strike.raw(bytes([0x81, 0x80 | 5]) + bytes(4) + b"hello")
    strike.hold()


def endless_frame(strike: Strike) -> None:
    """Announce an exabyte, and begin to send it."""
    strike.raw(b"\x81\x7f" + struct.pack("!Q", 1 << 60) + b'"')
    strike.raw(b" " * _HUGE)
    strike.hold()


def endless_message(strike: Strike) -> None:
    """Send continuation frames without end."""
    strike.raw(framed(b'"', fin=False))
    strike.flood(framed(b"", Opcode.CONT, fin=False))


def large(strike: Strike) -> None:
    """Send a valid text of four megabytes of a kind that nobody knows, then what was to come."""
    strike.send({"type": "noSuchKind", "padding": "x" * _HUGE})
    strike.go_on()


def floods(data: bytes, strike: Strike) -> None:
    """Send the same many times, then what was to come."""
    strike.raw(data * _FLOOD)
    strike.go_on()


def floods_for_ever(make: Callable[[Strike], bytes], strike: Strike) -> None:
    """Send the same without end."""
    strike.flood(make(strike))


def packet_on(strike: Strike, packet: Any) -> bytes:
    """A packet on the channel of a strike; a value that needs no attention, where there is none."""
    first = strike.values[0] if strike.values else {}
    if isinstance(first, dict) and "channelId" in first:
        return framed({"type": "channelSend", "channelId": first["channelId"], "message": packet})
    return framed({"type": "keepAliveAck"})


def empty_fragment(strike: Strike) -> bytes:
    """A fragment without text."""
    piece = {"content": "", "tokensCount": 0, "containsDrafted": False, "reasoningType": "none"}
    return packet_on(strike, {"type": "fragment", "fragment": {**piece, "isStructural": False}})


def more_progress(strike: Strike) -> bytes:
    """The same progress again."""
    return packet_on(strike, {"type": "promptProcessingProgress", "progress": 0.5})


def unknown_packet(strike: Strike) -> bytes:
    """A packet that is newer than the client."""
    return packet_on(strike, {"type": "noSuchPacket"})


def const(data: bytes) -> Callable[[Strike], bytes]:
    """The same bytes whatever is struck."""
    return lambda _: data


_NOT_ALLOWED: Final[Mapping[str, bytes]] = {
    "a reserved opcode": b"\x83\x00",
    "a reserved bit": b"\xc1\x00",
    "a continuation of nothing": framed(b"x", Opcode.CONT),
    "a long ping": b"\x89\x7e\x00\xc8" + b"x" * 200,
    "a cut ping": bytes([Opcode.PING, 0]),
    "a text in a text": framed(b"x", fin=False) + framed(b"y"),
    "a close of one byte": b"\x88\x01x",
    "a close code of 0": b"\x88\x02\x00\x00",
    "a negative length": b"\x81\x7f" + b"\xff" * 8,
}


def link_faults() -> Iterator[Damage]:
    """All of them."""
    yield from _endings()
    yield from _frames()
    yield from _floods()


def _endings() -> Iterator[Damage]:
    yield Damage("closed", "FIN", closed, ERROR, LINKED | {Stage.PROBE}, is_common=True)
    yield Damage("closed", "a close frame", partial(says_goodbye, 1000, b""), ERROR, MESSAGES)
    yield Damage("closed", "going away", partial(says_goodbye, 1001, b"bye"), ERROR, MESSAGES, is_common=True)
    yield Damage("closed", "an odd reason", partial(says_goodbye, 1011, b"\x1b[31m\na"), ERROR, MESSAGES)
    yield Damage("closed", "a reason that is no UTF-8", partial(says_goodbye, 1008, b"\xff"), ERROR, MESSAGES)
    yield Damage("closed", "a close frame, then silence", goodbye_then_silent, ERROR, MESSAGES)
    yield Damage("reset", "RST", was_reset, ERROR, LINKED | {Stage.PROBE}, is_common=True)
    # The half of an empty nothing is a silence: half needs something to be cut.
    yield Damage("half", "then FIN", half, ERROR, MESSAGES | {Stage.UPGRADE, Stage.PROBE}, is_common=True)
    yield Damage("half", "then silence", half_then_silent, WAIT, MESSAGES | {Stage.UPGRADE})
    yield Damage("silent", "at once", silent, WAIT, LINKED, is_common=True)
    # A probe is given half a second, so what is late there is not found, by design.
    yield Damage(
        "slow", "byte by byte", byte_by_byte, COMPLETE, MESSAGES | {Stage.UPGRADE, Stage.PROBE}, is_common=True
    )
    yield Damage("slow", "late", late, COMPLETE, MESSAGES | {Stage.UPGRADE})
    yield Damage("garbage", "random bytes", garbage, ERROR, LINKED | {Stage.PROBE}, is_common=True)


def _frames() -> Iterator[Damage]:
    for name, data in _NOT_ALLOWED.items():
        yield Damage("frames", name, partial(sends_and_holds, data), ERROR, MESSAGES)
    yield Damage("frames", "masked", masked, ERROR, MESSAGES)
    yield Damage("frames", "in pieces", in_pieces, COMPLETE, MESSAGES, is_common=True)
    yield Damage("frames", "binary", as_binary, FREE, MESSAGES)
    yield Damage(
        "frames", "pings", partial(before, framed(b"", Opcode.PING) + framed(b"x", Opcode.PONG)), COMPLETE, MESSAGES
    )
    yield Damage("oversized", "an endless frame", endless_frame, FREE, MESSAGES, is_common=True)
    yield Damage("oversized", "an endless message", endless_message, FREE, MESSAGES, is_noisy=True)
    yield Damage("oversized", "four megabytes", large, COMPLETE, NUMBERED)


def _floods() -> Iterator[Damage]:
    for name, finite in {
        "pings": framed(b"", Opcode.PING),
        "pongs": framed(b"", Opcode.PONG),
        "unknown kinds": framed({"type": "noSuchKind"}),
        "packets for nobody": framed({"type": "channelSend", "channelId": 999, "message": {"type": "fragment"}}),
    }.items():
        stages = NUMBERED if finite[0] == 0x80 | Opcode.TEXT else MESSAGES
        yield Damage("floods", name, partial(floods, finite), COMPLETE, stages)
    for name, make, stages in (
        ("pings without end", const(framed(b"", Opcode.PING)), MESSAGES),
        ("empty texts without end", const(framed(b"")), MESSAGES),
        ("unknown kinds without end", const(framed({"type": "noSuchKind"})), NUMBERED),
        ("unknown packets without end", unknown_packet, _PACKETS),
        ("progress without end", more_progress, _PACKETS),
        ("empty fragments without end", empty_fragment, TEXT | {Stage.PROMPT, Stage.SUCCESS, Stage.CLOSE}),
    ):
        common = name.startswith(("pings", "empty fragments"))
        yield Damage("floods", name, partial(floods_for_ever, make), FREE, stages, is_common=common, is_noisy=True)
