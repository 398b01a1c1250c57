"""Channels and calls: packets in, values out; no socket, no clock.

A channel is a stream of packets: a prediction, or a load. A call is one request with one result. Both are `Pending`:
a caller can check whether they can be read. The multiplexer feeds them with what arrives. The packet with the result
ends a channel; the `channelClose` that follows adds nothing, so it is not waited for.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lmcli.errors import Incomplete, LmError, LoadFailed, PredictionFailed, RemoteProtocolError, quoted
from lmcli.values import (
    Fragment,
    JsonObject,
    LoadProgress,
    ModelInstance,
    PredictionEnd,
    PromptDetails,
    ToolCallFailure,
    ToolCallRequest,
    ToolCallValue,
    Value,
)
from lmcli.wire import objects, payloads
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.protocol import Rejection
from lmcli.wire.requests import ChannelRequest
from lmcli.wire.surrogates import SurrogateJoiner

if TYPE_CHECKING:
    from lmcli.wire.tool_calls import ToolCallReader


class Pending(Protocol):
    """What a caller waits for.

    Attributes:
        is_ready: reading it now returns something, or ends it.
        is_answered: something has arrived for it, so the server has understood the request.
        on_ready: called when it becomes ready, for who does not ask again and again.
    """

    is_answered: bool
    on_ready: Callable[[], object]

    @property
    def is_ready(self) -> bool:
        """Whether there is something to read."""
        ...

    def fail(self, error: Any) -> None:
        """End it with the server's error object, or with an error of ours."""
        ...


def unheeded() -> None:
    """Nobody waits."""


class Call:
    """One request; its result can be read once it `is_ready`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.on_ready: Callable[[], object] = unheeded
        self.is_ready = False
        self.is_answered = False
        self._has_failed = False
        self._answer: Any = None

    def answer(self, result: Any) -> None:
        """Accept the result; ABSENT for an answer without one."""
        self.is_ready, self.is_answered, self._answer = True, True, result
        self.on_ready()

    def fail(self, error: Any) -> None:
        """Accept an error as the answer."""
        self.is_ready, self._has_failed, self._answer = True, True, error
        self.on_ready()

    def result(self) -> Any:
        """The answer; None for one without a result.

        Raises:
            LmError: the server reported a failure.
        """
        if self._has_failed:
            raise as_error(self._answer, PredictionFailed)
        return None if self._answer is ABSENT else self._answer


class Channel:
    """A stream of packets, read in bursts of values.

    Attributes:
        number: its number on the socket.
        is_ready: values have arrived, or the end.
        is_answered: something has arrived on it.
        has_ended: nothing more is expected, be it a result or a failure.
        is_over: it has ended, and all that arrived has been read.
        is_cancelled: the server was asked to end it.
    """

    failure_kind: ClassVar[type[LmError]] = PredictionFailed

    def __init__(self) -> None:
        self.number = 0
        self.is_ready = False
        self.is_answered = False
        self.has_ended = False
        self.is_over = False
        self.is_cancelled = False
        self.on_ready: Callable[[], object] = unheeded
        self._values: list[Value] = []
        self._has_failed = False
        self._error: Any = None

    @property
    def unread_count(self) -> int:
        """How many values have arrived and were not read."""
        return len(self._values)

    def take(self, packets: Iterable[Any]) -> bool:
        """Read packets, up to the end of the channel; whether they brought a value, or the end.

        Raises:
            LmError: one is not valid, or reports that the channel has failed; values before it can be read.
        """
        self.is_answered = True
        unread = len(self._values)
        for packet in packets:
            if self.has_ended:
                break
            value = self._value(packet)
            if value is not None:
                self._values.append(value)
        if self._values and not unread:
            self.is_ready = True
            self.on_ready()
        return len(self._values) > unread or self.has_ended

    def close(self) -> None:
        """Accept the normal end; a channel that has failed stays failed."""
        self.has_ended = self.is_ready = True
        self.on_ready()

    def fail(self, error: Any) -> None:
        """Accept an error as the end: the server's error object, or ours."""
        if not self.has_ended:
            self.has_ended = self.is_ready = self._has_failed = True
            self._error = error
            self.on_ready()

    def retry(self, error: Any) -> ChannelRequest | None:
        """The request to send in place of one that failed with this error; None where there is none."""

    def on_cancel(self) -> None:
        """React to a cancel that is about to be sent."""

    def read(self) -> list[Value]:
        """What has arrived since the last read; empty where that is nothing.

        Raises:
            LmError: the server reported a failure; raised once all that arrived before it has been read.
        """
        if self._values:
            values, self._values = self._values, []
            self.is_ready = self.has_ended
            return values
        if self.has_ended:
            self.is_over = True
            if self._has_failed:
                raise as_error(self._error, self.failure_kind)
            if not self._is_complete:
                raise Incomplete("the server closed the channel without a result")
        return []

    def _value(self, packet: Any) -> Value | None:
        raise NotImplementedError

    @property
    def _is_complete(self) -> bool:
        raise NotImplementedError


