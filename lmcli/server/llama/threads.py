"""Between the event loop and threads that compute: the way of what they make, and the entrance for who wants one.

The way is bounded, and open for as long as somebody waits at the end; who waits at the entrance costs no thread.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

# How many items may be on the way: enough for neither side to wait for the other's next turn.
ROOM: Final = 64


class ThreadQueue(Generic[Item]):
    """Items from one thread to one task of the event loop that makes it.

    The thread waits in `put` while there is no room. `close` lets it go on and tells it that nobody wants more.
    """

    def __init__(self, room: int = ROOM) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: deque[Item] = deque()
        self._room = threading.Semaphore(room)
        self._arrived = asyncio.Event()
        self._is_awaited = False
        self._is_closed = False
        self._is_over = False

    def put(self, item: Item) -> bool:
        """Hand an item over, from the thread; False if nobody wants more."""
        self._room.acquire()
        if self._is_closed:
            self._room.release()
            return False
        self._items.append(item)
        return self._wake()

    def end(self) -> None:
        """Say, from the thread, that no item is coming any more."""
        self._is_over = True
        self._wake()

    def close(self) -> None:
        """Want no more; a second time does nothing. What has arrived is dropped."""
        if not self._is_closed:
            self._is_closed = True
            self._room.release()
            self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[Item]:
        """The items, up to `end` or `close`."""
        while not self._is_closed:
            if self._items:
                self._room.release()
                yield self._items.popleft()
            elif self._is_over:
                return
            else:
                await self._wait()

    async def _wait(self) -> None:
        self._arrived.clear()
        self._is_awaited = True
        # Looked at again: what came before `_is_awaited` was set has woken nobody.
        if not self._items and not self._is_over and not self._is_closed:
            await self._arrived.wait()
        self._is_awaited = False

    def _wake(self) -> bool:
        if not self._is_awaited:
            return True
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop has ended with the program
            return False
        return True


class Slots:
    """How many threads may compute at once; tasks wait for a place.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(most)

    async def enter(self, cancelled: asyncio.Event) -> bool:
        """Wait for a place; False if the cancel came first."""
        entering = asyncio.create_task(self._places.acquire())
        leaving = asyncio.create_task(cancelled.wait())
        is_in = False
        try:
            await asyncio.wait((entering, leaving), return_when=asyncio.FIRST_COMPLETED)
            is_in = entering.done() and not cancelled.is_set()
        finally:
            leaving.cancel()
            if not is_in and not entering.cancel():
                self._places.release()  # the place came at the same moment
        return is_in

    def leave(self) -> None:
        """Give the place back, from any thread."""
        with suppress(RuntimeError):  # the loop has ended with the program
            self._loop.call_soon_threadsafe(self._places.release)
