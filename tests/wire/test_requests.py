"""What we ask a server, held against what the official SDKs were recorded asking."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, fields_of, messages
from recordings import sent

from lmcli.chat import Message, TextPart
from lmcli.client.address import Address
from lmcli.client.api import LLM, Client
from lmcli.client.connection import Connection
from lmcli.server.background import Running
from lmcli.wire import requests
from lmcli.wire.config import (
    PROMPT_TEMPLATE_KEY,
    STOP_STRINGS_KEY,
    prediction_config,
    read_prediction_config,
    read_stack,
)
from lmcli.wire.histories import read_history
from lmcli.wire.load_config import LoadConfig
from lmcli.wire.prediction_config import PredictionConfig
from lmcli.wire.protocol import Credentials

ONE_MODEL = requests.specifier("qwen2.5-7b-instruct")
HI = [Message("user", (TextPart("hi"),))]


def shape(value: Any) -> Any:
    """A value without its stats and texts: keys, kinds, nesting."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return "number" if type(value) in (int, float) else type(value).__name__


def nulls(value: Any, path: str = "") -> Iterator[str]:
    """The paths at which a value is null."""
    if value is None:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from nulls(item, f"{path}.{key}")


def is_unformatted(parameter: Any) -> bool:
    """Whether a recorded `predict` was a raw completion of an SDK before July 2026."""
    return [layer["layerName"] for layer in parameter["predictionConfigStack"]["layers"]][1:] == [
        "completeModeFormatting"
    ]


def has_broken_switch(parameter: Any) -> bool:
    """Whether the Python SDK wrote a False as a box that is checked, which its server then refused."""
    return {"checked": True, "value": False} in fields_of(parameter["predictionConfigStack"]).values()


def config_of(parameter: Any) -> PredictionConfig:
    """The options in the first layer of a recorded request; what has no name here as raw keys."""
    values = fields_of(parameter["predictionConfigStack"])
    config = read_prediction_config(values)
    known = fields_of(requests.respond(None, HI, config).parameter["predictionConfigStack"])
    return config.replace(raw={key: value for key, value in values.items() if key not in known})


def asked_again(parameter: Any) -> Any:
    """A recorded `predict` in our words."""
    model = parameter["modelSpecifier"].get("query", {}).get("identifier")
    preset = parameter.get("fuzzyPresetIdentifier")
    return requests.respond(model, read_history(parameter["history"]), config_of(parameter), preset).parameter


def in_order(parameter: Any) -> Any:
    """A request with its config fields sorted, because their order means nothing."""
    for layer in parameter["predictionConfigStack"]["layers"]:
        layer["config"]["fields"].sort(key=lambda field: field["key"])
    return parameter


PY_PREDICT = [p for p in sent("py", "predict") if not has_broken_switch(p)]
JS_PREDICT = list(sent("js", "predict"))


def test_there_is_something_to_compare_with() -> None:
    """The recordings hold chats with and without options, presets, files and tools."""
    assert len(PY_PREDICT) > 30
    assert len(JS_PREDICT) > 30
    assert any("fuzzyPresetIdentifier" in p for p in PY_PREDICT)
    assert any(is_unformatted(p) for p in PY_PREDICT)


def test_we_respond_as_the_python_sdk_does() -> None:
    """Each recorded chat request, read and written by us, is the same request."""
    for parameter in PY_PREDICT:
        if not is_unformatted(parameter):
            assert in_order(asked_again(parameter)) == in_order(parameter)


def test_we_respond_as_the_javascript_sdk_does() -> None:
    """The same, but for the model: it names an instance by reference, we name it by its identifier."""
    for parameter in JS_PREDICT:
        ours = asked_again(parameter) | {"modelSpecifier": parameter["modelSpecifier"]}
        assert in_order(ours) == in_order(parameter)


def test_we_complete_as_the_javascript_sdk_does() -> None:
    """A raw completion has the recorded shape, with empty stop strings where nobody asked for any."""
    recorded = list(sent("js", "completeRawText"))
    assert recorded
    for parameter in recorded:
        config = config_of(parameter)
        config = config.replace(stop_strings=config.stop_strings or None)
        opening = requests.complete(None, parameter["rawPrompt"], config)
        assert opening.endpoint == "completeRawText"
        assert opening.parameter | {"modelSpecifier": parameter["modelSpecifier"]} == parameter


def test_we_complete_by_predict_as_the_python_sdk_does() -> None:
    """For older servers a raw completion is a chat without template; we send no legacy keys of the template.

    The empty stop strings are those of the JavaScript SDK: the Python SDK leaves a completion to the preset's.
    """
    recorded = [p for p in PY_PREDICT if is_unformatted(p)]
    assert recorded
    for parameter in recorded:
        prompt = parameter["history"]["messages"][0]["content"][0]["text"]
        opening = requests.complete_by_predict("qwen2.5-7b-instruct", prompt, config_of(parameter))
        assert opening.endpoint == "predict"
        template = fields_of(parameter["predictionConfigStack"], 1)[PROMPT_TEMPLATE_KEY]["jinjaPromptTemplate"]
        for legacy in ("bosToken", "eosToken", "inputConfig"):
            template.pop(legacy, None)
        fields = parameter["predictionConfigStack"]["layers"][0]["config"]["fields"]
        if STOP_STRINGS_KEY not in fields_of(parameter["predictionConfigStack"], 0):
            fields.append({"key": STOP_STRINGS_KEY, "value": []})
        assert in_order(opening.parameter) == in_order(parameter)


