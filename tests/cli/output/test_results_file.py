"""A results file gives back what was appended to it, whatever a crash left of its end."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK, any_json

from lmcli.cli.input.batch_records import BatchRecord
from lmcli.cli.output.results_file import ResultsFile, _Places
from lmcli.errors import BadInput

KEYS = st.integers(0, 40) | st.text(min_size=1, max_size=2)
IDS = st.none() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0, "a", "b", "1", ""])
ENTRIES = st.lists(st.tuples(st.integers(0, 9), IDS, st.booleans(), st.sampled_from(["x", "y"]), any_json), max_size=12)
Entry = tuple[int, Any, bool, str, Any]


@QUICK
@given(st.lists(st.tuples(KEYS, st.integers(-1, 2**40)), max_size=200))
def test_places_are_a_dictionary(entries: list[tuple[int | str, int]]) -> None:
    """Each key has the place that was put last; a place of -1, and a key that was never put, have none."""
    places, expected = _Places(), dict[int | str, int]()
    for key, place in entries:
        places.put(key, place)
        expected[key] = place
        assert places.get(key) == place
    for key, place in expected.items():
        assert places.get(key) == place
    assert places.get("never put") < 0
    assert places.get(41) < 0


def test_many_places() -> None:
    """A hundred thousand keys of both kinds are told apart."""
    places = _Places()
    for number in range(50_000):
        places.put(number, 2 * number)
        places.put(f"r{number}", 2 * number + 1)
    assert all(places.get(number) == 2 * number for number in range(50_000))
    assert all(places.get(f"r{number}") == 2 * number + 1 for number in range(50_000))


def record(index: int, name: Any) -> BatchRecord:
    """A record of the input."""
    return BatchRecord(index, "", b"", name)


def result(entry: Entry) -> dict[str, Any]:
    """A result that is appended."""
    index, name, has_failed, _, content = entry
    return {
        "index": index,
        **({} if name is None else {"id": name}),
        **({"error": {"code": 3, "message": "cut"}} if has_failed else {}),
        "content": content,
    }


def expected_answer(entries: list[Entry], index: int, name: Any, digest: str) -> Any:
    """What the file answers: the last result of a record, if it is no error and of the same input."""
    same = [e for e in entries if (repr(e[1]) == repr(name) if name is not None else e[1] is None and e[0] == index)]
    if not same or same[-1][2] or same[-1][3] != digest:
        return None
    return result(same[-1]) | {"index": index}


@QUICK
@given(ENTRIES, st.data())
def test_what_survives_is_read_back(entries: list[Entry], data: st.DataObject) -> None:
    """Of a file that was cut anywhere, or whose end is zeros, each whole line counts, and the rest is cut off."""
    with TemporaryDirectory() as name:
        path, ends = Path(name) / "done", [0]
        with ResultsFile(path, 2) as file:
            for entry in entries:
                file.append(result(entry), entry[3])
                ends.append(path.stat().st_size)
            file.sync()
        whole = path.read_bytes()
        size = data.draw(st.integers(0, len(whole)))
        zeros = b"\0" * data.draw(st.integers(0, 5)) if size >= ends[min(1, len(entries))] and size else b""
        path.write_bytes(whole[:size] + zeros)
        survived = [entry for entry, end in zip(entries, ends[1:], strict=True) if end <= size]
        with ResultsFile(path, 2) as file:
            assert path.read_bytes() == whole[: ends[len(survived)]]
            for index in range(10):
                for identity in {entry[1] for entry in entries} | {None}:
                    for digest in "xy":
                        answer = file.answer(record(index, identity), digest)
                        assert answer == expected_answer(survived, index, identity, digest)


FOREIGN = [
    b"text",
    b"text\n",
    b"\0" * 100,
    b"{}\n",
    b"[1]\n",
    b'{"index":1}\n',
    b'{"index":1}',
    b'{"index":["a"],"data":[',
    b'{"index":1,"input":2}\n',
    b'{"index":"1","input":"x"}\n',
    b'{"index":1,"id":[],"input":"x"}\n',
    b'{"index":1,"input":"x"}\n\n',
    b'{"index":1,"input":"x"}\nmore\n{"index":2,"in',
]


@pytest.mark.parametrize("content", FOREIGN)
def test_another_kind_of_file_is_not_touched(content: bytes, tmp_path: Path) -> None:
    """Whatever it is, it is refused as it stands."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a results file"):
        ResultsFile(path, 2)
    assert path.read_bytes() == content


def test_lines_longer_than_a_block(tmp_path: Path) -> None:
    """A result may be larger than what is read at once."""
    path = tmp_path / "done"
    with ResultsFile(path, 2) as file:
        for index, size in enumerate([10, 1 << 20, 10]):
            file.append({"index": index, "content": "x" * size}, "x")
    with ResultsFile(path, 2) as file:
        for index, size in reversed(list(enumerate([10, 1 << 20, 10]))):
            answer = file.answer(record(index, None), "x")
            assert answer is not None
            assert len(answer["content"]) == size


def test_the_file_is_closed_after_a_refusal(tmp_path: Path) -> None:
    """No descriptor stays open, and no lock."""
    (tmp_path / "file").write_text("text\n")
    before = list(Path("/dev/fd").iterdir())
    with pytest.raises(BadInput):
        ResultsFile(tmp_path / "file", 2)
    assert list(Path("/dev/fd").iterdir()) == before
