"""One greeted namespace: calls that return, and exchanges that stream values.

A session belongs to one thread. Several exchanges may run on it at once: whoever reads takes in what has arrived for
all of them.
"""

from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from lmcli.client.address import Address
from lmcli.client.exchanges import Exchange, Loading, Prediction, as_error
from lmcli.client.transport import CONNECT_SECONDS, Transport
from lmcli.client.waiting import Interrupt
from lmcli.errors import (
    CannotConnect,
    ConnectionLost,
    LmError,
    PredictionFailed,
    RemoteProtocolError,
    TimedOut,
)
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.protocol import (
    CallFailed,
    CallReturned,
    ChannelClosed,
    ChannelFailed,
    Credentials,
    Greeted,
    Packet,
    Protocol,
)
from lmcli.wire.requests import Opening

Trace = Callable[[str], None]

_TRACED_BYTES: Final = 2000


class Session:
    """A socket to one namespace, greeted.

    Attributes:
        interrupts: descriptors that end a wait; an interrupted `Exchange.read` gives an empty list.
        knows_raw_completion: False once the server has shown that it has no `completeRawText`.
    """

    def __init__(self, transport: Transport, *, timeout: float | None, trace: Trace | None) -> None:
        self.knows_raw_completion = True
        self._transport = transport
        self._protocol = Protocol()
        self._timeout = timeout
        self._trace = trace
        self._exchanges: dict[int, Exchange] = {}
        self._answers: dict[int, CallReturned | CallFailed] = {}
        self._broken: RemoteProtocolError | None = None
        self._silent_since = monotonic()

    @classmethod
    def open(
        cls,
        address: Address,
        namespace: str,
        credentials: Credentials,
        *,
        timeout: float | None = None,
        trace: Trace | None = None,
        interrupts: tuple[Interrupt, ...] = (),
    ) -> "Session":
        """Connect, authenticate and wait to be let in.

        Args:
            address: where.
            namespace: `llm`, `system` or `files`.
            credentials: one pair for all sessions of a client.
            timeout: the longest silence of the server, in seconds, from now on.
            trace: told in a line each what is sent, where, and how long it took; never the credentials.
            interrupts: what ends a wait, from the greeting on.

        Raises:
            CannotConnect: nobody answers, or not as LM Studio does.
            NotAllowed: the server refused the credentials.
            TimedOut: `timeout` passed in silence.
        """
        began = monotonic()
        session = cls(Transport.open(address, namespace, timeout=timeout), timeout=timeout, trace=trace)
        session.interrupts = interrupts
        try:
            session._greet(credentials)
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
        """Whether anything can still be asked, as far as is known without waiting."""
        self._transport.look()
        return self._transport.is_open

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What ends a wait, see `waiting`."""
        return tuple(self._transport.interrupts)

    @interrupts.setter
    def interrupts(self, interrupts: tuple[Interrupt, ...]) -> None:
        self._transport.interrupts = interrupts

    def call(self, endpoint: str, parameter: Any = ABSENT) -> Any:
        """Ask one question and wait for the answer; None where the answer has no result.

        Raises:
            LmError: what the server says went wrong.
            ConnectionLost, TimedOut, RemoteProtocolError: no answer came, or an interrupt came first.
        """
        number, text = self._protocol.call(endpoint, parameter)
        self._send(text)
        while number not in self._answers:
            if not self.pump():
                raise ConnectionLost(f"the wait for an answer to {endpoint} was interrupted")
        answer = self._answers.pop(number)
        if isinstance(answer, CallFailed):
            raise as_error(answer.error, PredictionFailed)
        return None if answer.result is ABSENT else answer.result

    def load(self, opening: Opening) -> Loading:
        """Have a model loaded, see `requests.get_or_load`."""
        return Loading(self, opening)

    def predict(self, opening: Opening, fallback: Opening | None = None) -> Prediction:
        """Begin a prediction, see `requests.respond` and `requests.complete`.

        Args:
            opening: what is asked.
            fallback: the same in older words, for a server that does not know the endpoint.
        """
        if fallback is not None and not self.knows_raw_completion:
            return Prediction(self, fallback)
        return Prediction(self, opening, fallback)

    def close(self) -> None:
        """Close the socket; running exchanges are over."""
        self._transport.close()

    def pump(self, *, within: float | None = None) -> bool:
        """Wait for what the server sends next, for at most `within` seconds, and hand it to whom it is for.

        Returns:
            Whether anything came; if not, the time was over or an interrupt came.
        """
        if self._broken is not None:
            raise self._broken
        texts = self._transport.receive(within=self._patience(within))
        if texts:
            self._silent_since = monotonic()
        elif self._timeout is not None and monotonic() >= self._silent_since + self._timeout:
            raise TimedOut(f"the server was silent for {self._timeout:g} s", "a larger --timeout waits longer")
        try:
            self._route(texts)
        except RemoteProtocolError as error:  # what came before it is read first
            self._broken = error
            self._transport.close()
        return bool(texts)

    def _route(self, texts: list[bytes]) -> None:
        receive = self._protocol.receive
        exchanges = self._exchanges
        for text in texts:
            event = receive(text)
            if type(event) is Packet:
                exchanges[event.channel_id].packets.append(event.body)
            elif isinstance(event, ChannelClosed | ChannelFailed):
                exchanges.pop(event.channel_id).ended(event)
            elif isinstance(event, CallReturned | CallFailed):
                self._answers[event.call_id] = event

    def start(self, exchange: Exchange, opening: Opening) -> int:
        """Open a channel for an exchange."""
        number, text = self._protocol.open_channel(opening.endpoint, opening.parameter)
        self._exchanges[number] = exchange
        self._send(text)
        return number

    def cancel(self, channel_id: int, *, within: float | None = None) -> None:
        """Ask the server to end a channel soon; harmless if it has ended. `within`: see `Transport.send`."""
        text = self._protocol.cancel(channel_id)
        if text is not None:
            self._send(text, within=within)

    def _greet(self, credentials: Credentials) -> None:
        self._transport.send(self._protocol.authenticate(credentials))
        patience = CONNECT_SECONDS if self._timeout is None else self._timeout
        texts = self._transport.receive(within=patience)
        if not texts and self._timeout is not None:
            raise TimedOut(f"no answer to the authentication within {patience:g} s")
        if not texts or not isinstance(self._protocol.receive(texts[0]), Greeted):
            raise RemoteProtocolError("the server did not answer the authentication")
        self._route(texts[1:])
        self._silent_since = monotonic()

    def _patience(self, within: float | None) -> float | None:
        if self._timeout is None:
            return within
        left = self._silent_since + self._timeout - monotonic()
        return left if within is None else min(left, within)

    def _send(self, text: bytes, *, within: float | None = None) -> None:
        if self._trace is not None:
            shown = text[:_TRACED_BYTES].decode(errors="ignore")
            self._trace(f"sends {shown}" + (f"… ({len(text)} bytes)" if len(text) > _TRACED_BYTES else ""))
        self._transport.send(text, within=within)
        self._silent_since = monotonic()
