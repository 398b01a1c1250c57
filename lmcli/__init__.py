"""Unix filters for LM Studio, and the compact synchronous client that they are built on.

`import lmcli as lms` gives the names of the official Python SDK's synchronous API for chat and text completion. Each
is loaded when it is first used, so the import itself costs nothing.
"""

TYPE_CHECKING = False  # as typing has it, without the 4 ms that typing takes
if TYPE_CHECKING:
    from lmcli.chat import Chat, FilePart, ImagePart, Message, TextPart, ToolCallResult
    from lmcli.client.aio import AsyncClient, AsyncLLM
    from lmcli.client.aio_streams import AsyncPredictionStream
    from lmcli.client.api import LLM, Client
    from lmcli.client.default_client import (
        configure_default_client,
        get_default_client,
        list_downloaded_models,
        list_loaded_models,
        llm,
        prepare_image,
    )
    from lmcli.client.prediction_options import PredictionOptions
    from lmcli.client.streams import PredictionStream
    from lmcli.errors import (
        BadInput,
        BadSetting,
        CannotConnect,
        ConnectionLost,
        ContextFull,
        Incomplete,
        InUse,
        LmError,
        LoadFailed,
        ModelNotFound,
        ModelUnloaded,
        NoInput,
        NoModelLoaded,
        NotAllowed,
        OutputFailed,
        PredictionFailed,
        PresetNotFound,
        RemoteProtocolError,
        RequestRejected,
        TimedOut,
        TokenExposed,
        Unavailable,
        Unusable,
        UsageError,
    )
    from lmcli.values import (
        AmbiguousModel,
        CandidateToken,
        Fragment,
        LoadProgress,
        ModelInfo,
        ModelInstance,
        PredictedToken,
        PredictionEnd,
        PredictionResult,
        PromptDetails,
        PromptProgress,
        Quantization,
        Stats,
        ToolCallFailure,
        ToolCallRequest,
        UnloadingModel,
    )
    from lmcli.wire.load_config import LoadConfig
    from lmcli.wire.prediction_config import PredictionConfig

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AmbiguousModel",
    "AsyncClient",
    "AsyncLLM",
    "AsyncPredictionStream",
    "BadInput",
    "BadSetting",
    "CandidateToken",
    "CannotConnect",
    "Chat",
    "Client",
    "ConnectionLost",
    "ContextFull",
    "FilePart",
    "Fragment",
    "ImagePart",
    "InUse",
    "Incomplete",
    "LmError",
    "LoadConfig",
    "LoadFailed",
    "LoadProgress",
    "Message",
    "ModelInfo",
    "ModelInstance",
    "ModelNotFound",
    "ModelUnloaded",
    "NoInput",
    "NoModelLoaded",
    "NotAllowed",
    "OutputFailed",
    "PredictedToken",
    "PredictionConfig",
    "PredictionEnd",
    "PredictionFailed",
    "PredictionOptions",
    "PredictionResult",
    "PredictionStream",
    "PresetNotFound",
    "PromptDetails",
    "PromptProgress",
    "Quantization",
    "RemoteProtocolError",
    "RequestRejected",
    "Stats",
    "TextPart",
    "TimedOut",
    "TokenExposed",
    "ToolCallFailure",
    "ToolCallRequest",
    "ToolCallResult",
    "Unavailable",
    "UnloadingModel",
    "Unusable",
    "UsageError",
    "configure_default_client",
    "get_default_client",
    "list_downloaded_models",
    "list_loaded_models",
    "llm",
    "prepare_image",
]

# Where the names are, from the lowest layer up: a module loads those before it anyway. Only a name that says so is
# asynchronous: asyncio takes 40 ms.
_ASYNC_MODULES = ("lmcli.client.aio_streams", "lmcli.client.aio")
_MODULES = (
    "lmcli.errors",
    "lmcli.values",
    "lmcli.chat",
    "lmcli.wire.prediction_config",
    "lmcli.wire.load_config",
    "lmcli.client.prediction_options",
    "lmcli.client.streams",
    "lmcli.client.api",
    "lmcli.client.default_client",
)

if not TYPE_CHECKING:  # a type checker that saw it would accept every name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  paid by who uses a name

        for module in map(import_module, _ASYNC_MODULES if name.startswith("Async") else _MODULES):
            if hasattr(module, name):
                globals()[name] = getattr(module, name)
                break
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
