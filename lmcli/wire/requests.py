"""What a channel is opened with: an endpoint and its creation parameter."""

from collections.abc import Sequence
from typing import NamedTuple

from lmcli.chat import Message, TextPart
from lmcli.record import distinct
from lmcli.values import JsonObject, LoadConfig
from lmcli.wire.config import load_stack, prediction_stack
from lmcli.wire.payloads import write_history
from lmcli.wire.prediction_config import PredictionConfig

Stack = JsonObject
"""Options written before by `prediction_stack`, for many requests with the same."""


@distinct
class ChannelRequest(NamedTuple):
    """One request for a channel."""

    endpoint: str
    parameter: JsonObject


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


def get_or_load(key: str, config: LoadConfig, *, ttl: float | None = None) -> ChannelRequest:
    """Ask for a model by key or identifier, loaded if it is not; `ttl` in seconds counts only for a new load."""
    parameter: JsonObject = {"identifier": key, "loadConfigStack": load_stack(config)}
    if ttl is not None:
        parameter["loadTtlMs"] = _milliseconds(ttl)
    return ChannelRequest("getOrLoad", parameter)


def load(key: str, config: LoadConfig, *, identifier: str | None = None, ttl: float | None = None) -> ChannelRequest:
    """Ask for a new instance of a model, under a name that no other has; without one the server makes it up."""
    parameter: JsonObject = {"modelKey": key, "loadConfigStack": load_stack(config)}
    if identifier is not None:
        parameter["identifier"] = identifier
    if ttl is not None:
        parameter["ttlMs"] = _milliseconds(ttl)
    return ChannelRequest("loadModel", parameter)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _prediction(
    endpoint: str, model: str | None, prompt: JsonObject, stack: JsonObject, preset: str | None
) -> ChannelRequest:
    parameter = {"modelSpecifier": specifier(model), **prompt, "predictionConfigStack": stack}
    if preset is not None:
        parameter["fuzzyPresetIdentifier"] = preset
    return ChannelRequest(endpoint, parameter)
