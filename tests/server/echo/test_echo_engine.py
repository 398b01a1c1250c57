"""Predictions of the echo models: their text, stop reasons, stats and config, and how a cancel ends them."""

import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest
from conftest import Connect, Packet, StartServer, Wire, checked, predicting, query, stack, stats_of, text_of, user
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st
from packets import AFFIXES
from properties import examples

from lmcli.server.background import Running
from lmcli.server.echo.echo_engine import LOADED_AT_START, EchoEngine, EchoModel, Pace
from lmcli.server.engine import PredictionEvent, PredictionRequest
from lmcli.values import Fragment, ModelInfo, Stats
from lmcli.wire.config import RAW_TEMPLATE

TEXT = "To be, or  not\nto be:\n\nthat is the question. "
QUICK = examples(60, HealthCheck.function_scoped_fixture)


def fragments(packets: list[Packet]) -> list[Packet]:
    return [packet["fragment"] for packet in packets if packet["type"] == "fragment"]


def completing(prompt: str, config: Packet | None = None) -> Packet:
    return {"modelSpecifier": query(), "rawPrompt": prompt, "predictionConfigStack": config or stack()}


def test_answer_is_the_last_user_message(wire: Wire) -> None:
    """`respond` returns it unchanged, one word with its white space at a time."""
    packets = wire.predict("one  two\n three ")
    assert [f["content"] for f in fragments(packets)] == ["one", "  two", "\n three", " "]
    assert fragments(packets)[0] == {
        "content": "one",
        "tokensCount": 1,
        "containsDrafted": False,
        "reasoningType": "none",
        "isStructural": False,
    }


@QUICK
@given(st.text())
@example("\ud83d")
@example("\x00\u2028 \U0001f600")
def test_any_text_is_returned_unchanged(wire: Wire, text: str) -> None:
    """`respond` and `complete` return any text, lone surrogates included."""
    assert text_of(wire.predict(text)) == text
    assert text_of(wire.stream("completeRawText", completing(text))) == text


