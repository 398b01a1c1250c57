"""The channels that load models: `loadModel` for one more instance, `getOrLoad` for one that may be there.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/baseModelBackendInterface.ts
"""

from collections.abc import Mapping
from contextlib import aclosing

from lmcli.server.catalog_endpoints import LOADING, downloaded_model
from lmcli.server.endpoints import CANCEL, POSITIVE, TEXT, Channel, Context, Field, Stream
from lmcli.server.failures import Refused
from lmcli.server.load_tasks import Load, LoadOrder
from lmcli.server.model_instance import Instance
from lmcli.values import JsonObject, ModelInfo
from lmcli.wire.config import read_stack
from lmcli.wire.payloads import write


async def load_model(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Load one more instance of a downloaded model."""
    model = downloaded_model(context, parameter["modelKey"])
    load = context.instances.load(_order(context, parameter, model), parameter.get("identifier"))
    with load.wanted():
        await channel.send({"type": "resolved", "info": write(model)})
        instance = await _follow(channel, load, progress_type="progress")
    await channel.send({"type": "success", "info": write(instance.describe())})


async def get_or_load(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Give a loaded instance, or load the model first; two clients who want the same at once load it once."""
    instance = _loaded(context, parameter["identifier"])
    if instance is not None:
        context.instances.rest(instance)
        await channel.send({"type": "alreadyLoaded", "info": write(instance.describe())})
        return
    model = downloaded_model(context, parameter["identifier"])
    load = context.instances.load_once(_order(context, parameter, model))
    with load.wanted():
        await channel.send({"type": "startLoading", "identifier": load.identifier, "info": write(model)})
        instance = await _follow(channel, load, progress_type="loadProgress")
    await channel.send({"type": "loadSuccess", "info": write(instance.describe())})


def _loaded(context: Context, wanted: str) -> Instance | None:
    """The instance of an identifier, or the one that a model key or path stands for."""
    instance = context.instances.named(wanted)
    if instance is None:
        paths = {model.path: model.model_key for model in context.engine.downloaded}
        instance = context.instances.named(paths.get(wanted, wanted))
    return instance if instance and instance.model_info.type == context.domain else None


def _order(context: Context, parameter: JsonObject, model: ModelInfo) -> LoadOrder:
    ttl_ms = parameter.get("ttlMs", parameter.get("loadTtlMs"))
    return LoadOrder(context.engine, model, read_stack(parameter["loadConfigStack"]), ttl_ms)


async def _follow(channel: Channel, load: Load, *, progress_type: str) -> Instance:
    """Show the client how a load goes, and what came of it.

    Raises:
        Refused: nothing, or the client does not want it any more.
    """
    async with aclosing(load.watch(channel.cancelled)) as steps:
        async for progress in steps:
            await channel.send({"type": progress_type, "progress": progress})
    if not load.task.done():
        raise Refused("Model loading was cancelled")
    return load.task.result()


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
