"""The way from a thread that computes to the event loop: bounded, and open for as long as somebody waits at the end."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")

# How many items may be on the way: enough for neither side to wait for the other's next turn.
ROOM: Final = 64


class Handover(Generic[Item]):
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

    @property
    def is_closed(self) -> bool:
        """Whether nobody wants more; may be read from any thread."""
        return self._is_closed

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