def test_last_user_message_is_answered(wire: Wire) -> None:
    """It is the last message of the role `user`, in any order of roles."""
    turns = [("system", "s"), ("user", "u1"), ("user", "u2"), ("assistant", "a"), ("assistant", "b")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    assert text_of(wire.stream("predict", predicting("") | {"history": {"messages": messages}})) == "u2"


@pytest.mark.parametrize("messages", [[], [{"role": "user", "content": []}]])
def test_empty_history_has_an_empty_answer(wire: Wire, messages: list[Packet]) -> None:
    """A history without text is not an error."""
    packets = wire.stream("predict", predicting("") | {"history": {"messages": messages}})
    assert (fragments(packets), stats_of(packets)["stopReason"]) == ([], "eosFound")


def test_prompt_progress_comes_before_the_answer(wire: Wire) -> None:
    """Progress is reported from 0 to 1, with token counts that add up."""
    packets = wire.predict("a b c d")
    progress = [packet for packet in packets if packet["type"] == "promptProcessingProgress"]
    assert packets[: len(progress)] == progress
    assert [packet["progress"] for packet in progress] == [0, 0.5, 1]
    for packet in progress:
        details = packet["details"]
        parts = ("cachedTokenCount", "processedPromptTokenCount", "unprocessedPromptTokenCount")
        assert details["totalPromptTokenCount"] == sum(details[part] for part in parts)
    assert progress[-1]["details"]["unprocessedPromptTokenCount"] == 0


def test_slow_prompt_shows_more_progress(start_server: StartServer, connect: Connect) -> None:
    """A slow prompt is reported in more than two steps."""
    packets = connect(start_server(prompt_tokens_per_second=50)).predict("word " * 20)
    assert len([packet for packet in packets if packet["type"] == "promptProcessingProgress"]) > 3


def test_stats_are_complete(wire: Wire) -> None:
    """Counts add up, times are measured, and keys without a value are absent."""
    stats = stats_of(wire.predict("a b c"))
    assert stats["totalTimeSec"] >= stats["timeToFirstTokenSec"] > 0
    assert stats["tokensPerSecond"] > 0
    assert stats == {
        "stopReason": "eosFound",
        "tokensPerSecond": stats["tokensPerSecond"],
        "numGpuLayers": -1,
        "timeToFirstTokenSec": stats["timeToFirstTokenSec"],
        "totalTimeSec": stats["totalTimeSec"],
        "promptTokensCount": 6,
        "predictedTokensCount": 3,
        "totalTokensCount": 9,
    }


def test_effective_config_is_returned(wire: Wire) -> None:
    """The end contains the model, its load config, and the merged layers, unknown keys included."""
    end = wire.predict("a", stack(temperature=0.1, **{"llama.unheardOf": [1]}))[-1]
    config = {field["key"]: field["value"] for field in end["predictionConfig"]["fields"]}
    assert config["llm.prediction.temperature"] == 0.1
    assert config["llm.prediction.llama.unheardOf"] == [1]
    assert config["llm.prediction.topKSampling"] == 40
    assert end["modelInfo"]["identifier"] == "echo"
    assert {"key": "llm.load.contextLength", "value": 131072} in end["loadModelConfig"]["fields"]


@pytest.mark.parametrize(
    ("config", "text", "reason"),
    [
        (stack(maxPredictedTokens=checked(2)), "To be,", "maxPredictedTokensReached"),
        (stack(maxPredictedTokens={"checked": False, "value": 2}), TEXT, "eosFound"),
        (stack(maxPredictedTokens=checked(100)), TEXT, "eosFound"),
        (stack(stopStrings=["not"]), "To be, or  ", "stopStringFound"),
        (stack(stopStrings=["uest", "or  no"]), "To be, ", "stopStringFound"),
        (stack(stopStrings=["t is"]), "To be, or  not\nto be:\n\ntha", "stopStringFound"),
        (stack(stopStrings=["nowhere", "question. ."]), TEXT, "eosFound"),
        (stack(stopStrings=["be,"], maxPredictedTokens=checked(1)), "To", "maxPredictedTokensReached"),
    ],
)
@pytest.mark.parametrize("endpoint", ["predict", "completeRawText"])
def test_stop_conditions(wire: Wire, endpoint: str, config: Packet, text: str, reason: str) -> None:
    """The answer ends at the token limit, or before a stop string, also inside a token."""
    parameter = predicting(TEXT, config) if endpoint == "predict" else completing(TEXT, config)
    packets = wire.stream(endpoint, parameter)
    assert (text_of(packets), stats_of(packets)["stopReason"]) == (text, reason)


def test_stop_string_is_in_the_stats(wire: Wire) -> None:
    """The stats contain the stop string that ended the text, if one did."""
    stats = stats_of(wire.predict("a b c", stack(stopStrings=["z", " b"])))
    assert (stats["stopString"], stats["predictedTokensCount"]) == (" b", 1), "the stop string is not counted"
    assert "stopString" not in stats_of(wire.predict("a", stack(stopStrings=["z"])))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<think>a b</think>c",
            [
                ("<think>", "reasoningStartTag"),
                ("a", "reasoning"),
                (" b", "reasoning"),
                ("</think>", "reasoningEndTag"),
                ("c", "none"),
            ],
        ),
        ("<thin>", [("<thin>", "none")]),
        ("<think>a", [("<think>", "reasoningStartTag"), ("a", "reasoning")]),
    ],
)
def test_reasoning_is_marked(wire: Wire, text: str, expected: list[tuple[str, str]]) -> None:
    """Text between think tags is reasoning; each tag is a fragment of its own."""
    assert [(f["content"], f["reasoningType"]) for f in fragments(wire.predict(text))] == expected


def test_reasoning_tags_can_be_chosen(wire: Wire) -> None:
    """`reasoning.parsing` sets other tags or disables parsing; raw completions are parsed only with it."""
    tags = {"enabled": True, "startString": "[[ x", "endString": "]]"}
    kinds = {f["reasoningType"] for f in fragments(wire.predict("[[ xa]]b", stack(**{"reasoning.parsing": tags})))}
    assert kinds == {"reasoningStartTag", "reasoning", "reasoningEndTag", "none"}
    off = stack(**{"reasoning.parsing": tags | {"enabled": False}})
    assert {f["reasoningType"] for f in fragments(wire.predict("[[ xa]]b", off))} == {"none"}
    raw = wire.stream("completeRawText", completing("<think>a</think>"))
    assert {f["reasoningType"] for f in fragments(raw)} == {"none"}
    raw = wire.stream("completeRawText", completing("[[ xa]]", stack(**{"reasoning.parsing": tags})))
    assert {f["reasoningType"] for f in fragments(raw)} == {"reasoningStartTag", "reasoning", "reasoningEndTag"}


BARE_TEMPLATES = [
    RAW_TEMPLATE,
    {
        "type": "jinja",
        "stopStrings": [],
        "jinjaPromptTemplate": {"template": "{%- for m in messages -%}\n {{- m.content -}} {% endfor %}"},
    },
    {"type": "manual", "stopStrings": [], "manualPromptTemplate": AFFIXES},
]


