"""The output of one request to the process of a model, as a stream whose reader sets the pace."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from lmcli.server.llama.engine_errors import EngineError
from lmcli.server.llama.engine_messages import WINDOW, Finished, Message


class OutputStream:
    """The messages about one request, of which at most WINDOW wait here for their reader.

    Args:
        grant: permits the process to send so many further messages.
        forget: called once, when the stream is closed.
    """

    def __init__(self, grant: Callable[[int], None], forget: Callable[[], None]) -> None:
        self._grant = grant
        self._forget = forget
        self._items: deque[Message | EngineError] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._read = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: Message | EngineError) -> None:
        """Add a message; `Finished` or an error is the last one."""
        self._items.append(item)
        self._wake()

    def close(self) -> None:
        """End the request, and the stream for its reader, at once; repeated calls do nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._items.clear()
            self._forget()
            self._wake()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """The messages, until `Finished` or `close`.

        Raises:
            EngineError: the request was rejected, or the process has ended.
        """
        while not self._is_closed:
            if not self._items:
                await self._wait()
                continue
            item = self._items.popleft()
            if isinstance(item, Finished):
                return
            if isinstance(item, EngineError):
                raise item
            self._read += 1
            if self._read == WINDOW // 2:
                self._grant(self._read)
                self._read = 0
            yield item

    async def _wait(self) -> None:
        self._arrived = asyncio.get_running_loop().create_future()
        await self._arrived
        self._arrived = None

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
