"""A server that plays a healthy dialogue up to a stage, and then a fault.

What is healthy is written here once: which values a server sends in answer to which request, and to which stage of the
dialogue they belong. A fault takes the place of the values of its stage each time that stage is reached; what it
does not end goes on as if nothing had happened. The server keeps what it has really sent, which is all that a verdict
about a client may be built on.
"""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum, auto
from typing import Any, Final

from faults import HOST, Left, Listener, Peer, reset
from packets import closed, sent
from processes import INSTANCE
from websockets.frames import Frame, Opcode
from websockets.http11 import Request


class Stage(StrEnum):
    """Where a dialogue can go wrong, in the order of time."""

    RESOLVE = auto()
    PROBE = auto()
    CONNECT = auto()
    TLS = auto()
    UPGRADE = auto()
    GREETING = auto()
    MODEL = auto()
    UPLOAD = auto()
    PROMPT = auto()
    FIRST = auto()
    MIDDLE = auto()
    SUCCESS = auto()
    CLOSE = auto()


ORDER: Final = list(Stage)
MESSAGES: Final = frozenset(ORDER[ORDER.index(Stage.GREETING) :])
"""The stages in which values of the protocol are sent."""
NUMBERED: Final = MESSAGES - {Stage.GREETING}
"""Those whose values have the number of a call or a channel."""
TEXT: Final = frozenset({Stage.FIRST, Stage.MIDDLE})
"""Those that send a fragment of the answer."""

ANSWER: Final = ("One ", "two ", "thr", "ee ", "four ✓ ", "five")
JSON_ANSWER: Final = ('{"city"', ': "Bo', 'nn", ', '"size"', ": 3", "}")
_MIDDLE: Final = 3
_LONGEST: Final = 120.0
"""Seconds after which a client that is still there is one that hangs."""
_GREETING_PATH: Final = "/lmstudio-greeting"

STATS: Final = {
    "stopReason": "eosFound",
    "tokensPerSecond": 20.0,
    "numGpuLayers": -1,
    "timeToFirstTokenSec": 0.25,
    "promptTokensCount": 3,
    "predictedTokensCount": 6,
    "totalTokensCount": 9,
}
FILE: Final = {"identifier": "file-1", "fileType": "image", "sizeBytes": 70}
RESULTS: Final[dict[str, tuple[Stage, Any]]] = {
    "listLoaded": (Stage.MODEL, [INSTANCE]),
    "listDownloadedModels": (Stage.MODEL, [INSTANCE]),
    "unloadModel": (Stage.MODEL, None),
    "uploadFileBase64": (Stage.UPLOAD, FILE),
}
"""The answers to calls."""

Value = Any
"""A value of the protocol, or the bytes of a text."""


def success() -> dict[str, Any]:
    """The packet that a prediction ends with."""
    config: dict[str, Any] = {"fields": []}
    end = {"stats": STATS, "modelInfo": INSTANCE, "loadModelConfig": config, "predictionConfig": config}
    return {"type": "success", **end}


def fragment(text: str) -> dict[str, Any]:
    """The packet of a piece of the answer."""
    piece = {"content": text, "tokensCount": 1, "containsDrafted": False, "reasoningType": "none"}
    return {"type": "fragment", "fragment": {**piece, "isStructural": False}}


def progress(kind: str, share: float) -> dict[str, Any]:
    """A packet of progress."""
    return {"type": kind, "progress": share}


