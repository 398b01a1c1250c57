"""Conversations and uploaded files on the wire."""

from typing import Any

import pytest
from hypothesis import given
from properties import QUICK, any_json, garbled, json_objects

from lmcli.chat import FilePart, ImagePart, Message, TextPart, ToolCallResult
from lmcli.errors import BadInput, RemoteProtocolError
from lmcli.values import (
    ToolCallRequest,
)
from lmcli.wire.histories import file_part, read_history, write_history

CONVERSATION = [
    Message("system", (TextPart("Be terse."),)),
    Message("user", (TextPart("What is this?"), FilePart("cat.png", "f-1", 5120, "image"))),
    Message("assistant", (TextPart(""), ToolCallRequest("add", {"a": 1, "b": 2}, "77"))),
    Message("assistant", (ToolCallRequest("now"),)),
    Message("tool", (ToolCallResult("3", "77", "add"), ToolCallResult("late"))),
]

HISTORY = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be terse."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "file", "name": "cat.png", "identifier": "f-1", "sizeBytes": 5120, "fileType": "image"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": ""},
                {
                    "type": "toolCallRequest",
                    "toolCallRequest": {
                        "id": "77",
                        "type": "function",
                        "name": "add",
                        "arguments": {"a": 1, "b": 2},
                    },
                },
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "toolCallRequest", "toolCallRequest": {"type": "function", "name": "now"}}],
        },
        {
            "role": "tool",
            "content": [
                {"type": "toolCallResult", "content": "3", "toolCallId": "77", "name": "add"},
                {"type": "toolCallResult", "content": "late"},
            ],
        },
    ]
}


def test_history_on_the_wire() -> None:
    """Every part in the form of the protocol: content is an array, what is None is left out."""
    assert write_history(CONVERSATION) == HISTORY
    assert read_history(HISTORY) == CONVERSATION


def test_messages_of_one_role_stay_apart_on_the_wire() -> None:
    """A server takes a history as it comes: the official JavaScript SDK joins nothing."""
    twice = [Message("user", (TextPart("a"),)), Message("user", (TextPart("b"),))]
    assert read_history(write_history(twice)) == twice


def test_an_image_is_uploaded_before_it_is_sent() -> None:
    """What is still on the client's side neither leaves in a history nor is taken from one: a server opens no paths."""
    with pytest.raises(TypeError, match="uploaded first"):
        write_history([Message("user", (ImagePart("cat.png"),))])
    for part in ({"type": "image_url", "image_url": "cat.png"}, {"type": "file", "path": "cat.png"}):
        with pytest.raises(BadInput, match=r"^messages\[0\]\.content: an image has to be uploaded"):
            read_history({"messages": [{"role": "user", "content": [part]}]})


@QUICK
@given(any_json | garbled(HISTORY))
def test_any_json_is_a_history_or_an_error(body: Any) -> None:
    """A server that reads a history raises the two documented errors and nothing else."""
    try:
        messages = read_history(body)
    except (BadInput, RemoteProtocolError):
        return
    assert read_history(write_history(messages)) == messages


UPLOADED = {"identifier": "f-1", "fileType": "image", "sizeBytes": 70}


def test_file_part() -> None:
    """An uploaded file is known by the server's identifier and the client's name."""
    assert file_part(UPLOADED | {"name": "theirs"}, "mine.png") == FilePart("mine.png", "f-1", 70, "image")


@pytest.mark.parametrize("body", [None, [], {}, *(UPLOADED | {key: None} for key in UPLOADED)])
def test_no_file_part(body: Any) -> None:
    """An answer to an upload without its keys is a protocol error."""
    with pytest.raises(RemoteProtocolError, match=r"^the server answered an upload with"):
        file_part(body, "mine.png")


@QUICK
@given(json_objects | garbled(UPLOADED))
def test_any_answer_to_an_upload_is_a_file_or_an_error(body: Any) -> None:
    """Whatever JSON it is."""
    try:
        assert isinstance(file_part(body, "n").size_bytes, int)
    except RemoteProtocolError as error:
        assert error.message  # noqa: PT017  whatever else is raised fails by itself
