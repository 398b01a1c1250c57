"""Images for messages: read, recognised, uploaded once, and referred to by identifier."""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes

from lmcli.chat import FilePart, ImagePart, Message, Part
from lmcli.client.local_files import read_bytes
from lmcli.client.session import Session
from lmcli.errors import BadInput, NoInput, quoted, reason
from lmcli.wire import payloads

_DATA_URL: Final = "data:"


def is_image(data: bytes) -> bool:
    """Whether these are the first bytes of a JPEG, PNG or WebP file, the forms that LM Studio takes."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")


class Uploads:
    """Uploads what messages show; each image once.

    Args:
        files: gives the session to `files`, which stays open as long as predictions use the images.
    """

    def __init__(self, files: Callable[[], Session]) -> None:
        self._files = files
        self._session: Session | None = None
        self._done: dict[str, FilePart] = {}

    def resolve(self, messages: Sequence[Message]) -> list[Message]:
        """The same messages, with every image on the server.

        Raises:
            NoInput: a file is not there.
            BadInput: it is not an image that LM Studio accepts.
        """
        return [
            m._replace(content=tuple(self._resolved(p) for p in m.content)) if has_images(m) else m for m in messages
        ]

    def _resolved(self, part: Part) -> Part:
        if not isinstance(part, ImagePart):
            return part
        if (session := self._files()) is not self._session:  # with its connection, a server forgets the files
            self._session, self._done = session, {}
        if part.source not in self._done:
            self._done[part.source] = upload(session, *read_image(part.source))
        return self._done[part.source]


def has_images(message: Message) -> bool:
    """Whether a message has images that are not uploaded yet."""
    return any(isinstance(part, ImagePart) for part in message.content)


def upload(files: Session, data: bytes, name: str) -> FilePart:
    """Upload a file; the server keeps it until the client disconnects."""
    encoded = base64.b64encode(data).decode()
    return payloads.file_part(files.call("uploadFileBase64", {"name": name, "contentBase64": encoded}), name)


def read_image(source: str) -> tuple[bytes, str]:
    """The bytes of an image and a name for it, from a path or a data URL.

    Raises:
        NoInput: the file is not there.
        BadInput: it is not an image that LM Studio accepts.
    """
    if source.startswith(_DATA_URL):
        data = _data_of(source)
    else:
        try:
            data = read_bytes(Path(source))
        except OSError as error:
            raise NoInput(f"cannot read {quoted(source)}: {reason(error)}") from error
        except ValueError as error:  # a null byte
            raise BadInput(f"{quoted(source)} cannot be the name of a file") from error
    if not is_image(data):
        raise BadInput(f"{quoted(source, limit=60)} is not a JPEG, PNG or WebP image")
    return data, image_name(source)


def image_name(source: str) -> str:
    """The name of an image: that of its file; a data URL has none."""
    return "image" if source.startswith(_DATA_URL) else Path(source).name


def data_url(data: bytes) -> str:
    """A URL that is its own content. Source: RFC 2397."""
    return f"{_DATA_URL};base64,{base64.b64encode(data).decode()}"


def _data_of(url: str) -> bytes:
    """The content of a data URL. Source: RFC 2397."""
    head, _, body = url.partition(",")
    try:
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else unquote_to_bytes(body)
    except ValueError as error:
        raise BadInput(f"{quoted(url, limit=60)} is not a valid data URL: {error}") from error
