"""Connecting a socket: the name, then TCP, then TLS. Every wait has a deadline, and an interrupt ends it."""

import errno
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lmcli.client.address import Address, host_bytes
from lmcli.client.waiting import Interrupts, Woken, wait
from lmcli.errors import CannotConnect, LmError, TimedOut, quoted, reason
from lmcli.record import distinct

if TYPE_CHECKING:
    import ssl

CONNECT_SECONDS: Final = 10.0
SUSPICIOUS_SECONDS: Final = 1.0
"""After so much silence in a handshake, the server is checked for one that does not use TLS, or expects it."""

_REQUEST: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_HTTP: Final = b"HTTP/"
_TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
"""How the answer of a TLS server begins: an alert, or its part of the handshake. Source: RFC 8446, 5.1"""

_Target = tuple[Any, ...]


@distinct
class Limits(NamedTuple):
    """What ends the waits of one attempt: a moment, and interrupts."""

    until: float
    interrupts: Interrupts

    @classmethod
    def within(cls, timeout: float | None, interrupts: Interrupts) -> "Limits":
        """So many seconds from now; None stands for ten."""
        return cls(time.monotonic() + (CONNECT_SECONDS if timeout is None else timeout), interrupts)

    def wait(
        self, connection: socket.socket, *, to_read: bool = True, to_write: bool = False, until: float | None = None
    ) -> None:
        """Wait until a socket is ready, or some earlier moment.

        Raises:
            TimeoutError: it is too late, whether or not the socket is ready.
            InterruptedError: an interrupt came.
        """
        left = (self.until if until is None else min(until, self.until)) - time.monotonic()
        woken = wait(
            connection.fileno(), to_read=to_read, to_write=to_write, interrupts=self.interrupts(), timeout=left
        )
        if woken is Woken.INTERRUPTED:
            raise InterruptedError(errno.EINTR, "interrupted")
        if woken is Woken.TIMED_OUT or left <= 0:
            raise TimeoutError

    def check(self, connection: socket.socket) -> None:
        """Look at both without waiting; raises as `wait` does."""
        with suppress(TimeoutError):
            self.wait(connection, to_read=False, until=0)
        if self.is_over:
            raise TimeoutError

    @property
    def is_over(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self.until

    def shortened(self, seconds: float) -> "Limits":
        """The same with at most so many seconds left."""
        return self._replace(until=min(self.until, time.monotonic() + seconds))

    def shared_by(self, count: int) -> "Limits":
        """Those of the next of so many attempts, which share the time."""
        return self.shortened((self.until - time.monotonic()) / count)


def dial(address: Address, timeout: float | None, interrupts: Interrupts) -> socket.socket:
    """A connected socket that does not block.

    Args:
        address: where.
        timeout: seconds for all of it; None stands for ten.
        interrupts: what ends a wait early, see `waiting`.

    Raises:
        CannotConnect: there is no answer, or an interrupt came.
        TimedOut: the given timeout passed.
    """
    limits = Limits.within(timeout, interrupts)
    try:
        connection = connected(address, limits)
        return _secured(connection, address, limits) if address.secure else connection
    except OSError as error:
        raise failure(address, error, timeout) from error


def failure(address: Address, error: OSError, timeout: float | None) -> LmError:
    """What to report for an error of the system while connecting."""
    if isinstance(error, TimeoutError) and timeout is not None:
        return TimedOut(f"no connection to {address} within {timeout:g} s")
    why = "no answer" if isinstance(error, TimeoutError) else describe(error)
    return CannotConnect(f"cannot reach LM Studio at {address}: {why}", *_hints(address, error))


def describe(error: OSError) -> str:
    """Why a connection failed, in the middle of a sentence."""
    verification = getattr(error, "verify_message", None)
    return f"its certificate is not trusted, {verification.rstrip('.')}" if verification else reason(error)


def connected(address: Address, limits: Limits) -> socket.socket:
    """A TCP connection to the first address of the host that accepts one."""
    targets = _resolve(address.host, address.port, limits)
    first: OSError | None = None
    for index, target in enumerate(targets):
        try:
            return _connect(target, limits.shared_by(len(targets) - index))
        except InterruptedError:
            raise
        except OSError as error:
            first = first or error
    raise first or OSError("the host has no address")


def _connect(target: _Target, limits: Limits) -> socket.socket:
    family, kind, protocol, _, where = target
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        try:
            connection.connect(where)
        except BlockingIOError:
            limits.wait(connection, to_read=False, to_write=True)
            _raise_failure(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connection.close()
        raise
    return connection


def _raise_failure(connection: socket.socket) -> None:
    """Raise what ended the attempt to connect, if it failed."""
    number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))


