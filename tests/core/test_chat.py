"""What a chat history may look like, and the conversation that programs build."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, any_json, garbled, messages

from lmcli.chat import Chat, FilePart, ImagePart, Message, TextPart, ToolCallResult
from lmcli.errors import BadInput
from lmcli.values import ToolCallRequest
from lmcli.wire.histories import read_history, write_history

CAT = FilePart("cat.png", "f-1", 5120, "image")
CAT_JSON = {"type": "file", "name": "cat.png", "identifier": "f-1", "sizeBytes": 5120, "fileType": "image"}
CALL_JSON = {"type": "toolCallRequest", "toolCallRequest": {"id": "7", "name": "add", "arguments": {"a": 1}}}


def said(role: str, *parts: Any) -> Message:
    """A message of texts and parts."""
    return Message(role, tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def openai_call(**keys: Any) -> dict[str, Any]:
    """A tool call as OpenAI has it."""
    return {"id": "7", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}} | keys


ACCEPTED: dict[str, tuple[Any, list[Message]]] = {
    "a text": ("hi", [said("user", "hi")]),
    "an empty text": ("", [said("user", "")]),
    "an object with messages": ({"messages": [{"role": "user", "content": "hi"}]}, [said("user", "hi")]),
    "an array": ([{"role": "user", "content": "hi"}], [said("user", "hi")]),
    "a tuple": (({"role": "user", "content": "hi"},), [said("user", "hi")]),
    "no messages": ({"messages": []}, []),
    "a pair": ([("user", "hi"), ["assistant", "ho"]], [said("user", "hi"), said("assistant", "ho")]),
    "messages": ([said("user", "hi")], [said("user", "hi")]),
    "an empty content": ([{"role": "user", "content": ""}], [said("user", "")]),
    "unknown keys": ({"messages": [{"role": "user", "content": "hi", "stats": {}}], "v": 1}, [said("user", "hi")]),
    "a text part": ([("user", {"type": "text", "text": "hi", "more": 1})], [said("user", "hi")]),
    "several parts": ([("user", ["a", {"type": "text", "text": "b"}, CAT_JSON])], [said("user", "a", "b", CAT)]),
    "part values": ([("user", [TextPart("a"), CAT]), ("system", CAT)], [said("user", "a", CAT), said("system", CAT)]),
    "a part value alone": ([("user", TextPart("a"))], [said("user", "a")]),
    "a file in snake_case": (
        [("user", {"type": "file", "name": "cat.png", "identifier": "f-1", "size_bytes": 5120, "file_type": "image"})],
        [said("user", CAT)],
    ),
    "a file without size": (
        [("user", {"type": "file", "name": "n", "identifier": "i", "fileType": "image"})],
        [said("user", FilePart("n", "i", 0, "image"))],
    ),
    "an image as OpenAI has it": (
        [("user", ["see", {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": "low"}}])],
        [said("user", "see", ImagePart("data:image/png;base64,iVBO"))],
    ),
    "an image by its path": (
        [("user", {"type": "image_url", "image_url": "cats/my cat.png"})],
        [said("user", ImagePart("cats/my cat.png"))],
    ),
    "an image by a file URL": (
        [("user", {"type": "image_url", "image_url": {"url": "file:///cats/my%20cat.png"}})],
        [said("user", ImagePart("/cats/my cat.png"))],
    ),
    "an image that lm has written": (
        [("user", CAT_JSON | {"path": "cats/cat.png"})],
        [said("user", ImagePart("cats/cat.png"))],
    ),
    "a tool call": (
        [("assistant", ["", CALL_JSON])],
        [said("assistant", "", ToolCallRequest("add", {"a": 1}, "7"))],
    ),
    "a tool call in snake_case": (
        [("assistant", ["", {"type": "toolCallRequest", "tool_call_request": {"name": "now"}}])],
        [said("assistant", "", ToolCallRequest("now"))],
    ),
    "a bare tool call": (
        [("assistant", {"type": "toolCallRequest", "toolCallRequest": {"name": "now", "id": None}})],
        [said("assistant", ToolCallRequest("now"))],
    ),
    "a tool result": (
        [("tool", [{"type": "toolCallResult", "content": "3", "toolCallId": "7", "name": "add"}])],
        [said("tool", ToolCallResult("3", "7", "add"))],
    ),
    "a tool result without type": (
        [("tool", {"toolCallId": "7", "content": "3"})],
        [said("tool", ToolCallResult("3", "7"))],
    ),
    "a tool result as OpenAI has it": (
        [{"role": "tool", "tool_call_id": "7", "content": "3"}],
        [said("tool", ToolCallResult("3", "7"))],
    ),
    "a tool result as OpenAI has it, in parts": (
        [
            {
                "role": "tool",
                "tool_call_id": "7",
                "content": [{"type": "text", "text": "3"}, {"type": "text", "text": "4"}],
            }
        ],
        [said("tool", ToolCallResult("34", "7"))],
    ),
    "a tool result in snake_case": (
        [("tool", {"tool_call_id": "7", "content": "3"})],
        [said("tool", ToolCallResult("3", "7"))],
    ),
    "a tool call as OpenAI has it": (
        [{"role": "assistant", "content": "one moment", "tool_calls": [openai_call()]}],
        [said("assistant", "one moment", ToolCallRequest("add", {"a": 1}, "7"))],
    ),
    "tool calls without content": (
        [{"role": "assistant", "tool_calls": [openai_call(), openai_call(id=None)]}],
        [said("assistant", "", ToolCallRequest("add", {"a": 1}, "7"), ToolCallRequest("add", {"a": 1}))],
    ),
    "tool calls with null as content": (
        [{"role": "assistant", "content": None, "tool_calls": [openai_call()]}],
        [said("assistant", "", ToolCallRequest("add", {"a": 1}, "7"))],
    ),
    "tool calls with an empty array as content": (
        [{"role": "assistant", "content": [], "tool_calls": [openai_call()]}],
        [said("assistant", "", ToolCallRequest("add", {"a": 1}, "7"))],
    ),
    "a tool call whose arguments are an object": (
        [{"role": "assistant", "tool_calls": [openai_call(function={"name": "add", "arguments": {"a": 1}})]}],
        [said("assistant", "", ToolCallRequest("add", {"a": 1}, "7"))],
    ),
    "a tool call without arguments": (
        [{"role": "assistant", "tool_calls": [openai_call(function={"name": "add"})]}],
        [said("assistant", "", ToolCallRequest("add", None, "7"))],
    ),
    "a tool call with blank arguments": (
        [{"role": "assistant", "tool_calls": [openai_call(function={"name": "add", "arguments": " "})]}],
        [said("assistant", "", ToolCallRequest("add", {}, "7"))],
    ),
    "no tool calls": (
        [{"role": "assistant", "content": "a", "tool_calls": None}, {"role": "user", "content": "b", "tool_calls": []}],
        [said("assistant", "a"), said("user", "b")],
    ),
    "a tool result as a pair": ([("tool", "3")], [said("tool", ToolCallResult("3"))]),
    "every role": (
        [("developer", "d"), ("system", "s"), ("user", "u"), ("assistant", "a"), ("tool", "t")],
        [
            said("system", "d"),
            said("system", "s"),
            said("user", "u"),
            said("assistant", "a"),
            said("tool", ToolCallResult("t")),
        ],
    ),
    "user messages in a row": (
        [("user", "a"), ("user", ["b", CAT_JSON]), ("assistant", "x"), ("assistant", "y"), ("user", "c")],
        [said("user", "a", "b", CAT), said("assistant", "x"), said("assistant", "y"), said("user", "c")],
    ),
    "tool results in a row": (
        [("tool", "1"), ("tool", "2")],
        [said("tool", ToolCallResult("1")), said("tool", ToolCallResult("2"))],
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_history_is_read(name: str) -> None:
    """Every documented shape of a history gives the conversation that it means."""
    history, expected = ACCEPTED[name]
    assert Chat.from_history(history).messages == tuple(expected)


def fourth(entry: Any) -> list[Any]:
    """A history with an entry in its fourth place."""
    return [("user", "a"), ("assistant", "b"), ("user", "c"), entry]


def request(**keys: Any) -> Any:
    """A history whose first part is a tool call."""
    return [("assistant", [{"type": "toolCallRequest", "toolCallRequest": keys}])]


def calling(calls: Any, role: str = "assistant") -> Any:
    """A history whose third message has OpenAI's tool calls."""
    return [("user", "a"), ("assistant", "b"), {"role": role, "content": "", "tool_calls": calls}]


