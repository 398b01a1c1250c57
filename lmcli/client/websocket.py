"""One WebSocket without its socket: bytes in, whole texts out, and why it ended.

The protocol is that of websockets, without I/O. Its parser takes two microseconds for each frame, more than all that
follows, so frames are cut here: a whole text is taken as it is, and everything else (the handshake, control frames,
texts in several frames, what is not allowed) goes through the parser, frame by frame.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, Final, cast

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.uri import WebSocketURI

from lmcli.client.address import Address
from lmcli.errors import CannotConnect, escaped
from lmcli.wire.pieces import Text

TEXT_BYTES: Final = 256 * 1024 * 1024
"""The longest text that is received. The longest of a real server are the tokens of a prompt, seven bytes each."""
FRAME_BYTES: Final = 1 << 20
"""The longest frame that is sent: it is masked in a copy. RFC 6455, 5.4: a text may be sent in several frames."""
IDLE_FRAMES: Final = 100_000
"""How many frames in a row may come without a text, such as pings: one a second for a day, or the pieces of a long text
of a few KiB each."""
_WHOLE_TEXT: Final = 0x80 | Opcode.TEXT
_MASKED: Final = 0x80
_SHORT: Final = 126
_SHORT_HEAD: Final = 4
_LENGTH_BYTES: Final = {_SHORT: 2, 127: 8}
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class _NoLog:
    """A logger of websockets that is off: the standard library's take 3 ms to load."""

    def isEnabledFor(self, _: object) -> bool:  # noqa: N802  the name that websockets calls
        return False

    def _ignore(self, *_: object, **__: object) -> None:
        """What went wrong is in the protocol's exceptions, too."""

    debug = info = error = _ignore


_NO_LOG: Final = cast(Any, _NoLog())


