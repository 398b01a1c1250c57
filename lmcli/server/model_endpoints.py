"""The endpoints that the namespaces `/llm` and `/embedding` share: models, their instances and their tokens.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/baseModelBackendInterface.ts
"""

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from lmcli.server.endpoints import (
    CANCEL,
    FLAG,
    NEW_IDENTIFIER,
    POSITIVE,
    SPECIFIER,
    STACK,
    TEXT,
    TEXT_OR_NULL,
    CallEndpoint,
    Channel,
    ChannelEndpoint,
    Context,
    Field,
    Shape,
)
from lmcli.server.model_instance import Instance
from lmcli.server.model_load import LoadParameters, ModelLoad
from lmcli.server.model_names import find_models
from lmcli.server.request_errors import (
    RequestFailed,
    domain_mismatch,
    no_model_matching,
    path_not_found,
    unsupported,
)
from lmcli.values import JsonObject, ModelInfo
from lmcli.wire.config import read_stack, write_fields
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.objects import write


def downloaded_model(context: Context, name: str) -> ModelInfo:
    """The downloaded model that a name stands for, the first of several; raises as `_matching_models`."""
    return _matching_models(context, name)[0]


def _matching_models(context: Context, name: str) -> Sequence[ModelInfo]:
    """The downloaded models that a name stands for.

    Raises:
        RequestFailed: there is none, or it belongs to another domain.
    """
    in_domain = [model for model in context.engine.downloaded if model.type == context.domain]
    if models := find_models(in_domain, name):
        return models
    if others := find_models(context.engine.downloaded, name):
        raise domain_mismatch(name, others[0].type, context.domain)
    raise path_not_found(name, [model.model_key for model in in_domain])


async def list_loaded(context: Context, _: JsonObject) -> Any:
    """Describe the loaded models of the domain."""
    return [write(i.describe()) for i in context.registry if i.model_info.type == context.domain]


async def get_model_info(context: Context, parameter: JsonObject) -> Any:
    """Describe a loaded model."""
    instance = _optional(context, parameter)
    return ABSENT if instance is None else write(instance.describe())


async def get_processing_state(context: Context, parameter: JsonObject) -> Any:
    """Return the state of a loaded model."""
    instance = _optional(context, parameter)
    return ABSENT if instance is None else instance.processing_state()


async def get_load_config(context: Context, parameter: JsonObject) -> Any:
    """Return the config that a model was loaded with."""
    return write_fields(_required(context, parameter).model.load_values)


async def get_base_prediction_config(context: Context, parameter: JsonObject) -> Any:
    """Return a model's default prediction config."""
    return write_fields(_required(context, parameter).model.prediction_values)


async def unload_model(context: Context, parameter: JsonObject) -> Any:
    """Unload a model."""
    identifier = parameter["identifier"]
    instance = context.registry.get(identifier)
    if instance is None or instance.model_info.type != context.domain:
        raise no_model_matching({"identifier": identifier}, [i.identifier for i in context.registry])
    await context.registry.unload(instance)
    return ABSENT


async def estimate_usage(context: Context, parameter: JsonObject) -> Any:
    """Estimate the memory that a model needs: the size of its file.

    Source: lmstudio-js 6ec11db, lms-shared-types/src/EstimatedResourcesUsage.ts
    """
    size = downloaded_model(context, parameter["modelKey"]).size_bytes
    memory = {
        "confidence": "low",
        "modelVramBytes": 0,
        "contextVramBytes": 0,
        "totalVramBytes": 0,
        "modelBytes": size,
        "contextBytes": 0,
        "totalBytes": size,
    }
    return {"memory": memory, "passesGuardrails": True}


async def tokenize(context: Context, parameter: JsonObject) -> Any:
    """Return the token numbers of a text."""
    return {"tokens": list(await _required(context, parameter).model.tokenize(parameter["inputString"]))}


async def count_tokens(context: Context, parameter: JsonObject) -> Any:
    """Count the tokens of a text."""
    return {"tokenCount": await _required(context, parameter).model.count_tokens(parameter["inputString"])}


async def preload_draft_model(context: Context, parameter: JsonObject) -> Any:
    """Check that a draft model exists; no engine uses one."""
    _required(context, parameter)
    downloaded_model(context, parameter["draftModelKey"])
    return ABSENT


async def embed_string(context: Context, parameter: JsonObject) -> Any:
    """Embed a text, which no engine supports."""
    context.registry.require(parameter["modelSpecifier"], context.domain)
    raise unsupported("embeddings", context.engine.name, context.engine.version)


