"""The lifecycle of a prediction or a load, written once: for a single answer, a conversation, a measurement, a load.

Start (model, uploads, request), feed (values to sinks), finish (check, output, records).
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Generic, TypeVar

from lmcli.cli.delivery import until_closed
from lmcli.cli.output.results import TextCollector
from lmcli.cli.output.sinks import Outcome, Sink
from lmcli.cli.resolve import Request
from lmcli.cli.runner import Runner
from lmcli.client.catalog import list_downloaded
from lmcli.client.session import Session
from lmcli.errors import (
    ContextFull,
    Incomplete,
    LmError,
    ModelNotFound,
    ModelUnloaded,
    PredictionFailed,
    Unusable,
    shortened,
)
from lmcli.values import (
    AmbiguousModel,
    Fragment,
    LoadNote,
    ModelInstance,
    PredictionEnd,
    ToolCallFailure,
    ToolCallRequest,
    Value,
)
from lmcli.wire.channels import Channel, Loading, Prediction
from lmcli.wire.prediction_config import OPTIONS, PredictionConfig
from lmcli.wire.requests import ChannelRequest

AnyChannel = TypeVar("AnyChannel", bound=Channel)


class _Lifecycle(Generic[AnyChannel]):
    """A channel and the sinks that receive its values.

    Args:
        runner: delivers the values.
        sinks: in the order in which they are fed. Those that collect come before those that write, because writing may
            be interrupted.

    Attributes:
        channel: the channel, after the start.
        error: the reason why the result is not complete, if it is not.
    """

    channel: AnyChannel

    def __init__(self, runner: Runner, sinks: Sequence[Sink]) -> None:
        self.error: LmError | None = None
        self._runner = runner
        self._sinks = sinks

    def feed(self, values: list[Value]) -> None:
        """Pass the values that arrived together to the sinks."""
        for sink in self._sinks:
            sink.burst(values)

    def fail(self, error: LmError) -> None:
        """Keep the error that ended the channel."""
        self.error = error

    @property
    def outcome(self) -> Outcome:
        """The outcome so far."""
        return Outcome(error=self._runner.error or self.error, signum=self._runner.signum)

    def finish(self) -> None:
        """Let every sink complete its output, with the outcome at that time; then write what a signal held back."""
        for sink in self._sinks:
            self._runner.attempt(sink.finish, self.outcome)
        self._runner.attempt(self._runner.output.write, b"")

    def _deliver(self, session: Session) -> None:
        ticks = [tick for sink in self._sinks if (tick := getattr(sink, "tick", None)) is not None]
        self._runner.deliver(session, until_closed(self), tick=min(ticks, default=None))
        if self.error is not None:
            raise self.error


class LoadLifecycle(_Lifecycle[Loading]):
    """The load of a model; Ctrl-C cancels it on the server."""

    def feed(self, values: list[Value]) -> None:
        """Pass the progress to the sinks; write what else the server reports as notes."""
        for note in (value for value in values if isinstance(value, LoadNote)):
            for sink in self._sinks:
                getattr(sink, "erase", lambda: None)()
            self._runner.messages.note(_note_text(note))
        super().feed(values)

    def load(self, request: ChannelRequest) -> ModelInstance:
        """Load a model.

        Raises:
            LmError: it could not be loaded.
        """
        session = self._runner.session
        self.channel = session.load(request)
        try:
            self._deliver(session)
        except ModelNotFound as error:
            name = request.parameter.get("identifier") or request.parameter.get("modelKey", "")
            raise ModelNotFound(error.message, *self._suggestions(name), *error.hints) from error
        return self.channel.loaded()

    def _suggestions(self, name: str) -> list[str]:
        from lmcli.cli.suggestions import nearest_keys  # noqa: PLC0415  only for an unknown model

        with suppress(LmError):
            downloaded = list_downloaded(self._runner.connection.session("system"))
            if keys := nearest_keys(name, [model.model_key for model in downloaded if model.type == "llm"]):
                return [f"did you mean {' or '.join(keys)}?"]
        return []


def _note_text(note: LoadNote) -> str:
    if isinstance(note, AmbiguousModel):
        return f"several models match ({shortened(', '.join(note.candidates))}), using {note.model_key}"
    return f"the server unloads {note.identifier} first, which was loaded on request, too"


class PredictionLifecycle(_Lifecycle[Prediction]):
    """A prediction, from its request to its outcome.

    Args:
        request: the request.
        runner: see `_Lifecycle`.
        sinks: see `_Lifecycle`.
        may_be_empty: whether an answer without text and tool calls is valid.
        must_fit: whether a prompt that is longer than the context is refused before it is sent, where the server is not
            to shorten it.
    """

    empty_hint: ClassVar[str] = "-o json shows the reasoning and why it stopped"

    def __init__(
        self, request: Request, runner: Runner, sinks: Sequence[Sink], *, may_be_empty: bool, must_fit: bool = True
    ) -> None:
        self._request = request
        self._must_fit = must_fit and request.must_fit
        self._may_be_empty = may_be_empty or request.schema is not None
        self._has_answer = False
        self._text = TextCollector() if request.schema is not None else None
        self._end: PredictionEnd | None = None
        self._recovered: str | None = None
        self._tool_calls: Sequence[ToolCallRequest] = ()
        self._tool_call_failures: Sequence[ToolCallFailure] = ()
        super().__init__(runner, [*([self._text] if self._text else []), *sinks])

    def feed(self, values: list[Value]) -> None:
        """Pass the values that arrived together to the sinks."""
        self._has_answer = self._has_answer or any(map(_is_answer, values))
        super().feed(values)

    @property
    def outcome(self) -> Outcome:
        """The outcome so far."""
        error, signum = self._runner.error or self.error, self._runner.signum
        return Outcome(self._end, error, signum, self._recovered, self._tool_calls, self._tool_call_failures)

    def predict(self, model: ModelInstance) -> None:
        """Start, and feed the sinks until the end; sets `error` if the answer is not complete.

        Args:
            model: a loaded model.

        Raises:
            Interrupted, ReaderLeft: it was ended early.
            LmError: it failed.
        """
        session = self._runner.session
        self.begin(session, model)
        try:
            self._deliver(session)
        finally:
            self._end = self.channel.end
        self.judge()

    def begin(self, session: Session, model: ModelInstance) -> None:
        """Send the request, and nothing more.

        Raises:
            LmError: it could not be sent, or is too long.
        """
        request = self._request.channel_request(model.identifier, self._runner.uploads.resolve)
        if self._must_fit:
            self._runner.length_check.check(session, request, model)
        self.channel = session.predict(request, self._request.fallback(model.identifier))
        self.channel.is_text_only = True
        self._tool_calls, self._tool_call_failures = self.channel.tool_calls, self.channel.tool_call_failures

    def judge(self) -> None:
        """Set `error` if the prediction has ended and the answer is not complete."""
        self._end = self.channel.end
        if self._end is not None:
            self._runner.cache_model_key(self._end.model_info.model_key)
            self.error = self.error or self._check(self._end)

    def finish(self) -> None:
        """See `_Lifecycle.finish`; then report how much of the prompt was cached, if the server said so."""
        super().finish()
        if self._end is not None and (cached := self._end.stats.cached_prompt_tokens_count) is not None:
            self._runner.messages.detail(f"cached prompt tokens: {cached}")

    def _check(self, end: PredictionEnd) -> LmError | None:
        """Why the answer is not complete or does not meet the schema; None if it is and does."""
        error = _check_stop_reason(end, self._request.config)
        if error is not None:
            return error
        is_only_called = bool(self._tool_calls) and not self._has_answer
        if not (self._may_be_empty or self._has_answer or is_only_called):
            return Unusable("the answer is empty", self.empty_hint)
        if self._request.schema is None or self._text is None or is_only_called:
            return None
        if not self._has_answer:
            self._recovered = self._request.schema.recovered(str(self._text.reasoning))
        if self._recovered is None:
            return self._request.schema.violation(str(self._text.answer))
        self._runner.messages.warning("the answer was inside the reasoning of the model")
        return None


def _is_answer(value: Value) -> bool:
    """Whether a value is text of the answer other than white space."""
    return isinstance(value, Fragment) and value.reasoning_type == "none" and bool(value.content.strip())


def _check_stop_reason(end: PredictionEnd, config: PredictionConfig) -> LmError | None:
    """Why an answer that the server reports as finished is not complete; None if it is.

    A limit set by the user counts as complete, and so do unknown stop reasons.
    Source of the reasons: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionStats.ts
    """
    stats, model = end.stats, end.model_info
    match stats.stop_reason:
        case "contextLengthReached":
            return ContextFull(
                f"the answer is cut: the context of {model.identifier} is full ({model.context_length} tokens)",
                "--overflow rolling goes on, -m KEY --context-length N loads the model with more",
            )
        case "modelUnloaded":
            return ModelUnloaded(f"the answer is cut: the model {model.identifier} was unloaded")
        case "failed":
            return PredictionFailed("the prediction failed; the server gave no reason")
        case "userStopped":
            return Incomplete("the answer is cut: the prediction was stopped on the server")
        case "maxPredictedTokensReached" if not _has_limit(config):
            limit = stats.predicted_tokens_count
            return Incomplete(f"the answer is cut at the server's limit of {limit} tokens", "-l N sets another limit")
    return None


def _has_limit(config: PredictionConfig) -> bool:
    return bool(config.max_tokens) or OPTIONS["max_tokens"].key in config.raw
