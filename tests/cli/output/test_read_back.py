"""What `lm` writes, `lm` reads: results, events, histories and stats files, whatever user, server and model sent."""

import json
import re
import sys
from collections.abc import Iterator
from io import BytesIO
from tempfile import TemporaryFile
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packets import INSTANCE
from properties import QUICK, any_json, garbled, json_objects, nested, texts_with_halves

from lmcli.cli.input.document import assistant_entry, recognize
from lmcli.cli.input.measurements import PredictionRecord, read_records
from lmcli.cli.json_text import MAX_DEPTH, dump_json, dump_lines, load_json
from lmcli.cli.output.json_sinks import HistorySink, JsonLinesSink, JsonSink
from lmcli.cli.output.results import TextCollector, result_record
from lmcli.cli.output.sinks import Outcome, Sink
from lmcli.cli.output.stats_file import stats_line, stats_text
from lmcli.cli.output.stdout import Output
from lmcli.cli.signals import SignalWatcher
from lmcli.errors import KEPT_IN_TEXT, RemoteProtocolError, escaped
from lmcli.values import Fragment, PredictionEnd, ToolCallRequest, Value
from lmcli.wire.envelopes import loads
from lmcli.wire.payloads import prediction_end
from lmcli.wire.surrogates import SurrogateJoiner

FIGURES = ["1e400", "-1e400", "1" + "0" * 400, "9" * 5000, str(2**64), str(-(2**63) - 1), "1e308", "0.1", "7"]
_figures = st.sampled_from(FIGURES)
_names = texts_with_halves | st.sampled_from(["\ud83d", "\x9b31m", "\u202e\u2028\x7f\0"])
_stats = st.fixed_dictionaries(
    {"stopReason": _names},
    optional={
        "promptTokensCount": _figures,
        "predictedTokensCount": _figures,
        "totalTokensCount": _figures,
        "tokensPerSecond": _figures,
        "timeToFirstTokenSec": _figures,
        "totalTimeSec": _figures,
        "usedDraftModelKey": _names,
        "stopString": _names,
    },
)
_models = st.fixed_dictionaries({"modelKey": _names, "displayName": _names, "identifier": _names}).map(
    lambda names: INSTANCE | names
)
_ends = st.builds(lambda stats, model: {"stats": stats, "modelInfo": model}, _stats, _models)
_unknown = st.dictionaries(_names, any_json | st.sampled_from([2**64, 10**400, "\ud83d", nested(MAX_DEPTH - 10)]))


def ended(body: Any) -> PredictionEnd | None:
    """A `success` packet as it arrives, with figures given by their digits; None where the client refuses it."""
    text = json.dumps(body)
    for figure in FIGURES:
        text = text.replace(f'"{figure}"', figure)
    try:
        return prediction_end(loads(text))
    except RemoteProtocolError:
        return None


END = ended({"stats": {"stopReason": "eosFound"}, "modelInfo": INSTANCE})


def strict(text: bytes) -> Any:
    """JSON as RFC 8259 has it, in UTF-8, without what controls a terminal."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert escaped(text.decode(), keep=KEPT_IN_TEXT) == text.decode()
    assert not re.search(rb"\\u[dD][89a-fA-F]", text.replace(b"\\\\", b""))  # what jq refuses
    return json.loads(text, parse_constant=refuse)


def repaired(value: Any) -> Any:
    """A JSON value with U+FFFD for each half of a surrogate pair."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case dict():
            return {repaired(key): repaired(item) for key, item in value.items()}
        case list():
            return [repaired(item) for item in value]
    return value


def fragments(texts: list[str]) -> list[Value]:
    """Texts as a channel gives them: halves of surrogate pairs joined, and none that is empty."""
    joiner = SurrogateJoiner()
    return [fragment for text in texts if (fragment := joiner.join(Fragment(text))) is not None]


def written(sink_of: Any, texts: list[str], end: PredictionEnd | None) -> bytes:
    """What a sink writes for the fragments of an answer and its end."""
    with TemporaryFile() as file:
        sink: Sink = sink_of(Output(file.fileno(), SignalWatcher()))
        sink.burst(fragments(texts))
        sink.finish(Outcome(end))
        file.seek(0)
        return file.read()


def records_of(data: bytes) -> list[Any]:
    """The predictions that `lm stats FILE` reads."""
    records = list(read_records(BytesIO(data)))
    assert all(isinstance(record, PredictionRecord) for record in records), data
    return records


