"""The interface of engines.

Methods are called on the event loop and must not block it: an engine that computes in threads has to bridge to them.
The server requests one event at a time, the next one when the last one is sent, so that a generator needs no queue.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from lmcli.chat import Message
from lmcli.values import Fragment, LoadProgress, ModelInfo, Stats, ToolCallValue
from lmcli.wire.prediction_config import PredictionConfig

# From this size on, in characters, the processing of a text would delay other clients noticeably.
LARGE_TEXT: Final = 20_000
Result = TypeVar("Result")
# One thread for all texts: several would leave the event loop as small a share of the interpreter as each of them has.
_text_thread: Final = ThreadPoolExecutor(1, "large text")


async def off_loop(work: Callable[[str], Result], text: str) -> Result:
    """Apply a function to a text, in a thread if the text is large, so that the event loop is not blocked."""
    if len(text) < LARGE_TEXT:
        return work(text)
    return await asyncio.get_running_loop().run_in_executor(_text_thread, work, text)


@dataclass(frozen=True, slots=True)
class PromptRead:
    """The progress of reading the prompt.

    Attributes:
        progress: 0.0 to 1.0.
        processed: tokens read so far.
        total: tokens in the prompt: cached + processed + unprocessed.
        cached: tokens that are cached from earlier prompts.
    """

    progress: float
    processed: int
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that a client uploaded, to be referred to in messages.

    Attributes:
        file_type: `image`, `text/plain`, `application/pdf` … or `unknown`.
    """

    name: str
    file_type: str
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """One run of a model.

    Attributes:
        messages: the conversation; empty if there is a `raw_prompt`.
        raw_prompt: a text to continue without the prompt template; None for a conversation.
        values: the effective config by wire key.
        options: the same as a PredictionConfig.
        files: the uploaded files by identifier.
        cancelled: set when the prediction has to stop; may be read from any thread and must be checked all the time.
    """

    messages: Sequence[Message]
    raw_prompt: str | None
    values: Mapping[str, Any]
    options: PredictionConfig
    files: Mapping[str, UploadedFile]
    cancelled: asyncio.Event


PredictionEvent = PromptRead | Fragment | ToolCallValue | Stats


class LoadedModel(Protocol):
    """A model in memory: what language models and embedding models have in common."""

    @property
    def context_length(self) -> int:
        """The length of the context in tokens."""
        ...

    @property
    def load_values(self) -> Mapping[str, Any]:
        """The effective load config by wire key."""
        ...

    @property
    def prediction_values(self) -> Mapping[str, Any]:
        """The default prediction config by wire key."""
        ...

    async def tokenize(self, text: str) -> Sequence[int]:
        """The token numbers of a text."""
        ...

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        ...

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Have a function called if the model is lost before `unload`, which still has to be called."""
        ...

    async def unload(self) -> None:
        """Free the memory; it is not in use, and will not be used again."""
        ...


class LanguageModel(LoadedModel, Protocol):
    """A model that generates text."""

    def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Run the model.

        Yields:
            `PromptRead` and `Fragment` values, then one `Stats`; the server adds the times that it lacks.
            A tool call is `ToolCallFragment` values, the first without name and arguments, then one `ToolCallRequest`
            or `ToolCallFailure`.
            After `request.cancelled` is set: no more fragments, and stats with the stop reason `userStopped`.
            If the client disconnects, `request.cancelled` is set and the generator is closed.

        Raises:
            RequestFailed: the request cannot be fulfilled.
        """
        ...

    async def apply_template(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """The prompt for a conversation."""
        ...


class EmbeddingModel(LoadedModel, Protocol):
    """A model that represents texts as vectors."""

    async def embed(self, text: str) -> Sequence[float]:
        """The vector of a text.

        Raises:
            RequestFailed: the text exceeds the context, or the engine failed.
        """
        ...


class Engine(Protocol):
    """An engine, which loads models."""

    @property
    def name(self) -> str:
        """Its name, for error messages."""
        ...

    @property
    def version(self) -> str:
        """Its version, for error messages."""
        ...

    @property
    def downloaded(self) -> Sequence[ModelInfo]:
        """The models that can be loaded."""
        ...

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """Start; returns the models that are loaded at startup."""
        ...

    def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Load a downloaded model.

        Args:
            model: one of `downloaded`.
            values: the requested load config by wire key.
            cancelled: set when loading has to stop.

        Yields:
            `LoadProgress` values, then the loaded model unless `cancelled` is set.

        Raises:
            RequestFailed: it cannot be loaded.
        """
        ...
