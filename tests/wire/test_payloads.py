"""Values and what envelopes carry: packets, parameters, results."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, any_json, garbled, nested
from wire_records import DETAILS, INSTANCE, MODEL, STATS

from lmcli.errors import RemoteProtocolError
from lmcli.values import (
    AmbiguousModel,
    CandidateToken,
    Fragment,
    LoadNote,
    ModelInstance,
    PredictedToken,
    PredictionEnd,
    PromptDetails,
    PromptProgress,
    Stats,
    UnloadingModel,
)
from lmcli.wire.objects import read
from lmcli.wire.payloads import (
    fragment,
    load_note,
    parse_object,
    prediction_end,
    progress,
    prompt_progress,
    write_fragment,
    write_prediction_end,
)

FRAGMENT = {"content": "Hi", "tokensCount": 2, "containsDrafted": True, "reasoningType": "reasoning"}


@pytest.mark.parametrize(
    ("piece", "value"),
    [
        (FRAGMENT, Fragment("Hi", 2, contains_drafted=True, reasoning_type="reasoning")),
        ({"content": "Hi"}, Fragment("Hi", 1, contains_drafted=False, reasoning_type="none")),
        ({"content": ""}, Fragment("")),
        ({"content": "\ud83d"}, Fragment("\ud83d")),
        (FRAGMENT | {"reasoningType": "future", "tokens": []}, Fragment("Hi", 2, True, "future")),
    ],
)
def test_fragment(piece: Any, value: Fragment) -> None:
    """A fragment needs its text; the rest has defaults, and unknown keys and kinds of reasoning pass."""
    assert fragment({"type": "fragment", "fragment": piece}) == value


@pytest.mark.parametrize(
    "body",
    [
        None,
        5,
        "fragment",
        [],
        {},
        {"fragment": None},
        {"fragment": "Hi"},
        {"fragment": [{"content": "Hi"}]},
        {"fragment": {}},
        {"fragment": {"content": None}},
        {"fragment": {"content": 5}},
        {"fragment": FRAGMENT | {"tokensCount": None}},
        {"fragment": FRAGMENT | {"tokensCount": "2"}},
        {"fragment": FRAGMENT | {"tokensCount": True}},
        {"fragment": FRAGMENT | {"containsDrafted": "no"}},
        {"fragment": FRAGMENT | {"containsDrafted": None}},
        {"fragment": FRAGMENT | {"reasoningType": None}},
        {"fragment": nested(2000)},
    ],
    ids=lambda body: repr(body)[:40] if not isinstance(body, dict) or "fragment" not in body else None,
)
def test_no_fragment(body: Any) -> None:
    """A fragment without text, or with a value of another type, is a protocol error."""
    with pytest.raises(RemoteProtocolError, match=r"^the server sent a fragment with"):
        fragment(body)


_log_probs = st.none() | st.floats(-1000, 0)

_candidates = st.builds(CandidateToken, st.text(), st.integers(0, 2**31), _log_probs)

_token_candidates = st.lists(_candidates, max_size=2).map(tuple)

_predicted_tokens = st.builds(PredictedToken, st.text(), st.integers(0, 2**31), _log_probs, _token_candidates)

_token_lists = st.lists(_predicted_tokens, max_size=2).map(tuple)


@QUICK
@given(st.builds(Fragment, st.text(), st.integers(0, 9), st.booleans(), st.text(), st.booleans(), _token_lists))
def test_fragment_round_trip(value: Fragment) -> None:
    """A fragment written is read back the same, and has every key that an official SDK requires."""
    packet = write_fragment(value)
    assert fragment(packet) == value
    required = {"content", "tokensCount", "containsDrafted", "reasoningType", "isStructural"}
    assert set(packet["fragment"]) == required | ({"tokens"} if value.tokens else set())


@pytest.mark.parametrize(
    ("sent", "share"),
    [(0, 0.0), (1, 1.0), (0.5, 0.5), (-3, 0.0), (1.0001, 1.0), (10**400, 1.0), (float("inf"), 1.0)],
    ids=lambda value: repr(value)[:6],
)
def test_progress(sent: Any, share: float) -> None:
    """Progress is a share of the whole, whatever number a server sends."""
    value = progress({"type": "loadProgress", "progress": sent})
    assert (value, type(value)) == (share, float)


TOKEN = {"text": " hi", "id": 7, "logProb": -0.5, "candidates": [{"text": " hi", "id": 7, "logProb": -0.5}]}


def test_tokens() -> None:
    """A fragment has the tokens that the server sends, and is written with them; `logProb` and candidates may lack."""
    bare = {"text": "!", "id": 8}
    value = fragment({"fragment": {"content": " hi!", "tokens": [TOKEN, bare]}})
    assert value.tokens == (
        PredictedToken(" hi", 7, -0.5, (CandidateToken(" hi", 7, -0.5),)),
        PredictedToken("!", 8),
    )
    assert write_fragment(value)["fragment"]["tokens"] == [TOKEN, bare]
    assert fragment({"fragment": {"content": "", "tokens": None}}).tokens == ()
    assert "tokens" not in write_fragment(Fragment("hi"))["fragment"]


@pytest.mark.parametrize(
    "tokens",
    [
        5,
        {},
        "text",
        [None],
        [[]],
        [{}],
        [{"text": "a"}],
        [{"text": "a", "id": 1.5}],
        [{"text": "a", "id": True}],
        [{"text": 1, "id": 1}],
        [TOKEN | {"logProb": "1"}],
        [TOKEN | {"logProb": True}],
        [TOKEN | {"candidates": {}}],
        [TOKEN | {"candidates": [5]}],
    ],
)
def test_no_tokens(tokens: Any) -> None:
    """Tokens of another form are a protocol error."""
    with pytest.raises(RemoteProtocolError, match=r"^the server sent (a token|tokens) as "):
        fragment({"fragment": {"content": "hi", "tokens": tokens}})


@pytest.mark.parametrize(
    ("packet", "note"),
    [
        ({"type": "resolved", "info": MODEL}, None),
        ({"type": "resolved", "info": MODEL, "ambiguous": None}, None),
        ({"type": "resolved", "info": MODEL, "ambiguous": []}, None),
        (
            {"type": "resolved", "ambiguous": ["a", "b"], "info": MODEL},
            AmbiguousModel(model_key="acme/tiny-1b", candidates=("a", "b")),
        ),
        (
            {"type": "unloadingOtherJITModel", "info": {"type": "tts", "modelKey": "a", "identifier": "b"}},
            UnloadingModel(model_key="a", identifier="b"),
        ),
    ],
)
def test_load_note(packet: Any, note: LoadNote | None) -> None:
    """What a server reports of a load; a model that is unloaded may be of any kind, with other keys."""
    assert load_note(packet) == note


@pytest.mark.parametrize(
    "packet",
    [
        {"type": "resolved", "ambiguous": ["a"]},
        {"type": "resolved", "info": MODEL, "ambiguous": 5},
        {"type": "resolved", "info": MODEL, "ambiguous": "ab"},
        {"type": "resolved", "info": MODEL, "ambiguous": {}},
        {"type": "resolved", "info": MODEL, "ambiguous": ["a", None]},
        {"type": "unloadingOtherJITModel"},
        {"type": "unloadingOtherJITModel", "info": []},
        {"type": "unloadingOtherJITModel", "info": {"modelKey": "a", "identifier": 1}},
    ],
)
def test_no_load_note(packet: Any) -> None:
    """Anything else is a protocol error."""
    with pytest.raises(RemoteProtocolError, match=r"^the server sent a note on a load as "):
        load_note(packet)


@pytest.mark.parametrize("details", [{}, {"details": None}, {"details": DETAILS}, {"details": {"cachedTokenCount": 4}}])
def test_prompt_progress(details: dict[str, Any]) -> None:
    """Servers before 2026 send no details, and what they leave out is unknown."""
    value = prompt_progress({"type": "promptProcessingProgress", "progress": 0.5, **details})
    if not details.get("details"):
        assert value == PromptProgress(0.5)
        return
    assert value.details is not None
    assert (value.progress, value.details.cached_token_count) == (0.5, 4)
    assert value.details.total_prompt_token_count == details["details"].get("totalPromptTokenCount")


def test_cached_prompt_tokens_are_stats() -> None:
    """The stats of the server do not have them: they are those of the last progress."""
    details = PromptDetails(cached_token_count=4)
    body = {"stats": {"stopReason": "eosFound"}, "modelInfo": INSTANCE}
    assert prediction_end(body, details).stats.cached_prompt_tokens_count == 4
    assert prediction_end(body).stats.cached_prompt_tokens_count is None


@pytest.mark.parametrize("body", [None, [], 5, {}, *({"progress": v} for v in (None, "0.5", True, [0.5]))])
def test_no_progress(body: Any) -> None:
    """Progress without a number is a protocol error."""
    with pytest.raises(RemoteProtocolError, match=r"^the server sent progress without a number"):
        progress(body)


SUCCESS: dict[str, Any] = {
    "type": "success",
    "stats": STATS,
    "modelInfo": INSTANCE,
    "loadModelConfig": {"fields": [{"key": "llm.load.contextLength", "value": 4096}]},
    "predictionConfig": {"fields": [{"key": "llm.prediction.temperature", "value": 0.2}]},
}


def test_prediction_end() -> None:
    """The last packet holds the stats, the model and the configurations."""
    assert prediction_end(SUCCESS) == PredictionEnd(
        read(Stats, STATS), read(ModelInstance, INSTANCE), SUCCESS["loadModelConfig"], SUCCESS["predictionConfig"]
    )


def test_prediction_end_without_configurations() -> None:
    """A server need not say which configuration was in force."""
    end = prediction_end({"stats": {"stopReason": "userStopped"}, "modelInfo": INSTANCE})
    assert (end.stats, end.load_config, end.prediction_config) == (Stats(stop_reason="userStopped"), {}, {})


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (None, "not a valid success"),
        ({}, "not a valid Stats"),
        (SUCCESS | {"stats": {}}, "left out stopReason"),
        (SUCCESS | {"modelInfo": None}, "not a valid ModelInstance"),
        (SUCCESS | {"modelInfo": MODEL}, "left out identifier"),
        (SUCCESS | {"loadModelConfig": None}, "not a valid loadModelConfig"),
        (SUCCESS | {"predictionConfig": []}, "not a valid predictionConfig"),
    ],
)
def test_no_prediction_end(body: Any, sentence: str) -> None:
    """A last packet that says too little is a protocol error."""
    with pytest.raises(RemoteProtocolError, match=sentence):
        prediction_end(body)


def test_prediction_end_round_trip() -> None:
    """What our server writes is what our client reads, and has every key that an official SDK requires."""
    stats, model = read(Stats, STATS), read(ModelInstance, INSTANCE)
    packet = write_prediction_end(stats, model, {"llm.load.contextLength": 4096}, {"llm.prediction.temperature": 0.2})
    assert packet == SUCCESS
    assert prediction_end(packet) == prediction_end(SUCCESS)


@QUICK
@given(
    any_json
    | garbled(SUCCESS)
    | garbled({"fragment": FRAGMENT | {"tokens": [TOKEN]}})
    | garbled({"progress": 0.5, "details": DETAILS})
)
def test_any_packet_is_a_value_or_an_error(body: Any) -> None:
    """Each reader gives its value or RemoteProtocolError, whatever JSON the packet is."""
    readers = (
        (fragment, Fragment),
        (progress, float),
        (prompt_progress, PromptProgress),
        (prediction_end, PredictionEnd),
    )
    for reader, kind in readers:
        try:
            value = reader(body)
        except RemoteProtocolError:
            continue
        assert isinstance(value, kind)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ('{"a": [1]}', {"a": [1]}),
        (" {}\n", {}),
        *((text, None) for text in ("[1]", "5", '"text"', "null", "no JSON", "", '{"a": 1} and more')),
        ('{"a": "\ud83d"}', None),
    ],
)
def test_parse_object(text: str, parsed: Any) -> None:
    """Structured output is the object that the text is, if it is one."""
    assert parse_object(text) == parsed