def called_with(arguments: Any) -> Any:
    """A tool call as OpenAI has it, with arguments."""
    return openai_call(function={"name": "add", "arguments": arguments})


REFUSED: list[tuple[Any, str]] = [
    (5, "messages: expected an array of messages"),
    (None, "messages: expected an array of messages"),
    (b"bytes", "messages: expected an array of messages"),
    ({}, "messages: expected an array of messages"),
    ({"messages": "text"}, "messages: expected an array of messages"),
    ({"role": "user", "content": "hi"}, "messages: expected an array of messages"),
    (fourth(5), "messages[3]: expected an object with role and content"),
    (fourth("text"), "messages[3]: expected an object with role and content"),
    (fourth(["user", "a", "b"]), "messages[3]: expected an object with role and content"),
    (fourth({"content": "a"}), "messages[3].role: missing"),
    (fourth({}), "messages[3].role: missing"),
    (fourth({"role": "user"}), "messages[3].content: missing"),
    (fourth({"role": "wizard", "content": "a"}), "messages[3].role: unknown role 'wizard'"),
    (fourth({"role": "User", "content": "a"}), "messages[3].role: unknown role 'User'"),
    (fourth({"role": None, "content": "a"}), "messages[3].role: unknown role 'None'"),
    (fourth({"role": ["user"], "content": "a"}), "messages[3].role: unknown role '['user']'"),
    (fourth({"role": "\x1b[2J", "content": "a"}), r"messages[3].role: unknown role '\x1b[2J'"),
    (fourth(("user", [])), "messages[3].content: empty"),
    (fourth(("user", None)), "messages[3].content[0]: expected text or a part"),
    (fourth(("user", ["a", 5])), "messages[3].content[1]: expected text or a part"),
    (fourth(("user", [["a"]])), "messages[3].content[0]: expected text or a part"),
    (fourth(("user", {"text": "a"})), "messages[3].content[0].type: unknown part type 'None'"),
    (fourth(("user", {"type": "video"})), "messages[3].content[0].type: unknown part type 'video'"),
    (fourth(("user", {"type": ["text"]})), "messages[3].content[0].type: unknown part type '['text']'"),
    (fourth(("user", {"type": {}})), "messages[3].content[0].type: unknown part type '{}'"),
    ([("user", {"type": "text"})], "messages[0].content[0].text: expected a string"),
    ([("user", {"type": "text", "text": 5})], "messages[0].content[0].text: expected a string"),
    ([("user", CAT_JSON | {"name": None})], "messages[0].content[0].name: expected a string"),
    ([("user", CAT_JSON | {"identifier": 5})], "messages[0].content[0].identifier: expected a string"),
    (
        [("user", CAT_JSON | {"fileType": "image/png"})],
        "messages[0].content[0].fileType: unknown type of file 'image/png'",
    ),
    ([("user", ["a", CAT._replace(file_type="")])], "messages[0].content[1].fileType: unknown type of file ''"),
    ([("user", CAT_JSON | {"fileType": None})], "messages[0].content[0].fileType: expected a string"),
    ([("user", CAT_JSON | {"file_type": 5})], "messages[0].content[0].file_type: expected a string"),
    ([("user", CAT_JSON | {"sizeBytes": "5"})], "messages[0].content[0].sizeBytes: expected a whole number"),
    ([("user", CAT_JSON | {"sizeBytes": True})], "messages[0].content[0].sizeBytes: expected a whole number"),
    ([("user", CAT_JSON | {"path": 5})], "messages[0].content[0].path: expected a string"),
    ([("user", {"type": "image_url"})], "messages[0].content[0].image_url.url: expected a string"),
    ([("user", {"type": "image_url", "image_url": {}})], "messages[0].content[0].image_url.url: expected a string"),
    (
        [("user", {"type": "image_url", "image_url": {"url": "https://cats.example/cat.png"}})],
        "messages[0].content[0].image_url.url: images are not fetched from elsewhere: 'https://cats.example/cat.png'",
    ),
    (
        [("tool", {"type": "image_url", "image_url": "cat.png"})],
        "messages[0].content[0]: tool messages cannot hold this kind of part",
    ),
    (
        [("assistant", {"type": "toolCallRequest", "toolCallRequest": "add"})],
        "messages[0].content[0].toolCallRequest: expected an object",
    ),
    (request(name=5), "messages[0].content[0].toolCallRequest.name: expected a string"),
    (request(name="a", id=5), "messages[0].content[0].toolCallRequest.id: expected a string"),
    (request(name="a", arguments="{}"), "messages[0].content[0].toolCallRequest.arguments: expected an object"),
    ([("tool", {"content": 3})], "messages[0].content[0].content: expected a string"),
    ([("tool", {"content": "3", "toolCallId": 7})], "messages[0].content[0].toolCallId: expected a string"),
    ([("tool", {"content": "3", "name": 7})], "messages[0].content[0].name: expected a string"),
    (
        [{"role": "tool", "content": "3", "tool_call_id": 7}],
        "messages[0].tool_call_id: expected a string",
    ),
    (
        [{"role": "tool", "content": [CAT_JSON], "tool_call_id": "7"}],
        "messages[0].content: expected text, the result of the tool call",
    ),
    (calling("add"), "messages[2].tool_calls: expected an array of tool calls"),
    (calling(["add"]), "messages[2].tool_calls[0]: expected an object"),
    (calling([openai_call(), {"id": "8"}]), "messages[2].tool_calls[1].function: expected an object"),
    (calling([openai_call(function={})]), "messages[2].tool_calls[0].function.name: expected a string"),
    (calling([openai_call(id=7)]), "messages[2].tool_calls[0].id: expected a string"),
    (calling([called_with("{")]), "messages[2].tool_calls[0].function.arguments: not valid JSON: '{'"),
    (calling([called_with("[1]")]), "messages[2].tool_calls[0].function.arguments: expected a JSON object"),
    (calling([called_with(5)]), "messages[2].tool_calls[0].function.arguments: expected a JSON object"),
    (
        calling([called_with("[" * 100_000)]),
        f"messages[2].tool_calls[0].function.arguments: not valid JSON: '{'[' * 60}…'",
    ),
    (calling([openai_call()], role="user"), "messages[2].tool_calls: only assistant messages can hold tool calls"),
    ([("user", CALL_JSON)], "messages[0].content[0]: user messages cannot hold this kind of part"),
    ([("system", ["a", CALL_JSON])], "messages[0].content[1]: system messages cannot hold this kind of part"),
    (
        [("assistant", {"type": "toolCallResult", "content": "3"})],
        "messages[0].content[0]: assistant messages cannot hold this kind of part",
    ),
    ([("tool", [TextPart("3")])], "messages[0].content[0]: tool messages cannot hold this kind of part"),
    ([("tool", ["3"])], "messages[0].content[0]: tool messages cannot hold this kind of part"),
]


