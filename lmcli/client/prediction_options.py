"""What Python programs give, a history, the options of a prediction or a load, and the requests that are made of it."""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypedDict

from lmcli.chat import Chat, Message
from lmcli.client.collector import Callbacks, Collector
from lmcli.errors import UsageError, quoted
from lmcli.record import distinct
from lmcli.values import Fragment, JsonObject, ModelInfo, PromptDetails
from lmcli.wire import requests
from lmcli.wire.config import prediction_config, unknown_options
from lmcli.wire.load_config import LoadConfig, load_config, unknown_load_options
from lmcli.wire.prediction_config import PredictionConfig
from lmcli.wire.requests import ChannelRequest

History = Chat | Mapping[str, Any] | Sequence[Any] | str
LoadOptions = Mapping[str, Any] | LoadConfig | None
"""See `load_config`."""


class HasJsonSchema(Protocol):
    """A class that has a JSON schema, as pydantic models do."""

    @classmethod
    def model_json_schema(cls) -> JsonObject:
        """The schema."""
        ...


class PredictionOptions(TypedDict, total=False):
    """The options of every prediction, all by keyword."""

    config: Mapping[str, Any] | PredictionConfig | None
    response_format: type[HasJsonSchema] | Mapping[str, Any] | None
    preset: str | None
    on_prompt_processing_progress: Callable[[float], object] | None
    on_prompt_processing_details: Callable[[PromptDetails], object] | None
    on_first_token: Callable[[], object] | None
    on_prediction_fragment: Callable[[Fragment], object] | None
    on_message: Callable[[Message], object] | None


@distinct
class Settings(NamedTuple):
    """Options that have been read."""

    config: PredictionConfig
    preset: str | None
    callbacks: Callbacks

    def collector(self) -> Collector:
        """What collects the answer."""
        return Collector(self.callbacks, is_structured=self.config.structured is not None)

    def respond(self, identifier: str, messages: Sequence[Message]) -> ChannelRequest:
        """The request for the next turn of a conversation."""
        return requests.respond(identifier, messages, self.config, self.preset)

    def complete(self, identifier: str, prompt: str) -> tuple[ChannelRequest, ChannelRequest]:
        """The request for the raw continuation of a text, and the same for a server without the endpoint."""
        asked = (identifier, prompt, self.config, self.preset)
        return requests.complete(*asked), requests.complete_by_predict(*asked)


def read_options(options: PredictionOptions) -> Settings:
    """Read what a program gave.

    Raises:
        UsageError: an option is unknown, or cannot have its value.
    """
    callbacks = Callbacks(**{name: options.get(name) for name in Callbacks._fields})  # type: ignore[arg-type]
    return Settings(_config(options), options.get("preset"), callbacks)


def read_load_options(options: LoadOptions) -> LoadConfig:
    """Read how a program wants a model to be loaded, see `load_config`.

    Raises:
        UsageError: an option cannot have its value.
    """
    config = load_config(options)
    _warn(unknown_load_options(options))
    return config


def structured_setting(response_format: type[HasJsonSchema] | Mapping[str, Any]) -> JsonObject:
    """What to send for a response format.

    Shapes: a class with `model_json_schema()`; {"type": "json", "jsonSchema": {…}}; {"type": "gbnf",
    "gbnfGrammar": str}; any other object with `type` is a JSON schema itself.
    Raises:
        UsageError: it has another form.
    """
    if not isinstance(response_format, Mapping) and hasattr(response_format, "model_json_schema"):
        return {"type": "json", "jsonSchema": response_format.model_json_schema()}
    if not isinstance(response_format, Mapping) or "type" not in response_format:
        raise UsageError("a response format is a JSON schema, a setting with a type, or a class with model_json_schema")
    is_setting = response_format["type"] in ("json", "gbnf", "none")
    return dict(response_format) if is_setting else {"type": "json", "jsonSchema": dict(response_format)}


def of_kind(models: Iterable[ModelInfo], namespace: str | None) -> list[ModelInfo]:
    """The models of one kind, or all."""
    return [model for model in models if is_kind(model.type, namespace)]


def is_kind(kind: str, namespace: str | None) -> bool:
    """Whether models of a kind are asked for; None asks for all.

    Raises:
        UsageError: there is no such namespace of models.
    """
    if namespace not in (None, "llm", "embedding"):
        raise UsageError(f"there are models of llm and embedding, not of {quoted(namespace)}")
    return namespace in (None, kind)


def _config(options: PredictionOptions) -> PredictionConfig:
    given = options.get("config")
    config = prediction_config(given)
    _warn(unknown_options(given))
    response_format = options.get("response_format")
    if response_format is None:
        return config
    if config.structured is not None:
        raise UsageError("response_format and the option structured exclude each other")
    return config.replace(structured=structured_setting(response_format))


def _warn(sentences: Iterable[str]) -> None:
    """Warn of what has no effect, at the line of the program that calls the library."""
    for sentence in sentences:
        frame, level = sys._getframe(1), 2  # noqa: SLF001  warnings can pass over files only from Python 3.12 on
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("lmcli."):
            frame, level = frame.f_back, level + 1
        warnings.warn(sentence, stacklevel=level)
