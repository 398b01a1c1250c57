"""Images and structured answers from Python: `Chat` with images in every form, `result.parsed`."""

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer

import lmcli as lms
from lmcli.chat import FilePart, ImagePart, TextPart
from lmcli.client.images import data_url, is_image, read_image
from lmcli.errors import BadInput, NoInput, UsageError
from lmcli.server.background import Running

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class Number:
    """A class that knows its schema, as pydantic's do."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The schema."""
        return SCHEMA


@pytest.fixture
def client(server: Running) -> Iterator[lms.Client]:
    """A client of the echo models."""
    with lms.Client(f"127.0.0.1:{server.port}", api_token="") as client:
        yield client


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image in a file."""
    path = tmp_path / "two words 🦉.png"
    path.write_bytes(PIXEL)
    return path


def image_url(url: str) -> dict[str, Any]:
    """OpenAI's form of an image in a message."""
    return {"type": "image_url", "image_url": {"url": url}}


def test_prepare_image(client: lms.Client, picture: Path) -> None:
    """An image is uploaded from a path, from bytes and from an open file, and named after where it comes from."""
    with picture.open("rb") as file:
        prepared = [client.files.prepare_image(src) for src in (picture, str(picture), file)]
    assert {part.name for part in prepared} == {picture.name}
    assert len({part.identifier for part in prepared}) == 3
    assert {(part.size_bytes, part.file_type) for part in prepared} == {(len(PIXEL), "image")}
    assert client.files.prepare_image(PIXEL, "cat").name == "cat"
    assert client.files.prepare_image(BytesIO(PIXEL)).name != client.files.prepare_image(BytesIO(PIXEL)).name


def test_a_message_with_prepared_images(client: lms.Client, picture: Path) -> None:
    """The text comes first, then the images in their order; the model answers."""
    images = [client.files.prepare_image(picture), client.files.prepare_image(PIXEL, "cat")]
    chat = lms.Chat("Look.")
    message = chat.add_user_message("what is this", images=images)
    assert message.content == (TextPart("what is this"), *images)
    assert client.llm.model().respond(chat, on_message=chat.append).content == "what is this"
    assert [message.role for message in chat.messages] == ["system", "user", "assistant"]


def test_image_parts_are_uploaded_when_they_are_needed(client: lms.Client, picture: Path) -> None:
    """An image by its path is uploaded once for all turns of a client, and the chat stays as it was written."""
    chat = lms.Chat()
    chat.add_user_message(["what is this", ImagePart(str(picture))])
    model = client.llm.model()
    assert model.respond(chat, on_message=chat.append).content == "what is this"
    chat.add_user_message(["and this", ImagePart(str(picture))])
    assert model.respond(chat).content == "and this"
    assert chat.messages[0].content[1] == ImagePart(str(picture))
    uploaded = {part for message in client.uploads.resolve(chat.messages) for part in message.content[1:]}
    assert len(uploaded) == 1
    assert isinstance(uploaded.pop(), FilePart)


def test_image_urls_in_a_history(client: lms.Client, picture: Path) -> None:
    """A history in OpenAI's form shows its images: data URLs, paths, addresses of local files."""
    urls = [data_url(PIXEL), str(picture), picture.as_uri()]
    history = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hm"}, *map(image_url, urls)]}]}
    chat = lms.Chat.from_history(history)
    parts = client.uploads.resolve(chat.messages)[0].content[1:]
    assert [(type(part), part.name, part.size_bytes) for part in parts if isinstance(part, FilePart)] == [
        (FilePart, "image", len(PIXEL)),
        (FilePart, picture.name, len(PIXEL)),
        (FilePart, picture.name, len(PIXEL)),
    ]
    assert client.llm.model().respond(history).content == "hm"
    assert client.llm.model().apply_prompt_template(chat).startswith("[user]\nhm")


def test_the_short_form_of_an_image_url() -> None:
    """The URL may stand there without an object around it."""
    history = [{"role": "user", "content": [{"type": "image_url", "image_url": "cat.png"}]}]
    assert lms.Chat.from_history(history).messages[0].content == (ImagePart("cat.png"),)


@pytest.mark.parametrize("url", ["https://example.org/cat.png", "http://localhost/x", "ftp://x/y"])
def test_nothing_is_fetched_from_elsewhere(url: str) -> None:
    """An image on another machine is refused by its path in the history."""
    with pytest.raises(BadInput, match=r"^messages\[0\]\.content\[0\]\.image_url\.url: images are not fetched"):
        lms.Chat.from_history([{"role": "user", "content": [image_url(url)]}])


