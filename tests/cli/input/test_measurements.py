"""Recorded predictions, read back: every form that the commands write, and whatever else may stand in a file."""

import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE
from hypothesis import given
from hypothesis import strategies as st
from processes import environment, run
from properties import QUICK, any_json, garbled

from lmcli.cli.input.measurements import PredictionRecord, SkippedLine, read_records
from lmcli.cli.output.drawing import histogram
from lmcli.cli.summary import Group
from lmcli.server import background

STATS = {
    "stop_reason": "eosFound",
    "predicted_tokens_count": 3,
    "prompt_tokens_count": 6,
    "total_tokens_count": 9,
    "time_to_first_token_sec": 0.25,
    "tokens_per_second": 50.0,
    "total_time_sec": 1,
}
MODEL = {"display_name": "M", "model_key": "m", "identifier": "m:2"}
RECORD = {"time": "2025-06-01T23:59:59.999+00:00", "model": MODEL, "stats": STATS, "exit_status": 0}

COMMANDS = """
lm respond -o json one two three > json
lm respond -o jsonl one two three > jsonl
lm respond -m echo-jit -o jsonl one two three > loading.jsonl
lm respond --stats-file stats one two three > answer
lm complete --stats-file stats one two three > answer
lm respond -m no-such-model --stats-file stats one 2> errors
lm respond -m echo --preset short -o jsonl 1 2 3 4 5 6 7 8 9 > cut.jsonl 2> errors
lm respond -m echo --preset short -o json 1 2 3 4 5 6 7 8 9 > cut.json 2> errors
lm chat -n -m echo --history chat one two three > answer
lm chat -n -m echo --history chat again > answer
echo '[]' > array
lm chat -n -m echo --history array one two three > answer
lm respond -m echo -o history one two three > history
cat json history jsonl > all
"""


def read(data: bytes) -> list[PredictionRecord | SkippedLine]:
    """Everything in some bytes."""
    return list(read_records(BytesIO(data)))


