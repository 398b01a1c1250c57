"""The engine of `lm serve MODEL.gguf`: GGUF files, run by llama.cpp.

Each model is loaded at the first request for it. Importing this module requires the extra `local`.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, Final

from lmcli.chat import Message
from lmcli.errors import quoted
from lmcli.errors import reason as reason_of
from lmcli.server.effective_config import DEFAULT_VALUES
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest
from lmcli.server.llama.engine_errors import NAME, VERSION, EngineEnded, EngineError, failing_requests
from lmcli.server.llama.engine_messages import BATCH_TOKENS, LoadOptions
from lmcli.server.llama.engine_process import EngineProcess
from lmcli.server.llama.model_files import LocalModel, local_models
from lmcli.server.llama.parameters import (
    CONTEXT_LENGTH_KEY,
    LOAD_PREFIX,
    load_parameters,
    unsupported_load_keys,
    unsupported_prediction_keys,
)
from lmcli.server.llama.prediction import Prediction
from lmcli.server.llama.prompt import apply_template
from lmcli.server.request_errors import RequestFailed
from lmcli.values import LoadProgress, ModelInfo

# In tokens, as in LM Studio.
DEFAULT_CONTEXT_LENGTH: Final = 4096
# The default limits for the concurrent predictions of a model: their number, and the tokens of all their contexts.
MAX_SESSIONS: Final = 4
MAX_SESSIONS_TOKENS: Final = 65_536
# The share of reading the file in the load progress.
READ_SHARE: Final = 0.9
# Clients can send any key, so the number and the length of the keys that were warned about are bounded.
MAX_WARNINGS: Final = 256
MAX_KEY_CHARACTERS: Final = 100

_log: Final = logging.getLogger(__name__)


class LlamaEngine:
    """The engine.

    Args:
        files: the files of the models, of several the first, and folders of them.
        key: of the only model; None derives it.
        sessions: how many predictions a model runs at the same time; None depends on its context.
        is_verbose: whether llama.cpp logs to stderr.

    Raises:
        LmError: a file does not exist, is invalid, or is not a language model.
    """

    name = NAME
    version = VERSION

    def __init__(
        self, files: Sequence[Path], *, key: str | None = None, sessions: int | None = None, is_verbose: bool = False
    ) -> None:
        self._models = {model.info.model_key: model for model in local_models(files, key=key)}
        self.downloaded: Sequence[ModelInfo] = [model.info for model in self._models.values()]
        self._sessions = sessions
        self._is_verbose = is_verbose
        self._warned: set[str] = set()

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
        async with AsyncExitStack() as stack:
            try:
                process = await EngineProcess.start(is_verbose=self._is_verbose)
                stack.push_async_callback(process.close)
                async with aclosing(process.load(local.parts, options._asdict(), cancelled)) as shares:
                    async for share in shares:
                        yield LoadProgress(share * READ_SHARE)
            except (OSError, EngineError) as error:
                if cancelled.is_set():
                    return
                raise self._not_loaded(local, error) from error
            yield LoadProgress(1.0)
            stack.pop_all()
        yield LlamaModel(model.model_key, process, options, values, self.warn)

    def warn(self, key: str, text: str) -> None:
        """Log a warning, once for each key and MAX_WARNINGS times at most."""
        key = key[:MAX_KEY_CHARACTERS]
        if key not in self._warned and len(self._warned) < MAX_WARNINGS:
            self._warned.add(key)
            _log.warning("%s", text)

    def _not_loaded(self, local: LocalModel, error: OSError | EngineError) -> RequestFailed:
        text = reason_of(error) if isinstance(error, OSError) else str(error)
        has_log = isinstance(error, EngineEnded) and not error.is_killed and not self._is_verbose
        hint = "lm serve --verbose shows the log of llama.cpp" if has_log else None
        return RequestFailed(f"Cannot load {local.info.model_key}: {text}", suggestion=hint)

    def _load_options(self, local: LocalModel, values: Mapping[str, Any]) -> LoadOptions:
        for key in unsupported_load_keys(values):
            self.warn(key, f"llama.cpp does not support the load option {quoted(key)}, which is ignored")
        found = load_parameters(values)
        context = _context_length(values, local.info.max_context_length)
        default = self._sessions or max(1, min(MAX_SESSIONS, MAX_SESSIONS_TOKENS // context))
        sessions = found.pop("n_parallel", default)
        # llama.cpp aborts unless one token of each session fits into a batch.
        found["n_batch"] = max(found.get("n_batch", BATCH_TOKENS), sessions)
        if isinstance(on_gpu := values.get(LOAD_PREFIX + "offloadKVCacheToGpu"), bool):
            found["no_kv_offload"] = not on_gpu
        has_flash_attention = values.get(LOAD_PREFIX + "llama.flashAttention")
        ratio = values.get(LOAD_PREFIX + "llama.acceleration.offloadRatio")
        return LoadOptions(
            context_length=context,
            sessions=sessions,
            gpu_layers=_gpu_layers(ratio, local.layers),
            threads=found.pop("n_threads", None),
            has_mmap=values.get(LOAD_PREFIX + "llama.tryMmap") is not False,
            has_flash_attention=has_flash_attention if isinstance(has_flash_attention, bool) else None,
            parameters=found,
        )


class LlamaModel:
    """A model in memory, in a process of its own."""

    def __init__(
        self,
        key: str,
        process: EngineProcess,
        options: LoadOptions,
        values: Mapping[str, Any],
        warn: Callable[[str, str], None],
    ) -> None:
        self.context_length = options.context_length
        self.load_values: Mapping[str, Any] = {**values, CONTEXT_LENGTH_KEY: options.context_length}
        self.prediction_values: Mapping[str, Any] = DEFAULT_VALUES
        self._key = key
        self._process = process
        self._warn = warn

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Have a function called if the process ends before `unload`."""

        def log_and_call(error: EngineError) -> None:
            _log.info("%s is unloaded: %s", self._key, error)
            callback()

        self._process.on_lost(log_and_call)

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Run the model.

        Raises:
            RequestFailed: the request is not supported, or llama.cpp failed.
        """
        for key in unsupported_prediction_keys(request.values):
            self._warn(key, f"llama.cpp does not support the option {quoted(key)}, which is ignored")
        prediction = Prediction(
            process=self._process,
            request=request,
            context_length=self.context_length,
            warn=self._warn,
        )
        async with aclosing(prediction.events()) as events:
            async for event in events:
                yield event

    async def tokenize(self, text: str) -> Sequence[int]:
        """The token numbers of a text."""
        with failing_requests():
            return await self._process.tokenize(text)

    async def count_tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        with failing_requests():
            return await self._process.count_tokens(text)

    async def apply_template(self, messages: Sequence[Message], values: Mapping[str, Any]) -> str:
        """The prompt for a conversation."""
        with failing_requests():
            return await apply_template(self._process, messages, values)

    async def unload(self) -> None:
        """End the process, and return when its memory is free."""
        await self._process.close()


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
