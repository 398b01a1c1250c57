"""A prediction as Python programs read it: a stream of fragments with callbacks, and its result."""

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

from lmcli.chat import Message, TextPart
from lmcli.client.session import Session
from lmcli.closing import Closing
from lmcli.errors import Incomplete, LmError
from lmcli.record import distinct
from lmcli.values import Fragment, PredictionEnd, PredictionResult, PromptProgress
from lmcli.wire.channels import Prediction
from lmcli.wire.payloads import parse_object


@distinct
class Callbacks(NamedTuple):
    """Called while a prediction runs, in the thread that reads its stream."""

    on_prompt_processing_progress: Callable[[float], object] | None = None
    on_first_token: Callable[[], object] | None = None
    on_prediction_fragment: Callable[[Fragment], object] | None = None
    on_message: Callable[[Message], object] | None = None


class PredictionStream(Closing):
    """Iterate over the fragments, then ask for the `result()`; leaving early cancels on the server.

    Args:
        session: the socket that it runs on.
        prediction: what runs.
        callbacks: what to call. Progress rises strictly, begins with 0.0 and reaches 1.0 before the first fragment;
            then come `on_first_token`, `on_prediction_fragment`, and the fragment itself.
        is_structured: whether the text is to be parsed as JSON.
    """

    def __init__(self, session: Session, prediction: Prediction, callbacks: Callbacks, *, is_structured: bool) -> None:
        self._session = session
        self._prediction = prediction
        self._callbacks = callbacks
        self._is_structured = is_structured
        self._fragments: list[Fragment] = []
        self._reported: float = -1.0
        self._is_cancelled = False
        self._has_left = False
        self._result: PredictionResult | None = None
        self._error: LmError | None = None
        self._iterator = self._read()

    def __iter__(self) -> Iterator[Fragment]:
        yield from self._iterator  # a generator that only the loop holds: it is closed as soon as the loop is left

    def result(self) -> PredictionResult:
        """The finished prediction; only after an early end this waits, a little, for the server to stop.

        Raises:
            LmError: the prediction failed.
            RuntimeError: it is still running.
        """
        if self._has_left and self._result is None:
            self._session.drain(self._prediction)
            self._result = self._made(self._prediction.end) if self._prediction.end is not None else None
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise RuntimeError("the prediction has no result yet: read the stream to its end, or wait_for_result()")
        return self._result

    def wait_for_result(self) -> PredictionResult:
        """Read the stream to its end.

        Raises:
            LmError: the prediction failed.
        """
        for _ in self._iterator:
            pass
        return self.result()

    def cancel(self) -> None:
        """Stop the prediction; what came so far becomes the result, later fragments are dropped."""
        if self._result is None and not self._is_cancelled:
            self._is_cancelled = True
            self._session.cancel(self._prediction)

    def close(self) -> None:
        """Stop the prediction if it still runs; does not wait for the server."""
        self._iterator.close()
        self._leave()

    def _read(self) -> Generator[Fragment, None, None]:
        try:
            for burst in self._session.bursts(self._prediction):
                for value in burst:
                    if self._is_cancelled:
                        break
                    if isinstance(value, PromptProgress):
                        self._report_progress(value.progress)
                    elif isinstance(value, Fragment):
                        self._report_fragment(value)
                        yield value
            self._finish()
        except LmError as error:
            self._error = error
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """Stop what still runs; what came so far is the result, as after `cancel`."""
        if self._prediction.is_over:
            return
        self._has_left = self._is_cancelled = True
        self._session.abandon(self._prediction)

    def _report_progress(self, progress: float) -> None:
        report = self._callbacks.on_prompt_processing_progress
        if report is None or progress <= self._reported:
            return
        if self._reported < 0 < progress:
            report(0.0)
        self._reported = progress
        report(progress)

    def _report_fragment(self, fragment: Fragment) -> None:
        if not self._fragments:
            self._report_progress(1.0)
            if self._callbacks.on_first_token is not None:
                self._callbacks.on_first_token()
        self._fragments.append(fragment)
        if self._callbacks.on_prediction_fragment is not None:
            self._callbacks.on_prediction_fragment(fragment)

    def _finish(self) -> None:
        if self._prediction.end is None:
            raise Incomplete("the server ended the prediction without a result")
        self._result = self._made(self._prediction.end)
        if self._callbacks.on_message is not None:
            self._callbacks.on_message(Message("assistant", (TextPart(self._result.content),)))

    def _made(self, end: PredictionEnd) -> PredictionResult:
        content = "".join(f.content for f in self._fragments)
        is_parsed = self._is_structured and not self._is_cancelled
        return PredictionResult(
            content=content,
            reasoning="".join(f.content for f in self._fragments if f.reasoning_type == "reasoning"),
            answer="".join(f.content for f in self._fragments if f.reasoning_type == "none"),
            parsed=parse_object(content) if is_parsed else content,
            stats=end.stats,
            model_info=end.model_info,
            load_config=end.load_config,
            prediction_config=end.prediction_config,
        )
