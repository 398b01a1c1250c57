"""What an engine must do to stand behind the server.

Everything here is called on the event loop and must not block it: an engine that computes in threads bridges to
them itself. The server asks for one event at a time and asks for the next when the last one is on its way, so an
engine that waits to be asked needs no queue of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from lmcli.chat import Message
from lmcli.values import Fragment, LoadProgress, ModelInfo, Stats
from lmcli.wire.prediction_config import PredictionConfig

# A text of so many characters takes long enough to read that the other clients would notice.
LARGE: Final = 1_000_000
Outcome = TypeVar("Outcome")


async def off_loop(work: Callable[[str], Outcome], text: str) -> Outcome:
    """Do something with a text; with a large one in a thread, so that the other clients are served meanwhile."""
    return work(text) if len(text) < LARGE else await asyncio.to_thread(work, text)


@dataclass(frozen=True, slots=True)
class PromptRead:
    """How much of the prompt is read.

    Attributes:
        progress: the share that is done, 0.0 to 1.0.
        processed: model tokens read so far.
        total: model tokens in the prompt: cached + processed + unprocessed.
        cached: model tokens that needed no reading.
    """

    progress: float
    processed: int
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that a client sent ahead, to be named in a message later.

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
        messages: the conversation; empty where `raw_prompt` is given.
        raw_prompt: a text to continue as it is, without the chat template; None for a conversation.
        values: the effective configuration by its full wire keys.
        options: the same, as far as it has names.
        files: what the messages' file parts name, by identifier.
        cancelled: set when nobody wants more; may be read from any thread, must be seen at any moment.
    """

    messages: Sequence[Message]
    raw_prompt: str | None
    values: Mapping[str, Any]
    options: PredictionConfig
    files: Mapping[str, UploadedFile]
    cancelled: asyncio.Event


PredictionEvent = PromptRead | Fragment | Stats


class LoadedModel(Protocol):
    """A model in memory."""

    @property
    def context_length(self) -> int:
        """The context in model tokens."""

    @property
    def load_values(self) -> Mapping[str, Any]:
        """The effective load configuration by its wire keys."""

    @property
    def prediction_values(self) -> Mapping[str, Any]:
        """The prediction configuration where a client sets nothing, by its wire keys."""

    def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Run the model.

        Yields:
            `PromptRead`s, `Fragment`s, and last one `Stats`; times that it leaves out are filled in by the server.
            When `request.cancelled` is set: no more fragments, and stats with the stop reason `userStopped`.
            The generator is closed early when the client is gone; then `request.cancelled` is set, too.

        Raises:
            Refused: the request cannot be met.
        """

    async def tokenize(self, text: str) -> Sequence[int]:
        """The numbers of the text's tokens."""

    async def count_tokens(self, text: str) -> int:
        """How many tokens the text has."""

    async def apply_template(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """The text that the model would read for a conversation."""

    async def unload(self) -> None:
        """Give the memory back; no prediction is running, and none will follow."""


class Engine(Protocol):
    """What turns model files into answers."""

    @property
    def name(self) -> str:
        """Its name, for messages."""

    @property
    def version(self) -> str:
        """Its version, for messages."""

    @property
    def downloaded(self) -> Sequence[ModelInfo]:
        """The models that can be loaded."""

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """Get ready; the models that are loaded from the beginning."""

    def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Load a model that is in `downloaded`.

        Args:
            model: which one.
            values: the load configuration asked for, by its wire keys.
            cancelled: set when nobody wants the model any more.

        Yields:
            `LoadProgress`, and last the loaded model; when `cancelled` is set, no model. The generator is closed
            early when the client is gone; then `cancelled` is set, too.

        Raises:
            Refused: it cannot be loaded.
        """