class Prediction(Channel):
    """A run of the model: progress, then fragments and tool calls.

    Args:
        fallback: the same request for a server without the endpoint.

    Attributes:
        end: the stats and what else the server sends last; None until then.
        tool_calls: the tool calls that are complete.
        tool_call_failures: those that are not valid.
        is_text_only: whether structural fragments, which belong to no text, are left out.
    """

    def __init__(self, fallback: ChannelRequest | None = None) -> None:
        super().__init__()
        self.end: PredictionEnd | None = None
        self.tool_calls: list[ToolCallRequest] = []
        self.tool_call_failures: list[ToolCallFailure] = []
        self._tool_call_reader: ToolCallReader | None = None
        self.is_text_only = False
        self._has_structure = False
        self._prompt_details: PromptDetails | None = None
        self._fallback = fallback
        self._joiner = SurrogateJoiner()

    def retry(self, error: Any) -> ChannelRequest | None:
        """The fallback, once, where the server does not have the endpoint."""
        if isinstance(error, Rejection) and error.is_unknown_endpoint:
            fallback, self._fallback = self._fallback, None
            return fallback
        return None

    def on_cancel(self) -> None:
        """Drop the fallback: a cancelled prediction is not requested again."""
        self._fallback = None

    def read(self) -> list[Value]:
        """What has arrived, see `Channel.read`; a burst may be empty without its structural fragments."""
        values = super().read()
        if self._has_structure and self.is_text_only:
            return [value for value in values if not (isinstance(value, Fragment) and value.is_structural)]
        return values

    def _value(self, packet: Any) -> Value | None:
        if type(packet) is dict and packet.get("type") == "fragment":
            fragment = payloads.fragment(packet)
            if fragment.is_structural:
                self._has_structure = True
            return self._joiner.join(fragment)
        match packet:
            case {"type": "promptProcessingProgress"}:
                value = payloads.prompt_progress(packet)
                self._prompt_details = value.details or self._prompt_details
                return value
            case {"type": "success"}:
                self.end = payloads.prediction_end(packet, self._prompt_details)
                if rest := self._joiner.rest():
                    self._values.append(Fragment(rest, 0))
                if self._tool_call_reader is not None and (unfinished := self._tool_call_reader.rest()) is not None:
                    self._values.append(self._kept(unfinished))
                self.close()
                return None
            case {"type": "error", "error": error}:  # from servers of early 2025
                raise as_error(error, self.failure_kind)
            case {"type": str(kind)}:
                return self._tool_call(packet) if kind.startswith("toolCallGeneration") else None
        raise RemoteProtocolError(f"the server sent a packet without a type: {quoted(packet, limit=60)}")

    def _tool_call(self, packet: JsonObject) -> ToolCallValue | None:
        if self._tool_call_reader is None:
            from lmcli.wire.tool_calls import ToolCallReader  # noqa: PLC0415  few predictions have tools

            self._tool_call_reader = ToolCallReader()
        value = self._tool_call_reader.read(packet)
        return None if value is None else self._kept(value)

    def _kept(self, value: ToolCallValue) -> ToolCallValue:
        if isinstance(value, ToolCallRequest):
            self.tool_calls.append(value)
        elif isinstance(value, ToolCallFailure):
            self.tool_call_failures.append(value)
        return value

    @property
    def _is_complete(self) -> bool:
        return self.end is not None


class Loading(Channel):
    """A model that is being loaded.

    Attributes:
        instance: the model, once it is there.
        is_new: whether it was loaded now; False if it had been loaded before.
    """

    failure_kind = LoadFailed

    def __init__(self) -> None:
        super().__init__()
        self.instance: ModelInstance | None = None
        self.is_new = True
        self._reported = -1.0

    def loaded(self) -> ModelInstance:
        """The model, after the end.

        Raises:
            Incomplete: the server did not report which.
        """
        if self.instance is None:
            raise Incomplete("the server closed the channel without a result")
        return self.instance

    def _value(self, packet: Any) -> Value | None:
        match packet:
            case {"type": "alreadyLoaded" | "loadSuccess" | "success", "info": info}:
                self.instance = objects.read(ModelInstance, info)
                self.is_new = packet["type"] != "alreadyLoaded"
                self.close()
                return None
            case {"type": "startLoading"}:
                return self._rising(0.0)
            case {"type": "loadProgress" | "progress"}:
                return self._rising(payloads.progress(packet))
            case {"type": "resolved" | "unloadingOtherJITModel"}:
                return payloads.load_note(packet)
            case {"type": str()}:
                return None
        raise RemoteProtocolError(f"the server sent a packet without a type: {quoted(packet, limit=60)}")

    def _rising(self, progress: float) -> LoadProgress | None:
        """Progress that has not been reported yet; servers begin with 0 twice."""
        if progress <= self._reported:
            return None
        self._reported = progress
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
