"""Values and what envelopes carry: packets, parameters, results."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, any_json, garbled, json_objects, nested

from lmcli.chat import FilePart, ImagePart, Message, TextPart, ToolCallResult
from lmcli.errors import BadInput, RemoteProtocolError
from lmcli.record import Record
from lmcli.values import (
    AmbiguousModel,
    CandidateToken,
    Fragment,
    LoadNote,
    ModelInfo,
    ModelInstance,
    PredictedToken,
    PredictionEnd,
    PromptDetails,
    PromptProgress,
    Quantization,
    Stats,
    ToolCallRequest,
    UnloadingModel,
)
from lmcli.wire.envelopes import loads
from lmcli.wire.payloads import (
    camel,
    file_part,
    fragment,
    load_note,
    parse_object,
    prediction_end,
    progress,
    prompt_progress,
    read,
    read_history,
    write,
    write_fragment,
    write_history,
    write_prediction_end,
)

STATS = {
    "stopReason": "eosFound",
    "stopString": ";",
    "tokensPerSecond": 41.5,
    "numGpuLayers": -1,
    "timeToFirstTokenSec": 0.12,
    "totalTimeSec": 0.19,
    "promptTokensCount": 9,
    "predictedTokensCount": 3,
    "totalTokensCount": 12,
    "cachedPromptTokensCount": 4,
    "usedDraftModelKey": "acme/draft",
    "totalDraftTokensCount": 6,
    "acceptedDraftTokensCount": 3,
    "rejectedDraftTokensCount": 2,
    "ignoredDraftTokensCount": 1,
}
MODEL = {
    "type": "llm",
    "modelKey": "acme/tiny-1b",
    "format": "gguf",
    "displayName": "Tiny 1B",
    "publisher": "acme",
    "path": "acme/tiny-1b/tiny-Q4.gguf",
    "sizeBytes": 700000000,
    "indexedModelIdentifier": "acme/tiny-1b/tiny-Q4.gguf",
    "deviceIdentifier": None,
    "paramsString": "1B",
    "architecture": "llama",
    "quantization": {"name": "Q4_K_M", "bits": 4},
    "variants": ["acme/tiny-1b@q4_k_m", "acme/tiny-1b@q8_0"],
    "selectedVariant": "acme/tiny-1b@q4_k_m",
    "vision": False,
    "trainedForToolUse": True,
    "maxContextLength": 32768,
}
INSTANCE = MODEL | {
    "identifier": "acme/tiny-1b:2",
    "instanceReference": "Qx81mZ",
    "ttlMs": 3600000,
    "lastUsedTime": 1.7e12,
    "contextLength": 4096,
}
DETAILS = {
    "totalPromptTokenCount": 9,
    "cachedTokenCount": 4,
    "processedPromptTokenCount": 3,
    "unprocessedPromptTokenCount": 2,
}
WHOLE: list[tuple[type[Record], dict[str, Any]]] = [
    (Stats, STATS),
    (ModelInfo, MODEL),
    (ModelInstance, INSTANCE),
    (Quantization, {"name": "Q4_K_M", "bits": 4}),
    (PromptDetails, DETAILS),
]
RECORDS = pytest.mark.parametrize(("cls", "wire"), WHOLE, ids=lambda value: getattr(value, "__name__", ""))
REQUIRED: dict[type[Record], set[str]] = {
    Stats: {"stopReason"},
    ModelInfo: {"type", "modelKey", "displayName", "path", "format", "sizeBytes", "maxContextLength"},
    Quantization: {"name", "bits"},
    PromptDetails: set(),
}
REQUIRED[ModelInstance] = REQUIRED[ModelInfo] | {"identifier", "instanceReference", "contextLength"}
NULL_IS_A_VALUE = {"deviceIdentifier", "ttlMs", "lastUsedTime"}


@RECORDS
def test_every_key_is_written_out_here(cls: type[Record], wire: dict[str, Any]) -> None:
    """The tables of this test have a key for each field."""
    assert set(wire) == {camel(name) for name in cls.fields}


@RECORDS
def test_a_whole_record_makes_the_round_trip(cls: type[Record], wire: dict[str, Any]) -> None:
    """Every key is read, and written again as it was."""
    assert write(read(cls, wire)) == wire


@RECORDS
def test_unknown_keys_are_ignored(cls: type[Record], wire: dict[str, Any]) -> None:
    """A newer server may say more."""
    assert read(cls, wire | {"future": nested(3)}) == read(cls, wire)


@RECORDS
def test_required_keys(cls: type[Record], wire: dict[str, Any]) -> None:
    """Exactly the keys without which nothing can be done must be there; null does not do."""
    for key in wire:
        without = {name: value for name, value in wire.items() if name != key}
        for lacking in (without, without | {key: None}):
            if key in REQUIRED[cls]:
                with pytest.raises(RemoteProtocolError, match=f"^the server left out {key}$"):
                    read(cls, lacking)
            else:
                assert isinstance(read(cls, lacking), cls)


@RECORDS
def test_null_is_written_only_where_it_is_a_value(cls: type[Record], wire: dict[str, Any]) -> None:
    """What is not known is left out, but for the keys without which the JavaScript SDK drops a model."""
    least = {key: value for key, value in wire.items() if key in REQUIRED[cls]}
    written = write(read(cls, least))
    assert {key for key, value in written.items() if value is None} == NULL_IS_A_VALUE & set(wire)
    assert least.items() <= written.items()


COUNTS = {key for key in STATS if key.endswith("TokensCount")} | {
    *DETAILS,
    "sizeBytes",
    "maxContextLength",
    "contextLength",
    "ttlMs",
    "bits",
}
NUMBERS = {"tokensPerSecond", "numGpuLayers", "timeToFirstTokenSec", "totalTimeSec", "lastUsedTime"}
TRUTHS = {"vision", "trainedForToolUse"}


def wrong_values(key: str) -> tuple[Any, ...]:
    """What a key cannot be."""
    if key in COUNTS:
        return "7", True, 7.5, [], {}
    if key in NUMBERS:
        return "7", True, [], {}
    if key in TRUTHS:
        return "true", 1, 0, [], {}
    if key == "variants":
        return 5, True, "q8_0", ["q8_0", 5], {}
    return 5, True, [], nested(2000)


@RECORDS
def test_a_value_of_another_type_is_refused(cls: type[Record], wire: dict[str, Any]) -> None:
    """Each key has its type; the error names the key and shows the value."""
    for key in wire:
        for wrong in wrong_values(key):
            with pytest.raises(RemoteProtocolError, match=rf"sent {key} as '|not a valid Quantization"):
                read(cls, wire | {key: wrong})


@pytest.mark.parametrize(("value", "read_as"), [(7, 7), (7.0, 7), (0, 0), (2**60, 2**60), (-1, -1)], ids=repr)
def test_whole_numbers(value: Any, read_as: int) -> None:
    """JavaScript has one kind of number: 7.0 is 7."""
    count = read(Stats, STATS | {"promptTokensCount": value}).prompt_tokens_count
    assert (count, type(count)) == (read_as, int)


@pytest.mark.parametrize("value", [7.5, True, "7", 1e19, 2**64, -1e300, 10**400, float("nan")])
def test_no_whole_numbers(value: Any) -> None:
    """A count is neither a half, nor a truth, nor beyond 64 bits."""
    with pytest.raises(RemoteProtocolError, match="promptTokensCount"):
        read(Stats, STATS | {"promptTokensCount": value})


@pytest.mark.parametrize("figure", ["1e400", "-1e400", "1" + "0" * 400, "9" * 5000], ids=lambda text: text[:4])
def test_a_figure_that_no_double_holds_is_unknown(figure: str) -> None:
    """An answer is not lost for it; where the figure is needed, it is missing."""
    text = json.dumps(STATS | {"promptTokensCount": "?", "totalTimeSec": "?"}).replace('"?"', figure)
    stats = read(Stats, loads(text))
    assert (stats.prompt_tokens_count, stats.total_time_sec) == (None, None)
    info = json.dumps(INSTANCE | {"sizeBytes": "?"}).replace('"?"', figure)
    with pytest.raises(RemoteProtocolError, match="the server left out sizeBytes"):
        read(ModelInstance, loads(info))


@QUICK
@given(st.integers(-(2**70), 2**70))
def test_an_integer_does_not_depend_on_its_neighbours(number: int) -> None:
    """Where orjson refuses a text, such as for half a surrogate pair, numbers are read as it reads them."""
    assert repr(loads(f'["\\ud83d", {number}]')[1]) == repr(loads(f'["x", {number}]')[1])


def test_an_unknown_stop_reason_is_kept() -> None:
    """A newer server's reason is shown, not refused."""
    assert read(Stats, {"stopReason": "tired"}).stop_reason == "tired"


