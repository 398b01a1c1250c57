"""One greeted namespace: calls that return, and exchanges that stream values.

A session belongs to one thread. Several exchanges may run on it at once: whoever reads takes in what has arrived for
all of them.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar, Final

from lmcli.client import payloads
from lmcli.client.address import Address
from lmcli.client.envelopes import ABSENT
from lmcli.client.protocol import (
    CallFailed,
    CallReturned,
    ChannelClosed,
    ChannelFailed,
    Credentials,
    Greeted,
    Packet,
    Protocol,
    Rejection,
)
from lmcli.client.requests import Opening
from lmcli.client.surrogates import Halves
from lmcli.client.transport import CONNECT_SECONDS, Transport
from lmcli.client.waiting import Interrupt
from lmcli.errors import (
    CannotConnect,
    ConnectionLost,
    Incomplete,
    LmError,
    LoadFailed,
    PredictionFailed,
    RemoteProtocolError,
    TimedOut,
    quoted,
)
from lmcli.values import Fragment, LoadProgress, ModelInstance, PredictionEnd, PromptProgress

Value = Fragment | PromptProgress | LoadProgress
Trace = Callable[[str], None]

_DRAIN_SECONDS: Final = 5.0


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
    ) -> "Session":
        """Connect, authenticate and wait to be let in.

        Args:
            address: where.
            namespace: `llm`, `system` or `files`.
            credentials: one pair for all sessions of a client.
            timeout: the longest silence of the server, in seconds, from now on.
            trace: told in a line each what is sent, where, and how long it took; never the credentials.

        Raises:
            CannotConnect: nobody answers, or not as LM Studio does.
            NotAllowed: the server refused the credentials.
            TimedOut: `timeout` passed in silence.
        """
        began = monotonic()
        session = cls(Transport.open(address, namespace, timeout=timeout), timeout=timeout, trace=trace)
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
            ConnectionLost, TimedOut, RemoteProtocolError: no answer came.
        """
        number, text = self._protocol.call(endpoint, parameter)
        self._send(text)
        while number not in self._answers:
            self.pump()
        answer = self._answers.pop(number)
        if isinstance(answer, CallFailed):
            raise _error(answer.error, PredictionFailed)
        return None if answer.result is ABSENT else answer.result

    def load(self, opening: Opening) -> "Loading":
        """Have a model loaded, see `requests.get_or_load`."""
        return Loading(self, opening)

    def predict(self, opening: Opening, fallback: Opening | None = None) -> "Prediction":
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

    def pump(self, *, within: float | None = None) -> None:
        """Wait for what the server sends next, for at most `within` seconds, and hand it to whom it is for."""
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

    def start(self, exchange: "Exchange", opening: Opening) -> int:
        """Open a channel for an exchange."""
        number, text = self._protocol.open_channel(opening.endpoint, opening.parameter)
        self._exchanges[number] = exchange
        self._send(text)
        return number

    def cancel(self, channel_id: int) -> None:
        """Ask the server to end a channel soon; harmless if it has ended."""
        text = self._protocol.cancel(channel_id)
        if text is not None:
            self._send(text)

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

    def _send(self, text: bytes) -> None:
        if self._trace is not None:
            self._trace(f"sends {text.decode()}")
        self._transport.send(text)
        self._silent_since = monotonic()


