"""Records are the same however their bytes arrive."""

import os
from itertools import pairwise
from tempfile import TemporaryFile

from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.choices import Each
from lmcli.cli.input.batch_records import BatchRecord, RecordReader, Splitter, count_records

BOM = b"\xef\xbb\xbf"
PIECES = st.sampled_from([b"a", b" ", b"\r", b"\n", b"\n\n", b"\0", BOM, b'{"prompt": 1}', "é🦉".encode(), b"\xff"])
INPUTS = st.lists(PIECES, max_size=20).map(b"".join)


@st.composite
def blocks(draw: st.DrawFn) -> list[bytes]:
    """An input, cut anywhere."""
    data = draw(INPUTS)
    cuts = [0, *sorted(draw(st.lists(st.integers(0, len(data)), max_size=6))), len(data)]
    return [data[start:end] for start, end in pairwise(cuts) if start < end]


def split(each: Each, blocks: list[bytes]) -> list[bytes]:
    """The records in some blocks."""
    splitter = Splitter(each)
    return [record for block in blocks for record in splitter.feed(block)] + splitter.end()


@QUICK
@given(st.sampled_from(Each), blocks())
def test_the_blocks_do_not_matter(each: Each, blocks: list[bytes]) -> None:
    """Any split into blocks gives the records of the whole: what is between separators, without blank lines."""
    whole = b"".join(blocks)
    parts = whole.split(b"\0" if each is Each.NUL else b"\n")
    parts = parts if parts[-1] else parts[:-1]
    records = [part.removeprefix(BOM) for part in parts]
    if each is not Each.NUL:
        records = [record for record in records if record.strip()]
    assert split(each, blocks) == split(each, [whole] if whole else []) == records


@QUICK
@given(st.sampled_from(Each), INPUTS)
def test_the_number_of_records_in_a_file(each: Each, data: bytes) -> None:
    """They are counted without being taken, and it is the number that is taken; each has its place."""
    with TemporaryFile(buffering=0) as file:
        file.write(data)
        file.seek(0)
        count = count_records(file.fileno(), each)
        assert file.tell() == 0
        records = taken(RecordReader(file.fileno(), each))
    assert [record.position for record in records] == list(range(len(records)))
    assert len(records) == count


def taken(reader: RecordReader) -> list[BatchRecord]:
    """All records of a reader."""
    records = []
    while not (reader.is_at_end and not reader.waiting_count):
        if (record := reader.take()) is None:
            reader.read()
        else:
            records.append(record)
    return records


def test_no_more_is_read_than_is_asked_for() -> None:
    """One block at a time is taken from the pipe: what follows it stays there."""
    reading, writing = os.pipe()
    os.write(writing, b"one\ntwo\nthr")
    reader = RecordReader(reading, Each.LINE)
    assert reader.take() is None
    assert reader.can_read
    reader.read()
    os.write(writing, b"ee\n")
    assert [record.subject for record in iter(reader.take, None)] == ["one", "two"]
    assert os.read(reading, 100) == b"ee\n"
    for descriptor in (reading, writing):
        os.close(descriptor)


def test_a_pipe_has_no_number_of_records() -> None:
    """What can be read only once is not counted."""
    reading, writing = os.pipe()
    assert count_records(reading, Each.LINE) is None
    for descriptor in (reading, writing):
        os.close(descriptor)
