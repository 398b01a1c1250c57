"""Tools that llama.cpp is shown and calls: templates with and without them, every form of a call, forced calls."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import lmstudio as lms
import pytest
from conftest import Connect, Packet, Wire, checked, query, stack, stats_of, text_of, user
from local_servers import REAL_KEY, load, real_model
from tiny_model import MARKS_FROM, make_model
from tiny_server import complete, only, options

from lmcli.server import background
from lmcli.server.llama.llama_engine import LlamaEngine

# Of the kind that Hermes and Qwen have.
TEMPLATE = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }}</tool_call>{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"$ref": "#/$defs/Days"},
    },
    "required": ["city", "days"],
    "$defs": {"Days": {"type": "integer", "minimum": 1, "maximum": 9}},
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "A forecast", "parameters": PARAMETERS}}
TOOLS = {"type": "toolArray", "tools": [WEATHER]}
ARGUMENTS = {"city": "Rome", "days": 3}
CALL = json.dumps({"name": "weather", "arguments": ARGUMENTS})
REQUEST = {"id": "123456789", "type": "function", "name": "weather", "arguments": ARGUMENTS}
ROUND = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "toolCallRequest", "toolCallRequest": REQUEST}]},
        {"role": "tool", "content": [{"type": "toolCallResult", "content": "sun", "toolCallId": "123456789"}]},
    ]
}


@pytest.fixture(scope="module")
def tool_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[background.Running]:
    """A server with a model whose template takes tools, and one whose template does not."""
    folder = tmp_path_factory.mktemp("models")
    files: list[Path] = [
        make_model(folder / "with.gguf", template=TEMPLATE, marks=("[TOOL_CALLS]",)),
        make_model(folder / "without.gguf"),
    ]
    with background.start(LlamaEngine(files)) as running:
        yield running


@pytest.fixture
def tools(tool_server: background.Running, connect: Connect) -> Wire:
    """A connection to the server, with its models loaded."""
    wire = connect(tool_server)
    load(wire, "with")
    load(wire, "without", contextLength=2048)
    return wire


def formatted(wire: Wire, identifier: str, history: Packet, config: Packet | None = None, **opts: Any) -> str:
    """The prompt for a conversation."""
    parameter = {"specifier": query(identifier), "history": history, "predictionConfigStack": config or stack()}
    return str(wire.result("applyPromptTemplate", {**parameter, "opts": opts})["formatted"])


def test_template_that_takes_tools(tools: Wire) -> None:
    """The tools, calls and results are where the template puts them, from the config or from `toolDefinitions`."""
    shown = json.dumps(WEATHER)
    expected = "<|user|>hi<|assistant|><tool_call>weather</tool_call><|tool|>sun<|assistant|>"
    text = formatted(tools, "with", ROUND, stack(tools=TOOLS))
    begin, _, rest = text.partition("</tools>")
    assert json.loads(begin.removeprefix("<tools>")) == json.loads(shown)
    assert rest == expected
    assert formatted(tools, "with", ROUND, toolDefinitions=[WEATHER]) == text
    assert formatted(tools, "with", ROUND) == expected
    assert (
        formatted(tools, "with", ROUND, stack(tools=TOOLS, toolChoice={"type": "generic", "mode": "none"})) == expected
    )


def test_template_without_tools(tools: Wire) -> None:
    """They are described in a system message, calls and results are texts, as in LM Studio."""
    text = formatted(tools, "without", ROUND, stack(tools=TOOLS))
    assert text.startswith("<|system|>You can call tools.")
    assert json.dumps(WEATHER["function"]) in text
    assert text.endswith(
        f"\n<|user|>hi\n<|assistant|>[TOOL_REQUEST]{CALL}[END_TOOL_REQUEST]\n"
        "<|user|>[TOOL_RESULT]sun[END_TOOL_RESULT]\n<|assistant|>"
    )
    with_system = {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]}
    assert formatted(tools, "without", with_system, stack(tools=TOOLS)).startswith(
        "<|system|>Be brief.\n\nYou can call"
    )
    assert formatted(tools, "without", user("hi")) == "<|user|>hi\n<|assistant|>"


def kinds(packets: list[Packet]) -> list[str]:
    """The types of the packets that belong to tool calls."""
    return [packet["type"].removeprefix("toolCallGeneration") for packet in packets if "toolCall" in packet["type"]]


@pytest.mark.parametrize(
    "text",
    [
        f"<tool_call>{CALL}</tool_call>",
        f"[TOOL_REQUEST]{CALL}[END_TOOL_REQUEST]",
        f"[TOOL_CALLS][{CALL}]",
        f"[TOOL_CALLS]weather[ARGS]{json.dumps(ARGUMENTS)}",
        json.dumps({"name": "weather", "parameters": ARGUMENTS}),
    ],
)
@pytest.mark.parametrize("identifier", ["with", "without"])
def test_call(tools: Wire, identifier: str, text: str) -> None:
    """What the model writes in a known form is a call, with its arguments as they are generated, and no text."""
    grammar = only(text)
    config = options(tools=TOOLS, structured=grammar, maxPredictedTokens=checked(200))
    packets = tools.predict("hi", config, identifier=identifier)
    found = kinds(packets)
    assert found[:2] == ["Start", "NameReceived"]
    assert found[-1] == "End"
    assert set(found[2:-1]) == {"ArgumentFragmentGenerated"}
    assert len(found) > 10, "in pieces"
    pieces = [p["content"] for p in packets if p["type"] == "toolCallGenerationArgumentFragmentGenerated"]
    assert json.loads("".join(pieces)) == ARGUMENTS
    start, end = (next(p for p in packets if p["type"] == f"toolCallGeneration{kind}") for kind in ("Start", "End"))
    assert end["toolCallRequest"] == REQUEST | {"id": start["toolCallId"]}
    assert text_of(packets) == ""
    assert stats_of(packets)["predictedTokensCount"] == len(text) + 1


def test_call_beside_text_and_reasoning(tools: Wire) -> None:
    """Text before a call is text, and a call inside of reasoning is none."""
    grammar = only(f"<think><tool_call>{CALL}</tool_call></think>So:\n<tool_call>{CALL}</tool_call>")
    parsing = {"enabled": True, "startString": "<think>", "endString": "</think>"}
    config = options(
        tools=TOOLS, structured=grammar, **{"reasoning.parsing": parsing, "maxPredictedTokens": checked(250)}
    )
    packets = tools.predict("hi", config, identifier="with")
    assert kinds(packets).count("End") == 1
    assert text_of(packets) == f"<think><tool_call>{CALL}</tool_call></think>So:\n"


def test_call_that_is_cut_off(tools: Wire) -> None:
    """A call that does not fit is reported as failed."""
    config = options(tools=TOOLS, structured=only(f"<tool_call>{CALL}</tool_call>"), maxPredictedTokens=checked(30))
    packets = tools.predict("hi", config, identifier="with")
    assert kinds(packets)[-1] == "Failed"
    assert stats_of(packets)["stopReason"] == "maxPredictedTokensReached"


def test_text_beside_tools(tools: Wire) -> None:
    """Text that looks like the beginning of a call keeps its tokens."""
    text = "a <tool [TOOL_CALL b"
    config = options(tools=TOOLS, structured=only(text), logProbs=checked(0), maxPredictedTokens=checked(100))
    packets = tools.predict("hi", config, identifier="with")
    fragments = [packet["fragment"] for packet in packets if packet["type"] == "fragment"]
    assert text_of(packets) == text
    assert "".join(token["text"] for fragment in fragments for token in fragment["tokens"]) == text
    assert sum(fragment["tokensCount"] for fragment in fragments) == len(text)


def test_mark_that_is_a_special_token(tools: Wire) -> None:
    """It begins a call, although special tokens are no text elsewhere."""
    values = {"llama.logitBias": [[MARKS_FROM, 100]], "maxPredictedTokens": checked(1)}
    packets = tools.predict("hi", options(tools=TOOLS, **values), identifier="with")
    assert (kinds(packets), text_of(packets)) == (["Start", "Failed"], "")
    packets = tools.predict("hi", options(**values), identifier="with")
    assert (kinds(packets), text_of(packets)) == ([], "")


def test_act_of_the_official_sdk(tool_server: background.Running) -> None:
    """The function is called with what the model wrote, and its result is a part of the next prompt."""
    called: list[tuple[str, int]] = []

    def weather(city: str, days: int) -> str:
        """A forecast"""  # noqa: D415
        called.append((city, days))
        return "sun"

    grammar = only(f"<tool_call>{CALL}</tool_call>")
    messages: list[Any] = []
    with lms.Client(f"127.0.0.1:{tool_server.port}") as client:
        config: Any = {"structured": grammar, "maxTokens": 200}
        client.llm.model("with").act(
            "hi", [weather], max_prediction_rounds=2, config=config, on_message=messages.append
        )
    assert called == [("Rome", 3)]
    assert [message.role for message in messages] == ["assistant", "tool", "assistant"]


def test_without_tools_nothing_is_a_call(tools: Wire) -> None:
    """Where no tools are offered, what looks like a call is text."""
    text = f"<tool_call>{CALL}</tool_call>"
    config = options(structured=only(text), maxPredictedTokens=checked(200))
    packets = tools.predict("hi", config, identifier="with")
    assert (text_of(packets), kinds(packets)) == (text, [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"toolChoice": {"type": "generic", "mode": "required"}}, "the request offers no tools"),
        (
            {
                "tools": TOOLS,
                "toolChoice": {"type": "generic", "mode": "required"},
                "structured": {"type": "json", "jsonSchema": {"type": "object"}},
            },
            "does not support a required tool call together with structured output",
        ),
    ],
)
def test_what_cannot_be_done_is_an_error(tools: Wire, values: Packet, message: str) -> None:
    """A required call without tools, or with a schema of the user's."""
    assert message in tools.predict("hi", options(**values), identifier="with")[-1]["title"]


def test_tools_in_a_raw_completion(tools: Wire) -> None:
    """A text that is continued as it is has no place for tools."""
    error = complete(tools, "hi", options(tools=TOOLS), identifier="with")[-1]
    assert error["title"] == "The engine llama.cpp does not support tools in a raw completion"


@pytest.mark.timeout(300)
def test_required_call(connect: Connect) -> None:
    """A real model whose template takes no tools calls one with arguments of its schema, whatever the seed."""
    required = {"type": "generic", "mode": "required"}
    with background.start(LlamaEngine([real_model()])) as running:
        wire = connect(running)
        load(wire, REAL_KEY)
        for seed in range(5):
            config = stack(tools=TOOLS, toolChoice=required, seed=checked(seed), maxPredictedTokens=checked(100))
            packets = wire.predict("How is the weather in Rome for 3 days?", config, identifier=REAL_KEY)
            (call,) = [p["toolCallRequest"] for p in packets if p["type"] == "toolCallGenerationEnd"]
            assert call["name"] == "weather"
            jsonschema_rs.validate(PARAMETERS, call["arguments"])
            assert text_of(packets) == ""
