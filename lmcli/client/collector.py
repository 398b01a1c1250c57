"""What a channel brings, for a Python program: callbacks are called, fragments kept, and the result is made of them.

Whoever waits, synchronously or not, passes in the values as they arrive.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from lmcli.chat import Message, TextPart
from lmcli.errors import Incomplete, LmError
from lmcli.record import distinct
from lmcli.values import (
    Fragment,
    LoadNote,
    LoadProgress,
    PredictedToken,
    PredictionEnd,
    PredictionResult,
    PromptDetails,
    PromptProgress,
    Value,
)
from lmcli.wire.channels import Prediction
from lmcli.wire.payloads import parse_object


@distinct
class Callbacks(NamedTuple):
    """Called while a prediction runs, by whoever reads its stream."""

    on_prompt_processing_progress: Callable[[float], object] | None = None
    on_prompt_processing_details: Callable[[PromptDetails], object] | None = None
    on_first_token: Callable[[], object] | None = None
    on_prediction_fragment: Callable[[Fragment], object] | None = None
    on_message: Callable[[Message], object] | None = None


class Collector:
    """What a prediction has brought so far.

    Args:
        callbacks: what to call. Progress rises strictly, begins with 0.0 and reaches 1.0 before the first fragment;
            details of the prompt are reported as the server sends them, if it does;
            then come `on_first_token`, `on_prediction_fragment`, and the fragment itself.
        is_structured: whether the text is to be parsed as JSON.

    Attributes:
        is_cancelled: what still arrives is dropped, and the text is not parsed.
        error: what the prediction failed with.
        has_result: whether `result` can be called.
    """

    def __init__(self, callbacks: Callbacks, *, is_structured: bool) -> None:
        self.is_cancelled = False
        self.error: LmError | None = None
        self._callbacks = callbacks
        self._is_structured = is_structured
        self._has_begun = False
        self._fragments: list[Fragment] = []
        self._contents: list[str] = []
        self._texts: list[str] = []
        self._answers: list[str] = []
        self._reasonings: list[str] = []
        self._tokens: list[PredictedToken] = []
        self._reported: float = -1.0
        self._result: PredictionResult | None = None

    @property
    def has_result(self) -> bool:
        """Whether the prediction has ended, and not failed."""
        return self._result is not None

    def take(self, values: Iterable[Value]) -> Iterator[Fragment]:
        """Keep values, each with its callbacks when its turn comes; the fragments among them, to hand on."""
        report = self._callbacks.on_prediction_fragment
        self._fold()
        for value in values:
            if self.is_cancelled:
                return
            if type(value) is Fragment:
                if not self._has_begun:
                    self._begin()
                self._fragments.append(value)
                if report is not None:
                    report(value)
                yield value
            elif isinstance(value, PromptProgress):
                if value.details is not None and self._callbacks.on_prompt_processing_details is not None:
                    self._callbacks.on_prompt_processing_details(value.details)
                self._report_progress(value.progress)

    def finish(self, prediction: Prediction) -> None:
        """Make the result, after the end.

        Raises:
            Incomplete: the server sent none.
        """
        if prediction.end is None:
            raise Incomplete("the server ended the prediction without a result")
        self._result = self._made(prediction, prediction.end)
        if self._callbacks.on_message is not None:
            self._callbacks.on_message(Message("assistant", (TextPart(self._result.content), *self._result.tool_calls)))

    def leave(self, prediction: Prediction) -> None:
        """Drop what still arrives; what came so far is the result, if the end is known."""
        self.is_cancelled = True
        if prediction.end is not None and self._result is None:
            self._result = self._made(prediction, prediction.end)

    def result(self) -> PredictionResult:
        """The finished prediction.

        Raises:
            LmError: the prediction failed.
            RuntimeError: it is still running.
        """
        if self.error is not None:
            raise self.error
        if self._result is None:
            raise RuntimeError("the prediction has no result yet: read the stream to its end, or wait_for_result()")
        return self._result

    def _begin(self) -> None:
        self._has_begun = True
        self._report_progress(1.0)
        if self._callbacks.on_first_token is not None:
            self._callbacks.on_first_token()

    def _report_progress(self, progress: float) -> None:
        report = self._callbacks.on_prompt_processing_progress
        if report is None or progress <= self._reported:
            return
        if self._reported < 0 < progress:
            report(0.0)
        self._reported = progress
        report(progress)

    def _made(self, prediction: Prediction, end: PredictionEnd) -> PredictionResult:
        self._fold()
        content = "".join(self._contents)
        is_parsed = self._is_structured and not self.is_cancelled
        parsed = parse_object("".join(self._texts)) if is_parsed else None
        return PredictionResult(
            content=content,
            reasoning="".join(self._reasonings),
            answer="".join(self._answers),
            tokens=tuple(self._tokens),
            parsed=content if parsed is None else parsed,
            stats=end.stats,
            model_info=end.model_info,
            load_config=end.load_config,
            prediction_config=end.prediction_config,
            tool_calls=tuple(prediction.tool_calls),
            tool_call_failures=tuple(prediction.tool_call_failures),
        )

    def _fold(self) -> None:
        """Keep of the fragments that were handed on only what the result needs.

        A hundred thousand tuples take a third of the time of a stream, in the garbage collector.
        """
        fragments, self._fragments = self._fragments, []
        text = [f for f in fragments if not f.is_structural]
        answer = [f for f in text if f.reasoning_type == "none"]
        self._contents.append(content := _joined(fragments))
        self._answers.append(content if len(answer) == len(fragments) else _joined(answer))
        self._tokens += chain.from_iterable(f.tokens for f in answer)
        if len(answer) < len(text):
            self._reasonings.append(_joined(f for f in text if f.reasoning_type == "reasoning"))
        if self._is_structured:
            self._texts.append(_joined(text))


def _joined(fragments: Iterable[Fragment]) -> str:
    return "".join(fragment.content for fragment in fragments)


class LoadReport:
    """Reports how much of a model is loaded: 0.0 … 1.0, rising strictly; nothing if it was loaded already.

    Args:
        report: called with the progress; None reports nothing.
        on_note: called with what else the server reports; None reports nothing.
    """

    def __init__(
        self, report: Callable[[float], object] | None, on_note: Callable[[LoadNote], object] | None = None
    ) -> None:
        self._report = report or (lambda _: None)
        self._on_note = on_note or (lambda _: None)
        self._reported = -1.0

    def take(self, values: Iterable[Value]) -> None:
        """Report what has arrived."""
        for value in values:
            if isinstance(value, LoadProgress) and value.progress > self._reported:
                self._reported = value.progress
                self._report(self._reported)
            elif isinstance(value, LoadNote):
                self._on_note(value)

    def finish(self) -> None:
        """Report the end, where a load has begun."""
        if 0 <= self._reported < 1:
            self._report(1.0)
