"""Records ⇄ JSON objects: every key and type, and what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, garbled, nested
from wire_records import DETAILS, INSTANCE, MODEL, STATS

from lmcli.errors import RemoteProtocolError
from lmcli.record import Record
from lmcli.values import (
    ModelInfo,
    ModelInstance,
    PromptDetails,
    Quantization,
    Stats,
)
from lmcli.wire.envelopes import loads
from lmcli.wire.objects import camel, read, write

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
