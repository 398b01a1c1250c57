"""The life of a prediction or a load, written once: for a single answer, a conversation, a measurement, a load.

Start (model, uploads, request), feed (values to sinks), finish (verdict, output, records).
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from lmcli.cli.output.results import Presence, Text
from lmcli.cli.output.sinks import Outcome, Sink
from lmcli.cli.resolve import Request
from lmcli.cli.run import Run
from lmcli.client.session import Session
from lmcli.errors import ContextFull, Incomplete, LmError, ModelUnloaded, PredictionFailed, Unusable
from lmcli.values import ModelInstance, PredictionEnd, Value
from lmcli.wire.channels import Channel, Loading, Prediction
from lmcli.wire.config import PREDICTION_PREFIX
from lmcli.wire.prediction_config import OPTIONS, PredictionConfig
from lmcli.wire.requests import ChannelRequest

AnyChannel = TypeVar("AnyChannel", bound=Channel)


class _Life(Generic[AnyChannel]):
    """A channel, and the sinks that it feeds.

    Args:
        run: the work that it is part of.
        sinks: what is fed, in this order. What keeps comes before what writes, which may be stopped inside a burst.
        tick: how often the sinks want to see time pass, in seconds.

    Attributes:
        channel: once it has started.
        error: what makes it less than complete.
    """

    channel: AnyChannel

    def __init__(self, run: Run, sinks: Sequence[Sink]) -> None:
        self.error: LmError | None = None
        self._run = run
        self._sinks = sinks

    def feed(self, values: list[Value]) -> None:
        """Hand what has arrived to the sinks."""
        for sink in self._sinks:
            sink.burst(values)

    def fail(self, error: LmError) -> None:
        """Keep the error that ended it."""
        self.error = error

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(error=self._run.error or self.error, signum=self._run.signum)

    def finish(self) -> None:
        """Have every sink complete its output, with the outcome as it is by then."""
        for sink in self._sinks:
            self._run.attempt(sink.finish, self.outcome)

    def _deliver(self, session: Session) -> None:
        ticks = [tick for sink in self._sinks if (tick := getattr(sink, "tick", None)) is not None]
        self._run.deliver(session, [self], tick=min(ticks, default=None))
        if self.error is not None:
            raise self.error


class LoadLife(_Life[Loading]):
    """The load of a model; Ctrl-C has the server stop loading it."""

    def load(self, request: ChannelRequest) -> ModelInstance:
        """Load, from the request to the model.

        Raises:
            LmError: it could not be loaded.
        """
        session = self._run.session
        self.channel = session.load(request)
        self._deliver(session)
        return self.channel.loaded()


class PredictionLife(_Life[Prediction]):
    """A prediction, from its request to its outcome.

    Args:
        request: what is asked.
        run: the work that it is part of.
        sinks: what is fed, see `_Life`.
        may_be_empty: whether an answer without text is of use.
    """

    def __init__(self, request: Request, run: Run, sinks: Sequence[Sink], *, may_be_empty: bool) -> None:
        self._request = request
        self._may_be_empty = may_be_empty or request.schema is not None
        self._presence = Presence()
        self._text = Text() if request.schema is not None else None
        self._end: PredictionEnd | None = None
        self._recovered: str | None = None
        super().__init__(run, [self._presence, *([self._text] if self._text else []), *sinks])

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(self._end, self._run.error or self.error, self._run.signum, self._recovered)

    def predict(self, model: str) -> None:
        """Start, and feed the sinks to the end; an answer that came and is not complete leaves an `error`.

        Args:
            model: the identifier of a loaded model.

        Raises:
            Interrupted, ReaderLeft: it was ended early.
            LmError: it failed.
        """
        session = self._run.session
        request = self._request.channel_request(model, self._run.uploads.resolve)
        self.channel = session.predict(request, self._request.fallback(model))
        try:
            self._deliver(session)
        finally:
            self._end = self.channel.end
        if self._end is not None:
            self._run.remember(self._end.model_info.model_key)
            self.error = self._judged(self._end)

    def _judged(self, end: PredictionEnd) -> LmError | None:
        """What keeps the answer from being complete, or of the form that was asked for."""
        is_empty = not (self._may_be_empty or self._presence.is_there)
        error = _verdict(end, self._request.config, is_empty=is_empty)
        if error is not None or self._request.schema is None or self._text is None:
            return error
        if not self._presence.is_there:
            self._recovered = self._request.schema.recovered(self._text.reasoning)
        if self._recovered is None:
            return self._request.schema.violation(self._text.answer)
        self._run.messages.warning("the answer was inside the reasoning of the model")
        return None


def _verdict(end: PredictionEnd, config: PredictionConfig, *, is_empty: bool) -> LmError | None:
    """What is wrong with an answer that the server calls finished; None if it is complete.

    A limit that the user asked for counts as complete. Stop reasons that are not known count as complete, too.
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
    return Unusable("the answer is empty", "-o json shows the reasoning and why it stopped") if is_empty else None


def _has_limit(config: PredictionConfig) -> bool:
    return bool(config.max_tokens) or PREDICTION_PREFIX + OPTIONS["max_tokens"].key in config.raw