@pytest.mark.parametrize("part", [{"type": "image_url"}, image_url(7)])  # type: ignore[arg-type]
def test_an_image_url_without_a_url(part: dict[str, Any]) -> None:
    """A part that names no image is refused by its path."""
    with pytest.raises(BadInput, match=r"^messages\[0\]\.content\[0\]\.image_url\.url: expected a string$"):
        lms.Chat.from_history([{"role": "user", "content": [part]}])


def test_images_that_cannot_be_used(client: lms.Client, tmp_path: Path) -> None:
    """A file that is not there, or is no image, is an error before anything is predicted."""
    (tmp_path / "words.png").write_text("words", encoding="utf-8")
    model = client.llm.model()
    for url, error in (
        (str(tmp_path / "missing.png"), NoInput),
        (str(tmp_path / "words.png"), BadInput),
        ("data:image/png;base64,AAAA", BadInput),
        ("data:image/png;base64,?", BadInput),
        ("data:image/png;base64,ä", BadInput),
        ("data:image/png,ä", BadInput),
        ("null\0byte.png", BadInput),
    ):
        with pytest.raises(error):
            model.respond([{"role": "user", "content": [image_url(url)]}])
    with pytest.raises(NoInput):
        client.files.prepare_image(tmp_path / "missing.png")


def test_a_server_that_was_restarted_gets_the_images_again(start_server: StartServer, picture: Path) -> None:
    """With its connection a server forgets the files; what is asked next brings them again."""
    first = start_server()
    with lms.Client(f"127.0.0.1:{first.port}", api_token="") as client:
        history = [{"role": "user", "content": ["hm", image_url(str(picture))]}]
        before = client.uploads.resolve(lms.Chat.from_history(history).messages)
        client.close()
        after = client.uploads.resolve(lms.Chat.from_history(history).messages)
        assert before[0].content[1] != after[0].content[1]
        assert client.llm.model().respond(history).content == "hm"


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (PIXEL, True),
        (b"\xff\xd8\xff\xe0", True),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", True),
        (b"RIFF\x00\x00\x00\x00WAVE", False),
        (b"GIF89a", False),
        (b"\x89PNG", False),
        (b"", False),
    ],
)
def test_the_content_says_what_an_image_is(data: bytes, answer: bool) -> None:  # noqa: FBT001  a table
    """JPEG, PNG and WebP are known by how they begin."""
    assert is_image(data) is answer


def test_data_urls_hold_any_bytes() -> None:
    """What becomes a data URL comes back, and so does one that is not in base64."""
    assert read_image(data_url(PIXEL)) == (PIXEL, "image")
    escaped = "".join(f"%{byte:02x}" for byte in PIXEL)
    assert read_image(f"data:image/png,{escaped}") == (PIXEL, "image")
    assert read_image("data:;base64," + base64.b64encode(PIXEL).decode()) == (PIXEL, "image")


@pytest.mark.parametrize("response_format", [Number, SCHEMA, {"type": "json", "jsonSchema": SCHEMA}])
def test_parsed_is_the_object(client: lms.Client, response_format: Any) -> None:
    """With a class, a schema or a setting as the response format `parsed` is the object, and `content` its text."""
    model = client.llm.model()
    result = model.respond("how many", response_format=response_format)
    assert result.parsed == {"n": 0}
    assert result.content == str(result) == json.dumps(result.parsed)
    stream = model.complete_stream("how many", response_format=response_format)
    assert "".join(fragment.content for fragment in stream) == result.content
    assert stream.result().parsed == {"n": 0}


def test_parsed_is_the_text_where_no_form_was_asked_for(client: lms.Client) -> None:
    """Without a response format nothing is parsed, even if it could be."""
    assert client.llm.model().respond('{"n": 1}').parsed == '{"n": 1}'


def test_a_response_format_that_is_none(client: lms.Client) -> None:
    """What is no format, and two formats at once, are errors of the caller."""
    model = client.llm.model()
    wrong: list[Any] = [
        {"response_format": {"properties": {}}},
        {"response_format": 7},
        {"response_format": Number, "config": {"structured": {"type": "json"}}},
    ]
    for options in wrong:
        with pytest.raises(UsageError):
            model.respond("hm", **options)
