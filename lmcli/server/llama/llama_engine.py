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
from lmcli.server.llama.engine_errors import (
    NAME,
    VERSION,
    EngineEnded,
    EngineError,
    failing_requests,
    unsupported_by_engine,
)
from lmcli.server.llama.engine_messages import LoadOptions
from lmcli.server.llama.engine_process import EngineProcess
from lmcli.server.llama.key_uses import refused_keys, unknown_keys
from lmcli.server.llama.load_parameters import CONTEXT_LENGTH_KEY, REASONING_BUDGET_MESSAGE_KEY, load_options
from lmcli.server.llama.model_files import LocalModel, local_models
from lmcli.server.llama.prediction import Prediction
from lmcli.server.llama.prompt import apply_template
from lmcli.server.request_errors import RequestFailed
from lmcli.values import LoadProgress, ModelInfo

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
        yield LlamaModel(model.model_key, process, options, local.layers + 1, values, warn=self.warn)

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
        refuse(values)
        for key in unknown_keys(values):
            self.warn(key, f"the load option {quoted(key)} is unknown, and ignored")
        return load_options(
            values,
            max_context_length=local.info.max_context_length,
            layers=local.layers + 1,
            sessions=self._sessions,
        )


class LlamaModel:
    """A model in memory, in a process of its own."""

    def __init__(
        self,
        key: str,
        process: EngineProcess,
        options: LoadOptions,
        layers: int,
        values: Mapping[str, Any],
        *,
        warn: Callable[[str, str], None],
    ) -> None:
        self.context_length = options.context_length
        self.load_values: Mapping[str, Any] = {**values, CONTEXT_LENGTH_KEY: options.context_length}
        self.prediction_values: Mapping[str, Any] = DEFAULT_VALUES
        self._key = key
        self._process = process
        on_gpu = layers if options.gpu_layers is None else options.gpu_layers
        self._gpu_layers = on_gpu if process.has_gpu else 0
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
        refuse(request.values)
        for key in unknown_keys(request.values):
            self._warn(key, f"the option {quoted(key)} is unknown, and ignored")
        prediction = Prediction(
            process=self._process,
            request=request,
            context_length=self.context_length,
            gpu_layers=self._gpu_layers,
            budget_message=str(self.load_values.get(REASONING_BUDGET_MESSAGE_KEY, "")),
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


def refuse(values: Mapping[str, Any]) -> None:
    """Refuse the keys that llama.cpp cannot be given, unless their values have no effect.

    Raises:
        RequestFailed: there is one.
    """
    for key, use in refused_keys(values):
        raise unsupported_by_engine(f"the option {key}", use.reason)
