"""The channels that load models: `loadModel` for one more instance, `getOrLoad` for one that may be there.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/baseModelBackendInterface.ts
"""

from collections.abc import Mapping
from contextlib import aclosing

from lmcli.client.config import read_stack
from lmcli.client.payloads import write
from lmcli.server.endpoints import Channel, Context, Stream
from lmcli.server.failures import Refused
from lmcli.server.instances import Instance
from lmcli.server.models import LOADING, downloaded_model
from lmcli.server.parameters import CANCEL, POSITIVE, TEXT, Field
from lmcli.values import JsonObject, LoadProgress, ModelInfo


async def load_model(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Load one more instance of a downloaded model."""
    model = downloaded_model(context, parameter["modelKey"])
    identifier = context.instances.reserve(model, parameter.get("identifier"))
    try:
        await channel.send({"type": "resolved", "info": write(model)})
        instance = await _load(context, channel, parameter, model, identifier, progress_type="progress")
    finally:
        context.instances.release(identifier)
    await channel.send({"type": "success", "info": write(instance.describe())})


async def get_or_load(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Give a loaded instance, or load the model first; two clients who want the same at once load it once."""
    instance = _loaded(context, parameter["identifier"])
    if instance is None:
        model = downloaded_model(context, parameter["identifier"])
        async with context.instances.lock(model.model_key):
            instance = _loaded(context, parameter["identifier"])
            if instance is None:
                await _load_on_request(context, channel, parameter, model)
                return
    context.instances.rest(instance)
    await channel.send({"type": "alreadyLoaded", "info": write(instance.describe())})


async def _load_on_request(context: Context, channel: Channel, parameter: JsonObject, model: ModelInfo) -> None:
    identifier = context.instances.reserve(model, None)
    try:
        await channel.send({"type": "startLoading", "identifier": identifier, "info": write(model)})
        instance = await _load(context, channel, parameter, model, identifier, progress_type="loadProgress")
    finally:
        context.instances.release(identifier)
    await channel.send({"type": "loadSuccess", "info": write(instance.describe())})


def _loaded(context: Context, wanted: str) -> Instance | None:
    """The instance of an identifier, or the one that a model key or path stands for."""
    instance = context.instances.named(wanted)
    if instance is None:
        paths = {model.path: model.model_key for model in context.engine.downloaded}
        instance = context.instances.named(paths.get(wanted, wanted))
    return instance if instance and instance.model_info.type == context.domain else None


async def _load(
    context: Context, channel: Channel, parameter: JsonObject, model: ModelInfo, identifier: str, *, progress_type: str
) -> Instance:
    values = read_stack(parameter["loadConfigStack"])
    ttl_ms = parameter.get("ttlMs", parameter.get("loadTtlMs"))
    async with aclosing(context.engine.load(model, values, channel.cancelled)) as steps:
        async for step in steps:
            if isinstance(step, LoadProgress):
                await channel.send({"type": progress_type, "progress": step.progress})
            else:
                return context.instances.add(
                    Instance(model_info=model, model=step, identifier=identifier, ttl_ms=ttl_ms)
                )
    raise Refused("Model loading was cancelled")


STREAMS: Mapping[str, Stream] = {
    "loadModel": Stream(
        {
            "modelKey": Field(TEXT),
            "identifier": Field(TEXT, optional=True),
            "ttlMs": Field(POSITIVE, optional=True),
            **LOADING,
        },
        load_model,
        CANCEL,
    ),
    "getOrLoad": Stream(
        {"identifier": Field(TEXT), "loadTtlMs": Field(POSITIVE, optional=True), **LOADING}, get_or_load, CANCEL
    ),
}
