"""Loads under way: each runs by itself, and is watched by all who want its model."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final, NamedTuple

from lmcli.server.engine import Engine
from lmcli.server.failures import Refused
from lmcli.server.model_instance import Instance
from lmcli.values import LoadProgress, ModelInfo

# After so many seconds without news the last progress is told again: clients give up a channel that is silent.
# Source: lmstudio-python 1.6.0b1, src/lmstudio/sync_api.py: 60 seconds.
NEWS_SECONDS = 5.0

_log: Final = logging.getLogger(__name__)


class LoadOrder(NamedTuple):
    """What is to be loaded, and how."""

    engine: Engine
    model_info: ModelInfo
    values: Mapping[str, Any]
    ttl_ms: int | None


class Load:
    """A model on its way into memory.

    It belongs to no client: those who want it watch, each as fast as it reads, and it ends when nobody does.

    Attributes:
        identifier: the one that the model will have.
        task: its outcome.
    """

    task: asyncio.Task[Instance]

    def __init__(self, identifier: str, release: Callable[[str], None]) -> None:
        self.identifier = identifier
        self._release: Callable[[str], None] | None = release
        self._steps: list[float] = []
        self._news = asyncio.Event()
        self._given_up = asyncio.Event()
        self._watchers = 0

    @property
    def can_be_joined(self) -> bool:
        """Whether it goes on, and the model will come."""
        return not self._given_up.is_set() and not self.task.done()

    @contextmanager
    def wanted(self) -> Iterator[None]:
        """Want the model; when the last one does no more, the load is given up and its identifier is free."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers and not self.task.done():
                self._given_up.set()
                self.release()

    async def watch(self, cancelled: asyncio.Event) -> AsyncGenerator[float, None]:
        """Give the progress from the last step on, until the load is over or the watcher's own event is set."""
        seen = max(0, len(self._steps) - 1)
        while not cancelled.is_set():
            if seen < len(self._steps):
                yield self._steps[seen]
                seen += 1
            elif self.task.done():
                return
            elif not await _either(self._news, cancelled, NEWS_SECONDS):
                yield self._steps[-1] if self._steps else 0.0

    async def run(self, order: LoadOrder) -> Instance:
        """Load the model.

        Raises:
            Refused: it cannot be loaded, or nobody wants it any more.
        """
        if not self._given_up.is_set():
            load = order.engine.load(order.model_info, order.values, self._given_up)
            async with aclosing(load) as steps:
                async for step in steps:
                    if isinstance(step, LoadProgress):
                        self._steps.append(step.progress)
                        self._tell()
                    elif self._given_up.is_set():
                        await step.unload()
                    else:
                        return Instance(
                            model_info=order.model_info, model=step, identifier=self.identifier, ttl_ms=order.ttl_ms
                        )
        raise Refused("Model loading was cancelled")

    def end(self, task: asyncio.Task[Instance]) -> None:
        """Let the watchers know that it is over; a failure that nobody is there to hear of goes to the log."""
        self._tell()
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._watchers and not isinstance(error, Refused):
            _log.error("loading %s failed", self.identifier, exc_info=error)

    def release(self) -> None:
        """Give the reserved identifier back, once: it may be another's by now."""
        if self._release is not None:
            self._release(self.identifier)
            self._release = None

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


async def _either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> bool:
    """Wait for one of two events; gives whether one came in time."""
    waits = [asyncio.ensure_future(event.wait()) for event in (one, other)]
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return bool(done)