def _resolve(host: str, port: int, limits: Limits) -> Sequence[_Target]:
    """The addresses of a host. The system's resolver may hang and cannot be interrupted, so it has its own thread."""
    name = host_bytes(host)
    try:
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    import threading  # noqa: PLC0415  an address needs no thread

    answers: list[Sequence[_Target] | OSError] = []
    near, far = socket.socketpair()

    def ask() -> None:
        with far:  # its end wakes who waits
            try:
                answers.append(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
            except OSError as error:
                answers.append(error)

    threading.Thread(target=ask, daemon=True).start()
    with near:
        limits.wait(near)
    if isinstance(answers[0], OSError):
        raise answers[0]
    return answers[0]


def _secured(connection: socket.socket, address: Address, limits: Limits) -> socket.socket:
    """The same connection under TLS."""
    import ssl  # noqa: PLC0415  10 ms that only wss and https pay

    try:
        encrypted = ssl.create_default_context().wrap_socket(
            connection, server_hostname=address.host, do_handshake_on_connect=False
        )
    except BaseException:
        connection.close()
        raise
    try:
        _shake_hands(encrypted, address, limits)
    except BaseException:
        encrypted.close()
        raise
    return encrypted


def _shake_hands(encrypted: "ssl.SSLSocket", address: Address, limits: Limits) -> None:
    from ssl import SSLWantReadError, SSLWantWriteError  # noqa: PLC0415  loaded by now

    suspicious_at: float | None = time.monotonic() + SUSPICIOUS_SECONDS
    while True:
        try:
            encrypted.do_handshake()
        except SSLWantReadError:
            try:
                limits.wait(encrypted, until=suspicious_at)
            except TimeoutError:
                if suspicious_at is None or limits.is_over:
                    raise
                refuse_other_kind(address, limits)
            suspicious_at = None
        except SSLWantWriteError:
            limits.wait(encrypted, to_read=False, to_write=True)
        except OSError as error:
            if not hasattr(error, "verify_message"):
                refuse_other_kind(address, limits)
            raise
        else:
            return


def refuse_other_kind(address: Address, limits: Limits) -> None:
    """Find out whether a server does not use TLS that was to, or uses it unexpectedly; takes a second at most.

    Raises:
        CannotConnect: it answers when it is addressed the other way.
    """
    other = address._replace(secure=not address.secure)
    try:
        is_other_kind = _answers(other, limits.shortened(SUSPICIOUS_SECONDS))
    except OSError:
        return
    if is_other_kind:
        what, how = ("expects TLS", "with") if other.secure else ("does not use TLS", "without")
        raise CannotConnect(
            f"cannot reach LM Studio at {address}: the server {what}", f"{other} is the address {how} TLS"
        )


def _answers(address: Address, limits: Limits) -> bool:
    """Whether a server answers a first message of HTTP, or of TLS, in kind."""
    connection = connected(address, limits)
    with connection:
        connection.send(_hello(address.host) if address.secure else _REQUEST)
        limits.wait(connection)
        return connection.recv(len(_HTTP)).startswith(_TLS_RECORDS if address.secure else _HTTP)


def _hello(host: str) -> bytes:
    """The first message of a TLS client."""
    import ssl  # noqa: PLC0415  after a failure only

    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _hints(address: Address, error: OSError) -> list[str]:
    """What to check: the certificates, the name, or the server, which may be on another machine."""
    host = address.host
    if isinstance(error, InterruptedError):
        return []
    if hasattr(error, "verify_message"):
        return ["SSL_CERT_FILE names a file with the certificate authorities to trust"]
    if isinstance(error, socket.gaierror):
        return [f"check the host name {quoted(host)}"]
    if address.is_loopback:
        return ["lms server start starts the server of LM Studio"]
    return [f"on {host}, start the server of LM Studio and have it serve the local network"]