@pytest.mark.parametrize("body", [None, [], "text", 5, nested(2000)])
def test_what_is_no_record(body: Any) -> None:
    """Anything but an object is a protocol error that says what was expected."""
    with pytest.raises(RemoteProtocolError, match="not a valid Stats"):
        read(Stats, body)


@QUICK
@given(st.sampled_from(WHOLE).flatmap(lambda row: st.tuples(st.just(row[0]), garbled(row[1]))))
def test_any_json_is_a_record_or_an_error(garbage: tuple[type[Record], Any]) -> None:
    """Whatever a server sends, it is a record that can be written again, or RemoteProtocolError."""
    cls, body = garbage
    try:
        record = read(cls, body)
    except RemoteProtocolError:
        return
    assert read(cls, write(record)) == record


def test_camel() -> None:
    """Field names become keys."""
    assert [camel(name) for name in ("path", "model_key", "time_to_first_token_sec")] == [
        "path",
        "modelKey",
        "timeToFirstTokenSec",
    ]


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


CONVERSATION = [
    Message("system", (TextPart("Be terse."),)),
    Message("user", (TextPart("What is this?"), FilePart("cat.png", "f-1", 5120, "image"))),
    Message("assistant", (TextPart(""), ToolCallRequest("add", {"a": 1, "b": 2}, "77"))),
    Message("assistant", (ToolCallRequest("now"),)),
    Message("tool", (ToolCallResult("3", "77", "add"), ToolCallResult("late"))),
]
HISTORY = {
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be terse."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "file", "name": "cat.png", "identifier": "f-1", "sizeBytes": 5120, "fileType": "image"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": ""},
                {
                    "type": "toolCallRequest",
                    "toolCallRequest": {
                        "id": "77",
                        "type": "function",
                        "name": "add",
                        "arguments": {"a": 1, "b": 2},
                    },
                },
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "toolCallRequest", "toolCallRequest": {"type": "function", "name": "now"}}],
        },
        {
            "role": "tool",
            "content": [
                {"type": "toolCallResult", "content": "3", "toolCallId": "77", "name": "add"},
                {"type": "toolCallResult", "content": "late"},
            ],
        },
    ]
}


