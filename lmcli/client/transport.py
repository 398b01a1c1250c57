"""One socket: websockets' sans-I/O protocol over a socket that this thread alone reads and writes.

There is no queue and no second thread: the socket is read only when the caller asks, so a slow consumer holds the
server back through TCP, and memory stays flat. Texts that arrived together are returned together.
"""

import socket
import time
from collections import deque
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import WebSocketURI

from lmcli.client.address import Address
from lmcli.client.waiting import Interrupts, Woken, no_interrupts, wait
from lmcli.errors import CannotConnect, ConnectionLost, LmError, TimedOut, escaped, quoted, reason

BURST_BYTES: Final = 64 * 1024
CONNECT_SECONDS: Final = 10.0
PING_AFTER: Final = 30.0
LOST_AFTER: Final = 30.0
_DATA: Final = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


class Transport:
    """A WebSocket to one namespace; `receive` waits, nothing else does for long.

    Attributes:
        ping_after: seconds of silence before a ping is sent.
        lost_after: seconds without an answer to it after which the connection counts as lost.
        timeout: seconds that it may accept nothing of what is sent; None stands for both of the above.
    """

    def __init__(
        self, connection: socket.socket, protocol: ClientProtocol, address: Address, interrupts: Interrupts
    ) -> None:
        self.ping_after = PING_AFTER
        self.lost_after = LOST_AFTER
        self.timeout: float | None = None
        self._socket = connection
        self._protocol = protocol
        self._address = address
        self._interrupts = interrupts
        self._unsent: deque[memoryview] = deque()
        self._texts: list[bytes] = []
        self._partial: list[bytes] = []
        self._lost: str | None = None
        self._silent_since = self._left_at = self._accepted_at = time.monotonic()
        self._is_pinged = False

    @classmethod
    def open(
        cls,
        address: Address,
        namespace: str,
        *,
        timeout: float | None = None,
        interrupts: Interrupts = no_interrupts,
    ) -> "Transport":
        """Connect, with TLS where the address wants it, and shake hands.

        Args:
            address: where.
            namespace: the URL path, such as `llm`.
            timeout: seconds for connecting and for the handshake each; None stands for ten.
            interrupts: what ends a wait early, see `waiting`.

        Raises:
            CannotConnect: there is no answer, or it is not that of a WebSocket server.
            TimedOut: the given timeout passed.
        """
        limit = CONNECT_SECONDS if timeout is None else timeout
        try:
            connection = _connect(address, limit)
        except TimeoutError as error:
            if timeout is not None:
                raise TimedOut(f"no connection to {address} within {timeout:g} s") from error
            raise unreachable(address, error) from error
        except OSError as error:
            raise unreachable(address, error) from error
        uri = WebSocketURI(address.secure, address.host, address.port, f"{address.prefix}/{namespace}", "")
        transport = cls(connection, ClientProtocol(uri, max_size=None), address, interrupts)
        transport.timeout = timeout
        try:
            transport._handshake(timeout)
        except BaseException:
            connection.close()
            raise
        return transport

    @property
    def is_open(self) -> bool:
        """Whether texts can still be sent."""
        return self._lost is None and self._protocol.state is State.OPEN

    def poll(self) -> None:
        """Receive what has arrived, such as a close frame between two reads; does not wait."""
        if self.is_open:
            self._read()

    def send(self, text: bytes, *, within: float | None = None) -> None:
        """Send one text, all of it; after an interrupt the rest goes out before whatever is sent or awaited next.

        What arrives meanwhile is received: a server that blocks on sending accepts no data.

        Args:
            text: what to send.
            within: seconds that the server may accept nothing of it; None stands for the transport's own limit.

        Raises:
            ConnectionLost: the server has disconnected or accepts no data.
            TimedOut: the server accepted nothing for as long as the transport's timeout.
        """
        if not self.is_open:
            raise self._loss()
        self._protocol.send_text(text)
        limit = within or self.timeout or self.ping_after + self.lost_after
        self._accepted_at = time.monotonic()
        while not self._push():
            left = self._accepted_at + limit - time.monotonic()
            woken = wait(self._socket.fileno(), to_write=True, interrupts=self._interrupts(), timeout=left)
            if woken is Woken.INTERRUPTED:
                return
            if left <= 0:
                self._lost = "it accepts no data"
            elif woken is Woken.READY:
                self._read()
            if self._lost is not None:
                raise self._given_up(within) if left <= 0 else self._loss()
        if self._lost is not None:
            raise self._loss()

    def receive(self, *, within: float | None = None) -> list[bytes]:
        """The texts that are there; waits for the first one. Empty: an interrupt came, or the time was over.

        Args:
            within: seconds to wait at most.

        Raises:
            ConnectionLost: the server closed, reset or no longer answers.
        """
        began = time.monotonic()
        self._silent_since += began - self._left_at  # time between two reads does not count as silence of the server
        try:
            self._wait_for_text(None if within is None else began + within)
        finally:
            self._left_at = time.monotonic()
        texts, self._texts = self._texts, []
        return texts

    def _wait_for_text(self, deadline: float | None) -> None:
        """Read until a text is there, an interrupt comes or the deadline is over; ping a silent server."""
        while not self._texts:
            if self._lost is not None:
                raise self._loss()
            is_sent = self._push()
            if self._read():
                self._silent_since, self._is_pinged = time.monotonic(), False
                continue
            next_step = self._silent_since + (self.lost_after if self._is_pinged else self.ping_after)
            until = next_step if deadline is None else min(next_step, deadline)
            left = until - time.monotonic()
            woken = wait(self._socket.fileno(), to_write=not is_sent, interrupts=self._interrupts(), timeout=left)
            if woken is Woken.INTERRUPTED or (woken is Woken.TIMED_OUT and until == deadline):
                return
            if woken is Woken.TIMED_OUT and self._is_pinged:
                self._lost = "it no longer answers"
            elif woken is Woken.TIMED_OUT:
                self._silent_since, self._is_pinged = time.monotonic(), True
                self._protocol.send_ping(b"")

    def close(self) -> None:
        """Send a close frame and close the socket; does not wait for the server."""
        if self.is_open:
            self._protocol.send_close()
            self._push()
        self._lost = self._lost or "it was closed"
        self._socket.close()

    def _handshake(self, timeout: float | None) -> None:
        self._protocol.send_request(self._protocol.connect())
        deadline = time.monotonic() + (CONNECT_SECONDS if timeout is None else timeout)
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            if self._lost is not None:
                raise CannotConnect(f"cannot reach LM Studio at {self._address}: {self._lost}")
            is_sent = self._push()
            if self._lost is not None or self._read():
                continue
            left = deadline - time.monotonic()
            woken = wait(self._socket.fileno(), to_write=not is_sent, interrupts=self._interrupts(), timeout=left)
            if woken is Woken.INTERRUPTED:
                raise CannotConnect(f"cannot reach LM Studio at {self._address}: interrupted")
            if woken is Woken.TIMED_OUT:
                if timeout is not None:
                    raise TimedOut(f"no answer to the handshake from {self._address} within {timeout:g} s")
                raise CannotConnect(f"cannot reach LM Studio at {self._address}: no answer to the handshake")
        refusal = self._protocol.handshake_exc
        if refusal is not None:
            status = f"HTTP status {refusal.response.status_code}" if isinstance(refusal, InvalidStatus) else refusal
            raise CannotConnect(f"what answers at {self._address} is not LM Studio: {escaped(str(status))}")

    def _read(self) -> bool:
        """Take what the socket holds; False if it holds nothing yet."""
        try:
            data = self._socket.recv(BURST_BYTES)
        except OSError as error:
            if _would_block(error):
                return False
            self._lost = _reason(error)
            return True
        try:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
                self._lost = "it closed the connection"
        except WebSocketException as error:
            self._lost = escaped(str(error))
        for event in self._protocol.events_received():
            if isinstance(event, Frame):  # the other kind of event is the answer to the handshake
                self._take(event)
        if self._protocol.parser_exc is not None and self._lost is None:
            self._lost = f"it broke the WebSocket protocol, {escaped(str(self._protocol.parser_exc))}"
        self._push()  # a pong, or the answer to a close frame
        return True

    def _take(self, frame: Frame) -> None:
        if frame.opcode in _DATA:
            if frame.fin and not self._partial:
                self._texts.append(bytes(frame.data))
                return
            self._partial.append(bytes(frame.data))
            if frame.fin:
                self._texts.append(b"".join(self._partial))
                self._partial = []
        elif frame.opcode is Opcode.CLOSE:
            reason = self._protocol.close_rcvd.reason if self._protocol.close_rcvd else ""
            self._lost = f"it closed the connection{': ' if reason else ''}{escaped(reason)}"

    def _push(self) -> bool:
        """Write what the socket accepts now; whether that was all. Who reads next sees a loss."""
        self._unsent.extend(memoryview(data) for data in self._protocol.data_to_send() if data)
        while self._unsent and self._lost is None:
            data = self._unsent[0]
            try:
                accepted = self._socket.send(data)
            except OSError as error:
                if _would_block(error):
                    return False
                self._lost = _reason(error)
                break
            self._accepted_at = time.monotonic()
            if accepted == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = data[accepted:]
        return True

    def _given_up(self, within: float | None) -> LmError:
        if self.timeout is None or within is not None:
            return self._loss()
        return TimedOut(f"the server accepted no data for {self.timeout:g} s")

    def _loss(self) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self._address} was lost: {self._lost}")


