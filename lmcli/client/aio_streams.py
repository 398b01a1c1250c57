"""A prediction as asynchronous Python programs read it: awaited, iterated over, left early, cancelled."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import Any, Self

from lmcli.client.aio_session import AioSession
from lmcli.client.collector import Collector
from lmcli.errors import Incomplete, LmError
from lmcli.values import Fragment, PredictionResult
from lmcli.wire.channels import Prediction

Begin = Callable[[], Awaitable[tuple[AioSession, Prediction]]]


class AsyncPredictionStream:
    """Await it to begin the prediction, or iterate over its fragments at once; then ask for the `result()`.

    Leaving the loop early, or cancelling the task that reads, cancels the prediction on the server, and so does
    dropping the last reference to the stream. One task reads a stream at a time.

    Args:
        begin: begins the prediction; called when it is first needed.
        collector: what calls the callbacks and makes the result.
    """

    def __init__(self, begin: Begin, collector: Collector) -> None:
        self._begin = begin
        self._collector = collector
        self._running: tuple[AioSession, Prediction] | None = None
        self._fragments: Iterator[Fragment] = iter(())
        self._is_reading = False
        self._is_left = False

    def __await__(self) -> Generator[Any, None, Self]:
        return self.__aenter__().__await__()

    def __aiter__(self) -> AsyncIterator[Fragment]:
        return _Fragments(self._next, self._leave)

    async def __aenter__(self) -> Self:
        await self._begun()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._leave()

    def result(self) -> PredictionResult:
        """The finished prediction, without waiting.

        Raises:
            LmError: the prediction failed.
            RuntimeError: it is still running.
        """
        self._settle()
        return self._collector.result()

    async def wait_for_result(self) -> PredictionResult:
        """Read the stream to its end; if it was left early, wait until the server has stopped.

        Raises:
            LmError: the prediction failed.
        """
        if self._is_left:
            await self.aclose()
        try:
            while await self._advance():
                for _ in self._fragments:
                    pass
        except BaseException as error:
            self._end_with(error)
            raise
        return self.result()

    async def cancel(self) -> None:
        """Stop the prediction; what came so far becomes the result, later fragments are dropped."""
        if not self._collector.has_result:
            self._collector.is_cancelled = True
            if self._running is not None:
                session, prediction = self._running
                session.cancel(prediction)

    async def aclose(self) -> None:
        """Stop the prediction if it still runs, and wait until the server has stopped, 5 seconds at most."""
        self._leave()
        if self._running is not None and not self._is_reading:
            session, prediction = self._running
            await session.stopped(prediction)
            self._settle()

    async def _begun(self) -> tuple[AioSession, Prediction]:
        """The prediction, and the session that it runs on."""
        if self._running is None:
            self._claim()
            try:
                self._running = session, prediction = await self._begin()
            finally:
                self._is_reading = False
            if self._is_left:
                session.abandon(prediction)
            elif self._collector.is_cancelled:
                session.cancel(prediction)
        return self._running

    async def _next(self, _loop: object) -> Fragment:
        """The next fragment, for a loop that is not left while it waits here: its iterator is held."""
        try:
            while True:
                for fragment in self._fragments:
                    return fragment
                if not await self._advance():
                    break
        except BaseException as error:
            self._end_with(error)
            raise
        raise StopAsyncIteration

    async def _advance(self) -> bool:
        """Have the next fragments; False at the end."""
        if self._is_left or self._collector.has_result or self._collector.error is not None:
            return False
        session, prediction = self._running or await self._begun()
        self._claim()
        try:
            self._fragments = self._collector.take(await session.read(prediction))
        finally:
            self._is_reading = False
        if prediction.is_over and not self._is_left:
            self._collector.finish(prediction)
        return not prediction.is_over

    def _claim(self) -> None:
        if self._is_reading:
            raise RuntimeError("two tasks read the same stream")
        self._is_reading = True

    def _end_with(self, error: BaseException) -> None:
        """Leave the stream for an error: that of the prediction, a callback, a cancelled task."""
        if isinstance(error, LmError):
            self._collector.error = error
        if not self._is_reading:  # by another task
            self._leave()

    def _leave(self) -> None:
        """Cancel what still runs, without waiting; what came so far becomes the result."""
        if self._running is None:
            self._is_left = True
            return
        session, prediction = self._running
        if not prediction.is_over and not self._is_left:
            self._is_left = self._collector.is_cancelled = True
            session.abandon_soon(prediction)

    def _settle(self) -> None:
        """After the stream was left: make the result, once the end is known."""
        if self._is_left and self._running is not None and not self._collector.has_result:
            _, prediction = self._running
            self._collector.leave(prediction)
            if prediction.is_over and prediction.end is None and self._collector.error is None:
                self._collector.error = Incomplete("the stream was left, and the server did not send a result")


class _Fragments:
    """What `async for` holds, and nothing else: it is dropped as soon as the loop is left.

    An asynchronous generator would be closed by a task of the event loop, some time later.
    """

    def __init__(
        self, next_fragment: Callable[[object], Coroutine[Any, Any, Fragment]], leave: Callable[[], None]
    ) -> None:
        self._next = next_fragment
        self._leave = leave

    def __aiter__(self) -> "_Fragments":
        return self

    def __anext__(self) -> Coroutine[Any, Any, Fragment]:
        return self._next(self)

    def __del__(self) -> None:
        self._leave()
