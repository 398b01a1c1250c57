"""The tool calls of the echo models: their packets, the lines that make them, the answer to a result."""

import itertools
from typing import Any

import pytest
from conftest import Connect, Packet, StartServer, Wire, checked, predicting, query, stack, stats_of, text_of

TOOLS = {
    "type": "toolArray",
    "tools": [
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}},
        {"type": "function", "function": {"name": "now"}},
    ],
}


def calling(text: str, *messages: Packet, **config: Any) -> Packet:
    """A request with tools, whose conversation begins with a text of the user."""
    asked = {"role": "user", "content": [{"type": "text", "text": text}]}
    return predicting("", stack(**{"tools": TOOLS, **config})) | {"history": {"messages": [asked, *messages]}}


def call_packets(packets: list[Packet]) -> list[Packet]:
    """The packets of tool calls."""
    return [packet for packet in packets if packet["type"].startswith("toolCall")]


def requests(packets: list[Packet]) -> list[Packet]:
    """The tool calls that are complete."""
    return [packet["toolCallRequest"] for packet in packets if packet["type"] == "toolCallGenerationEnd"]


def results(*contents: str) -> Packet:
    """A message with the results of tools."""
    return {"role": "tool", "content": [{"type": "toolCallResult", "content": content} for content in contents]}


def test_a_line_of_the_prompt_calls_a_tool(wire: Wire) -> None:
    """The packets have the official order: start, name, arguments word by word, end; then the stats."""
    packets = wire.stream("predict", calling('call add {"a": 2, "b": 3}'))
    assert [packet["type"] for packet in packets if packet["type"] != "promptProcessingProgress"] == [
        *("toolCallGenerationStart", "toolCallGenerationNameReceived"),
        *["toolCallGenerationArgumentFragmentGenerated"] * 4,
        "toolCallGenerationEnd",
        "success",
    ]
    start, name, *arguments, end = call_packets(packets)
    assert start == {"type": "toolCallGenerationStart", "toolCallId": "call-1"}
    assert name == {"type": "toolCallGenerationNameReceived", "name": "add"}
    assert "".join(packet["content"] for packet in arguments) == '{"a": 2, "b": 3}'
    request = {"id": "call-1", "type": "function", "name": "add", "arguments": {"a": 2, "b": 3}}
    assert end == {"type": "toolCallGenerationEnd", "toolCallRequest": request}
    assert (text_of(packets), stats_of(packets)["stopReason"]) == ("", "eosFound")
    assert stats_of(packets)["predictedTokensCount"] == len(arguments)
    assert stats_of(packets)["timeToFirstTokenSec"] > 0


def test_several_calls_and_text(wire: Wire) -> None:
    """Lines that call no tool are repeated first; each call has an identifier of its own, also in later turns."""
    packets = wire.stream("predict", calling("one\n call now \ntwo\ncall add {}\ncall other {}"))
    assert text_of(packets) == "one\ntwo\ncall other {}"
    assert [(request["id"], request["name"]) for request in requests(packets)] == [("call-1", "now"), ("call-2", "add")]
    called = {"role": "assistant", "content": [{"type": "toolCallRequest", "toolCallRequest": requests(packets)[0]}]}
    again = wire.stream("predict", calling("", called, results("12"), calling("call now")["history"]["messages"][0]))
    assert [request["id"] for request in requests(again)] == ["call-2"]


@pytest.mark.parametrize("arguments", ["{a", "[1]", "5", "[" * 5000])
def test_arguments_that_are_not_an_object_fail(wire: Wire, arguments: str) -> None:
    """The call ends with a failure that has the text, and the next call follows."""
    packets = wire.stream("predict", calling(f"call add {arguments}\ncall now"))
    (failed,) = [packet for packet in packets if packet["type"] == "toolCallGenerationFailed"]
    assert failed["rawContent"] == arguments
    title = "Failed to parse tool call: the arguments are not a JSON object"
    assert failed["error"] == {"title": title, "rootTitle": title}
    assert [request["name"] for request in requests(packets)] == ["now"]
    assert packets[-1]["type"] == "success"


def test_without_tools_the_line_is_text(wire: Wire) -> None:
    """So it is without tools, for a tool that is not offered, with the choice `none`, and in a raw completion."""
    text = "call add {}"
    for config in (
        {"tools": {"type": "none"}},
        {"tools": {"type": "toolArray"}},
        {"toolChoice": {"type": "generic", "mode": "none"}},
    ):
        packets = wire.stream("predict", calling(text, **config))
        assert (text_of(packets), call_packets(packets)) == (text, [])
    raw = {"modelSpecifier": query(), "rawPrompt": text, "predictionConfigStack": stack(tools=TOOLS)}
    assert text_of(wire.stream("completeRawText", raw)) == text


def test_results_at_the_end_are_the_answer(wire: Wire) -> None:
    """All that follow the last other message, one a line, with tools or without; not those before a question."""
    for config in ({}, {"tools": {"type": "none"}}):
        assert text_of(wire.stream("predict", calling("call add {}", results("5"), **config))) == "5"
        assert text_of(wire.stream("predict", calling("a", results("5", "6"), results("7"), **config))) == "5\n6\n7"
    asked = calling("b")["history"]["messages"][0]
    assert text_of(wire.stream("predict", calling("a", results("5"), asked))) == "b"


def test_a_limit_in_the_middle_of_a_call(wire: Wire) -> None:
    """Each start has an end or a failure: a call that is cut fails, and none follows."""
    packets = wire.stream("predict", calling('call add {"a": 2}\ncall now', maxPredictedTokens=checked(1)))
    assert [packet["type"] for packet in call_packets(packets)] == [
        "toolCallGenerationStart",
        "toolCallGenerationNameReceived",
        "toolCallGenerationArgumentFragmentGenerated",
        "toolCallGenerationFailed",
    ]
    assert stats_of(packets)["stopReason"] == "maxPredictedTokensReached"


def test_a_cancel_in_the_middle_of_a_call(start_server: StartServer, connect: Connect) -> None:
    """It ends the call with a failure, and the prediction as always."""
    wire = connect(start_server(tokens_per_second=5))
    words = " ".join(map(str, range(1000)))
    channel = wire.open("predict", calling(f'call add {{"a": "{words}"}}'))
    for packet in (wire.receive()["message"] for _ in itertools.count()):
        if packet["type"] == "toolCallGenerationArgumentFragmentGenerated":
            break
    wire.cancel(channel)
    packets = wire.packets(channel)
    assert stats_of(packets)["stopReason"] == "userStopped"
    assert packets[-2]["type"] == "toolCallGenerationFailed"
    assert requests(packets) == []