@pytest.mark.parametrize(
    ("history", "message"), REFUSED, ids=[f"{i}-{text[:40]}" for i, (_, text) in enumerate(REFUSED)]
)
def test_history_is_refused(history: Any, message: str) -> None:
    """A history that cannot be meant is refused with the path of what is wrong."""
    with pytest.raises(BadInput) as refusal:
        Chat.from_history(history)
    assert refusal.value.message == message


def test_a_refusal_of_a_role_names_the_roles() -> None:
    """What can be typed instead stands in the hint."""
    with pytest.raises(BadInput) as refusal:
        Chat.from_history([("wizard", "hi")])
    assert refusal.value.hints == ("roles are system, user, assistant, tool",)


BUILDING: dict[str, tuple[Callable[[Chat], object], Message]] = {
    "text": (lambda chat: chat.add_user_message("hi"), said("user", "hi")),
    "parts": (lambda chat: chat.add_user_message(["hi", CAT_JSON]), said("user", "hi", CAT)),
    "images after text": (lambda chat: chat.add_user_message("hi", images=[CAT]), said("user", "hi", CAT)),
    "system": (lambda chat: chat.add_system_prompt("be terse"), said("system", "be terse")),
    "assistant": (lambda chat: chat.add_assistant_response("ho"), said("assistant", "ho")),
    "a result": (lambda chat: chat.add_assistant_response(TypeError("its text")), said("assistant", "its text")),
    "assistant with tool calls": (
        lambda chat: chat.add_assistant_response("ho", [ToolCallRequest("add", {"a": 1}, "7"), CALL_JSON]),
        said("assistant", "ho", *[ToolCallRequest("add", {"a": 1}, "7")] * 2),
    ),
    "a tool result": (
        lambda chat: chat.add_tool_result({"content": "3", "toolCallId": "7"}),
        said("tool", ToolCallResult("3", "7")),
    ),
    "tool results": (
        lambda chat: chat.add_tool_results([ToolCallResult("3", "7"), {"content": "4", "tool_call_id": "8"}]),
        said("tool", ToolCallResult("3", "7"), ToolCallResult("4", "8")),
    ),
    "append message": (lambda chat: chat.append(said("user", "hi")), said("user", "hi")),
    "append object": (lambda chat: chat.append({"role": "developer", "content": "d"}), said("system", "d")),
}