def _connect(address: Address, limit: float) -> socket.socket:
    connection = socket.create_connection((address.host, address.port), timeout=limit)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.secure:
            connection = _secured(connection, address.host)
        connection.setblocking(False)
    except BaseException:
        connection.close()
        raise
    return connection


def _secured(connection: socket.socket, host: str) -> socket.socket:
    import ssl  # noqa: PLC0415  10 ms that only wss and https pay

    return ssl.create_default_context().wrap_socket(connection, server_hostname=host)


def _would_block(error: OSError) -> bool:
    # An SSL socket reports that it would block with classes of its own, whose module is loaded only where TLS is used.
    return isinstance(error, BlockingIOError) or type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}


def _reason(error: OSError) -> str:
    verification = getattr(error, "verify_message", None)
    return f"its certificate is not trusted, {verification.rstrip('.')}" if verification else reason(error)


def unreachable(address: Address, error: OSError) -> CannotConnect:
    """Say why an address cannot be reached."""
    why = "no answer" if isinstance(error, TimeoutError) else _reason(error)
    return CannotConnect(f"cannot reach LM Studio at {address}: {why}", _hint(address.host, error))


def _hint(host: str, error: OSError) -> str:
    """What to check: the certificates, the name, or the server, which may be on another machine."""
    if hasattr(error, "verify_message"):
        return "SSL_CERT_FILE names a file with the certificate authorities to trust"
    if isinstance(error, socket.gaierror):
        return f"check the host name {quoted(host)}"
    if host in ("localhost", "::1") or host.startswith("127."):
        return "lms server start starts the server of LM Studio"
    return f"on {host}, start the server of LM Studio and have it serve the local network"
