"""Exchanges: open channels, read in bursts of values.

They know packets and their meaning; what carries them is a `Line`, which a session is.
"""

from collections.abc import Iterator
from contextlib import suppress
from time import monotonic
from typing import Any, ClassVar, Final, Protocol

from lmcli.client.waiting import Interrupt
from lmcli.errors import Incomplete, LmError, LoadFailed, PredictionFailed, RemoteProtocolError, quoted
from lmcli.values import Fragment, LoadProgress, ModelInstance, PredictionEnd, PromptProgress, Value
from lmcli.wire import payloads
from lmcli.wire.protocol import ChannelClosed, ChannelFailed, Rejection
from lmcli.wire.requests import Opening
from lmcli.wire.surrogates import Halves

_DRAIN_SECONDS: Final = 5.0


class Line(Protocol):
    """What exchanges run on.

    Attributes:
        knows_raw_completion: False once the server has shown that it has no `completeRawText`.
        interrupts: what ends a wait, see `waiting`.
    """

    knows_raw_completion: bool

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What ends a wait."""

    @interrupts.setter
    def interrupts(self, interrupts: tuple[Interrupt, ...]) -> None: ...

    def start(self, exchange: "Exchange", opening: Opening) -> int:
        """Open a channel for an exchange; gives its number."""

    def cancel(self, channel_id: int, *, within: float | None = None) -> None:
        """Ask the server to end a channel soon, if it takes that within so many seconds."""

    def pump(self, *, within: float | None = None) -> bool:
        """Wait for what the server sends next, and hand it to the exchanges that it is for."""


class Exchange:
    """An open channel, read in bursts of values.

    Attributes:
        packets: what has arrived and is not read yet.
        is_over: nothing more will come, and what came was read.
    """

    failure_kind: ClassVar[type[LmError]] = PredictionFailed

    def __init__(self, line: Line, opening: Opening) -> None:
        self.packets: list[Any] = []
        self.is_over = False
        self._is_cancelled = False
        self._line = line
        self._end: ChannelClosed | ChannelFailed | None = None
        self._number = line.start(self, opening)

    @property
    def interrupts(self) -> tuple[Interrupt, ...]:
        """What ends a wait of the session, see `waiting`."""
        return self._line.interrupts

    @interrupts.setter
    def interrupts(self, interrupts: tuple[Interrupt, ...]) -> None:
        self._line.interrupts = interrupts

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
            self._line.pump(within=within)
        if self.packets:
            packets, self.packets = self.packets, []
            return self._values(packets)
        if self._end is not None:
            return self._finish(self._end)
        return []

    def cancel(self, *, within: float | None = None) -> None:
        """Ask the server to stop, if it takes that within so many seconds; read on for what it still says."""
        self._is_cancelled = True
        self._line.cancel(self._number, within=within)

    def abandon(self, *, within: float = _DRAIN_SECONDS) -> None:
        """Stop, and wait a little for the server to say so; what it still sends is dropped."""
        deadline = monotonic() + within
        try:
            self.cancel(within=within)
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
            raise as_error(end.error, self.failure_kind)
        if not self._is_complete:
            raise Incomplete("the server ended the exchange without a result")
        return []

    @property
    def _is_complete(self) -> bool:
        raise NotImplementedError


class Prediction(Exchange):
    """A run of the model: progress, then fragments; afterwards `end` holds the figures."""

    def __init__(self, line: Line, opening: Opening, fallback: Opening | None = None) -> None:
        self.end: PredictionEnd | None = None
        self._fallback = fallback
        self._halves = Halves()
        super().__init__(line, opening)

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
                raise as_error(error, self.failure_kind)
            case {"type": str()}:
                return None
        raise RemoteProtocolError(f"the server sent a packet without a type: {quoted(packet, limit=60)}")

    def _finish(self, end: ChannelClosed | ChannelFailed) -> list[Value]:
        error = end.error if isinstance(end, ChannelFailed) else None
        if (
            self._fallback is not None
            and not self._is_cancelled
            and isinstance(error, Rejection)
            and error.is_unknown_endpoint
        ):
            self._line.knows_raw_completion = False
            opening, self._fallback, self._end = self._fallback, None, None
            self._number = self._line.start(self, opening)
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

    def __init__(self, line: Line, opening: Opening) -> None:
        self.instance: ModelInstance | None = None
        self.is_new = True
        self._told = -1.0
        super().__init__(line, opening)

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


def as_error(error: Any, kind: type[LmError]) -> LmError:
    """What ended a channel or a call as an error: the server's error object read, our own as it is."""
    if isinstance(error, LmError):
        return error
    from lmcli.wire.server_errors import failure  # noqa: PLC0415  its sentences are loaded when one is needed

    return failure(error, kind)
