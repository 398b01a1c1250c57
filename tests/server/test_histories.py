"""Which chat histories the server accepts: those of the official schema, and with them all that `lm` sends."""

from typing import Any

import pytest
from conftest import Packet, Wire, predicting
from hypothesis import given
from hypothesis import strategies as st
from properties import examples, garbled

from lmcli.chat import Chat, FilePart, ImagePart, Message
from lmcli.errors import BadInput
from lmcli.server.endpoints import HISTORY
from lmcli.wire.envelopes import Envelope, decode, encode
from lmcli.wire.histories import write_history

FILE = {"type": "file", "name": "a.png", "identifier": "f-1", "sizeBytes": 8, "fileType": "image"}
CALL = {"type": "function", "name": "add", "arguments": {"a": 1}, "id": "7"}
RESULT = {"type": "toolCallResult", "content": "3", "toolCallId": "7", "name": "add"}


def without(part: Packet, key: str) -> Packet:
    """A part that lacks a key."""
    return {name: value for name, value in part.items() if name != key}


def calling(**call: Any) -> tuple[str, Packet]:
    """A message with a tool call."""
    return "assistant", {"type": "toolCallRequest", "toolCallRequest": call}


VALID: list[tuple[str, Packet]] = [
    ("system", {"type": "text", "text": ""}),
    ("user", {"type": "text", "text": "a", "unknown": 1}),
    ("assistant", {"type": "text", "text": "a"}),
    calling(**CALL),
    calling(type="function", name="add"),
    ("tool", RESULT),
    ("tool", {"type": "toolCallResult", "content": "3"}),
]
INVALID: list[tuple[str, Any]] = [
    ("developer", {"type": "text", "text": "a"}),
    ("user", "a"),
    ("user", {"text": "a"}),
    ("user", {"type": "text"}),
    ("user", {"type": "text", "text": None}),
    ("user", {"type": ["text"], "text": "a"}),
    ("user", RESULT),
    ("tool", {"type": "text", "text": "3"}),
    *[("user", without(FILE, key)) for key in ("name", "identifier", "sizeBytes", "fileType")],
    ("user", FILE | {"fileType": "image/png"}),
    ("user", FILE | {"fileType": ["image"]}),
    ("user", FILE | {"sizeBytes": 8.5}),
    ("user", FILE | {"sizeBytes": True}),
    *[calling(**without(CALL, key)) for key in ("type", "name")],
    calling(**CALL | {"type": "method"}),
    calling(**CALL | {"id": None}),
    calling(**CALL | {"arguments": "{}"}),
    ("tool", without(RESULT, "content")),
    ("tool", RESULT | {"content": 3}),
    ("tool", RESULT | {"name": None}),
    ("tool", RESULT | {"toolCallId": None}),
]


def asking(role: str, part: Any) -> Packet:
    """The request for a prediction, for a history of one part."""
    return predicting("") | {"history": {"messages": [{"role": role, "content": [part]}]}}


@pytest.mark.parametrize(("role", "part"), VALID)
def test_a_valid_history_is_answered(wire: Wire, role: str, part: Packet) -> None:
    """Every role has its parts, unknown keys are ignored and optional ones may be missing."""
    assert wire.stream("predict", asking(role, part))[-1]["type"] == "success"


@pytest.mark.parametrize(("role", "part"), INVALID)
def test_an_invalid_history_gets_a_warning_and_no_answer(wire: Wire, role: str, part: Any) -> None:
    """A required key that is missing, a value of another type or none of its enumeration, null for an optional key."""
    wire.open("predict", asking(role, part))
    wire.send({"type": "keepAlive"})
    assert wire.receive()["kind"] == "channelCreationParameterTypeError"
    assert wire.receive() == {"type": "keepAliveAck"}


PARTS: list[Any] = [FILE, calling(**CALL)[1], RESULT, "text"]
WRONG: st.SearchStrategy[Any] = st.sampled_from(["other", None, 5, {}])


@st.composite
def nearly(draw: st.DrawFn, part: Any) -> Any:
    """A part, whole or with one key of it, or of the object in it, missing or of another value."""
    if not isinstance(part, dict) or draw(st.booleans()):
        return part
    key = draw(st.sampled_from(sorted(part)))
    if isinstance(part[key], dict):
        return part | {key: draw(nearly(part[key]))}
    return part | {key: draw(WRONG)} if draw(st.booleans()) else without(part, key)


entries = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["assistant", "user", "tool", "developer"]),
        "content": st.lists(st.sampled_from(PARTS).flatmap(nearly), min_size=1, max_size=2),
    }
)


def with_names(message: Message) -> Message:
    """A message as it is sent, with the images of this machine uploaded."""
    uploaded = FilePart("a.png", "f-1", 8, "image")
    return message._replace(content=tuple(uploaded if isinstance(p, ImagePart) else p for p in message.content))


@examples(400)
@given(st.lists(entries, min_size=1, max_size=2).flatmap(lambda history: st.just(history) | garbled(history)))
def test_what_lm_accepts_is_valid_on_the_wire(history: Any) -> None:
    """Of almost valid histories, each is refused before anything is sent, or its request is valid for a server."""
    try:
        chat = Chat.from_history(history)
    except BadInput:
        return
    sent = encode(Envelope("channelCreate", 1, "predict", write_history(map(with_names, chat.messages))))
    assert HISTORY.is_met_by(decode(sent).body), sent
