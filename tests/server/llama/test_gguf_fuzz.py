"""Any bytes as the header of a GGUF file: it is valid or invalid, and read in bounded time and memory.

A longer run, guided by coverage where atheris is installed: python tests/fuzz_gguf.py SECONDS
"""

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from fuzz_gguf import STRING, header, mutated, text, try_to_read
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.server.llama.gguf import MAX_ARRAY_ITEMS, MAX_ENTRIES, MAX_TENSORS, MAX_TEXT_BYTES, InvalidGGUF, read_header


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to overwrite."""
    return tmp_path_factory.mktemp("gguf") / "any.gguf"


@QUICK
@given(content=st.binary(max_size=400))
def test_any_bytes(file: Path, content: bytes) -> None:
    """Bytes that are not a header are invalid, also after a valid beginning."""
    try_to_read(file, content)
    try_to_read(file, b"GGUF" + struct.pack("<I", 3) + content)


@QUICK
@given(random=st.randoms(use_true_random=False))
def test_any_mutation(file: Path, random: Any) -> None:
    """A valid header with some bytes changed, or with an extreme number."""
    try_to_read(file, mutated(random))


def test_valid_header_is_valid(file: Path) -> None:
    """What is mutated is a valid header."""
    file.write_bytes(header())
    assert read_header(file).architecture == "llama"


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (struct.pack("<QQ", 0, MAX_ENTRIES + 1), MAX_ENTRIES),
        (struct.pack("<QQ", MAX_TENSORS + 1, 0), MAX_TENSORS),
        (struct.pack("<QQQ", 0, 1, MAX_TEXT_BYTES + 1), MAX_TEXT_BYTES),
        (struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, STRING, MAX_ARRAY_ITEMS + 1), MAX_ARRAY_ITEMS),
        (struct.pack("<QQ", 0, 1) + text("a") + struct.pack("<IIQ", 9, 9, MAX_ARRAY_ITEMS + 1), MAX_ARRAY_ITEMS),
    ],
    ids=["entries", "tensors", "text", "strings", "arrays"],
)
def test_long_header_is_not_read(file: Path, content: bytes, limit: int) -> None:
    """A file of many gigabytes may have room for a header that takes minutes to read; its counts are bounded."""
    file.write_bytes(b"GGUF" + struct.pack("<I", 3) + content)
    with file.open("r+b") as sparse:
        sparse.truncate(1 << 34)
    tracemalloc.start()
    with pytest.raises(InvalidGGUF, match=f"at most {limit} "):
        read_header(file)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    file.unlink()
