"""One load of a model, shared by all clients that requested it."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final, NamedTuple

from lmcli.server.engine import Engine
from lmcli.server.model_instance import Instance
from lmcli.server.request_errors import RequestFailed
from lmcli.values import LoadProgress, ModelInfo

# After this many seconds without progress the last progress is sent again: clients time out on a silent channel.
# Source: lmstudio-python 1.6.0b1, src/lmstudio/sync_api.py: 60 seconds.
REPEAT_SECONDS = 5.0

_log: Final = logging.getLogger(__name__)


class LoadParameters(NamedTuple):
    """Which model to load, and with which config; `is_jit` if it may be unloaded for the next one of its kind."""

    engine: Engine
    model_info: ModelInfo
    values: Mapping[str, Any]
    ttl_ms: int | None
    is_jit: bool = False


class ModelLoad:
    """The loading of a model.

    It belongs to no client: its subscribers read the progress, each at its own speed, and it is cancelled when the
    last one unsubscribes.

    Attributes:
        identifier: of the instance that will be loaded.
        task: the task that runs it.
    """

    task: asyncio.Task[Instance]

    def __init__(self, identifier: str, release: Callable[[str], None]) -> None:
        self.identifier = identifier
        self._release: Callable[[str], None] | None = release
        self._steps: list[float] = []
        self._changed = asyncio.Event()
        self._cancelled = asyncio.Event()
        self._subscribers = 0

    @property
    def is_active(self) -> bool:
        """Whether it is neither cancelled nor done."""
        return not self._cancelled.is_set() and not self.task.done()

    @contextmanager
    def subscribed(self) -> Iterator[None]:
        """Subscribe; after the last subscriber the load is cancelled and its identifier released."""
        self._subscribers += 1
        try:
            yield
        finally:
            self._subscribers -= 1
            if not self._subscribers and not self.task.done():
                self._cancelled.set()
                self.release()

    async def progress(self, cancelled: asyncio.Event) -> AsyncGenerator[float, None]:
        """The progress from the last step on, until the load is done or the subscriber's `cancelled` is set."""
        position = max(0, len(self._steps) - 1)
        while not cancelled.is_set():
            if position < len(self._steps):
                yield self._steps[position]
                position += 1
            elif self.task.done():
                return
            elif not await _wait_for_either(self._changed, cancelled, REPEAT_SECONDS):
                yield self._steps[-1] if self._steps else 0.0

    async def run(self, parameters: LoadParameters) -> Instance:
        """Load the model.

        Raises:
            RequestFailed: it cannot be loaded, or the load is cancelled.
        """
        if not self._cancelled.is_set():
            load = parameters.engine.load(parameters.model_info, parameters.values, self._cancelled)
            async with aclosing(load) as steps:
                async for step in steps:
                    if isinstance(step, LoadProgress):
                        self._steps.append(step.progress)
                        self._notify()
                    elif self._cancelled.is_set():
                        await step.unload()
                    else:
                        return Instance(
                            model_info=parameters.model_info,
                            model=step,
                            identifier=self.identifier,
                            ttl_ms=parameters.ttl_ms,
                            is_jit=parameters.is_jit,
                        )
        raise RequestFailed("Model loading was cancelled")

    def on_done(self, task: asyncio.Task[Instance]) -> None:
        """Notify the subscribers; an unexpected error is logged if there are none."""
        self._notify()
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._subscribers and not isinstance(error, RequestFailed):
            _log.error("loading %s failed", self.identifier, exc_info=error)

    def release(self) -> None:
        """Release the reserved identifier, once: another load may have reserved it since."""
        if self._release is not None:
            self._release(self.identifier)
            self._release = None

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


async def _wait_for_either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> bool:
    """Wait for one of two events; False after a timeout."""
    waits = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)
