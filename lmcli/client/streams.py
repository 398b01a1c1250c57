"""A prediction as Python programs read it: a stream of fragments with callbacks, and its result."""

from collections.abc import Generator, Iterator

from lmcli.client.collector import Collector
from lmcli.client.session import Session
from lmcli.closing import Closing
from lmcli.errors import LmError
from lmcli.values import Fragment, PredictionResult
from lmcli.wire.channels import Prediction


class PredictionStream(Closing):
    """Iterate over the fragments, then ask for the `result()`; leaving early cancels on the server.

    Args:
        session: the socket that it runs on.
        prediction: what runs.
        collector: what calls the callbacks and makes the result.
    """

    def __init__(self, session: Session, prediction: Prediction, collector: Collector) -> None:
        self._session = session
        self._prediction = prediction
        self._collector = collector
        self._has_left = False
        self._iterator = self._read()

    def __iter__(self) -> Iterator[Fragment]:
        yield from self._iterator  # a generator that only the loop holds: it is closed as soon as the loop is left

    def result(self) -> PredictionResult:
        """The finished prediction; only after an early end this waits, a little, for the server to stop.

        Raises:
            LmError: the prediction failed.
            RuntimeError: it is still running.
        """
        if self._has_left and not self._collector.has_result:
            self._session.drain(self._prediction)
            self._collector.leave(self._prediction)
        return self._collector.result()

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
        if not self._collector.has_result and not self._collector.is_cancelled:
            self._collector.is_cancelled = True
            self._session.cancel(self._prediction)

    def close(self) -> None:
        """Stop the prediction if it still runs; does not wait for the server."""
        self._iterator.close()
        self._leave()

    def _read(self) -> Generator[Fragment, None, None]:
        try:
            for burst in self._session.bursts(self._prediction):
                yield from self._collector.take(burst)
            self._collector.finish(self._prediction)
        except LmError as error:
            self._collector.error = error
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        """Stop what still runs; what came so far is the result, as after `cancel`."""
        if not self._prediction.is_over:
            self._has_left = self._collector.is_cancelled = True
            self._session.abandon(self._prediction)