async def load_model(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Load a new instance of a downloaded model."""
    models = _matching_models(context, parameter["modelKey"])
    load = context.registry.load(_load_parameters(context, parameter, models[0]), parameter.get("identifier"))
    ambiguous = {"ambiguous": [model.model_key for model in models]} if len(models) > 1 else {}
    with load.subscribed():
        await channel.send({"type": "resolved", "info": write(models[0]), **ambiguous})
        instance = await _send_progress(channel, load, progress_type="progress")
    await channel.send({"type": "success", "info": write(instance.describe())})


async def get_or_load(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Return a loaded instance, or load the model; concurrent requests for one model share one load."""
    instance = _loaded(context, parameter["identifier"])
    if instance is not None:
        context.registry.restart_ttl(instance)
        await channel.send({"type": "alreadyLoaded", "info": write(instance.describe())})
        return
    parameters = _load_parameters(context, parameter, downloaded_model(context, parameter["identifier"]))
    if parameters.ttl_ms is not None:
        parameters = parameters._replace(is_jit=True)
        for other in context.registry.idle_jit_instances():
            info = write(other.describe())
            await context.registry.unload(other)
            await channel.send({"type": "unloadingOtherJITModel", "info": info})
    load = context.registry.load_once(parameters)
    with load.subscribed():
        await channel.send(
            {"type": "startLoading", "identifier": load.identifier, "info": write(parameters.model_info)}
        )
        instance = await _send_progress(channel, load, progress_type="loadProgress")
    await channel.send({"type": "loadSuccess", "info": write(instance.describe())})


def _loaded(context: Context, name: str) -> Instance | None:
    """The instance with an identifier, or the first one under the key of a model that the name stands for."""
    instance = next((i for i in context.registry if i.identifier.casefold() == name.casefold()), None)
    if instance is None:
        loaded = (context.registry.get(m.model_key) for m in find_models(context.engine.downloaded, name))
        instance = next(filter(None, loaded), None)
    return instance if instance and instance.model_info.type == context.domain else None


def _load_parameters(context: Context, parameter: JsonObject, model: ModelInfo) -> LoadParameters:
    ttl_ms = parameter.get("ttlMs", parameter.get("loadTtlMs"))
    values = read_stack(parameter["loadConfigStack"])
    return LoadParameters(context.engine, model, values, None if ttl_ms is None else int(ttl_ms))


async def _send_progress(channel: Channel, load: ModelLoad, *, progress_type: str) -> Instance:
    """Send the progress of a load to the client; returns the loaded instance.

    Raises:
        RequestFailed: the model cannot be loaded, or the client cancelled.
    """
    async with aclosing(load.progress(channel.cancelled)) as steps:
        async for progress in steps:
            await channel.send({"type": progress_type, "progress": progress})
    if not load.task.done():
        raise RequestFailed("Model loading was cancelled")
    return load.task.result()


def _optional(context: Context, parameter: JsonObject) -> Instance | None:
    if parameter["throwIfNotFound"]:
        return _required(context, parameter)
    return context.registry.find(parameter["specifier"], context.domain)


def _required(context: Context, parameter: JsonObject) -> Instance:
    return context.registry.require(parameter["specifier"], context.domain)


SPECIFIED: Shape = {"specifier": Field(SPECIFIER)}
_SPECIFIED_OPTIONAL: Shape = {**SPECIFIED, "throwIfNotFound": Field(FLAG)}
_SPECIFIED_TEXT: Shape = {**SPECIFIED, "inputString": Field(TEXT)}
_DEVICE: Shape = {"deviceIdentifier": Field(TEXT_OR_NULL, optional=True)}
_LOAD: Shape = {"loadConfigStack": Field(STACK), **_DEVICE}

CALLS: Mapping[str, CallEndpoint] = {
    "listLoaded": CallEndpoint(None, list_loaded),
    "getModelInfo": CallEndpoint(_SPECIFIED_OPTIONAL, get_model_info),
    "getInstanceProcessingState": CallEndpoint(_SPECIFIED_OPTIONAL, get_processing_state),
    "getLoadConfig": CallEndpoint(SPECIFIED, get_load_config),
    "getBasePredictionConfig": CallEndpoint(
        {**SPECIFIED, "ignoreServerSessionConfig": Field(FLAG, optional=True)}, get_base_prediction_config
    ),
    "unloadModel": CallEndpoint({"identifier": Field(TEXT), **_DEVICE}, unload_model),
    "estimateModelUsage": CallEndpoint({"modelKey": Field(TEXT), **_LOAD}, estimate_usage),
    "tokenize": CallEndpoint(_SPECIFIED_TEXT, tokenize),
    "countTokens": CallEndpoint(_SPECIFIED_TEXT, count_tokens),
}
EMBEDDING_CALLS: Mapping[str, CallEndpoint] = {
    **CALLS,
    "embedString": CallEndpoint({"modelSpecifier": Field(SPECIFIER), "inputString": Field(TEXT)}, embed_string),
}
LLM_CALLS: Mapping[str, CallEndpoint] = {
    **CALLS,
    "preloadDraftModel": CallEndpoint({**SPECIFIED, "draftModelKey": Field(TEXT)}, preload_draft_model),
}
CHANNELS: Mapping[str, ChannelEndpoint] = {
    "loadModel": ChannelEndpoint(
        {
            "modelKey": Field(TEXT),
            "identifier": Field(NEW_IDENTIFIER, optional=True),
            "ttlMs": Field(POSITIVE, optional=True),
            **_LOAD,
        },
        load_model,
        CANCEL,
    ),
    "getOrLoad": ChannelEndpoint(
        {"identifier": Field(TEXT), "loadTtlMs": Field(POSITIVE, optional=True), **_LOAD}, get_or_load, CANCEL
    ),
}
