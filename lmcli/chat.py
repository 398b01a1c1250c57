"""Conversations: what a chat history may look like, and the `Chat` that programs build.

A history is JSON: `{"messages": [{"role": …, "content": …}]}`, or the bare array. This module defines its shapes and
rules, and depends neither on the wire nor on files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from lmcli.errors import BadInput, quoted
from lmcli.record import distinct
from lmcli.values import ToolCallRequest

ROLES = ("system", "user", "assistant", "tool")
ROLE_ALIASES = {"developer": "system"}
FILE_TYPES = ("image", "text/plain", "application/pdf", "application/word", "text/other", "unknown")
"""Source: lmstudio-js 6ec11db, lms-shared-types/src/files/FileType.ts"""


@distinct
class TextPart(NamedTuple):
    """A piece of text in a message."""

    text: str


@distinct
class FilePart(NamedTuple):
    """A file that the server already holds, such as an uploaded image."""

    name: str
    identifier: str
    size_bytes: int
    file_type: str


@distinct
class ImagePart(NamedTuple):
    """An image on this side, to be uploaded before the message is sent: the path of a file, or a data URL."""

    source: str


@distinct
class ToolCallResult(NamedTuple):
    """What the called function gave back."""

    content: str
    tool_call_id: str | None = None
    name: str | None = None


Part = TextPart | FilePart | ImagePart | ToolCallRequest | ToolCallResult

ALLOWED_PARTS: Mapping[str, tuple[type[Part], ...]] = {
    "system": (TextPart, FilePart, ImagePart),
    "user": (TextPart, FilePart, ImagePart),
    "assistant": (TextPart, FilePart, ImagePart, ToolCallRequest),
    "tool": (ToolCallResult,),
}


@distinct
class Message(NamedTuple):
    """One turn: a role and its parts.

    Source: lmstudio-js 6ec11db, lms-shared-types/src/ChatHistoryData.ts
    """

    role: str
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined; tool results count as text."""
        return "".join(
            part.text if isinstance(part, TextPart) else part.content
            for part in self.content
            if isinstance(part, TextPart | ToolCallResult)
        )