def test_history_on_the_wire() -> None:
    """Every part in the form of the protocol: content is an array, what is None is left out."""
    assert write_history(CONVERSATION) == HISTORY
    assert read_history(HISTORY) == CONVERSATION


def test_messages_of_one_role_stay_apart_on_the_wire() -> None:
    """A server takes a history as it comes: the official JavaScript SDK joins nothing."""
    twice = [Message("user", (TextPart("a"),)), Message("user", (TextPart("b"),))]
    assert read_history(write_history(twice)) == twice


def test_an_image_is_uploaded_before_it_is_sent() -> None:
    """What is still on the client's side neither leaves in a history nor is taken from one: a server opens no paths."""
    with pytest.raises(TypeError, match="uploaded first"):
        write_history([Message("user", (ImagePart("cat.png"),))])
    for part in ({"type": "image_url", "image_url": "cat.png"}, {"type": "file", "path": "cat.png"}):
        with pytest.raises(BadInput, match=r"^messages\[0\]\.content: an image has to be uploaded"):
            read_history({"messages": [{"role": "user", "content": [part]}]})


@QUICK
@given(any_json | garbled(HISTORY))
def test_any_json_is_a_history_or_an_error(body: Any) -> None:
    """A server that reads a history raises the two documented errors and nothing else."""
    try:
        messages = read_history(body)
    except (BadInput, RemoteProtocolError):
        return
    assert read_history(write_history(messages)) == messages


UPLOADED = {"identifier": "f-1", "fileType": "image", "sizeBytes": 70}


def test_file_part() -> None:
    """An uploaded file is known by the server's identifier and the client's name."""
    assert file_part(UPLOADED | {"name": "theirs"}, "mine.png") == FilePart("mine.png", "f-1", 70, "image")


@pytest.mark.parametrize("body", [None, [], {}, *(UPLOADED | {key: None} for key in UPLOADED)])
def test_no_file_part(body: Any) -> None:
    """An answer to an upload without its keys is a protocol error."""
    with pytest.raises(RemoteProtocolError, match=r"^the server answered an upload with"):
        file_part(body, "mine.png")


@QUICK
@given(json_objects | garbled(UPLOADED))
def test_any_answer_to_an_upload_is_a_file_or_an_error(body: Any) -> None:
    """Whatever JSON it is."""
    try:
        assert isinstance(file_part(body, "n").size_bytes, int)
    except RemoteProtocolError as error:
        assert error.message  # noqa: PT017  whatever else is raised fails by itself
