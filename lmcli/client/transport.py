"""One socket: a WebSocket that this thread alone reads and writes.

There is no queue and no second thread: the socket is read only when the caller asks, so a slow consumer holds the
server back through TCP, and memory stays flat. Texts that arrived together are returned together.
"""

import socket
import time
from typing import Final

from lmcli.client.address import Address
from lmcli.client.dialing import SUSPICIOUS_SECONDS, Limits, describe, dial, refuse_other_kind
from lmcli.client.waiting import Interrupts, Waiter, Woken, no_interrupts, wait
from lmcli.client.websocket import WebSocket
from lmcli.errors import CannotConnect, ConnectionLost, LmError, TimedOut
from lmcli.wire.pieces import Text

BURST_BYTES: Final = 64 * 1024
UNREAD_BYTES: Final = 16 * 1024 * 1024
"""How much may wait for a server that reads no answers to its pings."""
PING_AFTER: Final = 30.0
LOST_AFTER: Final = 30.0
_BAD_REQUEST: Final = 400


class Transport:
    """A WebSocket to one namespace; `receive` waits, nothing else does for long.

    Attributes:
        ping_after: seconds of silence before a ping is sent.
        lost_after: seconds without an answer to it after which the connection counts as lost.
        timeout: seconds that it may accept nothing of what is sent; None stands for both of the above.
    """

    def __init__(
        self, connection: socket.socket, websocket: WebSocket, address: Address, interrupts: Interrupts
    ) -> None:
        self.ping_after = PING_AFTER
        self.lost_after = LOST_AFTER
        self.timeout: float | None = None
        self._socket = connection
        self._websocket = websocket
        self._address = address
        self._interrupts = interrupts
        self._waiter = Waiter(connection.fileno(), to_read=True)
        self._unsent = memoryview(b"")
        self._control = bytearray()
        self._texts: list[bytes] = []
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
        connection = dial(address, timeout, interrupts)
        transport = cls(connection, WebSocket(address, namespace), address, interrupts)
        transport.timeout = timeout
        try:
            transport._handshake(Limits.within(timeout, interrupts))
        except BaseException:
            connection.close()
            raise
        return transport

    @property
    def is_open(self) -> bool:
        """Whether texts can still be sent."""
        return self._websocket.is_open

    def poll(self) -> None:
        """Receive what has arrived, such as a close frame between two reads; does not wait."""
        if self.is_open:
            self._read()

    @property
    def is_interrupted(self) -> bool:
        """Whether an interrupt is ready, as far as is known without waiting."""
        interrupts = self._interrupts()
        return wait(self._socket.fileno(), to_read=False, interrupts=interrupts, timeout=0) is Woken.INTERRUPTED

    def post(self, *texts: Text) -> None:
        """Send what the server accepts of some texts now; the rest goes out before whatever is sent or awaited next.

        Raises:
            ConnectionLost: the server has disconnected.
        """
        if not self.is_open:
            raise self._loss()
        for text in texts:
            self._websocket.send_text(text)
        self._push()

    def send(self, *texts: Text, within: float | None = None) -> None:
        """Send texts, all of them; after an interrupt the rest goes out before whatever is sent or awaited next.

        What arrives meanwhile is received: a server that blocks on sending accepts no data.

        Args:
            texts: what to send.
            within: seconds that the server may accept nothing of it; None stands for the transport's own limit.

        Raises:
            ConnectionLost: the server has disconnected or accepts no data.
            TimedOut: the server accepted nothing for as long as the transport's timeout.
        """
        self.post(*texts)
        limit = within or self.timeout or self.ping_after + self.lost_after
        self._accepted_at = time.monotonic()
        while not self._push():
            left = self._accepted_at + limit - time.monotonic()
            woken = wait(self._socket.fileno(), to_write=True, interrupts=self._interrupts(), timeout=left)
            if woken is Woken.INTERRUPTED:
                return
            if left <= 0:
                self._websocket.lost = "it accepts no data"
            elif woken is Woken.READY:
                self._read()
            if self._websocket.lost is not None:
                raise self._given_up(within) if left <= 0 else self._loss()
        if self._websocket.lost is not None:
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
            if self._websocket.lost is not None:
                raise self._loss()
            is_sent = self._push()
            has_read = self._read()
            if has_read:
                self._silent_since, self._is_pinged = time.monotonic(), False
                if self._texts:
                    return
            next_step = self._silent_since + (self.lost_after if self._is_pinged else self.ping_after)
            until = next_step if deadline is None else min(next_step, deadline)
            left = 0.0 if has_read else until - time.monotonic()
            woken = self._waiter.wait(to_write=not is_sent, interrupts=self._interrupts(), timeout=left)
            now = time.monotonic()
            if woken is Woken.INTERRUPTED or (deadline is not None and now >= deadline):
                return
            if woken is Woken.TIMED_OUT and now >= next_step:
                self._ask_for_a_sign_of_life(now)

    def _ask_for_a_sign_of_life(self, now: float) -> None:
        """Ping a silent server, once; one that was silent since a ping is lost."""
        if self._is_pinged:
            self._websocket.lost = "it no longer answers"
        else:
            self._silent_since, self._is_pinged = now, True
            self._websocket.send_ping()

    def close(self) -> None:
        """Send a close frame and close the socket; does not wait for the server."""
        if self.is_open:
            self._websocket.send_close()
            self._push()
        self._websocket.lost = self._websocket.lost or "it was closed"
        self._socket.close()

    def _handshake(self, limits: Limits) -> None:
        try:
            self._await_handshake(limits)
        except TimeoutError as error:
            if self.timeout is not None:
                raise TimedOut(f"no answer to the handshake from {self._address} within {self.timeout:g} s") from error
            raise CannotConnect(f"cannot reach LM Studio at {self._address}: no answer to the handshake") from error
        except InterruptedError as error:
            raise CannotConnect(f"cannot reach LM Studio at {self._address}: interrupted") from error
        if self._websocket.is_accepted:
            return
        if self._websocket.refused_status in (None, _BAD_REQUEST) and not self._address.secure:
            refuse_other_kind(self._address, limits)
        raise self._websocket.refusal or CannotConnect(
            f"cannot reach LM Studio at {self._address}: {self._websocket.lost}"
        )

    def _await_handshake(self, limits: Limits) -> None:
        """Read until the handshake has ended in some way.

        Raises:
            TimeoutError, InterruptedError: see `Limits`.
            CannotConnect: the server does not answer because it expects TLS.
        """
        suspicious_at = None if self._address.secure else time.monotonic() + SUSPICIOUS_SECONDS
        while self._websocket.is_connecting:
            is_sent = self._push()
            if self._read():
                limits.check(self._socket)
                suspicious_at = None
                continue
            try:
                limits.wait(self._socket, to_write=not is_sent, until=suspicious_at)
            except TimeoutError:
                if suspicious_at is None or limits.is_over:
                    raise
                refuse_other_kind(self._address, limits)
                suspicious_at = None

    def _read(self) -> bool:
        """Take what the socket holds; False if it holds nothing yet."""
        try:
            data = self._socket.recv(BURST_BYTES)
        except OSError as error:
            if _would_block(error):
                return False
            self._websocket.lost = describe(error)
            return True
        self._texts += self._websocket.receive(data)
        if self._websocket.has_data_to_send:  # a pong, or the answer to a close frame
            self._push()
        return True

    def _push(self) -> bool:
        """Write what the socket accepts now; whether that was all. Who reads next sees a loss."""
        if not (self._unsent or self._websocket.has_data_to_send):
            return True
        self._control += self._websocket.data_to_send()
        while self._websocket.lost is None and (self._unsent or self._take_next()):
            try:
                accepted = self._socket.send(self._unsent)
            except OSError as error:
                if _would_block(error) and len(self._control) <= UNREAD_BYTES:
                    return False
                self._websocket.lost = "it accepts no data" if _would_block(error) else describe(error)
                break
            self._accepted_at = time.monotonic()
            self._unsent = self._unsent[accepted:]
        return True

    def _take_next(self) -> bool:
        """Take what is to be sent next, control frames before those of texts; False if that was all."""
        self._unsent = memoryview(bytes(self._control) or self._websocket.frames_to_send())
        self._control.clear()
        return bool(self._unsent)

    def _given_up(self, within: float | None) -> LmError:
        if self.timeout is None or within is not None:
            return self._loss()
        return TimedOut(f"the server accepted no data for {self.timeout:g} s")

    def _loss(self) -> ConnectionLost:
        return ConnectionLost(f"the connection to {self._address} was lost: {self._websocket.lost}")


def _would_block(error: OSError) -> bool:
    # An SSL socket reports that it would block with classes of its own, whose module is loaded only where TLS is used.
    return isinstance(error, BlockingIOError) or type(error).__name__ in {"SSLWantReadError", "SSLWantWriteError"}
