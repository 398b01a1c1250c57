"""The `/system` endpoints that a client for chats needs.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/systemBackendInterface.ts
"""

import logging
import os
from collections.abc import Mapping
from typing import Any, Final

from lmcli import __version__
from lmcli.errors import quoted
from lmcli.server.endpoints import FLAG, TEXT, Call, Channel, Context, Field, Stream
from lmcli.server.failures import path_not_found
from lmcli.values import JsonObject
from lmcli.wire.envelopes import ABSENT
from lmcli.wire.payloads import write

PACKAGE: Final = "lmcli"
BUILD: Final = 1
_log: Final = logging.getLogger(__name__)


async def list_downloaded_models(context: Context, _: JsonObject) -> Any:
    """Describe all downloaded models."""
    return [write(model) for model in context.engine.downloaded]


async def list_variants(context: Context, parameter: JsonObject) -> Any:
    """Describe the variants of a model: no engine has any."""
    keys = [model.model_key for model in context.engine.downloaded]
    if parameter["modelKey"] not in keys:
        raise path_not_found(parameter["modelKey"], keys)
    return []


async def version(_context: Context, _: JsonObject) -> Any:
    """Tell the server's version."""
    return {"version": __version__, "build": BUILD}


async def info(_context: Context, _: JsonObject) -> Any:
    """Tell about the server's process."""
    return {"pid": os.getpid(), "isDaemon": True, "version": __version__}


async def notify(_context: Context, parameter: JsonObject) -> Any:
    """Show a message to the server's user: in the log."""
    _log.info("a client notifies: %s %s", quoted(parameter["title"]), quoted(parameter.get("description", "")))
    return ABSENT


async def alive(_context: Context, channel: Channel, _: JsonObject) -> None:
    """Stay open for as long as server and client live."""
    await channel.cancelled.wait()


CALLS: Mapping[str, Call] = {
    "listDownloadedModels": Call(None, list_downloaded_models),
    "listDownloadedModelVariants": Call({"modelKey": Field(TEXT)}, list_variants),
    "version": Call(None, version),
    "info": Call(None, info),
    "notify": Call(
        {
            "title": Field(TEXT),
            "description": Field(TEXT, optional=True),
            "noAutoDismiss": Field(FLAG, optional=True),
        },
        notify,
    ),
}
STREAMS: Mapping[str, Stream] = {"alive": Stream(None, alive)}