def as_text(value: Value) -> bytes:
    """A value as it is on the wire."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def framed(value: Value, opcode: Opcode = Opcode.TEXT, **more: bool) -> bytes:
    """A value as one frame of a server."""
    return Frame(opcode, as_text(value), **more).serialize(mask=False)


class Strike:
    """One stage of one connection, as a fault sees it.

    Attributes:
        socket: the connection.
        stage: the stage.
        values: what a healthy server would send now; none before the greeting.
        data: the same as bytes.
    """

    def __init__(
        self, server: "StageServer", connection: socket.socket, stage: Stage, values: Sequence[Value], data: bytes
    ) -> None:
        self.socket = connection
        self.stage = stage
        self.values = values
        self.data = data
        self._server = server

    def send(self, *values: Value) -> None:
        """Send values as texts."""
        self.raw(b"".join(map(framed, values)))

    def raw(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def go_on(self) -> None:
        """Send what is healthy."""
        self.count()
        self.raw(self.data)

    def count(self) -> None:
        """Note that the values of this stage are sent, in whatever form; before, because a client may be quick."""
        self._server.note(self.stage, self.values)

    def count_text(self, text: str) -> None:
        """Note that a valid fragment was sent with this text; half a surrogate pair stands for U+FFFD."""
        self._server.text += text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def encrypt_with(self, context: ssl.SSLContext) -> None:
        """Take another certificate than the one that the client trusts."""
        self._server.tls = context

    def leave(self) -> None:
        """Close the connection."""
        raise Left

    def reset(self) -> None:
        """End the connection with RST."""
        reset(self.socket)
        raise Left

    def hold(self) -> None:
        """Send nothing more, and let the matrix know that the client now waits for ever."""
        self._server.holds.set()
        self.drain()
        raise Left

    def drain(self) -> None:
        """Take in what the client sends until it leaves."""
        with suppress(OSError):
            while self.socket.recv(1 << 16):
                pass

    def flood(self, data: bytes) -> None:
        """Send the same again and again until the client leaves."""
        block = data * max(1, 1 << 14 // len(data))
        threading.Thread(target=self.drain, daemon=True).start()  # a client that is flooded still sends a cancel
        with suppress(OSError):
            while True:
                self.raw(block)
                self._server.holds.set()
        raise Left


Fault = Callable[[Strike], None]


class _Upgrading(Peer):
    """A peer whose upgrade is a stage."""

    def __init__(self, server: "StageServer", connection: socket.socket) -> None:
        self._server = server
        super().__init__(connection)

    def upgrade(self, request: Request) -> None:
        """Answer the probe of a client that looks for a server, or shake hands."""
        if request.path == _GREETING_PATH:
            body = b'{"lmstudio":true}'
            data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            if not self._server.strike(Stage.PROBE, self.socket, data):
                self.socket.sendall(data)
            raise Left
        self.protocol.send_response(self.protocol.accept(request))
        data = b"".join(self.protocol.data_to_send())
        if not self._server.strike(Stage.UPGRADE, self.socket, data):
            self.socket.sendall(data)


class StageServer(Listener):
    """The server of one cell.

    Args:
        stage: where the fault strikes.
        fault: what it does; None for a server that stays healthy.
        answer: the fragments of each answer.
        tls: what to encrypt with.

    Attributes:
        holds: set as soon as the client can only be ended by a signal or its timeout.
        before: the text that had been sent when the fault struck for the first time; None if it has not.
        text: the text that was sent in valid fragments.
        delivered: the stages whose values were sent.
    """

    def __init__(
        self,
        stage: Stage,
        fault: Fault | None,
        *,
        answer: Sequence[str] = ANSWER,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.holds = threading.Event()
        self.before: str | None = None
        self.text = ""
        self.delivered: set[Stage] = set()
        self._stage = stage
        self._fault = fault
        self._answer = answer
        self.tls = tls
        super().__init__(self._attend)

    def note(self, stage: Stage, values: Sequence[Value]) -> None:
        """Keep what was sent."""
        self.delivered.add(stage)
        for value in values:
            if isinstance(value, dict) and isinstance(packet := value.get("message"), dict):
                self.text += packet.get("fragment", {}).get("content", "")

    def strike(self, stage: Stage, connection: socket.socket, data: bytes = b"", values: Sequence[Value] = ()) -> bool:
        """Let the fault act if this is its stage; whether it did."""
        if stage is not self._stage or self._fault is None:
            return False
        if self.before is None:
            self.before = self.text
        self._fault(Strike(self, connection, stage, values, data))
        return True

    def _attend(self, connection: socket.socket) -> None:
        connection.settimeout(_LONGEST)
        try:
            self.strike(Stage.CONNECT, connection)
            if self.tls is None:
                self._converse(connection)
                return
            self.strike(Stage.TLS, connection)
            with self.tls.wrap_socket(connection, server_side=True) as encrypted:
                self._converse(encrypted)
        except (ValueError, EOFError, ssl.SSLError):  # a client that speaks no HTTP, or no TLS
            return

    def _converse(self, connection: socket.socket) -> None:
        peer = _Upgrading(self, connection)
        peer.receive()
        self._emit(peer, Stage.GREETING, {"success": True})
        while True:
            envelope = peer.receive()
            if envelope["type"] == "rpcCall":
                self._answer_call(peer, envelope)
            elif envelope["type"] == "channelCreate":
                self._serve_channel(peer, envelope["channelId"], envelope["endpoint"])

    def _emit(self, peer: Peer, stage: Stage, *values: Value) -> None:
        data = b"".join(map(framed, values))
        if not self.strike(stage, peer.socket, data, values):
            self.note(stage, values)
            peer.socket.sendall(data)

    def _answer_call(self, peer: Peer, envelope: dict[str, Any]) -> None:
        stage, result = RESULTS[envelope["endpoint"]]
        self._emit(peer, stage, {"type": "rpcResult", "callId": envelope["callId"], "result": result})

    def _serve_channel(self, peer: Peer, channel: int, endpoint: str) -> None:
        if endpoint in ("getOrLoad", "loadModel"):
            done = {"type": "loadSuccess", "info": INSTANCE}
            packets = [progress("loadProgress", 0.5), done]
            self._emit(peer, Stage.MODEL, *(sent(channel, packet) for packet in packets), closed(channel))
            return
        for share in (0.0, 0.5, 1.0):
            self._emit(peer, Stage.PROMPT, sent(channel, progress("promptProcessingProgress", share)))
        for index, text in enumerate(self._answer):
            stage = Stage.MIDDLE if index == _MIDDLE else Stage.FIRST
            value = sent(channel, fragment(text))
            if index in (0, _MIDDLE):
                self._emit(peer, stage, value)
            else:
                self.note(stage, [value])
                peer.send(value)
        self._emit(peer, Stage.SUCCESS, sent(channel, success()))
        self._emit(peer, Stage.CLOSE, closed(channel))


def address(server: StageServer, *, name: str = HOST) -> str:
    """Where a server listens, as it is typed."""
    return f"{name}:{server.port}"
