"""The images of a conversation: a marker in the prompt for each, and their content."""

import base64
from collections.abc import Mapping, Sequence
from typing import Final

from lmcli.chat import FilePart, Message, TextPart
from lmcli.server.engine import UploadedFile
from lmcli.server.llama.engine_errors import unsupported_by_engine

IMAGE: Final = "image"
_WEBP: Final = b"RIFF"


def marked_text(message: Message, marker: str) -> str:
    """The text of a message without tool results, with a marker for each image.

    Args:
        message: the message.
        marker: stands for an image; empty if the model cannot read images.

    Raises:
        RequestFailed: the message contains an image that the model cannot read, or another file.
    """
    return "".join(_marked(part, marker) for part in message.content if isinstance(part, TextPart | FilePart))


def _marked(part: TextPart | FilePart, marker: str) -> str:
    if isinstance(part, TextPart):
        return part.text
    if part.file_type != IMAGE:
        raise unsupported_by_engine(f"files ({part.file_type})")
    if not marker:
        raise unsupported_by_engine("images: the model has no vision part")
    return marker


def encoded_images(messages: Sequence[Message], files: Mapping[str, UploadedFile]) -> Sequence[str]:
    """The images of a conversation as base64, in their order.

    Raises:
        RequestFailed: llama.cpp does not read the format of one.
    """
    parts = (part for message in messages for part in message.content if isinstance(part, FilePart))
    return [_encoded(files[part.identifier].content) for part in parts]


def _encoded(content: bytes) -> str:
    if content.startswith(_WEBP):
        raise unsupported_by_engine("WebP images", "convert them to PNG or JPEG")
    return base64.b64encode(content).decode()
