"""The engine of `lm serve MODEL.gguf`: GGUF files, run by llama.cpp.

Each file is a model, loaded at the first request for it. Importing this module requires the extra `local`.
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
from lmcli.server.effective_config import DEFAULT_VALUES
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest
from lmcli.server.llama.concurrency import Slots, ThreadQueue
from lmcli.server.llama.model_files import LocalModel, checked_header, local_models
from lmcli.server.llama.parameters import (
    CONTEXT_LENGTH_KEY,
    LOAD_PREFIX,
    load_parameters,
    unsupported_load_keys,
    unsupported_prediction_keys,
)
from lmcli.server.llama.prediction import Prediction, cancelled_events
from lmcli.server.llama.preflight import preflight
from lmcli.server.llama.prompt import apply_template
from lmcli.server.llama.runtime import (
    BATCH_TOKENS,
    NAME,
    VERSION,
    EngineError,
    LoadOptions,
    Runtime,
    free_memory_bytes,
    request_failed,
    translated_errors,
)
from lmcli.server.request_errors import RequestFailed
from lmcli.values import LoadProgress, ModelInfo

# In tokens, as in LM Studio.
DEFAULT_CONTEXT_LENGTH: Final = 4096
# The default limits for the concurrent predictions of a model: their number, and the tokens of all their contexts.
MAX_SESSIONS: Final = 4
MAX_SESSIONS_TOKENS: Final = 65_536
# The bytes read at a time, and the share of reading the file in the load progress.
READ_BYTES: Final = 16 * 1024 * 1024
READ_SHARE: Final = 0.9
# A file that exceeds this share of the free memory is not read ahead: its end would evict its beginning from the cache.
MAX_MEMORY_SHARE: Final = 0.7
# Clients can send any key, so the number and the length of the keys that were warned about are bounded.
MAX_WARNINGS: Final = 256
MAX_KEY_CHARACTERS: Final = 100

_log: Final = logging.getLogger(__name__)


class LlamaEngine:
    """The engine.

    Args:
        files: the models, one file each, or the first of several.
        is_verbose: whether llama.cpp logs to stderr.

    Raises:
        LmError: a file does not exist, is invalid, or is not a language model.
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
        """Return no models: they are loaded on request."""
        return []

    async def load(
        self, model: ModelInfo, values: Mapping[str, Any], cancelled: asyncio.Event
    ) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Load a model: its file is read first, with progress, so that llama.cpp loads it from the system's cache.

        Raises:
            RequestFailed: the file is invalid or does not exist, or llama.cpp cannot load it.
        """
        local = self._models[model.model_key]
        options = self._load_options(local, values)
        yield LoadProgress(0.0)
        await self._check(local)
        async with aclosing(_read_ahead(local, cancelled)) as steps:
            async for share in steps:
                yield LoadProgress(share * READ_SHARE)
        if cancelled.is_set():
            return
        if not await self._passes_preflight(local, cancelled):
            return
        runtime = await self._load(local, options)
        if cancelled.is_set():
            await asyncio.to_thread(runtime.close)
            return
        yield LoadProgress(1.0)
        yield LlamaModel(runtime, options, values, self.warn)

    def warn(self, key: str, text: str) -> None:
        """Log a warning, once for each key and MAX_WARNINGS times at most; from any thread."""
        key = key[:MAX_KEY_CHARACTERS]
        with self._lock:
            is_new = key not in self._warned and len(self._warned) < MAX_WARNINGS
            if is_new:
                self._warned.add(key)
        if is_new:
            _log.warning("%s", text)

    async def _check(self, local: LocalModel) -> None:
        """Check the files again: they may have changed since the start."""
        try:
            for part in local.parts:
                await asyncio.to_thread(checked_header, part)
        except LmError as error:
            raise RequestFailed(f"Cannot load {local.info.model_key}: {error.message}") from error

    async def _passes_preflight(self, local: LocalModel, cancelled: asyncio.Event) -> bool:
        try:
            return await preflight(local.file, cancelled, is_verbose=self._is_verbose)
        except OSError as error:
            raise RequestFailed(f"Cannot load {local.info.model_key}: {reason_of(error)}") from error
        except EngineError as error:
            raise self._not_loaded(local, error) from error

    async def _load(self, local: LocalModel, options: LoadOptions) -> Runtime:
        try:
            return await asyncio.to_thread(Runtime, local.file, options, is_verbose=self._is_verbose)
        except EngineError as error:
            raise self._not_loaded(local, error) from error

    def _not_loaded(self, local: LocalModel, error: EngineError) -> RequestFailed:
        hint = None if self._is_verbose else "lm serve --verbose shows the log of llama.cpp"
        return RequestFailed(f"Cannot load {local.info.model_key}: {error}", suggestion=hint)

    def _load_options(self, local: LocalModel, values: Mapping[str, Any]) -> LoadOptions:
        for key in unsupported_load_keys(values):
            self.warn(key, f"llama.cpp does not support the load option {quoted(key)}, which is ignored")
        found = load_parameters(values)
        context = _context_length(values, local.info.max_context_length)
        sessions = found.pop("n_parallel", max(1, min(MAX_SESSIONS, MAX_SESSIONS_TOKENS // context)))
        # llama.cpp aborts unless one token of each session fits into a batch.
        found["n_batch"] = max(found.get("n_batch", BATCH_TOKENS), sessions)
        for key, parameter in _SWITCHES.items():
            if isinstance(value := values.get(LOAD_PREFIX + key), bool):
                found.update(parameter(value))
        ratio = values.get(LOAD_PREFIX + "llama.acceleration.offloadRatio")
        return LoadOptions(
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
        options: LoadOptions,
        values: Mapping[str, Any],
        warn: Callable[[str, str], None],
    ) -> None:
        self.context_length = options.context_length
        self.load_values: Mapping[str, Any] = {**values, CONTEXT_LENGTH_KEY: options.context_length}
        self.prediction_values: Mapping[str, Any] = DEFAULT_VALUES
        self._runtime = runtime
        self._warn = warn
        self._predictions: set[Prediction] = set()
        # One more than llama.cpp runs at once, to be prepared meanwhile. The others wait without a thread.
        self._slots = Slots(options.sessions + 1)

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Run the model.

        Raises:
            RequestFailed: the request is not supported, or llama.cpp failed.
        """
        for key in unsupported_prediction_keys(request.values):
            self._warn(key, f"llama.cpp does not support the option {quoted(key)}, which is ignored")
        if not await self._slots.acquire(request.cancelled):
            for event in cancelled_events(request, self.context_length):
                yield event
            return
        self._predictions = {running for running in self._predictions if running.thread.is_alive()}
        prediction = Prediction(
            runtime=self._runtime,
            request=request,
            context_length=self.context_length,
            warn=self._warn,
            release=self._slots.release,
        )
        prediction.start()
        self._predictions.add(prediction)
        async with aclosing(prediction.events()) as events:
            async for event in events:
                yield event

    async def tokenize(self, text: str) -> Sequence[int]:
        """The token numbers of a text."""
        try:
            return await asyncio.to_thread(self._runtime.tokenize, text)
        except EngineError as error:
            raise request_failed(error) from error

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        return len(await self.tokenize(text))

    async def apply_template(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """The prompt for a conversation."""
        try:
            with translated_errors():
                return await asyncio.to_thread(apply_template, self._runtime, messages, values)
        except EngineError as error:
            raise request_failed(error) from error

    async def unload(self) -> None:
        """Free the memory, after the threads of cancelled predictions have ended."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for prediction in self._predictions:
            prediction.thread.join()
        self._predictions.clear()
        self._runtime.close()


async def _read_ahead(local: LocalModel, cancelled: asyncio.Event) -> AsyncGenerator[float, None]:
    """Read the files into the system's cache; yields the share that is read.

    Raises:
        RequestFailed: a file cannot be read.
    """
    total = local.info.size_bytes
    if total > free_memory_bytes() * MAX_MEMORY_SHARE:
        return
    sizes: ThreadQueue[int] = ThreadQueue()
    errors: list[OSError] = []

    def read() -> None:
        try:
            for size in _read_through(local.parts):
                if not sizes.put(size):
                    return
        except OSError as error:
            errors.append(error)
        finally:
            sizes.finish()

    threading.Thread(target=read, name="read model", daemon=True).start()
    done = 0
    try:
        async for size in sizes:
            if cancelled.is_set():
                return
            done += size
            yield min(1.0, done / total)
    finally:
        sizes.close()
    for error in errors:
        raise RequestFailed(f"Cannot read {local.info.model_key}: {reason_of(error)}")


def _read_through(files: Sequence[Path]) -> Iterator[int]:
    """Read files and discard their content; yields the number of bytes of each read."""
    block = bytearray(READ_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while size := stream.readinto(block):
                yield size


def _context_length(values: Mapping[str, Any], max_length: int) -> int:
    length = values.get(CONTEXT_LENGTH_KEY, min(DEFAULT_CONTEXT_LENGTH, max_length or DEFAULT_CONTEXT_LENGTH))
    if type(length) is not int or length < 1:
        raise RequestFailed(f"Invalid load config: {CONTEXT_LENGTH_KEY} must be a positive whole number")
    return min(length, max_length) if max_length else length


def _gpu_layers(ratio: Any, layers: int) -> int | None:
    """The number of layers on the GPU, where the output counts as one more; None for llama.cpp's default."""
    all_layers = layers + 1
    if isinstance(ratio, int | float) and not isinstance(ratio, bool):
        return round(min(max(ratio, 0.0), 1.0) * all_layers)
    return {"off": 0, "max": all_layers}.get(ratio) if isinstance(ratio, str) else None


def _flash_attention(value: bool) -> dict[str, Any]:  # noqa: FBT001  the value of the option
    kinds = xllamacpp.llama_flash_attn_type
    return {"flash_attn_type": kinds.LLAMA_FLASH_ATTN_TYPE_ENABLED if value else kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED}


def _mmap(value: bool) -> dict[str, Any]:  # noqa: FBT001  the value of the option
    return {} if value else {"load_mode": xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE}


_SWITCHES: Final[Mapping[str, Callable[[bool], dict[str, Any]]]] = {
    "offloadKVCacheToGpu": lambda value: {"no_kv_offload": not value},
    "llama.tryMmap": _mmap,
    "llama.flashAttention": _flash_attention,
}
