"""Whatever a file, a variable or a server holds: its reader gives a value or an error of `lmcli`, and nothing else."""

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from properties import examples, garbled
from readers import READERS, Reader

from lmcli.errors import LmError

BRIEFLY = examples(40, HealthCheck.too_slow)
_SPLICES = [
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"\r",
]


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of which a part is gone, or something else."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, min(len(data), start + 8)))
    return data[:start] + draw(st.sampled_from(_SPLICES) | st.binary(max_size=6)) + data[end:]


@st.composite
def inputs(draw: st.DrawFn, reader: Reader) -> bytes:
    """Something like what a reader expects."""
    sample = draw(st.sampled_from(list(reader.samples)))
    try:
        value = json.loads(sample)
    except ValueError:
        return draw(damaged(sample) | st.binary(max_size=60))
    return draw(
        damaged(sample) | garbled(value).map(lambda changed: json.dumps(changed).encode()) | st.binary(max_size=30)
    )


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_a_reader_reads_its_samples(reader: Reader) -> None:
    """So that what is made of them is near to what is valid."""
    for sample in reader.samples:
        reader.read(sample)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_any_bytes_are_read_or_refused(reader: Reader) -> None:
    """No exception but the project's own, whose message is one line that can be printed."""

    @BRIEFLY
    @given(inputs(reader))
    def check(data: bytes) -> None:
        try:
            reader.read(data)
        except LmError as error:
            for line in (error.message, *error.hints):
                assert "\n" not in line
                line.encode()

    check()
