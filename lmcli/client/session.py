"""One authenticated socket to a namespace, used by one thread: calls that return, channels that stream.

Any number of channels and calls run on it at once; the multiplexer dispatches what arrives. Waiting for one of them
receives for all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final, TypeVar

from lmcli.client.address import Address
from lmcli.client.dialing import CONNECT_SECONDS
from lmcli.client.transport import Transport
from lmcli.client.waiting import Interrupts, no_interrupts
from lmcli.errors import CannotConnect, ConnectionLost, LmError, RemoteProtocolError, RequestRejected, TimedOut
from lmcli.values import Value
from lmcli.wire.channels import Channel, Loading, Pending, Prediction
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.multiplexer import Multiplexer
from lmcli.wire.pieces import Text
from lmcli.wire.protocol import Credentials
from lmcli.wire.queries import Answer, Query
from lmcli.wire.requests import ChannelRequest

Trace = Callable[[str], None]
AnyPending = TypeVar("AnyPending", bound=Pending)

MUTE_SECONDS: Final = 10.0
"""How long a request waits for the first packet of a server that no longer warns about what it does not understand."""
UNANSWERED: Final = "the server has used up its warnings, and no longer reports what it does not understand"
DRAIN_SECONDS: Final = 5.0
_TRACED_BYTES: Final = 2000


class Session:
    """An authenticated socket to one namespace. A wait ends early, without an error, when an interrupt is ready."""

    def __init__(self, transport: Transport, *, timeout: float | None, trace: Trace | None) -> None:
        self._transport = transport
        self._multiplexer = Multiplexer()
        self._timeout = timeout
        self._trace = trace
        self._silent_since = monotonic()
        self._mute_since: float | None = None
        self._holds_requests = False
        self._closes_when_idle = False

    @classmethod
    def open(
        cls,
        address: Address,
        namespace: str,
        credentials: Credentials,
        *,
        timeout: float | None = None,
        trace: Trace | None = None,
        interrupts: Interrupts = no_interrupts,
    ) -> "Session":
        """Connect and authenticate.

        Args:
            address: the server.
            namespace: `llm`, `system` or `files`.
            credentials: one pair for all sessions of a client.
            timeout: the longest silence of the server, in seconds, from now on.
            trace: called with a line for each text that is sent and for the connection; never with the credentials.
            interrupts: what ends a wait, see `waiting`.

        Raises:
            CannotConnect: there is no answer, or it is not that of LM Studio.
            NotAllowed: the server refused the credentials.
            TimedOut: `timeout` passed in silence.
        """
        began = monotonic()
        transport = Transport.open(address, namespace, timeout=timeout, interrupts=interrupts)
        session = cls(transport, timeout=timeout, trace=trace)
        try:
            session._authenticate(credentials)
        except (ConnectionLost, RemoteProtocolError) as error:
            session.close()
            raise CannotConnect(f"what answers at {address} is not LM Studio: {error.message}") from error
        except LmError:
            session.close()
            raise
        if trace is not None:
            trace(f"connected to {address.websocket_url(namespace)} in {(monotonic() - began) * 1000:.0f} ms")
        return session

    @property
    def is_open(self) -> bool:
        """Whether the connection stands, as far as is known without waiting."""
        self._transport.poll()
        return self._transport.is_open

    @property
    def takes_requests(self) -> bool:
        """Whether a new request is certain to get an answer or a warning."""
        return self.is_open and not self._multiplexer.is_mute

    def call(self, endpoint: str, parameter: Any = ABSENT) -> Any:
        """Make one call and wait for its result; None where the answer has none.

        Raises:
            LmError: the server reported a failure.
            ConnectionLost, TimedOut, RemoteProtocolError: no answer came, or an interrupt came first.
        """
        self._refuse_if_mute(endpoint)
        call = self._multiplexer.call(endpoint, parameter)
        self._send(is_awaited=True)
        if not self.ready([call]):
            raise ConnectionLost(f"the wait for an answer to {endpoint} was interrupted")
        return call.result()

    def ask(self, query: Query[Answer]) -> Answer:
        """Make one call and read its result; raises as `call` does."""
        return query.read(self.call(query.endpoint, query.parameter))

    def load(self, request: ChannelRequest) -> Loading:
        """Have a model loaded, see `requests.get_or_load`."""
        self._refuse_if_mute(request.endpoint)
        loading = self._multiplexer.load(request)
        self._send()
        return loading

    def predict(self, request: ChannelRequest, fallback: ChannelRequest | None = None) -> Prediction:
        """Begin a prediction, see `requests.respond` and `requests.complete`.

        Args:
            request: the request.
            fallback: the same for a server without the endpoint.
        """
        self._refuse_if_mute(request.endpoint)
        prediction = self._multiplexer.predict(request, fallback)
        self._send()
        return prediction

    @contextmanager
    def together(self) -> Iterator[None]:
        """Send the requests of a block in one piece at its end: a server that is woken by each slows this process."""
        self._holds_requests = True
        try:
            yield
        finally:
            self._holds_requests = False
        self._send()

    def ready(self, pending: Sequence[AnyPending], *, within: float | None = None) -> list[AnyPending]:
        """Those of some channels and calls that can be read; waits for the first.

        Empty: an interrupt came, or the time was over.

        Args:
            pending: what is waited for.
            within: seconds to wait at most; None waits as long as it takes.

        Raises:
            ConnectionLost, TimedOut, RemoteProtocolError: nothing more will come, and what came was read.
        """
        deadline = None if within is None else monotonic() + within
        has_received = False
        while not (found := [one for one in pending if one.is_ready]):
            if self._multiplexer.error is not None:
                raise self._multiplexer.error
            mute_until = self._mute_until(pending) if self._multiplexer.is_mute else None
            until = _earliest(deadline, mute_until)
            has_received = not (has_received and self._must_leave(until)) and self._receive(until=until)
            if has_received:
                continue
            if mute_until is None or monotonic() < mute_until:
                return []
            for one in pending:
                if not one.is_answered:
                    self._multiplexer.give_up(one, RequestRejected(UNANSWERED))
        return found

    def read(self, channel: Channel, *, within: float | None = None) -> list[Value]:
        """What has arrived on a channel; waits for the first value or the end.

        Empty: this is the end, an interrupt came, or the time was over.

        Raises:
            LmError: the server reported a failure; raised once, after all that arrived before it has been read.
        """
        self.ready([channel], within=within)
        return channel.read()

    def bursts(self, channel: Channel) -> Iterator[list[Value]]:
        """What arrives on a channel until its end; an empty list where a wait was interrupted."""
        while not channel.is_over:
            yield self.read(channel)

    def cancel(self, channel: Channel, *, within: float | None = None) -> None:
        """Ask the server to end a channel soon; read on for what it still sends. `within`: see `Transport.send`."""
        self._multiplexer.cancel(channel)
        self._send(within=within)

    def abandon(self, channel: Channel) -> None:
        """Cancel without waiting, not even for a server that accepts no data; what it still sends is not read."""
        channel.is_over = True
        self._multiplexer.cancel(channel)
        with suppress(LmError):
            for text in self._traced_texts():
                self._transport.post(text)
        if self._closes_when_idle:
            self._close_if_idle()

    def drain(self, channel: Channel, *, within: float = DRAIN_SECONDS) -> None:
        """Wait a little for the end of a channel that was abandoned; what it still sends is dropped."""
        deadline = monotonic() + within
        with suppress(LmError):
            while not channel.has_ended and self.ready([channel], within=deadline - monotonic()):
                channel.read()

    def close_when_idle(self) -> None:
        """Close the socket as soon as nothing runs on it but what was abandoned."""
        self._closes_when_idle = True
        self._close_if_idle()

    def close(self) -> None:
        """Close the socket; running channels are over."""
        self._transport.close()

    def _mute_until(self, pending: Sequence[Pending]) -> float | None:
        """How long a server that no longer warns is waited for; None if it has answered all that is waited for."""
        if self._mute_since is None:
            self._mute_since = monotonic()
        return None if all(one.is_answered for one in pending) else self._mute_since + MUTE_SECONDS

    def _must_leave(self, until: float | None) -> bool:
        """Whether a wait is over although something arrives all the time."""
        return self._transport.is_interrupted or (until is not None and monotonic() >= until)

    def _receive(self, *, until: float | None) -> bool:
        """Take in what the server sends next; False if an interrupt or that moment came first."""
        silent_at = None if self._timeout is None else self._silent_since + self._timeout
        until = _earliest(until, silent_at)
        texts = self._transport.receive(within=None if until is None else until - monotonic())
        if texts:
            self._take(texts)
        if self._timeout is not None and monotonic() >= self._silent_since + self._timeout:
            raise TimedOut(f"the server was silent for {self._timeout:g} s")
        return bool(texts)

    def _take(self, texts: list[bytes]) -> None:
        """Take in what has arrived; only what brings a channel or a call on ends the silence of the server."""
        self._multiplexer.receive(texts)
        if not self._multiplexer.ignored_count:
            self._silent_since = monotonic()
        if self._multiplexer.error is not None:
            self._transport.close()
            return
        self._send()
        if self._closes_when_idle:
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if all(channel.is_over for channel in self._multiplexer.running):
            self._transport.close()

    def _authenticate(self, credentials: Credentials) -> None:
        self._multiplexer.authenticate(credentials)
        self._send(traced=False)
        limit = CONNECT_SECONDS if self._timeout is None else self._timeout
        texts = self._transport.receive(within=limit)
        if not texts and self._transport.is_interrupted:
            raise ConnectionLost("the wait for an answer to the authentication was interrupted")
        if not texts and self._timeout is not None:
            raise TimedOut(f"no answer to the authentication within {limit:g} s")
        self._take(texts)
        if self._multiplexer.error is not None:
            raise self._multiplexer.error
        if not self._multiplexer.is_authenticated:
            raise RemoteProtocolError("the server did not answer the authentication")

    def _refuse_if_mute(self, endpoint: str) -> None:
        """A request that a server may ignore without a warning is not sent. `Connection.session` opens a new socket."""
        if self._multiplexer.is_mute:
            raise RequestRejected(f"{endpoint} was not sent: {UNANSWERED}")

    def _send(self, *, within: float | None = None, traced: bool = True, is_awaited: bool = False) -> None:
        if not self._multiplexer.has_texts_to_send or (self._holds_requests and not is_awaited):
            return
        texts = self._traced_texts() if traced else self._multiplexer.texts_to_send()
        self._transport.send(*texts, within=within)
        self._silent_since = monotonic()

    def _traced_texts(self) -> Iterator[Text]:
        """What is to be sent now; each text is traced when its turn comes."""
        for text in self._multiplexer.texts_to_send():
            if self._trace is not None:
                self._trace(f"sends {_shown(text)}")
            yield text


def _shown(text: Text) -> str:
    """The beginning of a text, for a trace."""
    pieces = (text,) if isinstance(text, bytes) else text
    head, length = b"", 0
    for piece in pieces:
        head += piece[: max(0, _TRACED_BYTES - length)]
        length += len(piece)
    return head.decode(errors="ignore") + (f"… ({length} bytes)" if length > _TRACED_BYTES else "")


def _earliest(one: float | None, other: float | None) -> float | None:
    """The earlier of two moments; None stands for never."""
    return min((moment for moment in (one, other) if moment is not None), default=None)
