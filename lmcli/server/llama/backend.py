"""GGUF files run by llama.cpp: the engine of `lm serve MODEL.gguf`.

Each file is a model; it is loaded when it is first asked for. Importing this module needs the extra `local`.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import xllamacpp

from lmcli.chat import Message
from lmcli.errors import LmError, quoted
from lmcli.errors import reason as reason_of
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest
from lmcli.server.failures import Refused
from lmcli.server.llama.generator import Prediction, unstarted
from lmcli.server.llama.model_files import LocalModel, checked_header, local_models
from lmcli.server.llama.preflight import preflight
from lmcli.server.llama.prompt import format_messages
from lmcli.server.llama.runtime import (
    BATCH_TOKENS,
    NAME,
    VERSION,
    EngineFailure,
    LoadSettings,
    Runtime,
    free_memory_bytes,
    refused,
    translated,
)
from lmcli.server.llama.sampling import CONTEXT_LENGTH_KEY, LOAD_PREFIX, load_parameters, unmet, unmet_load
from lmcli.server.llama.threads import Slots, ThreadQueue
from lmcli.server.settings import BASE_VALUES
from lmcli.values import LoadProgress, ModelInfo

# The context where nobody says how long, in tokens: as in LM Studio.
DEFAULT_CONTEXT_LENGTH: Final = 4096
# Predictions at once on one model, and how many tokens their contexts may have together where nobody says.
MOST_SESSIONS: Final = 4
SESSIONS_TOKENS: Final = 65_536
# How much of a file is read at a time, and how much of the way to a loaded model the reading is.
READ_BYTES: Final = 16 * 1024 * 1024
READ_SHARE: Final = 0.9
# A file that takes more of the free memory is not read ahead: its end would push its beginning out.
MOST_OF_MEMORY: Final = 0.7
# Clients make keys up: so many warnings are given and remembered, each under so many characters.
MOST_WARNINGS: Final = 256
WARNED_CHARACTERS: Final = 100

_log: Final = logging.getLogger(__name__)


class LlamaEngine:
    """The engine.

    Args:
        files: the models, one file each, or the first of several.
        is_verbose: whether llama.cpp may write its log to stderr.

    Raises:
        LmError: a file is not there, is damaged, or holds no language model.
    """

    name = NAME
    version = VERSION

    def __init__(self, files: Sequence[Path], *, is_verbose: bool = False) -> None:
        self._models = {model.info.model_key: model for model in local_models(files)}
        self.downloaded: Sequence[ModelInfo] = [model.info for model in self._models.values()]
        self._is_verbose = is_verbose
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """None: models are loaded when they are asked for."""
        return []

    async def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Load a model: its file is read once, so that progress is real, and then llama.cpp finds it in memory.

        Raises:
            Refused: the file is damaged or gone, or llama.cpp cannot load it.
        """
        local = self._models[model.model_key]
        settings = self._settings(local, values)
        yield LoadProgress(0.0)
        await self._check(local)
        async with aclosing(_read_ahead(local, cancelled)) as steps:
            async for share in steps:
                yield LoadProgress(share * READ_SHARE)
        if cancelled.is_set():
            return
        if not await self._passes_preflight(local, cancelled):
            return
        runtime = await self._load(local, settings)
        if cancelled.is_set():
            await asyncio.to_thread(runtime.close)
            return
        yield LoadProgress(1.0)
        yield LlamaModel(runtime, settings, values, self.warn)

    def warn(self, key: str, text: str) -> None:
        """Warn once for each key, from any thread; no more than MOST_WARNINGS times."""
        key = key[:WARNED_CHARACTERS]
        with self._lock:
            is_new = key not in self._warned and len(self._warned) < MOST_WARNINGS
            if is_new:
                self._warned.add(key)
        if is_new:
            _log.warning("%s", text)

    async def _check(self, local: LocalModel) -> None:
        """Look at the files again: they may have changed since the start."""
        try:
            for part in local.parts:
                await asyncio.to_thread(checked_header, part)
        except LmError as error:
            raise Refused(f"Cannot load {local.info.model_key}: {error.message}") from error

    async def _passes_preflight(self, local: LocalModel, cancelled: asyncio.Event) -> bool:
        try:
            return await preflight(local.file, cancelled, is_verbose=self._is_verbose)
        except OSError as error:
            raise Refused(f"Cannot load {local.info.model_key}: {reason_of(error)}") from error
        except EngineFailure as failure:
            raise self._not_loaded(local, failure) from failure

    async def _load(self, local: LocalModel, settings: LoadSettings) -> Runtime:
        try:
            return await asyncio.to_thread(Runtime, local.file, settings, is_verbose=self._is_verbose)
        except EngineFailure as failure:
            raise self._not_loaded(local, failure) from failure

    def _not_loaded(self, local: LocalModel, failure: EngineFailure) -> Refused:
        hint = None if self._is_verbose else "lm serve --verbose shows what llama.cpp says"
        return Refused(f"Cannot load {local.info.model_key}: {failure}", suggestion=hint)

    def _settings(self, local: LocalModel, values: Mapping[str, Any]) -> LoadSettings:
        for key in unmet_load(values):
            self.warn(key, f"llama.cpp does not take the load setting {quoted(key)} here: it is passed over")
        found = load_parameters(values)
        context = _context_length(values, local.info.max_context_length)
        sessions = found.pop("n_parallel", max(1, min(MOST_SESSIONS, SESSIONS_TOKENS // context)))
        # A token of each session must fit into one batch, or llama.cpp aborts.
        found["n_batch"] = max(found.get("n_batch", BATCH_TOKENS), sessions)
        for key, parameter in _SWITCHES.items():
            if isinstance(value := values.get(LOAD_PREFIX + key), bool):
                found.update(parameter(value))
        ratio = values.get(LOAD_PREFIX + "llama.acceleration.offloadRatio")
        return LoadSettings(
            context_length=context,
            sessions=sessions,
            gpu_layers=_gpu_layers(ratio, local.layers),
            threads=found.pop("n_threads", None),
            parameters=found,
        )


class LlamaModel:
    """A model in memory."""

    def __init__(
        self,
        runtime: Runtime,
        settings: LoadSettings,
        values: Mapping[str, Any],
        warn: Callable[[str, str], None],
    ) -> None:
        self.context_length = settings.context_length
        self.load_values: Mapping[str, Any] = {**values, CONTEXT_LENGTH_KEY: settings.context_length}
        self.prediction_values: Mapping[str, Any] = BASE_VALUES
        self._runtime = runtime
        self._warn = warn
        self._predictions: set[Prediction] = set()
        # One more than llama.cpp computes at once: it gets ready meanwhile. The others wait where it costs nothing.
        self._entrance = Slots(settings.sessions + 1)

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Run the model.

        Raises:
            Refused: the request cannot be met, or llama.cpp failed.
        """
        for key in unmet(request.values):
            self._warn(key, f"llama.cpp does not take the setting {quoted(key)} here: it is passed over")
        if not await self._entrance.enter(request.cancelled):
            for event in unstarted(request, self.context_length):
                yield event
            return
        self._predictions = {running for running in self._predictions if running.thread.is_alive()}
        prediction = Prediction(
            runtime=self._runtime,
            request=request,
            context_length=self.context_length,
            warn=self._warn,
            leave=self._entrance.leave,
        )
        prediction.start()
        self._predictions.add(prediction)
        async with aclosing(prediction.events()) as events:
            async for event in events:
                yield event

    async def tokenize(self, text: str) -> Sequence[int]:
        """The numbers of the text's tokens."""
        try:
            return await asyncio.to_thread(self._runtime.tokenize, text)
        except EngineFailure as failure:
            raise refused(failure) from failure

    async def count_tokens(self, text: str) -> int:
        """How many tokens the text has."""
        return len(await self.tokenize(text))

    async def apply_template(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """The text that the model would read for a conversation."""
        try:
            with translated():
                return await asyncio.to_thread(format_messages, self._runtime, messages, values)
        except EngineFailure as failure:
            raise refused(failure) from failure

    async def unload(self) -> None:
        """Give the memory back, as soon as llama.cpp has let go of what was cancelled."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for prediction in self._predictions:
            prediction.thread.join()
        self._predictions.clear()
        self._runtime.close()


async def _read_ahead(local: LocalModel, cancelled: asyncio.Event) -> AsyncGenerator[float, None]:
    """Have the files in the system's cache; gives the share that is read.

    Raises:
        Refused: a file cannot be read.
    """
    total = local.info.size_bytes
    if total > free_memory_bytes() * MOST_OF_MEMORY:
        return
    way: ThreadQueue[int] = ThreadQueue()
    failures: list[OSError] = []

    def read() -> None:
        try:
            for size in _read_through(local.parts):
                if not way.put(size):
                    return
        except OSError as error:
            failures.append(error)
        finally:
            way.end()

    threading.Thread(target=read, name="reading a model", daemon=True).start()
    done = 0
    try:
        async for size in way:
            if cancelled.is_set():
                return
            done += size
            yield min(1.0, done / total)
    finally:
        way.close()
    for error in failures:
        raise Refused(f"Cannot read {local.info.model_key}: {reason_of(error)}")


def _read_through(files: Sequence[Path]) -> Iterator[int]:
    """Read files and forget what is in them; gives the sizes of the pieces, in bytes."""
    block = bytearray(READ_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while size := stream.readinto(block):
                yield size


def _context_length(values: Mapping[str, Any], longest: int) -> int:
    wanted = values.get(CONTEXT_LENGTH_KEY, min(DEFAULT_CONTEXT_LENGTH, longest or DEFAULT_CONTEXT_LENGTH))
    if type(wanted) is not int or wanted < 1:
        raise Refused(f"Invalid load config: {CONTEXT_LENGTH_KEY} must be a positive whole number")
    return min(wanted, longest) if longest else wanted


def _gpu_layers(ratio: Any, layers: int) -> int | None:
    """How many layers go to the GPU, the output being one more; None leaves it to llama.cpp."""
    all_layers = layers + 1
    if isinstance(ratio, int | float) and not isinstance(ratio, bool):
        return round(min(max(ratio, 0.0), 1.0) * all_layers)
    return {"off": 0, "max": all_layers}.get(ratio) if isinstance(ratio, str) else None


def _flash_attention(value: bool) -> dict[str, Any]:  # noqa: FBT001  the value of a switch
    kinds = xllamacpp.llama_flash_attn_type
    return {"flash_attn_type": kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if value else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED}


def _mmap(value: bool) -> dict[str, Any]:  # noqa: FBT001  the value of a switch
    return {} if value else {"load_mode": xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE}


_SWITCHES: Final[Mapping[str, Callable[[bool], dict[str, Any]]]] = {
    "offloadKVCacheToGpu": lambda value: {"no_kv_offload": not value},
    "llama.tryMmap": _mmap,
    "llama.flashAttention": _flash_attention,
}
