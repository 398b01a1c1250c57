"""Everything of `lm` that reads what others wrote, as functions of bytes, each with something that it reads well.

A reader gives a value or raises an error of `lmcli`; for any bytes it does nothing else. `test_readers` asks each for
a moment in every run of the suite, `fuzz` for as long as one likes.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmcli.chat import Chat
from lmcli.cli.environment import Environment
from lmcli.cli.input.chat_file import ChatFile
from lmcli.cli.input.document import recognize
from lmcli.cli.input.incoming import decoded
from lmcli.cli.input.measurements import read_records
from lmcli.cli.input.schema import Schema
from lmcli.cli.json_text import dump_json, parse_json
from lmcli.cli.model_cache import KEYS, add
from lmcli.cli.options import ServerOptions
from lmcli.cli.target import TIMEOUT_VARIABLE, timeout_of
from lmcli.client.address import parse_address
from lmcli.client.discovery import candidate_ports, credentials, find_token
from lmcli.client.images import read_image
from lmcli.wire.envelopes import decode
from lmcli.wire.server_errors import failure


class Reader(NamedTuple):
    """One reader.

    Attributes:
        read: reads bytes; what it gives does not matter.
        samples: what it reads without an error.
    """

    read: Callable[[bytes], object]
    samples: Sequence[bytes]


_FOLDER: Final = tempfile.TemporaryDirectory()


def scratch() -> str:
    """A folder of this process."""
    return tempfile.mkdtemp(dir=_FOLDER.name)


def _file(name: str, data: bytes) -> Path:
    """A file with some content, in a folder of this process."""
    path = Path(_FOLDER.name, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _environment(**variables: str) -> Environment:
    return Environment(0, 1, 2, False, False, False, variables)


def _variable(data: bytes) -> str:
    """Bytes as the value of an environment variable, as Python gives it; it cannot hold a NUL."""
    return os.fsdecode(data.replace(b"\0", b""))


def history(data: bytes) -> None:
    """A history on stdin: recognised, read, extended, written."""
    document = recognize(parse_json("".join(decoded([data], "stdin")), "stdin"))
    if document is not None:
        document.chat()
        dump_json(document.with_system("x").with_entry({"role": "user", "content": "y"}).raw, is_indented=True)


def history_of_a_program(data: bytes) -> None:
    """A history that a Python program passes on."""
    Chat.from_history(load(data))


def load(data: bytes) -> Any:
    """JSON that a program has read by itself; other bytes are a text."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return data.decode(errors="replace")


def chat_file(data: bytes) -> None:
    """A chat file: read, and written again as it is."""
    file = ChatFile(_file("talk.json", data))
    file.write(file.read())


def json_text(data: bytes) -> None:
    """The value of an option that is JSON."""
    dump_json(parse_json(data.decode(errors="surrogateescape"), "the value"))


def schema(data: bytes) -> None:
    """A schema, and answers that are held against it; what violates it would be explained by another process."""
    Schema(str(_file("schema.json", data))).recovered('{"city": "Bonn", "size": 3} {}')


def answer_of_a_schema(data: bytes) -> None:
    """An answer that has to meet a schema, among other text."""
    Schema('{"type": "object", "required": ["city"]}').recovered(data.decode(errors="replace"))


def measurements(data: bytes) -> None:
    """Recorded results."""
    list(read_records(BytesIO(data)))


def token_file(data: bytes) -> None:
    """A token in a file."""
    credentials(find_token(_file("token", data)))


def token_variable(data: bytes) -> None:
    """A token in the environment."""
    credentials(find_token(None, {"LM_API_TOKEN": _variable(data)}))


def studio_settings(data: bytes) -> None:
    """LM Studio's own settings."""
    _file(".lmstudio/.internal/http-server.json", data)
    candidate_ports({"HOME": _FOLDER.name})


def studio_pointer(data: bytes) -> None:
    """The pointer to LM Studio's folder."""
    path = _file("elsewhere/.lmstudio-home-pointer", data)
    candidate_ports({"HOME": str(path.parent)})


def model_cache(data: bytes) -> None:
    """The cache of model keys, to which one is added."""
    _file("lm/models", data)
    add(KEYS, "some-model", ServerOptions(), _environment(XDG_CACHE_HOME=_FOLDER.name))


