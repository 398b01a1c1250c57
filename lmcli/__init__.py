"""Unix filters for LM Studio, and the compact synchronous client that they are built on.

`import lmcli as lms` gives the synchronous API of the official Python SDK on this ground. The names are loaded when
they are used, so the import itself costs nothing.
"""

TYPE_CHECKING = False  # as typing has it, without the 4 ms that typing takes
if TYPE_CHECKING:
    from typing import Any

    from lmcli.chat import Chat
    from lmcli.client.api import LLM, Client, llm
    from lmcli.client.streams import PredictionStream
    from lmcli.errors import LmError
    from lmcli.values import Fragment, LoadConfig, PredictionResult
    from lmcli.wire.prediction_config import PredictionConfig

__version__ = "0.1.0"

_HOMES = {
    "Chat": "lmcli.chat",
    "Client": "lmcli.client.api",
    "Fragment": "lmcli.values",
    "LLM": "lmcli.client.api",
    "LmError": "lmcli.errors",
    "LoadConfig": "lmcli.values",
    "PredictionConfig": "lmcli.wire.prediction_config",
    "PredictionResult": "lmcli.values",
    "PredictionStream": "lmcli.client.streams",
    "llm": "lmcli.client.api",
}

__all__ = [
    "LLM",
    "Chat",
    "Client",
    "Fragment",
    "LmError",
    "LoadConfig",
    "PredictionConfig",
    "PredictionResult",
    "PredictionStream",
    "llm",
]


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  paid by who uses a name

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
