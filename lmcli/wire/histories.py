"""Conversations and their files between the wire and the values of the program."""

from collections.abc import Iterable, Sequence
from typing import Any

from lmcli.chat import FilePart, ImagePart, Message, Part, TextPart, ToolCallResult, read_message
from lmcli.errors import BadInput, RemoteProtocolError, quoted
from lmcli.values import JsonObject, ToolCallRequest
from lmcli.wire.objects import object_of, present


def write_history(messages: Iterable[Message]) -> JsonObject:
    """Write a conversation in the wire's form, where content is always an array of parts."""
    return {"messages": [{"role": m.role, "content": [_write_part(p) for p in m.content]} for m in messages]}


def read_history(body: Any) -> Sequence[Message]:
    """Read a conversation from the wire; consecutive messages of one role are kept apart.

    Raises:
        BadInput: with the path of what is wrong.
        RemoteProtocolError: there is no array of messages.
    """
    entries = object_of(body, "history").get("messages")
    if not isinstance(entries, list):
        raise RemoteProtocolError("history: no array of messages")
    messages = [read_message(entry, f"messages[{index}]") for index, entry in enumerate(entries)]
    for index, message in enumerate(messages):
        if any(isinstance(part, ImagePart) for part in message.content):
            raise BadInput(f"messages[{index}].content: an image has to be uploaded before it is sent")
    return messages


def file_part(body: Any, name: str) -> FilePart:
    """Read the answer to an upload; the name is the client's own.

    Raises:
        RemoteProtocolError: a key is missing or has another type.
    """
    match body:
        case {"identifier": str(identifier), "fileType": str(file_type), "sizeBytes": int(size)}:
            return FilePart(name, identifier, size, file_type)
    raise RemoteProtocolError(f"the server answered an upload with {quoted(body, limit=80)}")


def _write_part(part: Part) -> JsonObject:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case FilePart(name, identifier, size, kind):
            return {"type": "file", "name": name, "identifier": identifier, "sizeBytes": size, "fileType": kind}
        case ToolCallRequest():
            return {"type": "toolCallRequest", "toolCallRequest": write_tool_call_request(part)}
        case ToolCallResult(content, call_id, name):
            return present({"type": "toolCallResult", "content": content, "toolCallId": call_id, "name": name})
        case ImagePart(source):
            raise TypeError(f"this image has to be uploaded first: {source[:60]}")


def write_tool_call_request(request: ToolCallRequest) -> JsonObject:
    """Write a tool call, as messages and packets have it."""
    body = {"id": request.id, "type": "function", "name": request.name, "arguments": request.arguments}
    return present(body)