def timeout(data: bytes) -> None:
    """A timeout in the environment."""
    timeout_of(ServerOptions(), _environment(**{TIMEOUT_VARIABLE: _variable(data)}))


def address(data: bytes) -> None:
    """An address in the environment."""
    parsed = parse_address(_variable(data), source="LM_HOST")
    str(parsed)
    parsed.websocket_url("llm")


def image(data: bytes) -> None:
    """The name of an image, or a URL that is one."""
    read_image(_variable(data)[:200])


def envelope(data: bytes) -> None:
    """One text of a server."""
    decode(data)


def error_object(data: bytes) -> None:
    """The error of a server."""
    error = failure(load(data))
    "\n".join((error.message, *error.hints)).encode()


_TALK: Final = (
    b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "kept": 18446744073709551617}'
)
_TOOLS: Final = json.dumps(
    [
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}],
        },
        {
            "role": "assistant",
            "content": [{"type": "toolCallRequest", "toolCallRequest": {"name": "f", "arguments": {}}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "5"},
        {"role": "assistant", "tool_calls": [{"id": "2", "function": {"name": "f", "arguments": '{"a": [1]}'}}]},
        {"role": "tool", "tool_call_id": "2", "content": [{"type": "text", "text": "5"}]},
    ]
).encode()
_SCHEMA: Final = (
    b'{"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {"city": '
    b'{"type": "string", "pattern": "^[A-Z]", "format": "uri"}, "size": {"$ref": "#/$defs/n"}}, '
    b'"$defs": {"n": {"minimum": 1}}}'
)
_RECORD: Final = (
    b'{"time": "2025-06-01T23:59:59.999+00:00", "model": {"model_key": "m", "identifier": "m:2"}, "exit_status": 0, '
    b'"stats": {"stop_reason": "eosFound", "predicted_tokens_count": 3, "tokens_per_second": 50.0}}\n'
)
_ERROR: Final = (
    b'{"title": "It failed.", "cause": "x", "suggestion": "y", "displayData": {"code": "generic.pathNotFound", '
    b'"path": "p", "availablePathsSample": ["a", "b"], "totalModels": 3}}'
)
_TOKEN: Final = b"sk-lm-abcd1234:abcdefghij0123456789\n"

READERS: Final[dict[str, Reader]] = {
    "a history": Reader(history, [_TALK, _TOOLS, b"[]"]),
    "a history of a program": Reader(history_of_a_program, [_TALK, _TOOLS, b'"hi"']),
    "a chat file": Reader(chat_file, [_TALK, b"", b"[]"]),
    "JSON in an option": Reader(json_text, [b'{"a": [1, 2.5, "x", null]}', b"9" * 30]),
    "a schema": Reader(schema, [_SCHEMA, b"{}", b'{"$ref": "#"}']),
    "an answer with a schema": Reader(
        answer_of_a_schema, [b'{"city": 5}', b'<think>{"city": {}} {"city": "B"}</think>']
    ),
    "measurements": Reader(measurements, [_RECORD, _RECORD * 2, _TALK]),
    "a token file": Reader(token_file, [_TOKEN]),
    "a token in a variable": Reader(token_variable, [_TOKEN.strip(), b""]),
    "LM Studio's settings": Reader(studio_settings, [b'{"port": 1234}', b""]),
    "the pointer to LM Studio": Reader(studio_pointer, [b"/opt/studio", b""]),
    "the cache of model keys": Reader(model_cache, [b"a\nb/c\n", b""]),
    "a timeout": Reader(timeout, [b"1.5", b"", b"1e3"]),
    "an address": Reader(address, [b"127.0.0.1:1234", b"https://[::1]:5/v1", b"studio.local"]),
    "an image": Reader(image, [b"data:image/png;base64,iVBORw0KGgo=", b"data:image/png,%89PNG%0D%0A%1A%0A"]),
    "an envelope": Reader(envelope, [b'{"type": "channelSend", "channelId": 1, "message": {"type": "fragment"}}']),
    "an error object": Reader(error_object, [_ERROR, b"null"]),
}
