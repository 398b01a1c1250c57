"""The header of a GGUF file, read without loading the model.

A file that is truncated, or is not a GGUF file, is detected by the header: every tensor must end inside the file.
Source: ggml-org/ggml, docs/gguf.md; ggml_type and llama_ftype of llama.cpp.
"""

import errno
import mmap
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from lmcli.errors import quoted

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32
MAX_DIMENSIONS: Final = 8
MAX_NESTING: Final = 4
# Far above those of real models; without limits, a valid header could be as long as its file, and take minutes to read.
MAX_ENTRIES: Final = 100_000
MAX_TENSORS: Final = 100_000
MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
MAX_ARRAY_ITEMS: Final = 10_000_000

_SCALARS: Final[Mapping[int, struct.Struct]] = {
    number: struct.Struct(f"<{code}")
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "?",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_STRING: Final = 8
_ARRAY: Final = 9
_COUNT: Final = _SCALARS[10]
_NUMBER: Final = _SCALARS[4]
# The smallest sizes in bytes, by which counts that exceed the file are detected.
_MIN_ENTRY_BYTES: Final = 13
_MIN_TENSOR_BYTES: Final = 24

# The types of tensors: weights per block, bytes per block.
BLOCKS: Final[Mapping[int, tuple[int, int]]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66),
    17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136),
    24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54),
    35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip

FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0",
}  # fmt: skip


class InvalidGGUF(Exception):
    """The file is not a valid GGUF file; the text is a predicate for the file."""


class Header(NamedTuple):
    """The header, which precedes the data of the tensors.

    Attributes:
        values: the metadata, without arrays such as the vocabulary.
        lengths: the lengths of the arrays.
        weights: the number of weights in all tensors.
        size_bytes: the size of the file.
    """

    values: Mapping[str, Any]
    lengths: Mapping[str, int]
    weights: int
    size_bytes: int

    @property
    def architecture(self) -> str:
        """The architecture, such as `llama`; empty if absent."""
        return self.text("general.architecture")

    def text(self, key: str) -> str:
        """A metadata value that is a string; empty if absent."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """A metadata value that is an integer; None if absent."""
        value = self.values.get(key)
        return value if type(value) is int else None

    def of_architecture(self, key: str) -> int | None:
        """An integer whose key starts with the architecture, such as `context_length`."""
        return self.number(f"{self.architecture}.{key}")


def read_header(path: Path) -> Header:
    """Read and validate a file's header.

    Raises:
        OSError: the file cannot be read, or is not a regular file: opening a device or a pipe may block.
        InvalidGGUF: it is not a valid GGUF file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InvalidGGUF("is empty") from error
        with content:
            try:
                return _Reader(content).header()
            except (struct.error, IndexError, OverflowError) as error:  # the last: an offset that exceeds a C integer
                raise InvalidGGUF("is truncated in its header") from error


class _Reader:
    """Reads a header from its beginning."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 0
        self._array_items = 0
        self._values: dict[str, Any] = {}
        self._lengths: dict[str, int] = {}

    def header(self) -> Header:
        self._check_begin()
        tensors = self._count(_MIN_TENSOR_BYTES, MAX_TENSORS)
        entries = self._count(_MIN_ENTRY_BYTES, MAX_ENTRIES)
        for _ in range(entries):
            self._entry()
        weights, end = 0, 0
        for _ in range(tensors):
            count, tensor_end = self._tensor()
            weights += count
            end = max(end, tensor_end)
        self._check_end(end)
        return Header(self._values, self._lengths, weights, len(self._content))

    def _check_begin(self) -> None:
        magic = self._content[: len(MAGIC)]
        if magic != MAGIC:
            raise InvalidGGUF("is not a GGUF file")
        self._at = len(MAGIC)
        version = self._scalar(_NUMBER)
        if version not in VERSIONS:
            raise InvalidGGUF(f"has the GGUF version {version}; only {' and '.join(map(str, VERSIONS))} are supported")

    def _check_end(self, end: int) -> None:
        alignment = self._values.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment % 8:
            raise InvalidGGUF("has an invalid alignment")
        start = -(-self._at // alignment) * alignment
        if end and start + end > len(self._content):
            raise InvalidGGUF(f"is truncated: {len(self._content)} bytes of at least {start + end}")

    def _scalar(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self._content, self._at)
        self._at += form.size
        return value

    def _count(self, min_bytes: int, limit: int | None = None) -> int:
        """Read the number of items that follow, each of at least so many bytes, and how many there may be."""
        count: int = self._scalar(_COUNT)
        if count * min_bytes > len(self._content) - self._at:
            raise InvalidGGUF("has a count that exceeds its size")
        if limit is not None and count > limit:
            raise InvalidGGUF(f"has a count of {count} where at most {limit} is supported")
        return count

    def _string(self) -> str:
        size = self._count(1, MAX_TEXT_BYTES)
        text = self._content[self._at : self._at + size]
        self._at += size
        return text.decode(errors="replace")

    def _entry(self) -> None:
        key = self._string()
        kind = self._scalar(_NUMBER)
        if kind == _ARRAY:
            self._lengths[key] = self._skip_array(1)
        elif kind == _STRING:
            self._values[key] = self._string()
        else:
            self._values[key] = self._scalar(_form(kind))

    def _skip_array(self, depth: int) -> int:
        kind = self._scalar(_NUMBER)
        if kind == _STRING:
            return self._skip_strings()
        if kind == _ARRAY:
            if depth == MAX_NESTING:
                raise InvalidGGUF("has arrays that are nested too deeply")
            count = self._items(12)
            for _ in range(count):
                self._skip_array(depth + 1)
            return count
        form = _form(kind)
        count = self._count(form.size)
        self._at += count * form.size
        return count

    def _items(self, min_bytes: int) -> int:
        """Read the number of items of an array that have to be read one by one, and count them over all arrays."""
        count = self._count(min_bytes, MAX_ARRAY_ITEMS - self._array_items)
        self._array_items += count
        return count

    def _skip_strings(self) -> int:
        """Skip an array of strings: the vocabulary has hundreds of thousands, so the loop is optimized."""
        count = self._items(_COUNT.size)
        content, at, size_at = self._content, self._at, _COUNT.unpack_from
        for _ in range(count):
            at += 8 + size_at(content, at)[0]
        if at > len(content):
            raise InvalidGGUF("is truncated in its header")
        self._at = at
        return count

    def _tensor(self) -> tuple[int, int]:
        """Read the description of a tensor; returns its number of weights, and its end after the header in bytes."""
        name = self._string()
        dimensions = self._scalar(_NUMBER)
        if dimensions > MAX_DIMENSIONS:
            raise InvalidGGUF(f"has a tensor of {dimensions} dimensions")
        count = 1
        for _ in range(dimensions):
            count *= self._scalar(_COUNT)
        kind, offset = self._scalar(_NUMBER), self._scalar(_COUNT)
        weights, size = BLOCKS.get(kind, (1, 0))  # of a type that is not in the table, only the offset is checked
        if count % weights:
            raise InvalidGGUF(f"has a tensor with an incomplete block: {quoted(name)}")
        return count, offset + count // weights * size


def _form(kind: int) -> struct.Struct:
    form = _SCALARS.get(kind)
    if form is None:
        raise InvalidGGUF(f"has a value of an unknown type: {kind}")
    return form
