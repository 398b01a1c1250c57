"""The endpoints of `/files` for the text of uploaded documents, which have to be text files.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/filesBackendInterface.ts
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from lmcli import __version__
from lmcli.errors import quoted
from lmcli.server.endpoints import (
    CANCEL,
    OBJECT,
    TEXT,
    CallEndpoint,
    Channel,
    ChannelEndpoint,
    Check,
    Context,
    Field,
    Shape,
)
from lmcli.server.engine import UploadedFile
from lmcli.server.request_errors import RequestFailed
from lmcli.values import JsonObject
from lmcli.wire.shapes import fits

PARSER: Final[JsonObject] = {"library": "lmcli", "version": __version__}
_FILE: Final[Shape] = {"fileIdentifier": Field(TEXT)}


async def parsing_library(context: Context, parameter: JsonObject) -> Any:
    """Return what parses a document."""
    _document(context, parameter)
    return PARSER


async def parse(context: Context, channel: Channel, parameter: JsonObject) -> None:
    """Send the text of a document."""
    file = _document(context, parameter)
    requested = parameter["parseOpts"].get("parserId", PARSER)
    if any(requested[key] != PARSER[key] for key in PARSER):
        raise RequestFailed("This server does not have the requested document parser")
    await channel.send({"type": "parserLoaded", "parser": PARSER})
    content = await asyncio.to_thread(file.content.decode, "utf-8-sig")
    await channel.send({"type": "progress", "progress": 1})
    await channel.send({"type": "result", "content": content, "parser": PARSER})


async def local_path(_context: Context, parameter: JsonObject) -> Any:
    """Refuse the path of a file: uploads are kept in memory."""
    raise RequestFailed(f"File not found: {quoted(parameter['fileName'])}")


async def retrieve(_context: Context, _channel: Channel, _: JsonObject) -> None:
    """Refuse to search documents."""
    raise RequestFailed("This server does not retrieve from documents")


def _document(context: Context, parameter: JsonObject) -> UploadedFile:
    """The file that a request is about.

    Raises:
        RequestFailed: it is not uploaded, or not a text.
    """
    file = context.client.files.get(parameter["fileIdentifier"])
    if file is None:
        raise RequestFailed(f"File not found: {quoted(parameter['fileIdentifier'])}")
    if file.file_type != "text/plain":
        raise RequestFailed(
            f"Cannot parse {quoted(file.name)}: this server parses text files only, not files of the type "
            f"{file.file_type}",
            suggestion="Convert it to text first",
        )
    return file


_OPTIONS: Final = Check(
    lambda value: fits(value, {"parserId?": {"library": str, "version": str}}), "an object with the options of parsing"
)
_TEXTS: Final = Check(lambda value: fits(value, [str]), "a list of strings")
_STOP: Final[Shape] = {"type": Field(Check(lambda value: value == "stop", "'stop'"))}
CALLS: Mapping[str, CallEndpoint] = {
    "getDocumentParsingLibrary": CallEndpoint(_FILE, parsing_library),
    "getLocalFileAbsolutePath": CallEndpoint({"fileName": Field(TEXT)}, local_path),
}
CHANNELS: Mapping[str, ChannelEndpoint] = {
    "parseDocument": ChannelEndpoint({**_FILE, "parseOpts": Field(_OPTIONS)}, parse, CANCEL),
    "retrieve": ChannelEndpoint(
        {"query": Field(TEXT), "fileIdentifiers": Field(_TEXTS), "config": Field(OBJECT)}, retrieve, _STOP
    ),
}