class Exchange:
    """An open channel, read in bursts of values.

    Attributes:
        packets: what has arrived and is not read yet.
        is_over: nothing more will come, and what came was read.
    """

    failure_kind: ClassVar[type[LmError]] = PredictionFailed

    def __init__(self, session: Session, opening: Opening) -> None:
        self.packets: list[Any] = []
        self.is_over = False
        self._session = session
        self._end: ChannelClosed | ChannelFailed | None = None
        self._number = session.start(self, opening)

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What ends a wait of the session, see `waiting`."""
        return self._session.interrupts

    @interrupts.setter
    def interrupts(self, interrupts: tuple[Interrupt, ...]) -> None:
        self._session.interrupts = interrupts

    def __iter__(self) -> Iterator[list[Value]]:
        """The bursts until the end; an empty one where a wait was interrupted."""
        while not self.is_over:
            yield self.read()

    def read(self, *, within: float | None = None) -> list[Value]:
        """What has arrived; waits for the first packet. Empty: the wait was interrupted, or this is the end.

        Args:
            within: seconds to wait at most; None waits as long as the session does.

        Raises:
            LmError: what the server says went wrong; once, after all that came before was read.
        """
        if not self.packets and self._end is None:
            self._session.pump(within=within)
        if self.packets:
            packets, self.packets = self.packets, []
            return self._values(packets)
        if self._end is not None:
            return self._finish(self._end)
        return []

    def cancel(self) -> None:
        """Ask the server to stop; read on for what it still says."""
        self._session.cancel(self._number)

    def abandon(self, *, within: float = _DRAIN_SECONDS) -> None:
        """Stop, and wait a little for the server to say so; what it still sends is dropped."""
        deadline = monotonic() + within
        try:
            self.cancel()
            while not self.is_over and (left := deadline - monotonic()) > 0:
                self.read(within=left)
        except LmError:
            self.is_over = True

    def ended(self, event: ChannelClosed | ChannelFailed) -> None:
        """Be told that the channel is closed; what has arrived can still be read."""
        self._end = self._end or event  # a packet that made no sense has ended it before

    def _values(self, packets: list[Any]) -> list[Value]:
        values: list[Value] = []
        try:
            for packet in packets:
                value = self._value(packet)
                if value is not None:
                    values.append(value)
        except LmError as error:  # what came before it is read first
            self._end = ChannelFailed(self._number, error)
            with suppress(LmError):  # the server may be gone, too
                self.cancel()
        return values

    def _value(self, packet: Any) -> Value | None:
        raise NotImplementedError

    def _finish(self, end: ChannelClosed | ChannelFailed) -> list[Value]:
        self.is_over = True
        if isinstance(end, ChannelFailed):
            raise _error(end.error, self.failure_kind)
        if not self._is_complete:
            raise Incomplete("the server ended the exchange without a result")
        return []

    @property
    def _is_complete(self) -> bool:
        raise NotImplementedError


class Prediction(Exchange):
    """A run of the model: progress, then fragments; afterwards `end` holds the figures."""

    def __init__(self, session: Session, opening: Opening, fallback: Opening | None = None) -> None:
        self.end: PredictionEnd | None = None
        self._fallback = fallback
        self._halves = Halves()
        super().__init__(session, opening)

    def _value(self, packet: Any) -> Value | None:
        match packet:
            case {"type": "fragment"}:
                return self._halves.join(payloads.fragment(packet))
            case {"type": "promptProcessingProgress"}:
                return PromptProgress(payloads.progress(packet))
            case {"type": "success"}:
                self.end = payloads.prediction_end(packet)
                rest = self._halves.rest()
                return Fragment(rest, 0) if rest else None
            case {"type": "error", "error": error}:  # from servers of early 2025
                raise _error(error, self.failure_kind)
            case {"type": str()}:
                return None
        raise RemoteProtocolError(f"the server sent a packet without a type: {quoted(packet, limit=60)}")

    def _finish(self, end: ChannelClosed | ChannelFailed) -> list[Value]:
        error = end.error if isinstance(end, ChannelFailed) else None
        if self._fallback is not None and isinstance(error, Rejection) and error.is_unknown_endpoint:
            self._session.knows_raw_completion = False
            opening, self._fallback, self._end = self._fallback, None, None
            self._number = self._session.start(self, opening)
            return []
        return super()._finish(end)

    @property
    def _is_complete(self) -> bool:
        return self.end is not None


class Loading(Exchange):
    """A model on its way into memory; afterwards `instance` holds it.

    Attributes:
        instance: the model, once it is there.
        is_new: whether it was loaded now; False if it was there before.
    """

    failure_kind = LoadFailed

    def __init__(self, session: Session, opening: Opening) -> None:
        self.instance: ModelInstance | None = None
        self.is_new = True
        self._told = -1.0
        super().__init__(session, opening)

    def wait(self) -> ModelInstance:
        """Read to the end.

        Raises:
            LmError: what the server says went wrong.
        """
        for _ in self:
            pass
        if self.instance is None:
            raise Incomplete("the server ended the exchange without a result")
        return self.instance

    def _value(self, packet: Any) -> Value | None:
        match packet:
            case {"type": "alreadyLoaded" | "loadSuccess" | "success", "info": info}:
                self.instance = payloads.read(ModelInstance, info)
                self.is_new = packet["type"] != "alreadyLoaded"
                return None
            case {"type": "startLoading"}:
                return self._rising(0.0)
            case {"type": "loadProgress" | "progress"}:
                return self._rising(payloads.progress(packet))
            case {"type": str()}:
                return None
        raise RemoteProtocolError(f"the server sent a packet without a type: {quoted(packet, limit=60)}")

    def _rising(self, progress: float) -> LoadProgress | None:
        """Progress that has not been told yet; servers begin with 0 twice."""
        if progress <= self._told:
            return None
        self._told = progress
        return LoadProgress(progress)

    @property
    def _is_complete(self) -> bool:
        return self.instance is not None


def _error(error: Any, kind: type[LmError]) -> LmError:
    if isinstance(error, LmError):
        return error
    from lmcli.client.faults import failure  # noqa: PLC0415  its sentences are loaded when one is needed

    return failure(error, kind)