@pytest.mark.parametrize("template", BARE_TEMPLATES)
def test_prediction_without_formatting_is_a_completion(wire: Wire, template: Packet) -> None:
    """With a template that adds nothing to the messages, `predict` continues their raw text."""
    config: Packet = {"layers": [{"layerName": "completeModeFormatting", "config": {"fields": []}}]}
    config["layers"][0]["config"]["fields"] = [{"key": "llm.prediction.promptTemplate", "value": template}]
    packets = wire.predict("<think> a b ", config)
    assert text_of(packets) == "<think> a b "
    assert {f["reasoningType"] for f in fragments(packets)} == {"none"}
    assert stats_of(packets)["promptTokensCount"] == 4, "the template adds nothing"


def test_structured_answer_is_a_minimal_instance(wire: Wire) -> None:
    """With a schema the answer is its smallest instance, without one an empty object."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {}}, "required": ["n"]}
    structured = {"type": "json", "jsonSchema": schema}
    assert text_of(wire.predict("x", stack(structured=structured))) == '{"n": 0}'
    assert text_of(wire.predict("x", stack(structured={"type": "json"}))) == "{}"
    assert text_of(wire.predict("x", stack(structured={"type": "none"}))) == "x"


@pytest.mark.parametrize(
    "structured",
    [
        {"type": "gbnf", "gbnfGrammar": "root ::= x"},
        {"type": "json", "jsonSchema": {"properties": {"a": False}, "required": ["a"]}},
    ],
)
def test_unsupported_structure_is_rejected(wire: Wire, structured: Packet) -> None:
    """A grammar, or a schema without an instance, is not supported."""
    error = wire.predict("x", stack(structured=structured))[-1]
    assert error["displayData"] == {
        "code": "generic.engineDoesNotSupportFeature",
        "feature": error["displayData"]["feature"],
        "engineName": "echo",
        "engineType": "echo",
        "installedVersion": "1.0",
        "supportedVersion": None,
    }


@pytest.mark.parametrize(
    ("policy", "text", "reason"),
    [("stopAtLimit", "a b c", "contextLengthReached"), ("rollingWindow", "a b c d e", "eosFound")],
)
def test_full_context(wire: Wire, policy: str, text: str, reason: str) -> None:
    """When prompt and answer fill the context, `stopAtLimit` ends the prediction and other policies continue."""
    fields = [{"key": "llm.load.contextLength", "value": 11}]
    config = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    wire.stream("loadModel", {"modelKey": "echo-jit", "loadConfigStack": config})
    packets = wire.predict("a b c d e", stack(contextOverflowPolicy=policy), identifier="echo-jit")
    assert stats_of(packets)["promptTokensCount"] == 8
    assert (text_of(packets), stats_of(packets)["stopReason"]) == (text, reason)


def test_prompt_alone_can_fill_the_context(wire: Wire) -> None:
    """A prompt that is too long leaves no tokens for an answer."""
    config = {
        "layers": [{"layerName": "apiOverride", "config": {"fields": [{"key": "llm.load.contextLength", "value": 2}]}}]
    }
    wire.stream("loadModel", {"modelKey": "echo-jit", "loadConfigStack": config})
    packets = wire.predict("a b c", stack(contextOverflowPolicy="stopAtLimit"), identifier="echo-jit")
    assert (text_of(packets), stats_of(packets)["stopReason"]) == ("", "contextLengthReached")


def test_options_override_presets(wire: Wire) -> None:
    """A preset is found by identifier or name; options of the client override it; an unknown one is an error."""
    for name in ("short", "Short"):
        packets = wire.predict("word " * 20, fuzzyPresetIdentifier=name)
        assert stats_of(packets)["predictedTokensCount"] == 8
    packets = wire.predict("word " * 20, stack(maxPredictedTokens=checked(3)), fuzzyPresetIdentifier="short")
    assert stats_of(packets)["predictedTokensCount"] == 3
    assert wire.predict("a", fuzzyPresetIdentifier="nope")[-1]["displayData"] == {
        "code": "generic.presetNotFound",
        "specifiedFuzzyPresetIdentifier": "nope",
        "availablePresetsSample": [{"identifier": "short", "name": "Short"}],
        "totalAvailablePresets": 1,
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("maxPredictedTokens", checked(True)),
        ("maxPredictedTokens", 5),
        ("temperature", -1),
        ("stopStrings", ["a", ""]),
        ("contextOverflowPolicy", "giveUp"),
        ("topKSampling", 501),
    ],
)
def test_invalid_option_is_rejected(wire: Wire, key: str, value: Any) -> None:
    """An invalid value is an error that names the option, as in the official server-side packages."""
    title = wire.predict("a", stack(**{key: value}))[-1]["title"]
    assert title.startswith("Invalid prediction config: ")
    assert f"llm.prediction.{key}" in title


@pytest.mark.parametrize("pace", [{"prompt_tokens_per_second": 0.1}, {"tokens_per_second": 0.1}])
def test_cancel_takes_effect_at_any_time(
    start_server: StartServer, connect: Connect, pace: Mapping[str, float]
) -> None:
    """A cancel ends the prediction at once, while the prompt is processed or the answer generated."""
    wire = connect(start_server(**pace))
    channel = wire.open("predict", predicting("a b c d"))
    wire.receive()
    wire.cancel(channel)
    packets = wire.packets(channel)
    assert stats_of(packets)["stopReason"] == "userStopped"
    assert wire.result("listLoaded"), "the connection lives on"


def test_cancel_takes_effect_among_many_fragments(wire: Wire) -> None:
    """A cancel ends a prediction that sends fragments at full speed long before its end."""
    channel = wire.open("predict", predicting("word " * 300_000))
    for _ in range(10):
        wire.receive()
    wire.cancel(channel)
    stats = stats_of(wire.packets(channel))
    assert stats["stopReason"] == "userStopped"
    assert stats["predictedTokensCount"] < 200_000


def test_late_cancel_has_no_effect(wire: Wire) -> None:
    """A cancel for a channel that has ended causes a warning only."""
    channel = wire.open("predict", predicting("a"))
    wire.packets(channel)
    wire.cancel(channel)
    assert wire.receive()["kind"] == "channelUnknown"
    assert text_of(wire.predict("b")) == "b"


def test_predictions_run_concurrently(start_server: StartServer, connect: Connect) -> None:
    """The channels of a connection alternate; each receives its own fragments only."""
    wire = connect(start_server(tokens_per_second=200))
    channels = {wire.open("predict", predicting(f"{word} " * 20)): word for word in ("a", "b", "c")}
    texts = dict.fromkeys(channels, "")
    order: list[int] = []
    while len(order) < len(channels) or any(texts.values()):
        envelope = wire.receive()
        number = envelope["channelId"]
        if envelope["type"] == "channelClose":
            assert texts.pop(number) == f"{channels[number]} " * 20
        elif envelope["message"]["type"] == "fragment":
            texts[number] += envelope["message"]["fragment"]["content"]
            order.append(number)
    assert len([group for group, _ in itertools.groupby(order)]) > 6, "they alternate"


class EndlessModel(EchoModel):
    """A model that counts its fragments."""

    asked = 0

    async def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Repeat a fragment until cancelled."""
        while not request.cancelled.is_set():
            self.asked += 1
            yield Fragment("word " * 20)
        yield Stats(stop_reason="userStopped")


