"""The endpoints of `/system`, as far as chat clients use them.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/systemBackendInterface.ts
"""

import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from lmcli import __version__
from lmcli.errors import quoted
from lmcli.server.endpoints import FLAG, TEXT, CallEndpoint, Channel, ChannelEndpoint, Context, Field
from lmcli.server.model_names import find_models
from lmcli.server.request_errors import path_not_found
from lmcli.values import JsonObject
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.objects import write

PACKAGE: Final = "lmcli"
BUILD: Final = 1
_log: Final = logging.getLogger(__name__)


async def list_downloaded_models(context: Context, _: JsonObject) -> Any:
    """Describe all downloaded models."""
    return [write(model) for model in context.engine.downloaded]


async def list_variants(context: Context, parameter: JsonObject) -> Any:
    """Describe the variants of a model: its quantizations, if it has several."""
    models = find_models(context.engine.downloaded, parameter["modelKey"])
    if not models:
        raise path_not_found(parameter["modelKey"], [model.model_key for model in context.engine.downloaded])
    return [write(model) for model in models] if len(models) > 1 else []


async def version(_context: Context, _: JsonObject) -> Any:
    """Return the server's version."""
    return {"version": __version__, "build": BUILD}


async def info(_context: Context, _: JsonObject) -> Any:
    """Describe the server's process."""
    return {"pid": os.getpid(), "isDaemon": True, "version": __version__}


async def notify(_context: Context, parameter: JsonObject) -> Any:
    """Log a notification of the client."""
    _log.info("notification of a client: %s %s", quoted(parameter["title"]), quoted(parameter.get("description", "")))
    return ABSENT


async def alive(_context: Context, channel: Channel, _: JsonObject) -> None:
    """Stay open until the client or the server disconnects."""
    await channel.cancelled.wait()


CALLS: Mapping[str, CallEndpoint] = {
    "listDownloadedModels": CallEndpoint(None, list_downloaded_models),
    "listDownloadedModelVariants": CallEndpoint({"modelKey": Field(TEXT)}, list_variants),
    "version": CallEndpoint(None, version),
    "info": CallEndpoint(None, info),
    "notify": CallEndpoint(
        {
            "title": Field(TEXT),
            "description": Field(TEXT, optional=True),
            "noAutoDismiss": Field(FLAG, optional=True),
        },
        notify,
    ),
}
CHANNELS: Mapping[str, ChannelEndpoint] = {"alive": ChannelEndpoint(None, alive)}
