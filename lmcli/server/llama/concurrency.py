"""Between the event loop and computing threads: a bounded queue for their results, and a limit for their number."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

# Large enough that neither side waits for the other to be scheduled.
QUEUE_SIZE: Final = 64


class ThreadQueue(Generic[Item]):
    """A queue from one thread to one task of the event loop that creates it.

    `put` blocks the thread while the queue is full. After `close`, `put` returns False.
    """

    def __init__(self, size: int = QUEUE_SIZE) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._free = threading.Semaphore(size)
        self._arrived = asyncio.Event()
        self._is_waiting = False
        self._is_closed = False
        self._is_finished = False

    def put(self, item: Item) -> bool:
        """Add an item, from the thread; False if the queue is closed."""
        self._free.acquire()
        if self._is_closed:
            self._free.release()
            return False
        self._items.append(item)
        return self._wake()

    def finish(self) -> None:
        """Mark the last item as added, from the thread."""
        self._is_finished = True
        self._wake()

    def close(self) -> None:
        """Drop all items and accept no more; repeated calls do nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._free.release()
            self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Item]:
        """The items, until `finish` or `close`."""
        while not self._is_closed:
            if self._items:
                self._free.release()
                yield self._items.popleft()
            elif self._is_finished:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._arrived.clear()
        self._is_waiting = True
        # Checked again: an item that was added before `_is_waiting` was set has not set `_arrived`.
        if not self._items and not self._is_finished and not self._is_closed:
            await self._arrived.wait()
        self._is_waiting = False

    def _wake(self) -> bool:
        if not self._is_waiting:
            return True
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the event loop is closed at exit
            return False
        return True


class Slots:
    """Limits the number of computing threads; tasks wait for a slot.

    Args:
        count: the number of slots.
    """

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(count)

    async def acquire(self, cancelled: asyncio.Event) -> bool:
        """Wait for a slot; False if `cancelled` is set first."""
        acquiring = asyncio.create_task(self._free.acquire())
        cancelling = asyncio.create_task(cancelled.wait())
        is_acquired = False
        try:
            await asyncio.wait((acquiring, cancelling), return_when=asyncio.FIRST_COMPLETED)
            is_acquired = acquiring.done() and not cancelled.is_set()
        finally:
            cancelling.cancel()
            if not is_acquired and not acquiring.cancel():
                self._free.release()  # both happened at the same time
        return is_acquired

    def release(self) -> None:
        """Release the slot, from any thread."""
        with suppress(RuntimeError):  # the event loop is closed at exit
            self._loop.call_soon_threadsafe(self._free.release)
