"""The `/files` endpoints: uploads, kept in memory for as long as their client is connected.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/filesBackendInterface.ts
"""

import base64
import binascii
import codecs
from collections.abc import Mapping
from typing import Any, Final

from lmcli.server.endpoints import TEXT, Call, Context, Field
from lmcli.server.engine import UploadedFile, off_loop
from lmcli.server.failures import Refused
from lmcli.values import JsonObject

# How much is decoded at a time: a multiple of four, so that base64 can be cut there.
PIECE: Final = 4 * 1024 * 1024
_NOT_BASE64: Final = "The content of the file is not base64"
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
    return "text/plain" if _is_text(content) else "unknown"


def _read(text: str) -> tuple[bytes, str]:
    content = _decoded(text)
    return content, file_type(content)


def _decoded(text: str) -> bytes:
    """Decode base64 a piece at a time: a thread that decodes holds up all others to the end of the piece."""
    if "=" in text[:-2]:  # the end of a file in the middle of it would be taken for one between two pieces
        raise Refused(_NOT_BASE64)
    pieces = (text[start : start + PIECE] for start in range(0, len(text), PIECE))
    try:
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except (binascii.Error, ValueError) as error:
        raise Refused(_NOT_BASE64) from error


def _is_text(content: bytes) -> bool:
    """Whether bytes are UTF-8, looked at a piece at a time as above."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), PIECE):
            decoder.decode(content[start : start + PIECE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


async def upload_base64(context: Context, parameter: JsonObject) -> Any:
    """Keep a file for the client."""
    content, kind = await off_loop(_read, parameter["contentBase64"])
    identifier = context.client.keep(UploadedFile(parameter["name"], kind, content))
    return {"identifier": identifier, "fileType": kind, "sizeBytes": len(content)}


CALLS: Mapping[str, Call] = {
    "uploadFileBase64": Call({"name": Field(TEXT), "contentBase64": Field(TEXT)}, upload_base64),
}
