"""The built-in embedding model: it counts words, so that texts with the same words have similar vectors.

Each word adds 1 or -1 to one of the numbers of the vector, which then gets the length 1.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from lmcli.server.echo.echo_tokens import count, numbers, tokens
from lmcli.server.effective_config import context_length
from lmcli.server.engine import off_loop
from lmcli.server.request_errors import RequestFailed

MAX_CONTEXT_LENGTH: Final = 2048
CONTEXT_LENGTH_KEY: Final = "embedding.load.contextLength"
DIMENSIONS: Final = 64


class EchoEmbedding:
    """The built-in embedding model in memory."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.context_length = context_length(values, CONTEXT_LENGTH_KEY, MAX_CONTEXT_LENGTH, MAX_CONTEXT_LENGTH)
        self.load_values: Mapping[str, Any] = {**values, CONTEXT_LENGTH_KEY: self.context_length}
        self.prediction_values: Mapping[str, Any] = {}

    async def embed(self, text: str) -> Sequence[float]:
        """The vector of a text; of one without words it is 0.

        Raises:
            RequestFailed: the text exceeds the context.
        """
        size = await self.count_tokens(text)
        if size > self.context_length:
            raise RequestFailed(f"The input has {size} tokens, more than the context of {self.context_length}")
        return await off_loop(vector, text)

    async def tokenize(self, text: str) -> Sequence[int]:
        """The token numbers of a text: equal for equal words."""
        return await off_loop(numbers, text)

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        return await off_loop(count, text)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Do nothing: the model is a part of this process."""

    async def unload(self) -> None:
        """Nothing to free."""


def vector(text: str) -> Sequence[float]:
    """Count the words of a text; case does not matter."""
    counts = [0] * DIMENSIONS
    for token in tokens(text.casefold()):
        if word := token.strip():
            number = zlib.crc32(word.encode("utf-8", "surrogatepass"))
            counts[number % DIMENSIONS] += 1 if number & 0x8000_0000 else -1
    length = math.hypot(*counts) or 1.0
    return [number / length for number in counts]
