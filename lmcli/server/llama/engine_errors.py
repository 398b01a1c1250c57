"""What can go wrong with llama.cpp, and how clients are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import xllamacpp

from lmcli.server.request_errors import RequestFailed, unsupported

NAME: Final = "llama.cpp"
VERSION: Final = str(xllamacpp.__version__)


class EngineError(Exception):
    """llama.cpp rejected a request, or failed during it."""


class PromptTooLong(EngineError):
    """The prompt exceeds the context.

    Args:
        prompt_tokens: the tokens of the prompt.
    """

    def __init__(self, message: str, prompt_tokens: int) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens


class UnsupportedSchema(EngineError):
    """llama.cpp does not enforce a JSON schema."""


class EngineEnded(EngineError):
    """The process in which llama.cpp runs has ended, and the model with it.

    Args:
        is_killed: whether another process, or the system, has ended it: the log of llama.cpp does not show why.
    """

    def __init__(self, message: str, *, is_killed: bool) -> None:
        super().__init__(message)
        self.is_killed = is_killed


@contextmanager
def failing_requests() -> Iterator[None]:
    """Translate an EngineError into the error that is sent to clients."""
    try:
        yield
    except EngineError as error:
        raise request_failed(error) from error


def request_failed(error: EngineError) -> RequestFailed:
    """The error as it is sent to clients."""
    if isinstance(error, UnsupportedSchema):
        return unsupported_by_engine("this JSON schema")
    if isinstance(error, EngineEnded):
        return RequestFailed(f"The model has crashed: {error}")
    return RequestFailed(f"{NAME}: {error}")


def unsupported_by_engine(feature: str, suggestion: str | None = None) -> RequestFailed:
    """llama.cpp does not support a feature."""
    failed = unsupported(feature, NAME, VERSION)
    failed.suggestion = suggestion
    return failed