def lines(*values: Any) -> bytes:
    """Values as JSON lines."""
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def facts(records: list[PredictionRecord | SkippedLine]) -> list[tuple[Any, ...]]:
    """What does not depend on the time: model, stop reason, tokens in and out, the code of an error."""
    assert all(isinstance(record, PredictionRecord) for record in records), records
    return [(r.model, r.stop_reason, *r[3:5], r.error_code) for r in records if isinstance(r, PredictionRecord)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the real commands have left what they write."""
    folder = tmp_path_factory.mktemp("recorded")
    with background.start() as server:
        run(COMMANDS, folder, environment(folder, server.port))
    return folder


WHOLE = ("echo", "eosFound", 6, 3, None)
CUT = ("echo", "maxPredictedTokensReached", 12, 8, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("json", [WHOLE]),
        ("jsonl", [WHOLE]),
        ("loading.jsonl", [("echo-jit", *WHOLE[1:])]),
        ("cut.json", [CUT]),
        ("cut.jsonl", [CUT]),
        ("history", [WHOLE]),
        ("chat", [WHOLE, ("echo", "eosFound", 12, 1, None)]),
        ("array", [WHOLE]),
        ("all", [WHOLE, WHOLE, WHOLE]),
    ],
)
def test_what_the_commands_write_is_read_back(name: str, expected: list[tuple[Any, ...]], folder: Path) -> None:
    """Objects, JSON lines with their fragments and progress, chat files as object or array, indented or not."""
    assert facts(read((folder / name).read_bytes())) == expected


def test_a_stats_file_is_read_back(folder: Path) -> None:
    """Each line of it is a prediction with its day; one that failed has its exit status."""
    records = read((folder / "stats").read_bytes())
    assert [fact[-1] for fact in facts(records)] == [None, None, 69]
    assert [fact[2:4] for fact in facts(records)] == [(6, 3), (3, 3), (0, 0)]
    assert facts(records)[2][:2] == ("no-such-model", "unknown")
    times = [json.loads(line)["time"] for line in (folder / "stats").read_text().splitlines()]
    assert [record.day for record in records if isinstance(record, PredictionRecord)] == [time[:10] for time in times]


def test_the_figures_are_those_of_the_file(folder: Path) -> None:
    """Seconds and tokens per second come through to the last digit."""
    stats = json.loads((folder / "json").read_bytes())["stats"]
    (record,) = read((folder / "json").read_bytes())
    assert isinstance(record, PredictionRecord)
    assert record.time_to_first_token_sec == stats["time_to_first_token_sec"]
    assert record.tokens_per_second == stats["tokens_per_second"]
    assert record.total_time_sec == stats["total_time_sec"]


def test_results_of_a_batch() -> None:
    """Lines with an index and an id are results or errors."""
    data = lines(
        {"index": 0, "id": "a", "content": "x", "model": MODEL, "stats": STATS},
        {"index": 1, "id": 7, "error": {"code": 65, "message": "no prompt"}},
        {"index": 2, "error": {"code": 3, "message": "cut"}, "model": MODEL, "stats": STATS},
    )
    assert facts(read(data)) == [
        ("m", "eosFound", 6, 3, None),
        ("unknown", "unknown", 0, 0, 65),
        ("m", "eosFound", 6, 3, 3),
    ]


@pytest.mark.parametrize(("indent", "before"), [(None, b""), (1, b"\n\n"), ("\t", b"\xef\xbb\xbf")])
def test_an_object_may_have_any_layout(indent: int | str | None, before: bytes) -> None:
    """A result or a chat over many lines is one value, after blank lines or a byte order mark, too."""
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi", "stats": STATS, "model": MODEL}]
    for value in (RECORD, chat, {"messages": chat, "title": "x"}):
        assert facts(read(before + json.dumps(value, indent=indent).encode())) == [("m", "eosFound", 6, 3, None)]


def test_messages_without_figures_are_passed_over() -> None:
    """What the user said, and an answer from elsewhere, is no prediction of which anything is known."""
    assert read(lines([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hi"}])) == []
    assert read(lines({"messages": []})) == []


@pytest.mark.parametrize("garbage", [b"oops", b"{", b"[1]", b'"text"', b"null", b"1", b"{}", b"\xff\xfe", b'{"a":1}'])
def test_a_line_that_is_no_record_has_its_number(garbage: bytes) -> None:
    """Wherever it stands, and blank lines count as lines; the records around it are read."""
    for place in (0, 1, 3):
        pieces = [json.dumps(RECORD).encode()] * 3
        pieces.insert(place, b"\n" + garbage)
        records = read(b"\n".join(pieces) + b"\n")
        assert [record for record in records if isinstance(record, SkippedLine)] == [SkippedLine(place + 2)]
        assert len(records) == 4


def test_a_value_that_is_cut_is_all_garbage() -> None:
    """Of an indented file that ends in the middle each line is named that holds something."""
    text = json.dumps(RECORD, indent=1).encode()[:60]
    assert read(text) == [SkippedLine(number + 1) for number in range(text.count(b"\n") + 1)]


@pytest.mark.parametrize("value", [None, -1, 1e300, 2**64 - 1, True, "3", [3], {"a": 3}])
def test_a_figure_that_cannot_be_one_is_none(value: Any) -> None:
    """A record in which a value is not usable is a record without it."""
    record = {"time": value, "model": value, "stats": dict.fromkeys(STATS, value), "error": value}
    (read_back,) = read(lines(record))
    text = value if isinstance(value, str) else "unknown"
    assert isinstance(read_back, PredictionRecord)
    assert read_back[3:] == (0, 0, None, None, None, None)
    assert (read_back.model, read_back.stop_reason, read_back.day) == ("unknown", text, text)


@QUICK
@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"{", b"[", b"]", b"}", b'{"stats":{}}', b""]), max_size=8))
def test_no_bytes_are_too_much(pieces: list[bytes]) -> None:
    """Any bytes give records and numbers of lines that are there, in order, and never raise."""
    data = b"\n".join(pieces)
    numbers = [record.number for record in read(data) if isinstance(record, SkippedLine)]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= data.count(b"\n") + 1 for number in numbers)


@QUICK
@given(st.lists(any_json | garbled(RECORD) | garbled({"messages": [{"role": "user"}, RECORD]}), max_size=6))
def test_no_json_is_too_much(values: list[Any]) -> None:
    """Whatever JSON stands in a file can be added up, shown as JSON, and seen as a distribution."""
    group = Group()
    for record in read(b"".join(line + b"\n" for line in map(_dumped, values))):
        if isinstance(record, PredictionRecord):
            assert isinstance(record.day, str)
            group.add(record)
    shown = group.record()
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert sum(histogram(group.tokens_per_second, 12)) == len(group.tokens_per_second)


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_pipe_is_read_once_and_as_it_comes() -> None:
    """A record is read when it is there: the one who writes need not have ended."""
    source, sink = os.pipe()
    program = (
        "import sys; from lmcli.cli.input.measurements import read_records\n"
        "for record in read_records(sys.stdin.buffer): print(record.stop_reason, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=source, stdout=subprocess.PIPE) as process:
        os.close(source)
        assert process.stdout is not None
        for number in range(3):
            os.write(sink, lines({"stats": STATS | {"stop_reason": f"r{number}"}}))
            assert process.stdout.readline() == f"r{number}\n".encode()
        os.close(sink)
        assert process.wait(PATIENCE) == 0


class Stream(BytesIO):
    """A file that is not to be read whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Refuse."""
        raise AssertionError(size)


@pytest.mark.parametrize("start", [b"", b"\n\n", b"garbage\n", lines({"type": "fragment"}), lines({"some": "json"})])
def test_lines_are_never_held_together(start: bytes) -> None:
    """Memory does not grow with a file of lines, whatever it begins with."""
    records = list(read_records(Stream(start + 3 * lines(RECORD))))
    assert facts(records[-3:]) == 3 * [("m", "eosFound", 6, 3, None)]