def test_we_load_as_the_python_sdk_does() -> None:
    """A request for a model has the recorded keys: the time to live in milliseconds, and load options."""
    recorded = list(sent("py", "getOrLoad"))
    assert recorded
    for parameter in recorded:
        ttl = parameter["loadTtlMs"] / 1000
        if not read_stack(parameter["loadConfigStack"]):
            assert requests.get_or_load(parameter["identifier"], LoadConfig(), ttl=ttl).parameter == parameter


def test_we_load_as_the_javascript_sdk_does() -> None:
    """The options that we know go out under the recorded keys with the recorded values; without ttl none is sent."""
    (parameter,) = [p for p in sent("js", "getOrLoad") if "loadTtlMs" in p]
    ours = requests.get_or_load(
        parameter["identifier"], LoadConfig(context_length=8192, gpu_ratio=0.5), ttl=120
    ).parameter
    assert fields_of(ours["loadConfigStack"]).items() <= fields_of(parameter["loadConfigStack"]).items()
    assert ours | {"loadConfigStack": ...} == parameter | {"loadConfigStack": ...}
    bare = requests.get_or_load(parameter["identifier"], LoadConfig()).parameter
    assert bare in [p | {"identifier": parameter["identifier"]} for p in sent("js", "getOrLoad")]


def test_we_load_an_instance_as_the_sdks_do() -> None:
    """A new instance under a name of its own is asked for with the recorded keys, its time to live too."""
    (with_ttl,) = [p for p in sent("py", "loadModel") if "identifier" in p]
    assert requests.load("llama-3.2-1b-instruct", LoadConfig(), identifier="mine", ttl=3600).parameter == with_ttl
    (without,) = [p for p in sent("js", "loadModel") if "identifier" in p]
    assert requests.load("llama-3.2-1b-instruct", LoadConfig(), identifier="mine").parameter == without


@pytest.mark.parametrize(
    ("ttl", "milliseconds"), [(60, 60000), (0.5, 500), (0.0001, 1), (0, 1), (1.2345, 1234)], ids=repr
)
def test_time_to_live(ttl: float, milliseconds: int) -> None:
    """Seconds become whole milliseconds, at least the one that servers demand."""
    assert requests.get_or_load("key", LoadConfig(), ttl=ttl).parameter["loadTtlMs"] == milliseconds


def test_specifier() -> None:
    """A model is named by its identifier; no name is any model."""
    assert requests.specifier("a") == {"type": "query", "query": {"identifier": "a"}}
    assert requests.specifier(None) == {"type": "query", "query": {}}


@pytest.mark.parametrize(
    "ask",
    [
        lambda preset: requests.respond("m", HI, PredictionConfig(), preset),
        lambda preset: requests.complete("m", "hi", PredictionConfig(), preset),
        lambda preset: requests.complete_by_predict("m", "hi", PredictionConfig(), preset),
    ],
)
def test_preset(ask: Callable[[str | None], requests.ChannelRequest]) -> None:
    """A preset is one key more, under the name of the recordings; without one the key is absent."""
    assert ask("polite").parameter == ask(None).parameter | {"fuzzyPresetIdentifier": "polite"}
    assert "fuzzyPresetIdentifier" not in ask(None).parameter


@QUICK
@given(
    st.lists(messages, max_size=4),
    st.sampled_from([{}, {"temperature": 0, "max_tokens": False}, {"stop_strings": [], "seed": 1}]),
    st.none() | st.text(),
)
def test_no_null_is_sent(history: list[Message], options: dict[str, Any], name: str | None) -> None:
    """Servers reject null for what is optional: the only nulls that leave are those inside a tool call's arguments."""
    config = prediction_config(options)
    openings = [
        requests.respond(name, history, config, name),
        requests.complete(name, "", config, name),
        requests.complete_by_predict(name, "", config, name),
        requests.get_or_load(name or "", LoadConfig()),
    ]
    for opening in openings:
        assert [path for path in nulls(opening.parameter) if ".arguments." not in path] == []


Work = Callable[[Client, LLM], object]
CALLS: dict[str, Work] = {
    "tokenize": lambda _, model: model.tokenize("a b c"),
    "countTokens": lambda _, model: model.count_tokens("a b c"),
    "applyPromptTemplate": lambda _, model: model.apply_prompt_template(
        {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]}
    ),
    "getModelInfo": lambda _, model: model.get_info(),
    "unloadModel": lambda _, model: model.unload(),
    "listLoaded": lambda client, _: client.llm.list_loaded(),
    "listDownloadedModels": lambda client, _: client.system.list_downloaded_models(),
    "uploadFileBase64": lambda client, _: client.files.prepare_image(b"\x89PNG\r\n\x1a\n", "px.png"),
}


@pytest.mark.parametrize("endpoint", CALLS)
def test_we_call_as_the_python_sdk_does(endpoint: str, server: Running) -> None:
    """Each call on a real server leaves with the shape of a recorded one, and without a null."""
    traced: list[str] = []
    address, me = Address(server.host, server.port), Credentials("guest:tests", "secret")
    with Client("127.0.0.1") as client:
        client._connection = Connection(address, me, trace=traced.append)
        CALLS[endpoint](client, LLM(client, "echo"))
    (text,) = [line.removeprefix("sends ") for line in traced if line.startswith("sends ")]
    envelope = json.loads(text)
    assert (envelope["type"], envelope["endpoint"]) == ("rpcCall", endpoint)
    assert shape(envelope.get("parameter")) in [shape(parameter) for parameter in sent("py", endpoint)]
    assert list(nulls(envelope)) == []