class EndlessEngine(EchoEngine):
    """An engine with one endless model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = EndlessModel({}, Pace())

    async def start(self) -> Sequence[tuple[ModelInfo, EndlessModel]]:
        """Return the model."""
        return [(LOADED_AT_START, self.model)]


def state(wire: Wire) -> Packet:
    found: Packet = wire.result("getInstanceProcessingState", {"specifier": query(), "throwIfNotFound": True})
    return found


def test_slow_reader_pauses_the_engine(start_server: StartServer, connect: Connect) -> None:
    """Nothing is generated that the client does not read, beyond what the socket buffers."""
    engine = EndlessEngine()
    server = start_server(engine)
    reader, watch = connect(server), connect(server)
    reader.open("predict", predicting("a"))
    reader.receive()
    seen = [0, engine.model.asked]
    while seen[-1] != seen[-min(len(seen), 20)]:
        state(watch)
        seen.append(engine.model.asked)
        assert seen[-1] < 500_000, "the engine runs ahead"
    assert state(watch) == {"status": "generating", "queued": 1}


def test_disconnecting_stops_the_engine(start_server: StartServer, connect: Connect) -> None:
    """The model is idle again after a connection closes during an answer."""
    engine = EndlessEngine()
    server = start_server(engine)
    reader, watch = connect(server), connect(server)
    reader.open("predict", predicting("a"))
    reader.receive()
    assert state(watch)["status"] == "generating"
    reader.socket.socket.close()
    for _ in range(10_000):
        if state(watch) == {"status": "idle", "queued": 0}:
            break
    else:
        pytest.fail("the engine still runs")


def test_conversation_reaches_the_engine(wire: Wire) -> None:
    """The prompt is the whole conversation, not only the last message."""
    assert stats_of(wire.predict("a b"))["promptTokensCount"] == 5
    history = {
        "messages": [{"role": "system", "content": [{"type": "text", "text": "x y z"}]}, *user("a b")["messages"]]
    }
    packets = wire.stream("predict", predicting("") | {"history": history})
    assert stats_of(packets)["promptTokensCount"] == 9


def test_closing_the_server_ends_everything(start_server: StartServer, connect: Connect) -> None:
    """`close` returns although clients do not read their answers."""
    server: Running = start_server(EndlessEngine())
    wire = connect(server)
    wire.open("predict", predicting("a"))
    wire.receive()
    server.close()
    server.close()
