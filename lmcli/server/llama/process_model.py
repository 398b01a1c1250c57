"""A model in memory, in a process of its own: what language models and embedding models have in common."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lmcli.server.llama.engine_errors import EngineError, failing_requests
from lmcli.server.llama.engine_process import EngineProcess

_log: Final = logging.getLogger(__name__)


class ProcessModel:
    """A model in memory.

    Args:
        key: the key of the model.
        process: in which it is loaded.
        context_length: in tokens.
        load_values: the config that it was loaded with, by wire key.
    """

    def __init__(self, key: str, process: EngineProcess, context_length: int, load_values: Mapping[str, Any]) -> None:
        self.context_length = context_length
        self.load_values = load_values
        self._key = key
        self._process = process

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Have a function called if the process ends before `unload`."""

        def log_and_call(error: EngineError) -> None:
            _log.info("%s is unloaded: %s", self._key, error)
            callback()

        self._process.on_lost(log_and_call)

    async def tokenize(self, text: str) -> Sequence[int]:
        """The token numbers of a text."""
        with failing_requests():
            return await self._process.tokenize(text)

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        with failing_requests():
            return await self._process.count_tokens(text)

    async def unload(self) -> None:
        """End the process, and return when its memory is free."""
        await self._process.close()