@QUICK
@given(st.lists(texts_with_halves, max_size=3), _ends | garbled({"stats": {"stopReason": "x"}, "modelInfo": INSTANCE}))
def test_results_and_events(texts: list[str], body: Any) -> None:
    """`-o json`, `-o jsonl` and a line of `--stats-file` are valid JSON, and records for `lm stats`."""
    end = ended(body)
    for is_terminal in (False, True):
        result = written(lambda output: JsonSink(output, is_terminal=is_terminal, is_structured=True), texts, end)  # noqa: B023
        strict(result)
        assert len(records_of(result)) == 1
    events = written(lambda output: JsonLinesSink(output, is_structured=True), texts, end)
    assert [strict(line)["type"] for line in events.splitlines()] == ["fragment"] * len(fragments(texts)) + ["result"]
    assert len(records_of(events)) == 1
    line = dump_json(stats_line("respond", {"raw": 2**64}, Outcome(end), "key"))
    assert strict(line)["command"] == "respond"
    assert len(records_of(line)) == 1
    if end is not None:
        assert len(stats_text(end).splitlines()) == 6


@QUICK
@given(st.lists(json_objects | _unknown | any_json, min_size=1, max_size=4))
def test_lines_that_are_written_together(values: list[Any]) -> None:
    """They are what each is by itself, whatever strings they contain."""
    assert dump_lines(values) == b"".join(map(dump_json, values))


@QUICK
@given(json_objects | _unknown, _unknown, texts_with_halves, st.lists(texts_with_halves, max_size=3), _ends)
def test_histories(top: Any, unknown: Any, question: str, answer: list[str], body: Any) -> None:
    """A history that is accepted can be continued and read again, by `-o history` and `--history` alike."""
    given_text = json.dumps({**top, "messages": [{**unknown, "role": "user", "content": question}]})
    source = json.loads(given_text)  # halves of a surrogate pair side by side are one character there
    try:
        document = recognize(load_json(given_text))
    except RecursionError:
        return  # refused before anything is sent
    assert document is not None
    assert document.raw == source
    end, text = ended(body), TextCollector()
    text.burst(fragments([*answer, "."]))
    entry = assistant_entry(text, Outcome(end))
    assert entry is not None
    continued = document.with_entry(entry)
    for is_terminal in (False, True):
        shown = written(lambda output: HistorySink(output, document, is_terminal=is_terminal), [*answer, "."], end)  # noqa: B023
        assert strict(shown)["messages"][:1] == repaired(source["messages"])
        again = recognize(load_json(shown.decode()))
        assert again is not None
        assert len(again.chat().messages) == 2
        records_of(shown)
    assert strict(dump_json(continued.raw)) == repaired(continued.raw)


@QUICK
@given(
    st.lists(st.builds(ToolCallRequest, _names, st.none() | json_objects | _unknown, st.none() | _names), min_size=1)
)
def test_tool_calls(calls: list[ToolCallRequest]) -> None:
    """The calls of a result are valid JSON, and those of a history are read back as they were."""
    outcome = Outcome(END, tool_calls=calls)
    result = dump_json(result_record(TextCollector(), outcome, is_structured=False))
    assert [call["name"] for call in strict(result)["tool_calls"]] == [repaired(call.name) for call in calls]
    entry = assistant_entry(TextCollector(), outcome)
    assert entry is not None
    again = recognize(load_json(dump_json({"messages": [entry]}).decode()))
    assert again is not None
    _, *parts = again.chat().messages[0].content
    for part, call in zip(parts, calls, strict=True):
        assert isinstance(part, ToolCallRequest)
        assert (part.name, part.id) == (repaired(call.name), repaired(call.id))
        assert part.arguments == repaired(call.arguments or {})


@QUICK
@given(st.integers(-(10**25), 10**25) | st.sampled_from([2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**18]))
def test_integers(number: int) -> None:
    """An integer of any length is the same after it was read, wherever it stands."""
    text = json.dumps({"numbers": [0, number]})
    assert json.dumps(load_json(text)) == text


@pytest.fixture
def _recursion() -> Iterator[None]:
    """As many calls as the process of `lm` may nest."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("_recursion")
def test_an_answer_that_is_deep_json() -> None:
    """What a result holds of it is read back; deeper than `lm` reads, it is there as text only."""
    for depth, is_parsed in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False)):
        answer = "[" * depth + "]" * depth
        result = written(lambda o: JsonSink(o, is_terminal=False, is_structured=True), [answer], END)
        (record,) = records_of(result)
        assert record.model == "tiny"
        value = orjson.loads(result)
        assert (value["parsed"] is not None) is is_parsed
        assert value["content"] == answer


def test_json_escapes_what_a_text_on_a_terminal_has_escaped() -> None:
    """The two rules are one, for every character; of lines and tabs JSON has escapes of its own."""
    for char in map(chr, range(0x3000)):
        is_escaped = dump_json(char) != f'"{char}"\n'.encode()
        assert is_escaped is (escaped(char, keep=KEPT_IN_TEXT) != char or char in '\n\t"\\'), hex(ord(char))
