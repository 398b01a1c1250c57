"""The packets of tool calls, read in a channel and written again."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import INSTANCE
from properties import QUICK, json_objects, nested

from lmcli.errors import RemoteProtocolError
from lmcli.values import Fragment, ToolCallFailure, ToolCallFragment, ToolCallRequest, ToolCallValue, Value
from lmcli.wire.channels import Prediction
from lmcli.wire.tool_calls import write_tool_call

Packet = dict[str, Any]

START = {"type": "toolCallGenerationStart", "toolCallId": "7"}
NAME = {"type": "toolCallGenerationNameReceived", "name": "add"}
ARGUMENTS = {"type": "toolCallGenerationArgumentFragmentGenerated", "content": '{"a"'}
END = {
    "type": "toolCallGenerationEnd",
    "toolCallRequest": {"id": "7", "type": "function", "name": "add", "arguments": {"a": 1}},
    "rawContent": "<call>",
}
FAILED = {"type": "toolCallGenerationFailed", "error": {"title": "Bad JSON."}, "rawContent": "<call"}
TEXT = {"type": "fragment", "fragment": {"content": "hi"}}
SUCCESS = {"type": "success", "stats": {"stopReason": "eosFound"}, "modelInfo": INSTANCE}
ADD = ToolCallRequest("add", {"a": 1}, "7")


def ended(**changes: Any) -> Packet:
    """The packet that ends a call, with other keys in its request."""
    return END | {"toolCallRequest": {"type": "function", "name": "add"} | changes}


def prediction(*packets: Packet) -> tuple[Prediction, list[Value]]:
    """A channel that has taken some packets, and what they brought."""
    channel = Prediction()
    for packet in packets:
        channel.take([packet])
    return channel, channel.read()


def test_a_call() -> None:
    """Each packet is a value, so that a long call is not silence; the whole call is kept."""
    channel, values = prediction(START, NAME, ARGUMENTS, END, SUCCESS)
    pieces = [ToolCallFragment(id="7"), ToolCallFragment(name="add"), ToolCallFragment(arguments='{"a"')]
    assert values == [*pieces, ADD]
    assert (channel.tool_calls, channel.tool_call_failures) == ([ADD], [])


def test_calls_among_text() -> None:
    """Several calls, with text between them and one that failed, come in their order."""
    channel, values = prediction(TEXT, START, END, TEXT, START, NAME, FAILED, END, SUCCESS)
    failure = ToolCallFailure("Bad JSON", "add", "<call")
    assert [v for v in values if not isinstance(v, ToolCallFragment)] == [
        *(Fragment("hi"), ADD),
        *(Fragment("hi"), failure, ADD),
    ]
    assert (channel.tool_calls, channel.tool_call_failures) == ([ADD, ADD], [failure])


@pytest.mark.parametrize(
    ("packets", "call"),
    [
        ([START, ended()], ToolCallRequest("add", None, "7")),
        ([START, ended(id="8")], ToolCallRequest("add", None, "8")),
        ([START, ended(id=None, arguments=None)], ToolCallRequest("add", None, "7")),
        ([START | {"toolCallId": None}, NAME, ended(arguments={})], ToolCallRequest("add", {})),
        ([ended()], ToolCallRequest("add")),
        ([ended(arguments="{}")], ToolCallFailure("its arguments are not an object", "add", "<call>")),
        ([ended(arguments=[1])], ToolCallFailure("its arguments are not an object", "add", "<call>")),
        (
            [ended(arguments={"a": nested(900)})],
            ToolCallFailure("its arguments are nested too deeply", "add", "<call>"),
        ),
        ([{"type": "toolCallGenerationFailed"}], ToolCallFailure("the server gave no reason")),
        ([START, FAILED | {"error": 5}], ToolCallFailure("the server gave no reason", None, "<call")),
        ([START, END, FAILED], ToolCallFailure("Bad JSON", None, "<call")),
    ],
)
def test_what_may_be_missing(packets: list[Packet], call: Value) -> None:
    """An identifier of the start counts where the end has none; arguments that are no object end only their call."""
    _, values = prediction(*packets)
    assert values[-1] == call


def test_a_call_that_neither_ends_nor_fails() -> None:
    """At the end of the prediction it is a failure; what came before the loss of a connection stays."""
    channel, values = prediction(START, END, START, NAME, ARGUMENTS, SUCCESS)
    assert values[-1] == ToolCallFailure("it is not complete", "add")
    assert channel.tool_call_failures == values[-1:]
    channel, _ = prediction(START, END, START, NAME)
    channel.fail(RemoteProtocolError("lost"))
    assert (channel.tool_calls, channel.tool_call_failures) == ([ADD], [])


@pytest.mark.parametrize(
    "packet",
    [
        START | {"toolCallId": 7},
        NAME | {"name": None},
        {"type": "toolCallGenerationNameReceived"},
        ARGUMENTS | {"content": {}},
        END | {"toolCallRequest": None},
        END | {"toolCallRequest": []},
        ended(name=7),
        ended(id=7),
        END | {"rawContent": 7},
        FAILED | {"rawContent": []},
    ],
)
def test_another_type_is_refused(packet: Packet) -> None:
    """A required key that is missing or a value of another type is an error of the protocol, which quotes it."""
    with pytest.raises(RemoteProtocolError, match=r"^the server sent .* of a tool call as "):
        prediction(packet)


def test_an_unknown_packet_brings_nothing() -> None:
    """Packets of later servers are passed over."""
    assert Prediction().take([{"type": "toolCallGenerationSomething", "name": 5}]) is False


@QUICK
@given(st.text(), st.none() | json_objects, st.none() | st.text())
def test_round_trip(name: str, arguments: Packet | None, call_id: str | None) -> None:
    """What is written is read back the same."""
    values: list[ToolCallValue] = [
        ToolCallFragment(id=call_id),
        ToolCallFragment(name=name),
        ToolCallFragment(arguments=name),
        ToolCallRequest(name, arguments, call_id),
    ]
    assert prediction(*map(write_tool_call, values))[1] == values
