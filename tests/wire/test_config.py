"""Prediction options, and the config stacks that carry them."""

import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, any_json, fields_of, garbled

from lmcli.errors import UsageError
from lmcli.wire.config import (
    RAW_TEMPLATE,
    invalid_fields,
    prediction_config,
    prediction_stack,
    read_fields,
    read_prediction_config,
    read_stack,
    unknown_options,
    write_fields,
)
from lmcli.wire.prediction_config import OPTIONS, PredictionConfig


class Row(NamedTuple):
    """How the protocol writes an option: its SDK name, its key, a value, and what is sent for False."""

    name: str
    camel: str
    key: str
    value: Any
    is_switched: bool = False
    off: Any = None


TEMPLATE = {"type": "jinja", "stopStrings": [], "jinjaPromptTemplate": {"template": "x"}}
PARSING = {"enabled": True, "startString": "<think>", "endString": "</think>"}
TABLE = [
    Row("temperature", "temperature", "temperature", 0.2),
    Row("max_tokens", "maxTokens", "maxPredictedTokens", 128, True, 1),
    Row("stop_strings", "stopStrings", "stopStrings", ["END"]),
    Row("tool_call_stop_strings", "toolCallStopStrings", "toolCallStopStrings", ["a", "b"]),
    Row("context_overflow_policy", "contextOverflowPolicy", "contextOverflowPolicy", "rollingWindow"),
    Row("structured", "structured", "structured", {"type": "json"}),
    Row("top_k_sampling", "topKSampling", "topKSampling", 40),
    Row("repeat_penalty", "repeatPenalty", "repeatPenalty", 1.2, True, 1.1),
    Row("min_p_sampling", "minPSampling", "minPSampling", 0.1, True, 0.05),
    Row("top_p_sampling", "topPSampling", "topPSampling", 0.9, True, 0.95),
    Row("seed", "seed", "seed", 42, True, -1),
    Row("log_probs", "logProbs", "logProbs", 3, True, 0),
    Row("presence_penalty", "presencePenalty", "llama.presencePenalty", 0.5, True, 0),
    Row("frequency_penalty", "frequencyPenalty", "llama.frequencyPenalty", 0.5, True, 0),
    Row("xtc_probability", "xtcProbability", "llama.xtcProbability", 0.5, True, 0),
    Row("xtc_threshold", "xtcThreshold", "llama.xtcThreshold", 0.1, True, 0),
    Row("cpu_threads", "cpuThreads", "llama.cpuThreads", 4),
    Row("prompt_template", "promptTemplate", "promptTemplate", TEMPLATE),
    Row("raw_tools", "rawTools", "tools", {"type": "none"}),
    Row("tool_choice", "toolChoice", "toolChoice", {"type": "generic", "mode": "auto"}),
    Row("tool_naming", "toolNaming", "toolNaming", "snakeCase"),
    Row("draft_model", "draftModel", "speculativeDecoding.draftModel", "acme/draft"),
    Row(
        "speculative_decoding_num_draft_tokens_exact",
        "speculativeDecodingNumDraftTokensExact",
        "speculativeDecoding.numDraftTokensExact",
        2,
    ),
    Row(
        "speculative_decoding_min_draft_length_to_consider",
        "speculativeDecodingMinDraftLengthToConsider",
        "speculativeDecoding.minDraftLengthToConsider",
        0,
    ),
    Row(
        "speculative_decoding_min_continue_drafting_probability",
        "speculativeDecodingMinContinueDraftingProbability",
        "speculativeDecoding.minContinueDraftingProbability",
        0.75,
    ),
    Row("reasoning_parsing", "reasoningParsing", "reasoning.parsing", PARSING),
    Row("enable_thinking", "enableThinking", "reasoning.enableThinking", False),
    Row("reasoning_budget", "reasoningBudget", "reasoning.budgetTokens", 512, True, 1024),
    Row(
        "user_max_image_dimension_pixels",
        "userMaxImageDimensionPixels",
        "vision.userMaxImageDimensionPixels",
        800,
        True,
        1024,
    ),
    Row(
        "ignore_model_preferred_max_image_dimension",
        "ignoreModelPreferredMaxImageDimension",
        "vision.ignoreModelPreferredMaxImageDimension",
        True,
    ),
]
ROWS = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)


