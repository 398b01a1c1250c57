"""The endpoints that language models and embedding models have in common, but for loading and predicting."""

from collections.abc import Mapping
from typing import Any

from lmcli.server.endpoints import FLAG, SPECIFIER, STACK, TEXT, TEXT_OR_NULL, Call, Context, Field, Shape
from lmcli.server.failures import domain_mismatch, no_model_matching, path_not_found, unsupported
from lmcli.server.model_instance import Instance
from lmcli.values import JsonObject, ModelInfo
from lmcli.wire.config import write_fields
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.payloads import write

SPECIFIED: Shape = {"specifier": Field(SPECIFIER)}
DEVICE: Shape = {"deviceIdentifier": Field(TEXT_OR_NULL, optional=True)}
LOADING: Shape = {"loadConfigStack": Field(STACK), **DEVICE}


def downloaded_model(context: Context, wanted: str) -> ModelInfo:
    """The downloaded model of a key or a path.

    Raises:
        Refused: there is none, or it is of another domain.
    """
    for model in context.engine.downloaded:
        if wanted in (model.model_key, model.path, model.indexed_model_identifier):
            if model.type != context.domain:
                raise domain_mismatch(wanted, model.type, context.domain)
            return model
    raise path_not_found(wanted, [m.model_key for m in context.engine.downloaded if m.type == context.domain])


async def list_loaded(context: Context, _: JsonObject) -> Any:
    """Describe the loaded models of the domain."""
    return [write(i.describe()) for i in context.instances if i.model_info.type == context.domain]


async def get_model_info(context: Context, parameter: JsonObject) -> Any:
    """Describe one loaded model; no answer if it is not there and that is no error."""
    instance = _found(context, parameter)
    return ABSENT if instance is None else write(instance.describe())


async def get_processing_state(context: Context, parameter: JsonObject) -> Any:
    """Say what a loaded model is doing."""
    instance = _found(context, parameter)
    return ABSENT if instance is None else instance.processing_state()


async def get_load_config(context: Context, parameter: JsonObject) -> Any:
    """Give the configuration that a model was loaded with."""
    return write_fields(_required(context, parameter).model.load_values)


async def get_base_prediction_config(context: Context, parameter: JsonObject) -> Any:
    """Give the configuration of predictions for which a client sets nothing."""
    return write_fields(_required(context, parameter).model.prediction_values)


async def unload_model(context: Context, parameter: JsonObject) -> Any:
    """Unload a model."""
    identifier = parameter["identifier"]
    instance = context.instances.named(identifier)
    if instance is None or instance.model_info.type != context.domain:
        raise no_model_matching({"identifier": identifier}, [i.identifier for i in context.instances])
    await context.instances.unload(instance)
    return ABSENT


async def estimate_usage(context: Context, parameter: JsonObject) -> Any:
    """Guess the memory that a model would take: that of its file.

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
    """Give the numbers of a text's tokens."""
    return {"tokens": list(await _required(context, parameter).model.tokenize(parameter["inputString"]))}


async def count_tokens(context: Context, parameter: JsonObject) -> Any:
    """Count a text's tokens."""
    return {"tokenCount": await _required(context, parameter).model.count_tokens(parameter["inputString"])}


async def preload_draft_model(context: Context, parameter: JsonObject) -> Any:
    """Get a draft model ready: only look whether it is there."""
    _required(context, parameter)
    downloaded_model(context, parameter["draftModelKey"])
    return ABSENT


async def embed_string(context: Context, parameter: JsonObject) -> Any:
    """Embed a text; no engine does."""
    context.instances.require(parameter["modelSpecifier"], context.domain)
    raise unsupported("embeddings", context.engine.name, context.engine.version)


def _found(context: Context, parameter: JsonObject) -> Instance | None:
    if parameter["throwIfNotFound"]:
        return _required(context, parameter)
    return context.instances.find(parameter["specifier"], context.domain)


def _required(context: Context, parameter: JsonObject) -> Instance:
    return context.instances.require(parameter["specifier"], context.domain)


_FINDING: Shape = {**SPECIFIED, "throwIfNotFound": Field(FLAG)}
_TEXT: Shape = {**SPECIFIED, "inputString": Field(TEXT)}

CALLS: Mapping[str, Call] = {
    "listLoaded": Call(None, list_loaded),
    "getModelInfo": Call(_FINDING, get_model_info),
    "getInstanceProcessingState": Call(_FINDING, get_processing_state),
    "getLoadConfig": Call(SPECIFIED, get_load_config),
    "getBasePredictionConfig": Call(
        {**SPECIFIED, "ignoreServerSessionConfig": Field(FLAG, optional=True)}, get_base_prediction_config
    ),
    "unloadModel": Call({"identifier": Field(TEXT), **DEVICE}, unload_model),
    "estimateModelUsage": Call({"modelKey": Field(TEXT), **LOADING}, estimate_usage),
    "tokenize": Call(_TEXT, tokenize),
    "countTokens": Call(_TEXT, count_tokens),
}
EMBEDDING_CALLS: Mapping[str, Call] = {
    **CALLS,
    "embedString": Call({"modelSpecifier": Field(SPECIFIER), "inputString": Field(TEXT)}, embed_string),
}
LLM_ONLY_CALLS: Mapping[str, Call] = {
    "preloadDraftModel": Call({**SPECIFIED, "draftModelKey": Field(TEXT)}, preload_draft_model),
}