class WebSocket:
    """The client's side of a WebSocket to one namespace.

    Attributes:
        lost: why it ended, in the middle of a sentence; None while it stands.
        has_data_to_send: whether `data_to_send` or `frames_to_send` may return something; asked before each read.
    """

    def __init__(self, address: Address, namespace: str) -> None:
        path = f"{address.prefix}/{namespace}"
        uri = WebSocketURI(address.secure, address.host, address.port, path, "")
        self.lost: str | None = None
        self._address = address
        self._protocol = ClientProtocol(uri, max_size=TEXT_BYTES, logger=_NO_LOG)
        self._protocol.send_request(Request(path, _headers(address, self._protocol.key)))
        self._partial: list[bytes] = []
        self._partial_bytes = 0
        self._uncut = bytearray()
        self._frame_bytes = 0
        self._idle_frames = 0
        self._is_answered = False
        self._expects_handshake = True
        self.has_data_to_send = True
        self._outgoing: deque[Iterator[bytes]] = deque()

    @property
    def is_open(self) -> bool:
        """Whether texts can be sent."""
        return self.lost is None and self._protocol.state is State.OPEN

    @property
    def is_connecting(self) -> bool:
        """Whether the handshake goes on."""
        is_undecided = self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None
        return is_undecided and self.lost is None

    @property
    def is_accepted(self) -> bool:
        """Whether the handshake succeeded, whatever came after it."""
        return self._protocol.state is not State.CONNECTING and self._protocol.handshake_exc is None

    @property
    def refusal(self) -> CannotConnect | None:
        """Why the handshake failed; None if it did not, or if the connection ended before anything came."""
        error = self._protocol.handshake_exc
        if error is None or not self._is_answered:
            return None
        status = f"HTTP status {self.refused_status}" if self.refused_status else escaped(str(error))
        return CannotConnect(f"what answers at {self._address} is not LM Studio: {status}")

    @property
    def refused_status(self) -> int | None:
        """The HTTP status of a handshake that was refused with one."""
        error = self._protocol.handshake_exc
        return error.response.status_code if isinstance(error, InvalidStatus) else None

    def send_text(self, text: Text) -> None:
        """Send one text; its frames are made when `frames_to_send` is called."""
        self._outgoing.append(_framed(text))
        self.has_data_to_send = True

    def send_ping(self) -> None:
        """Ask for a sign of life."""
        self._protocol.send_ping(b"")
        self.has_data_to_send = True

    def send_close(self) -> None:
        """Say that this is the end."""
        self._protocol.send_close()
        self.has_data_to_send = True

    def data_to_send(self) -> bytes:
        """What is to be sent before any text: the handshake, pongs, close frames; empty if there is nothing."""
        self.has_data_to_send = bool(self._outgoing)
        return b"".join(self._protocol.data_to_send())

    def frames_to_send(self) -> bytes:
        """The next frames of texts, short ones together; empty if that was all."""
        frames, size = list[bytes](), 0
        while self._outgoing and size < FRAME_BYTES and self.is_open:
            if (frame := next(self._outgoing[0], None)) is None:
                self._outgoing.popleft()
            else:
                frames.append(frame)
                size += len(frame)
        self.has_data_to_send = bool(self._outgoing)
        return b"".join(frames)

    def receive(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take in what has arrived; the texts that are complete with it. Without data the stream has ended."""
        texts: list[bytes] = []
        if not data:
            self._protocol.receive_eof()
            self.has_data_to_send = True
            self.lost = self.lost or "it closed the connection"
            return texts
        self._is_answered = True
        if self._expects_handshake:
            data = self._shake_hands(bytes(data))
        if data:
            self._cut(data, texts)
        return texts

    def _shake_hands(self, data: bytes) -> bytes:
        """Pass on the answer to the handshake, line by line; what is behind it."""
        while data and self._protocol.state is State.CONNECTING:
            end = data.find(b"\n") + 1 or len(data)
            self._parse(data[:end])
            data = data[end:]
        self._expects_handshake = self._protocol.state is State.CONNECTING
        return data

    def _cut(self, data: bytes | bytearray | memoryview, texts: list[bytes]) -> None:
        """Cut frames; what is not complete is kept."""
        if self._uncut:
            self._uncut += data
            data = self._uncut
        if len(data) < self._frame_bytes:
            return
        self._frame_bytes = 0
        whole, position = bytes(data), 0
        while self.lost is None:
            if not self._partial:
                position = self._cut_short_texts(whole, position, texts)
            if position == len(whole) or (frame := self._next_frame(whole, position)) is None:
                break
            start, stop = frame
            if whole[position] == _WHOLE_TEXT and not self._partial:
                texts.append(whole[start:stop])
                self._idle_frames = 0
            else:
                self._idle_frames += 1
                self._parse(whole[position:stop], texts)
            position = stop
        self._uncut = bytearray(whole[position:])
        if self._idle_frames > IDLE_FRAMES and self.lost is None:
            self.lost = f"it sent {self._idle_frames} frames without a message"

    def _cut_short_texts(self, whole: bytes, position: int, texts: list[bytes]) -> int:
        """Cut texts of less than 64 KiB that are complete, as nearly all frames are; where the next frame begins."""
        began, end = position, len(whole)
        while position + _SHORT_HEAD <= end and whole[position] == _WHOLE_TEXT:
            start, length = position + 2, whole[position + 1]
            if length == _SHORT:
                start, length = start + 2, whole[start] << 8 | whole[start + 1]
            elif length > _SHORT:
                break
            stop = start + length
            if stop > end:
                break
            texts.append(whole[start:stop])
            position = stop
        if position > began:
            self._idle_frames = 0
        return position

    def _next_frame(self, whole: bytes, position: int) -> tuple[int, int] | None:
        """Where the payload of any frame begins and ends; None if it is not complete, or not to be received."""
        end = len(whole)
        if position + 2 > end:
            return None
        start, length = position + 2, whole[position + 1]
        if length in _LENGTH_BYTES:
            start += _LENGTH_BYTES[length]
            length = int.from_bytes(whole[position + 2 : start])
        elif length & _MASKED:  # which a server may not do: an error, whatever follows
            self._parse(whole[position:])
            return None
        stop = start + length
        if start <= end and length + self._partial_bytes > TEXT_BYTES:
            self.lost = f"it broke the WebSocket protocol, a message of more than {TEXT_BYTES} bytes"
        elif start <= end < stop:
            self._frame_bytes = stop - position
        return (start, stop) if stop <= end and self.lost is None else None

    def _parse(self, data: bytes, texts: list[bytes] | None = None) -> None:
        """Have websockets take in some bytes."""
        self.has_data_to_send = True
        try:
            self._protocol.receive_data(data)
        except WebSocketException as error:
            self.lost = escaped(str(error))
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and texts is not None:  # the other kind is the answer to the handshake
                self._take(event, texts)
        if self._protocol.parser_exc is not None and self.lost is None:
            self.lost = f"it broke the WebSocket protocol, {escaped(str(self._protocol.parser_exc))}"

    def _take(self, frame: Frame, texts: list[bytes]) -> None:
        if frame.opcode in _DATA:
            if frame.fin and not self._partial:
                texts.append(bytes(frame.data))
                return
            self._partial.append(bytes(frame.data))
            self._partial_bytes += len(frame.data)
            if frame.fin:
                texts.append(b"".join(self._partial))
                self._partial, self._partial_bytes = [], 0
                self._idle_frames = 0
        elif frame.opcode is Opcode.CLOSE:
            reason = self._protocol.close_rcvd.reason if self._protocol.close_rcvd else ""
            self.lost = f"it closed the connection{': ' if reason else ''}{escaped(reason)}"


def _headers(address: Address, key: str) -> Headers:
    """The head of the handshake. RFC 6455, 4.1; websockets would load a module to see if the host is an IP address."""
    return Headers(
        {
            "Host": address.authority,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
    )


def _framed(text: Text) -> Iterator[bytes]:
    """Make the frames of a text, one at a time: one in all, unless the text is long."""
    opcode, rest = Opcode.TEXT, memoryview(b"")
    for piece in (text,) if isinstance(text, bytes) else text:
        rest = memoryview(bytes(rest) + piece if rest else piece)
        while len(rest) > FRAME_BYTES:
            yield Frame(opcode, rest[:FRAME_BYTES], fin=False).serialize(mask=True)
            opcode, rest = Opcode.CONT, rest[FRAME_BYTES:]
    yield Frame(opcode, rest).serialize(mask=True)
