"""The endpoints of `/files`: uploads, kept in memory while their client is connected.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/filesBackendInterface.ts
"""

import base64
import binascii
import codecs
from collections.abc import Mapping
from typing import Any, Final

from lmcli.server.endpoints import NAME, TEXT, CallEndpoint, Context, Field
from lmcli.server.engine import UploadedFile, off_loop
from lmcli.server.request_errors import RequestFailed
from lmcli.values import JsonObject

# The number of characters or bytes decoded at a time; a multiple of four, at which base64 can be split.
PIECE_SIZE: Final = 4 * 1024 * 1024
_NOT_BASE64: Final = "The content of the file is not valid base64"
# The first bytes, the bytes at an offset, and the file type.
_SIGNATURES: tuple[tuple[bytes, int, bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, b"", "image"),
    (b"\xff\xd8\xff", 0, b"", "image"),
    (b"RIFF", 8, b"WEBP", "image"),
    (b"%PDF-", 0, b"", "application/pdf"),
)
_ZIP: Final = b"PK\x03\x04"
# A file in the ZIP archives of Word.
_WORD: Final = b"word/document.xml"


def file_type(content: bytes) -> str:
    """Detect the type of a file: JPEG, PNG and WebP are images.

    Source: lmstudio-js 6ec11db, lms-shared-types/src/files/FileType.ts
    """
    for prefix, offset, inner, kind in _SIGNATURES:
        if content.startswith(prefix) and content.startswith(inner, offset):
            return kind
    if content.startswith(_ZIP) and _WORD in content:
        return "application/word"
    return "text/plain" if _is_text(content) else "unknown"


def _decode(text: str) -> tuple[bytes, str]:
    content = _decode_base64(text)
    return content, file_type(content)


def _decode_base64(text: str) -> bytes:
    """Decode base64 in pieces: the decoder holds the GIL for each call."""
    if "=" in text[:-2]:  # padding inside the text is invalid, which the decoder does not see at the end of a piece
        raise RequestFailed(_NOT_BASE64)
    pieces = (text[start : start + PIECE_SIZE] for start in range(0, len(text), PIECE_SIZE))
    try:
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except (binascii.Error, ValueError) as error:
        raise RequestFailed(_NOT_BASE64) from error


def _is_text(content: bytes) -> bool:
    """Whether bytes are valid UTF-8, decoded in pieces for the same reason."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(content), PIECE_SIZE):
            decoder.decode(content[start : start + PIECE_SIZE])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


async def upload_base64(context: Context, parameter: JsonObject) -> Any:
    """Store a file for the client."""
    content, kind = await off_loop(_decode, parameter["contentBase64"])
    identifier = context.client.add_file(UploadedFile(parameter["name"], kind, content))
    return {"identifier": identifier, "fileType": kind, "sizeBytes": len(content)}


CALLS: Mapping[str, CallEndpoint] = {
    "uploadFileBase64": CallEndpoint({"name": Field(NAME), "contentBase64": Field(TEXT)}, upload_base64),
}