@pytest.mark.parametrize("name", BUILDING)
def test_building(name: str) -> None:
    """Each way to add a turn adds that turn, and the adding verbs return it."""
    chat = Chat()
    add, expected = BUILDING[name]
    returned = add(chat)
    assert chat.messages == (expected,)
    assert returned in (expected, None)


def test_initial_prompt_is_the_system_message() -> None:
    """`Chat(text)` begins with instructions, `Chat()` with nothing; an empty prompt is a prompt."""
    assert Chat("be terse").messages == (said("system", "be terse"),)
    assert Chat("").messages == (said("system", ""),)
    assert Chat().messages == ()


def test_user_messages_join() -> None:
    """A user message right after another becomes part of it, as in the official SDK; other roles never join."""
    chat = Chat()
    chat.add_user_message("a")
    assert chat.add_user_message("b", images=[CAT]) == said("user", "a", "b", CAT)
    chat.add_assistant_response("c")
    chat.add_assistant_response("d")
    chat.add_user_message("e")
    assert [message.role for message in chat.messages] == ["user", "assistant", "assistant", "user"]


def test_append_says_where_the_entry_would_stand() -> None:
    """The path of a bad entry counts from the beginning of the conversation."""
    chat = Chat("s")
    with pytest.raises(BadInput, match=r"^messages\[1\]\.role: missing$"):
        chat.append({"content": "a"})


