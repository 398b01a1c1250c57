"""Images for messages: read, recognised, uploaded once, and referred to by identifier."""

import base64
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import unquote_to_bytes

from lmcli.chat import FilePart, ImagePart, Message, Part
from lmcli.client.local_files import read_bytes
from lmcli.client.session import Session
from lmcli.errors import BadInput, NoInput, quoted, reason
from lmcli.wire import queries

ImageSource = str | Path | bytes | BinaryIO
"""A path, the bytes themselves, or an open binary file."""

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
        if not any(map(has_images, messages)):
            return list(messages)
        session = self._files()
        if session is not self._session:  # with its connection, a server forgets the files
            self._session, self._done = session, {}
        for source in image_sources(messages):
            if source not in self._done:
                self._done[source] = upload(session, *read_image(source))
        return with_uploads(messages, self._done)


def image_sources(messages: Sequence[Message]) -> list[str]:
    """The images that messages show and that are not on the server, each once."""
    return list(dict.fromkeys(p.source for m in messages for p in m.content if isinstance(p, ImagePart)))


def with_uploads(messages: Sequence[Message], uploaded: Mapping[str, FilePart]) -> list[Message]:
    """The same messages with the files on the server in place of their images."""

    def on_server(part: Part) -> Part:
        return uploaded[part.source] if isinstance(part, ImagePart) else part

    return [m._replace(content=tuple(map(on_server, m.content))) if has_images(m) else m for m in messages]


def has_images(message: Message) -> bool:
    """Whether a message has images that are not uploaded yet."""
    return any(isinstance(part, ImagePart) for part in message.content)


def upload(files: Session, data: bytes, name: str) -> FilePart:
    """Upload a file; the server keeps it until the client disconnects."""
    return files.ask(queries.upload(data, name))


def read_image(source: str) -> tuple[bytes, str]:
    """The bytes of an image and a name for it, from a path or a data URL.

    Raises:
        NoInput: the file is not there.
        BadInput: it is not an image that LM Studio accepts.
    """
    if is_data_url(source):
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


def contents(src: ImageSource) -> tuple[bytes, str]:
    """The bytes of an image that a program gives, and a name for it: the file's own, else a random one.

    Raises:
        NoInput: the file cannot be read.
    """
    if isinstance(src, bytes):
        return src, str(uuid.uuid4())
    if isinstance(src, str | Path):
        try:
            return read_bytes(Path(src)), Path(src).name
        except OSError as error:
            raise NoInput(f"cannot read {quoted(src)}: {reason(error)}") from error
    return src.read(), Path(str(getattr(src, "name", uuid.uuid4()))).name


def image_name(source: str) -> str:
    """The name of an image: that of its file; a data URL has none."""
    return "image" if is_data_url(source) else Path(source).name


def is_data_url(source: str) -> bool:
    """Whether the source of an image is its content, not a path."""
    return source.startswith(_DATA_URL)


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