def sent(config: PredictionConfig) -> dict[str, Any]:
    """The keys that a config puts on the wire."""
    return fields_of(prediction_stack(config))


def test_every_option_is_written_out_here() -> None:
    """The table of this test, the options and the fields of PredictionConfig are the same; `raw` holds the rest."""
    assert {row.name for row in TABLE} == set(OPTIONS)
    assert {*OPTIONS, "raw"} == set(PredictionConfig.fields)


@ROWS
def test_option_on_the_wire(row: Row) -> None:
    """Each option goes out alone, under its key, bare or as a checked box as the schema wants it, and is read back."""
    expected = {"checked": True, "value": row.value} if row.is_switched else row.value
    for name in (row.name, row.camel):
        config = prediction_config({name: row.value})
        assert sent(config) == {f"llm.prediction.{row.key}": expected}
        assert read_prediction_config(read_stack(prediction_stack(config))) == config


@ROWS
def test_false_switches_off(row: Row) -> None:
    """False is an unchecked box beside the value that the JavaScript SDK puts there; it reads back as not set."""
    config = prediction_config({row.name: False})
    if row.is_switched:
        assert sent(config) == {f"llm.prediction.{row.key}": {"checked": False, "value": row.off}}
        assert read_prediction_config(read_stack(prediction_stack(config))) == PredictionConfig()
    elif OPTIONS[row.name].type is bool:
        assert sent(config) == {f"llm.prediction.{row.key}": False}
    else:
        with pytest.raises(UsageError, match="cannot be 'False'"):
            sent(config)


def test_what_is_not_set_is_not_sent() -> None:
    """Nothing set is one empty layer, so that presets and the app's settings hold."""
    empty = {"layers": [{"layerName": "apiOverride", "config": {"fields": []}}]}
    assert prediction_stack(PredictionConfig()) == empty
    assert prediction_stack(prediction_config(None)) == empty
    assert prediction_stack(prediction_config({"temperature": None, "raw": None})) == empty


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 0), ("stop_strings", ()), ("draft_model", ""), ("reasoning_budget", 0)],
)
def test_what_is_empty_is_set(name: str, value: Any) -> None:
    """Zero and nothing are values."""
    assert len(sent(prediction_config({name: value}))) == 1


def test_raw_keys_go_out_as_they_are_and_win() -> None:
    """`raw` holds whole wire keys and values, for what has no name here."""
    config = prediction_config(
        {"temperature": 0.5, "raw": {"llm.prediction.temperature": 0.7, "llm.prediction.future": {}}}
    )
    assert sent(config) == {"llm.prediction.temperature": 0.7, "llm.prediction.future": {}}


def test_a_config_passes_as_it_is() -> None:
    """A PredictionConfig needs no reading."""
    config = PredictionConfig(temperature=0.5)
    assert prediction_config(config) is config


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temprature": 1}, "unknown prediction option 'temprature', did you mean temperature?"),
        ({"maxToken": 1}, "unknown prediction option 'maxToken', did you mean max_tokens?"),
        ({"zzz": 1}, "unknown prediction option 'zzz'"),
        ({"\x1b": 1}, r"unknown prediction option '\x1b'"),
        (
            {"raw": {"llm.prediction.topKSamplin": 1}},
            "unknown config key 'llm.prediction.topKSamplin', did you mean llm.prediction.topKSampling?",
        ),
        (
            {"raw": {"fields": [{"key": "temperature", "value": 1}]}},
            "unknown config key 'temperature', did you mean llm.prediction.temperature?",
        ),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest(options: dict[str, Any], sentence: str) -> None:
    """A mistyped option has no effect, as in the official Python SDK, and is not passed over in silence."""
    assert list(unknown_options(options)) == [sentence]
    assert "raw" in options or prediction_config(options) == PredictionConfig()


def test_nothing_is_said_of_what_is_known() -> None:
    """Options under both of their names, and the keys that have none."""
    names = {row.name: row.value for row in TABLE} | {row.camel: row.value for row in TABLE}
    assert list(unknown_options(names | {"raw": {"llm.prediction.systemPrompt": "x"}})) == []
    assert list(unknown_options(PredictionConfig(raw={"llm.prediction.llama.logitBias": []}))) == []
    assert list(unknown_options(None)) == []