class Chat:
    """A conversation that grows: `Chat("system prompt")`, then `add_user_message`, `respond(chat)`, `append`.

    Consecutive user messages become one message of several parts, as in the official Python SDK.

    Args:
        initial_prompt: the system prompt, if there is to be one.
    """

    def __init__(self, initial_prompt: str | None = None) -> None:
        self._messages: list[Message] = []
        if initial_prompt is not None:
            self.add_system_prompt(initial_prompt)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns so far, oldest first."""
        return tuple(self._messages)

    @classmethod
    def from_history(cls, history: "Chat | Mapping[str, Any] | Sequence[Any] | str") -> "Chat":
        """Read a chat history.

        Shapes: a string (one user message); {"messages": [entry, …]}; [entry, …]; a Chat (copied).
        An entry is {"role": str, "content": str | part | [str | part, …]} or a (role, content) pair.
        OpenAI's `tool_calls` of an assistant message, and `tool_call_id` of a tool message, are read, too.
        Raises:
            BadInput: with the path of what is wrong, such as `messages[3].role`.
        """
        chat = cls()
        if isinstance(history, str):
            chat.add_user_message(history)
            return chat
        entries = history.messages if isinstance(history, Chat) else _entries(history)
        messages = [read_message(entry, f"messages[{index}]") for index, entry in enumerate(entries)]
        chat._messages = messages if len(messages) == 1 else _with_joined_users(messages)
        return chat

    def copy(self) -> "Chat":
        """A conversation of its own with the same turns."""
        return Chat.from_history(self)

    def append(self, message: Message | Mapping[str, Any]) -> None:
        """Add one turn; a user message right after another joins it."""
        if not isinstance(message, Message):
            message = read_message(message, f"messages[{len(self._messages)}]")
        if message.role == "user" and self._messages and self._messages[-1].role == "user":
            message = Message("user", self._messages.pop().content + message.content)
        self._messages.append(message)

    def add_system_prompt(self, prompt: str) -> Message:
        """Add instructions for the model."""
        return self._add("system", [prompt])

    def add_user_message(self, content: Any, *, images: Iterable[FilePart] = ()) -> Message:
        """Add a message of the user: text or parts first, then images that were uploaded."""
        return self._add("user", [*_listed(content), *images])

    def add_assistant_response(self, response: object, tool_call_requests: Iterable[Any] = ()) -> Message:
        """Add what the model answered: text, or the result of a prediction, and the tool calls that it requested."""
        return self._add("assistant", [str(response), *tool_call_requests])

    def add_tool_result(self, result: Any) -> Message:
        """Add the result of a tool call: a `ToolCallResult`, or an object with `content` and `toolCallId`."""
        return self.add_tool_results([result])

    def add_tool_results(self, results: Iterable[Any]) -> Message:
        """Add the results of several tool calls, as one message."""
        return self._add("tool", [*results])

    def _add(self, role: str, content: list[Any]) -> Message:
        self.append(Message(role, _parts(content, role, "content")))
        return self._messages[-1]


def _with_joined_users(messages: list[Message]) -> list[Message]:
    """Messages with those of the user in a row joined: at once, because one after the other takes quadratic time."""
    joined: list[Message] = []
    for role, run in groupby(messages, key=attrgetter("role")):
        if role == "user":
            joined.append(Message(role, tuple(part for message in run for part in message.content)))
        else:
            joined.extend(run)
    return joined


def _entries(history: object) -> Sequence[Any]:
    entries = history.get("messages") if isinstance(history, Mapping) else history
    if isinstance(entries, Sequence) and not isinstance(entries, str | bytes):
        return entries
    raise BadInput("messages: expected an array of messages", 'a chat history looks like {"messages": [{"role": …}]}')


def read_message(entry: object, at: str) -> Message:
    """Read one turn of a history; `at` is its path, for the message of an error.

    Raises:
        BadInput: with the path of what is wrong.
    """
    match entry:
        case Message():
            return entry
        case {"role": role, "content": content}:
            pass
        case {"role": "assistant" as role, "tool_calls": list()}:
            content = None
        case (role, content):
            pass
        case {"role": _}:
            raise BadInput(f"{at}.content: missing")
        case {}:
            raise BadInput(f"{at}.role: missing")
        case _:
            raise BadInput(f"{at}: expected an object with role and content")
    name = ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if name not in ROLES:
        raise BadInput(f"{at}.role: unknown role {quoted(role)}", f"roles are {', '.join(ROLES)}")
    return _message(name, content, entry if isinstance(entry, Mapping) else {}, at)


def _message(name: str, content: object, keys: Mapping[str, Any], at: str) -> Message:
    """Read the content of a message, and what OpenAI writes beside it."""
    if name == "tool" and (isinstance(content, str) or "tool_call_id" in keys):
        return Message(name, (_openai_result(content, keys, at),))
    calls = _openai_calls(keys, name, f"{at}.tool_calls")
    if name == "assistant" and (content is None or (calls and content == [])):
        content = ""
    if type(content) is str and not calls:  # most are, and are read at once
        return Message(name, (TextPart(content),))
    return Message(name, _parts(_listed(content), name, f"{at}.content") + calls)


def _openai_result(content: object, message: Mapping[str, Any], at: str) -> ToolCallResult:
    """Read OpenAI's form of a tool message: the result is a string or text parts, and its id a key of the message."""
    if not isinstance(content, str):
        parts = _parts(_listed(content), "user", f"{at}.content")
        if not all(isinstance(part, TextPart) for part in parts):
            raise BadInput(f"{at}.content: expected text, the result of the tool call")
        content = Message("user", parts).text
    return ToolCallResult(content, _optional_text(message, "tool_call_id", at), _optional_text(message, "name", at))


def _openai_calls(message: Mapping[str, Any], role: str, at: str) -> tuple[ToolCallRequest, ...]:
    """Read OpenAI's form of tool calls, a key of the message: [{"id": str, "function": {"name", "arguments"}}, …]."""
    calls = message.get("tool_calls")
    if not calls:
        return ()
    if not isinstance(calls, list):
        raise BadInput(f"{at}: expected an array of tool calls")
    if role != "assistant":
        raise BadInput(f"{at}: only assistant messages can hold tool calls")
    return tuple(_openai_call(call, f"{at}[{index}]") for index, call in enumerate(calls))


def _openai_call(call: object, at: str) -> ToolCallRequest:
    if not isinstance(call, Mapping):
        raise BadInput(f"{at}: expected an object")
    function = call.get("function")
    if not isinstance(function, Mapping):
        raise BadInput(f"{at}.function: expected an object")
    arguments = _openai_arguments(function.get("arguments"), f"{at}.function.arguments")
    return ToolCallRequest(_text(function, "name", f"{at}.function"), arguments, _optional_text(call, "id", at))


