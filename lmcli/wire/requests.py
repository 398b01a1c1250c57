"""What a channel is opened with: an endpoint and its creation parameter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from lmcli.chat import Message, TextPart
from lmcli.record import distinct
from lmcli.values import JsonObject
from lmcli.wire.config import config_stack, prediction_stack
from lmcli.wire.histories import write_history
from lmcli.wire.prediction_config import PredictionConfig

if TYPE_CHECKING:
    from lmcli.wire.load_config import LoadConfig

Stack = JsonObject
"""Options written before by `prediction_stack`, for many requests with the same."""


@distinct
class ChannelRequest(NamedTuple):
    """One request for a channel."""

    endpoint: str
    parameter: JsonObject

    def on_device(self, device: str | None) -> "ChannelRequest":
        """The same for the model on one device of LM Link; None leaves that to the server.

        Source: npm @lmstudio/sdk 2.0.0, the query of a model, and the parameters of `getOrLoad` and `loadModel`.
        """
        if device is None:
            return self
        named = {"deviceIdentifier": device}
        specified = self.parameter.get("modelSpecifier")
        if specified is not None:
            named = {"modelSpecifier": specified | {"query": specified["query"] | named}}
        return self._replace(parameter=self.parameter | named)


def specifier(identifier: str | None) -> JsonObject:
    """Name a loaded model; None stands for any. Source: lmstudio-js 6ec11db, lms-shared-types/src/ModelSpecifier.ts."""
    return {"type": "query", "query": {} if identifier is None else {"identifier": identifier}}


def respond(
    model: str | None, messages: Sequence[Message], config: PredictionConfig | Stack, preset: str | None = None
) -> ChannelRequest:
    """Ask for the next turn of a conversation."""
    stack = config if isinstance(config, dict) else prediction_stack(config)
    return _prediction("predict", model, {"history": write_history(messages)}, stack, preset)


def complete(
    model: str | None, prompt: str, config: PredictionConfig | Stack, preset: str | None = None
) -> ChannelRequest:
    """Ask for the raw continuation of a text."""
    stack = config if isinstance(config, dict) else prediction_stack(config, is_raw=True)
    return _prediction("completeRawText", model, {"rawPrompt": prompt}, stack, preset)


def complete_by_predict(
    model: str | None, prompt: str, config: PredictionConfig, preset: str | None = None
) -> ChannelRequest:
    """Ask a server from before July 2026, which has no `completeRawText`, for the same."""
    history = write_history([Message("user", (TextPart(prompt),))])
    stack = prediction_stack(config, is_raw=True, unformatted=True)
    return _prediction("predict", model, {"history": history}, stack, preset)


def get_or_load(key: str, config: "LoadConfig | None", *, ttl: float | None = None) -> ChannelRequest:
    """Ask for a model by key or identifier, loaded if it is not; `ttl` in seconds counts only for a new load."""
    parameter: JsonObject = {"identifier": key, "loadConfigStack": _load_stack(config)}
    if ttl is not None:
        parameter["loadTtlMs"] = _milliseconds(ttl)
    return ChannelRequest("getOrLoad", parameter)


def load(
    key: str, config: "LoadConfig | None", *, identifier: str | None = None, ttl: float | None = None
) -> ChannelRequest:
    """Ask for a new instance of a model, under a name that no other has; without one the server makes it up.

    Raises:
        UsageError: it cannot have this name, or an option its value.
    """
    parameter: JsonObject = {"modelKey": key, "loadConfigStack": _load_stack(config)}
    if identifier is not None:
        from lmcli.wire.identifiers import check_identifier  # noqa: PLC0415  hardly any load names its instance

        check_identifier(identifier)
        parameter["identifier"] = identifier
    if ttl is not None:
        parameter["ttlMs"] = _milliseconds(ttl)
    return ChannelRequest("loadModel", parameter)


def _load_stack(config: "LoadConfig | None") -> JsonObject:
    if config is None:
        return config_stack({})
    from lmcli.wire.load_config import load_stack  # noqa: PLC0415  only a configured load pays for it

    return load_stack(config)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _prediction(
    endpoint: str, model: str | None, prompt: JsonObject, stack: JsonObject, preset: str | None
) -> ChannelRequest:
    parameter = {"modelSpecifier": specifier(model), **prompt, "predictionConfigStack": stack}
    if preset is not None:
        parameter["fuzzyPresetIdentifier"] = preset
    return ChannelRequest(endpoint, parameter)