def test_an_empty_user_message_is_refused() -> None:
    """No parts at all is no message, and the conversation stays as it was."""
    chat = Chat()
    with pytest.raises(BadInput, match=r"^content: empty$"):
        chat.add_user_message([])
    assert chat.messages == ()


def test_a_copy_goes_its_own_way() -> None:
    """What is added to a copy is not added to the original."""
    chat = Chat("s")
    copy = chat.copy()
    copy.add_user_message("hi")
    assert (len(chat.messages), len(copy.messages)) == (1, 2)


def test_text_of_a_message() -> None:
    """The text parts and tool results joined; files and tool calls have none."""
    assert said("user", "a", CAT, "b").text == "ab"
    assert said("tool", ToolCallResult("3"), ToolCallResult("4")).text == "34"
    assert said("assistant", ToolCallRequest("add")).text == ""


@QUICK
@given(st.lists(messages, max_size=5))
def test_round_trip_through_the_wire(conversation: list[Message]) -> None:
    """What is written for the wire is read back the same, message by message."""
    assert read_history(write_history(conversation)) == conversation


@QUICK
@given(st.lists(messages, max_size=5))
def test_round_trip_through_a_history(conversation: list[Message]) -> None:
    """A conversation written as a history is read back the same: joined once, it does not change again."""
    chat = Chat.from_history(conversation)
    assert Chat.from_history(write_history(chat.messages)).messages == chat.messages
    roles = [message.role for message in chat.messages]
    assert ("user", "user") not in pairwise(roles)
    assert [part for m in chat.messages for part in m.content] == [part for m in conversation for part in m.content]


ALL_PARTS = {
    "messages": [
        {"role": "user", "content": ["a", {"type": "text", "text": "b"}, CAT_JSON]},
        {"role": "assistant", "content": [CALL_JSON]},
        {"role": "tool", "content": [{"type": "toolCallResult", "content": "3", "toolCallId": "7"}]},
        {"role": "assistant", "content": "", "tool_calls": [openai_call()]},
        {"role": "tool", "content": "3", "tool_call_id": "7", "name": "add"},
    ]
}


@QUICK
@given(any_json | garbled(ALL_PARTS))
def test_any_json_is_a_history_or_bad_input(value: Any) -> None:
    """Whatever JSON somebody pipes in, it is a conversation or refused with a path."""
    try:
        chat = Chat.from_history(value)
    except BadInput as refusal:
        assert refusal.message.startswith("messages")  # noqa: PT017  whatever else is raised fails by itself
    else:
        assert all(isinstance(message, Message) for message in chat.messages)


def test_many_messages_of_the_user_in_a_row() -> None:
    """They are joined in linear time: quadratic time would exceed the limit of a test."""
    count = 200_000
    chat = Chat.from_history([{"role": "user", "content": "x"}] * count)
    assert [len(message.content) for message in chat.messages] == [count]