def test_raw_fields_of_the_official_sdk() -> None:
    """`raw` may have the form that the official SDK gives it."""
    raw = {"fields": [{"key": "llm.prediction.temperature", "value": 0.7}]}
    assert fields_of(prediction_stack(prediction_config({"raw": raw}))) == {"llm.prediction.temperature": 0.7}


@pytest.mark.parametrize("fields", [5, [5], [{"key": "a"}], [{"key": "a", "value": 1}, {"key": "a", "value": 2}]])
def test_raw_fields_that_are_not(fields: Any) -> None:
    """A field without a key or a value is refused, and not left out."""
    with pytest.raises(UsageError, match="the fields of raw must be objects with a key and a value"):
        prediction_stack(prediction_config({"raw": {"fields": fields}}))


def test_a_whole_number_may_be_a_float() -> None:
    """20.0 is 20, as a program may have calculated it; 20.5 is not."""
    stack = prediction_stack(prediction_config({"topKSampling": 20.0, "maxTokens": 5.0}))
    fields = fields_of(stack)
    assert fields["llm.prediction.topKSampling"] == 20
    assert type(fields["llm.prediction.topKSampling"]) is int
    assert fields["llm.prediction.maxPredictedTokens"] == {"checked": True, "value": 5}
    with pytest.raises(UsageError, match=r"top k sampling cannot be '20\.5'"):
        prediction_stack(prediction_config({"topKSampling": 20.5}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("structured", {"type": "yaml"}),
        ("structured", {"jsonSchema": {}}),
        ("structured", {"type": "json", "jsonSchema": "{}"}),
        ("structured", {"type": "gbnf"}),
        ("promptTemplate", {"type": "jinja", "jinjaPromptTemplate": {"template": "x"}}),
        ("promptTemplate", {"type": "jinja", "stopStrings": [], "jinjaPromptTemplate": "x"}),
        ("promptTemplate", {"type": "jinja", "stopStrings": [5], "jinjaPromptTemplate": {"template": "x"}}),
        ("promptTemplate", {"type": "manual", "stopStrings": []}),
        ("toolChoice", {"type": "generic", "mode": "always"}),
        ("toolChoice", {"mode": "auto"}),
    ],
)
def test_an_object_of_the_wrong_form(name: str, value: Any) -> None:
    """A server drops such a value silently, so it is refused before it is sent, with the forms that there are."""
    with pytest.raises(UsageError, match=r'must be \{"type": "'):
        prediction_stack(prediction_config({name: value}))


@pytest.mark.parametrize("raw", [5, 0, "", "text", [["a", 1]], []])
def test_raw_must_be_an_object(raw: Any) -> None:
    """Anything else has no keys."""
    with pytest.raises(UsageError, match=r"^raw must be an object of config keys, not '"):
        prediction_config({"raw": raw})


