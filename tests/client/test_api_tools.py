"""Tool calls in the Python module: part of the result, of the message and of the conversation that goes on."""

from typing import Any

import pytest
from conftest import LOOPS
from faults import Peer
from loops import run
from packets import answering, piece, sent, success

import lmcli as lms
from lmcli.server.background import Running

TOOLS = {"rawTools": {"type": "toolArray", "tools": [{"type": "function", "function": {"name": "add"}}]}}
CALL = lms.ToolCallRequest("add", {"a": 2, "b": 3}, "call-1")
FAILED = lms.ToolCallFailure("Failed to parse tool call: the arguments are not a JSON object", "add", "{")
PROMPT = 'one moment\ncall add {"a": 2, "b": 3}\ncall add {'


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment of the suite holds does not matter."""
    for name in ("LM_HOST", "LM_API_TOKEN", "LMSTUDIO_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def test_a_conversation_with_tools(server: Running) -> None:
    """The result has the calls; given back with their results, the model answers with these."""
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        model = client.llm.model()
        chat = lms.Chat()
        chat.add_user_message(PROMPT)
        result = model.respond(chat, config=TOOLS, on_message=chat.append)
        assert (str(result), result.tool_calls, result.tool_call_failures) == ("one moment\n", (CALL,), (FAILED,))
        assert chat.messages[-1] == lms.Message("assistant", (lms.TextPart("one moment\n"), CALL))
        for call in result.tool_calls:
            assert call.arguments is not None
            chat.add_tool_result({"toolCallId": call.id, "content": str(sum(call.arguments.values()))})
        answer = model.respond(chat, config=TOOLS)
        assert (answer.content, answer.tool_calls, answer.tool_call_failures) == ("5", (), ())


def test_a_stream_gives_text_only(server: Running) -> None:
    """Its fragments are those of the text; the calls are in the result."""
    with lms.Client(f"127.0.0.1:{server.port}") as client:
        stream = client.llm.model().respond_stream(PROMPT, config=TOOLS)
        assert "".join(fragment.content for fragment in stream) == "one moment\n"
        assert stream.result().tool_calls == (CALL,)


@pytest.mark.parametrize("loop", LOOPS)
def test_asynchronously(server: Running, loop: str) -> None:
    """The same, awaited."""

    async def main() -> list[Any]:
        async with lms.AsyncClient(f"127.0.0.1:{server.port}") as client:
            model = await client.llm.model()
            chat = lms.Chat()
            chat.add_user_message(PROMPT)
            result = await model.respond(chat, config=TOOLS, on_message=chat.append)
            chat.add_tool_result(lms.ToolCallResult("5", "call-1"))
            return [result.tool_calls, result.tool_call_failures, (await model.respond(chat)).content]

    assert run(loop, main()) == [(CALL,), (FAILED,), "5"]


def test_what_came_before_a_cancel() -> None:
    """A call that was complete is in the result of a stream that was cancelled."""
    call = {"type": "toolCallGenerationEnd", "toolCallRequest": {"type": "function", "name": "now"}}

    def stopped(peer: Peer) -> None:
        peer.receive()
        peer.send(success(stop_reason="userStopped"))
        peer.wait_until_left()

    with answering(sent(1, call), piece("a"), then=stopped) as server, lms.Client(f"127.0.0.1:{server.port}") as client:
        stream = lms.LLM(client, "tiny").respond_stream("hi")
        for _ in stream:
            stream.cancel()
        assert stream.result().tool_calls == (lms.ToolCallRequest("now"),)