def _openai_arguments(value: object, at: str) -> dict[str, Any] | None:
    """Read the arguments of a call: the text of a JSON object; some programs write the object itself, or no text."""
    if isinstance(value, str):
        import json  # noqa: PLC0415  needed by few

        try:
            value = json.loads(value) if value.strip() else {}
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{at}: not valid JSON: {quoted(value, limit=60)}") from error
    if value is None or isinstance(value, dict):
        return value
    raise BadInput(f"{at}: expected a JSON object")


def _listed(content: Any) -> list[Any]:
    is_part = isinstance(content, Part)
    return list(content) if isinstance(content, list | tuple) and not is_part else [content]


def _parts(content: list[Any], role: str, at: str) -> tuple[Part, ...]:
    if not content:
        raise BadInput(f"{at}: empty")
    parts = tuple(_part(item, role, f"{at}[{index}]") for index, item in enumerate(content))
    for index, part in enumerate(parts):
        if not isinstance(part, ALLOWED_PARTS[role]):
            raise BadInput(f"{at}[{index}]: {role} messages cannot hold this kind of part")
        if isinstance(part, FilePart) and part.file_type not in FILE_TYPES:
            raise BadInput(
                f"{at}[{index}].fileType: unknown type of file {quoted(part.file_type, limit=80)}",
                f"types of files are {', '.join(FILE_TYPES)}",
            )
    return parts


def _part(item: object, role: str, at: str) -> Part:
    if isinstance(item, str):
        return TextPart(item)
    if isinstance(item, Part):
        return item
    if not isinstance(item, Mapping):
        raise BadInput(f"{at}: expected text or a part")
    kind = item.get("type", "toolCallResult" if role == "tool" else None)
    if not isinstance(kind, str) or kind not in _READERS:
        raise BadInput(f"{at}.type: unknown part type {quoted(kind)}", f"parts are {', '.join(_READERS)}")
    return _READERS[kind](item, at)


def _text(item: Mapping[str, Any], key: str, at: str) -> str:
    value = item.get(key)
    if isinstance(value, str):
        return value
    raise BadInput(f"{at}.{key}: expected a string")


def _optional_text(item: Mapping[str, Any], key: str, at: str) -> str | None:
    return None if item.get(key) is None else _text(item, key, at)


def _text_part(item: Mapping[str, Any], at: str) -> Part:
    return TextPart(_text(item, "text", at))


def _file_part(item: Mapping[str, Any], at: str) -> Part:
    if "path" in item:  # written by `lm` for an image: the identifier was good for one connection only
        return ImagePart(_text(item, "path", at))
    size = item.get("sizeBytes", item.get("size_bytes", 0))
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if type(size) is not int:
        raise BadInput(f"{at}.sizeBytes: expected a whole number")
    kind = "file_type" if "file_type" in item else "fileType"
    return FilePart(_text(item, "name", at), _text(item, "identifier", at), size, _text(item, kind, at))


def _image_url_part(item: Mapping[str, Any], at: str) -> Part:
    """OpenAI's form: {"image_url": {"url": str}}, a data URL or, as an extension, a local path."""
    image = item.get("image_url")
    holder = image if isinstance(image, Mapping) else {"url": image}
    url = _text(holder, "url", f"{at}.image_url")
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        raise BadInput(
            f"{at}.image_url.url: images are not fetched from elsewhere: {quoted(url, limit=80)}",
            "give a local path or a data: URL",
        )
    if not separator:
        return ImagePart(url)
    from urllib.parse import unquote  # noqa: PLC0415  needed by few

    return ImagePart(unquote(rest))


def _tool_call_request(item: Mapping[str, Any], at: str) -> Part:
    at += ".toolCallRequest"
    request = item.get("toolCallRequest", item.get("tool_call_request"))
    if not isinstance(request, Mapping):
        raise BadInput(f"{at}: expected an object")
    if (kind := request.get("type", "function")) != "function":
        raise BadInput(f"{at}.type: unknown type of tool {quoted(kind, limit=80)}", "the only type is function")
    arguments = request.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise BadInput(f"{at}.arguments: expected an object")
    return ToolCallRequest(_text(request, "name", at), arguments, _optional_text(request, "id", at))


def _tool_call_result(item: Mapping[str, Any], at: str) -> Part:
    call_id = "tool_call_id" if "tool_call_id" in item else "toolCallId"
    return ToolCallResult(
        _text(item, "content", at), _optional_text(item, call_id, at), _optional_text(item, "name", at)
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any], str], Part]] = {
    "text": _text_part,
    "file": _file_part,
    "image_url": _image_url_part,
    "toolCallRequest": _tool_call_request,
    "toolCallResult": _tool_call_result,
}