ALLOWED = [
    ("temperature", 0),
    ("max_tokens", 1),
    ("top_k_sampling", -1),
    ("top_k_sampling", 500),
    ("repeat_penalty", -1),
    ("min_p_sampling", 0),
    ("min_p_sampling", 1),
    ("top_p_sampling", 1.0),
    ("seed", -1),
    ("log_probs", 100),
    ("presence_penalty", -2),
    ("xtc_probability", 1),
    ("cpu_threads", 1),
    ("reasoning_budget", 0),
    ("stop_strings", ("a", "\n")),
    ("temperature", 1000),
    ("max_tokens", 2**40),
    ("repeat_penalty", 1000.0),
    ("seed", 2**53),
    ("presence_penalty", 1000),
    ("cpu_threads", 1000),
    ("reasoning_budget", 2**40),
]
REFUSED = [
    ("temperature", -0.1, "temperature must be at least 0, not -0.1"),
    ("temperature", "hot", "temperature cannot be 'hot'"),
    ("temperature", True, "temperature cannot be 'True'"),
    ("temperature", math.nan, "temperature cannot be 'nan'"),
    ("temperature", math.inf, "temperature cannot be 'inf'"),
    ("presence_penalty", -math.inf, "presence penalty cannot be '-inf'"),
    ("max_tokens", 0, "max tokens must be at least 1, not 0"),
    ("max_tokens", -1, "max tokens must be at least 1, not -1"),
    ("max_tokens", 1.5, "max tokens cannot be '1.5'"),
    ("max_tokens", True, "max tokens cannot be 'True'"),
    ("top_k_sampling", -2, "top k sampling must be at least -1, not -2"),
    ("top_k_sampling", 501, "top k sampling must be at most 500, not 501"),
    ("repeat_penalty", -1.1, "repeat penalty must be at least -1, not -1.1"),
    ("min_p_sampling", 1.01, "min p sampling must be at most 1, not 1.01"),
    ("top_p_sampling", -0.01, "top p sampling must be at least 0, not -0.01"),
    ("seed", -2, "seed must be at least -1, not -2"),
    ("log_probs", 101, "log probs must be at most 100, not 101"),
    ("xtc_probability", 2, "xtc probability must be at most 1, not 2"),
    ("xtc_threshold", -1, "xtc threshold must be at least 0, not -1"),
    ("cpu_threads", 0, "cpu threads must be at least 1, not 0"),
    ("reasoning_budget", -1, "reasoning budget must be at least 0, not -1"),
    ("user_max_image_dimension_pixels", 0, "user max image dimension pixels must be at least 1, not 0"),
    ("stop_strings", "END", "stop strings cannot be 'END'"),
    ("stop_strings", ("a", ""), "stop strings must be texts that are not empty"),
    ("stop_strings", ("a", 5), "stop strings must be texts that are not empty"),
    ("structured", "json", "structured cannot be 'json'"),
    ("enable_thinking", 1, "enable thinking cannot be '1'"),
    (
        "context_overflow_policy",
        "explode",
        "context overflow policy must be one of stopAtLimit, truncateMiddle, rollingWindow, not 'explode'",
    ),
    (
        "tool_naming",
        "kebab",
        "tool naming must be one of passThrough, removeSpecial, snakeCase, camelCase, not 'kebab'",
    ),
]


def test_the_limits_themselves_are_allowed() -> None:
    """A range includes both of its ends, and one without an end has none."""
    for name, value in ALLOWED:
        assert len(sent(prediction_config({name: value}))) == 1, name


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_value_that_cannot_be_is_refused(name: str, value: Any, message: str) -> None:
    """A server drops such a value in silence, so it is refused here, by the name under which it was given."""
    with pytest.raises(UsageError) as error:
        sent(prediction_config({name: value}))
    assert error.value.message == message


def test_a_value_that_cannot_be_is_passed_over_when_read() -> None:
    """What a stranger's stack holds is left out where it makes no sense, and `invalid_fields` says which."""
    for name, value, message in REFUSED:
        option = OPTIONS[name]
        boxed = value if option.off is None else {"checked": True, "value": value}
        values = {option.key: boxed}
        assert read_prediction_config(values) == PredictionConfig()
        assert list(invalid_fields(values)) == [f"{option.key}: {message}"]


@pytest.mark.parametrize("box", [5, None, {}, {"value": 5}, {"checked": "yes", "value": 5}, [True, 5]])
def test_a_broken_box_is_invalid(box: Any) -> None:
    """An option with a switch needs the switch."""
    (sentence,) = invalid_fields({"llm.prediction.maxPredictedTokens": box})
    assert sentence.startswith("llm.prediction.maxPredictedTokens cannot be '")


def test_valid_and_unknown_fields_are_not_complained_about() -> None:
    """What is right, switched off, or not known here is nobody's fault."""
    values = {row.key: row.value for row in TABLE} | {
        "llm.prediction.maxPredictedTokens": {"checked": False, "value": "anything"},
        "llm.prediction.temperature": 1,
        "llm.prediction.future": object(),
    }
    assert list(invalid_fields(values)) == []


def test_raw_completion_adds_the_layer_that_formats_nothing() -> None:
    """Servers without `completeRawText` are told by a second layer to use the prompt as it is."""
    stack = prediction_stack(PredictionConfig(temperature=0.5), unformatted=True)
    assert [layer["layerName"] for layer in stack["layers"]] == ["apiOverride", "completeModeFormatting"]
    assert fields_of(stack, 0) == {"llm.prediction.temperature": 0.5}
    assert fields_of(stack, 1) == {"llm.prediction.promptTemplate": RAW_TEMPLATE}
    assert RAW_TEMPLATE["stopStrings"] == []


