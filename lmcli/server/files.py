"""The `/files` endpoints: uploads, kept in memory for as long as their client is connected.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/filesBackendInterface.ts
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from lmcli.server.endpoints import Call, Context
from lmcli.server.engine import UploadedFile
from lmcli.server.failures import Refused
from lmcli.server.parameters import TEXT, Field
from lmcli.values import JsonObject

# What a file begins with, what stands at an offset, and which type that makes it.
_SIGNATURES: tuple[tuple[bytes, int, bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, b"", "image"),
    (b"\xff\xd8\xff", 0, b"", "image"),
    (b"RIFF", 8, b"WEBP", "image"),
    (b"%PDF-", 0, b"", "application/pdf"),
)


def file_type(content: bytes) -> str:
    """Tell the type of a file from its content: JPEG, PNG and WebP are images.

    Source: lmstudio-js 6ec11db, lms-shared-types/src/files/FileType.ts
    """
    for start, offset, inner, kind in _SIGNATURES:
        if content.startswith(start) and content[offset:].startswith(inner):
            return kind
    try:
        content.decode()
    except UnicodeDecodeError:
        return "unknown"
    return "text/plain"


async def upload_base64(context: Context, parameter: JsonObject) -> Any:
    """Keep a file for the client."""
    try:
        content = base64.b64decode(parameter["contentBase64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("The content of the file is not base64") from error
    kind = file_type(content)
    identifier = context.client.keep(UploadedFile(parameter["name"], kind, content))
    return {"identifier": identifier, "fileType": kind, "sizeBytes": len(content)}


CALLS: Mapping[str, Call] = {
    "uploadFileBase64": Call({"name": Field(TEXT), "contentBase64": Field(TEXT)}, upload_base64),
}