def test_raw_completion_is_not_stopped_by_a_preset() -> None:
    """No stop strings are an empty list there; in a turn they are left to the preset."""
    for unformatted in (False, True):
        stack = prediction_stack(PredictionConfig(), is_raw=True, unformatted=unformatted)
        assert fields_of(stack, 0) == {"llm.prediction.stopStrings": []}
        given = prediction_stack(PredictionConfig(stop_strings=("END",)), is_raw=True, unformatted=unformatted)
        assert fields_of(given, 0) == {"llm.prediction.stopStrings": ["END"]}
    raw = PredictionConfig(raw={"llm.prediction.stopStrings": ["END"]})
    assert fields_of(prediction_stack(raw, is_raw=True)) == {"llm.prediction.stopStrings": ["END"]}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rawTools": {"type": "toolArray", "tools": []}}, "raw tools"),
        ({"toolChoice": {"type": "generic", "mode": "auto"}}, "tool choice"),
        ({"enableThinking": True}, "enable thinking"),
        ({"reasoningBudget": 5}, "reasoning budget"),
        ({"raw": {"llm.prediction.tools": {"type": "toolArray"}}}, "raw tools"),
        ({"raw": {"llm.prediction.reasoning.enableThinking": True}}, "enable thinking"),
        ({"raw": {"llm.prediction.reasoning.budgetTokens": {"checked": True, "value": 5}}}, "reasoning budget"),
    ],
)
def test_raw_completion_takes_no_tools_and_no_reasoning(options: dict[str, Any], name: str) -> None:
    """There is no conversation in which they could have an effect; what is switched off is not asked for."""
    config = prediction_config(options)
    assert fields_of(prediction_stack(config))
    with pytest.raises(UsageError, match=f"^raw completion does not take {name}$"):
        prediction_stack(config, is_raw=True)


def test_what_is_off_is_no_setting_of_a_raw_completion() -> None:
    """The switched-off form may stand in a configuration that both kinds of prediction share."""
    config = prediction_config(
        {
            "rawTools": {"type": "none"},
            "reasoningBudget": False,
            "raw": {"llm.prediction.reasoning.budgetTokens": {"checked": False, "value": 1}},
        }
    )
    assert prediction_stack(config, is_raw=True)


def test_a_later_layer_wins() -> None:
    """A stack collapses to one value for a key."""
    stack = {
        "layers": [
            {"layerName": "preset", "config": write_fields({"a": 1, "b": 2})},
            {"layerName": "apiOverride", "config": write_fields({"b": 3})},
        ]
    }
    assert read_stack(stack) == {"a": 1, "b": 3}


def test_fields_without_value_are_legal_and_nothing() -> None:
    """`value` may be missing from a field; null is a value."""
    assert read_fields({"fields": [{"key": "a"}, {"key": "b", "value": None}]}) == {"b": None}


unit = st.floats(0, 1)
configs = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 5),
        "max_tokens": st.integers(1, 2**31),
        "stop_strings": st.lists(st.text(min_size=1)).map(tuple),
        "top_k_sampling": st.integers(-1, 500),
        "repeat_penalty": st.floats(-1, 9),
        "min_p_sampling": unit,
        "top_p_sampling": unit,
        "seed": st.integers(-1, 2**40),
        "draft_model": st.text(),
        "enable_thinking": st.booleans(),
        "structured": st.just({"type": "json"}),
    },
).map(prediction_config)


@QUICK
@given(configs)
def test_round_trip(config: PredictionConfig) -> None:
    """Options written as a stack are read back the same."""
    assert read_prediction_config(read_stack(prediction_stack(config))) == config


@QUICK
@given(any_json | garbled(prediction_stack(prediction_config({row.name: row.value for row in TABLE}))))
def test_any_stack_can_be_read(stack: Any) -> None:
    """Whatever stands where a stack is expected, reading it raises nothing and gives options that could be sent."""
    values = read_stack(stack)
    list(invalid_fields(values))
    prediction_stack(read_prediction_config(values))


def test_whole_numbers_may_come_as_floats() -> None:
    """The official SDK writes some whole numbers as 40.0; that is what they are, and 40.5 is not."""
    values = {"llm.prediction.topKSampling": 40.0, "llm.prediction.maxPredictedTokens": {"checked": True, "value": 7.0}}
    assert not list(invalid_fields(values))
    config = read_prediction_config(values)
    assert (config.top_k_sampling, config.max_tokens) == (40, 7)
    assert list(invalid_fields({"llm.prediction.topKSampling": 40.5}))
