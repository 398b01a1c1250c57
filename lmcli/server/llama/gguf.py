"""What a GGUF file says about itself, read without loading it.

Also tells a file that is cut short or was never one, by its header alone: every tensor must lie inside of the file.
Knows nothing of any engine.
Source: ggml-org/ggml, docs/gguf.md; ggml_type and llama_ftype of llama.cpp.
"""

import errno
import mmap
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32
MAX_DIMENSIONS: Final = 8
MAX_NESTING: Final = 4

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
# The least that an entry can take, in bytes: what counts promise more than the file holds is a lie.
_LEAST_ENTRY: Final = 13
_LEAST_TENSOR: Final = 24

# How tensors are stored: weights in a block, bytes of a block.
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
    """The file is no GGUF, or not all of one; the text says in what way, in the middle of a sentence."""


class Header(NamedTuple):
    """What stands before the tensors' data.

    Attributes:
        values: the metadata that is one value each; arrays, such as the vocabulary, are left out.
        lengths: how long the arrays are.
        weights: how many numbers all tensors have together.
        size_bytes: of the file.
    """

    values: Mapping[str, Any]
    lengths: Mapping[str, int]
    weights: int
    size_bytes: int

    @property
    def architecture(self) -> str:
        """The family of models, such as `llama`; empty where the file does not say."""
        return self.text("general.architecture")

    def text(self, key: str) -> str:
        """A metadata value that is text; empty where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """A metadata value that is a whole number; None where there is none."""
        value = self.values.get(key)
        return value if type(value) is int else None

    def of_architecture(self, key: str) -> int | None:
        """A whole number that is kept under the architecture's name, such as `context_length`."""
        return self.number(f"{self.architecture}.{key}")


def read_header(path: Path) -> Header:
    """Read and check a file's header.

    Raises:
        OSError: the file cannot be read, or is a device or a pipe: opening one may wait for ever.
        Damaged: it is no GGUF, or not all of one.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    with path.open("rb") as file:
        try:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise InvalidGGUF("is empty") from error
        with content:
            try:
                return _Reader(content).header()
            except (struct.error, IndexError, OverflowError) as error:  # the last: an offset beyond all memory
                raise InvalidGGUF("ends in the middle of its header") from error


class _Reader:
    """Walks through a header."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._at = 0
        self._values: dict[str, Any] = {}
        self._lengths: dict[str, int] = {}

    def header(self) -> Header:
        self._begin()
        tensors, entries = self._count(_LEAST_TENSOR), self._count(_LEAST_ENTRY)
        for _ in range(entries):
            self._entry()
        weights, end = 0, 0
        for _ in range(tensors):
            count, tensor_end = self._tensor()
            weights += count
            end = max(end, tensor_end)
        self._check_end(end)
        return Header(self._values, self._lengths, weights, len(self._content))

    def _begin(self) -> None:
        magic = self._content[: len(MAGIC)]
        if magic != MAGIC:
            raise InvalidGGUF("is no GGUF file")
        self._at = len(MAGIC)
        version = self._scalar(_NUMBER)
        if version not in VERSIONS:
            raise InvalidGGUF(f"has the GGUF version {version}, and only {' and '.join(map(str, VERSIONS))} are known")

    def _check_end(self, end: int) -> None:
        alignment = self._values.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment % 8:
            raise InvalidGGUF("has an alignment that cannot be")
        start = -(-self._at // alignment) * alignment
        if end and start + end > len(self._content):
            raise InvalidGGUF(f"is cut short: {len(self._content)} bytes of at least {start + end}")

    def _scalar(self, form: struct.Struct) -> Any:
        (value,) = form.unpack_from(self._content, self._at)
        self._at += form.size
        return value

    def _count(self, least: int) -> int:
        """How many things follow, of at least so many bytes each."""
        count: int = self._scalar(_COUNT)
        if count * least > len(self._content) - self._at:
            raise InvalidGGUF("promises more than it holds")
        return count

    def _string(self) -> str:
        size = self._count(1)
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
                raise InvalidGGUF("has arrays in arrays without end")
            count = self._count(12)
            for _ in range(count):
                self._skip_array(depth + 1)
            return count
        form = _form(kind)
        count = self._count(form.size)
        self._at += count * form.size
        return count

    def _skip_strings(self) -> int:
        """Pass over the vocabulary: hundreds of thousands of strings, so the loop is bare."""
        count = self._count(_COUNT.size)
        content, at, size_at = self._content, self._at, _COUNT.unpack_from
        for _ in range(count):
            at += 8 + size_at(content, at)[0]
        if at > len(content):
            raise InvalidGGUF("ends in the middle of its header")
        self._at = at
        return count

    def _tensor(self) -> tuple[int, int]:
        """Read where a tensor is; gives how many weights it has, and where it ends after the header, in bytes."""
        name = self._string()
        dimensions = self._scalar(_NUMBER)
        if dimensions > MAX_DIMENSIONS:
            raise InvalidGGUF(f"has a tensor of {dimensions} dimensions")
        count = 1
        for _ in range(dimensions):
            count *= self._scalar(_COUNT)
        kind, offset = self._scalar(_NUMBER), self._scalar(_COUNT)
        weights, size = BLOCKS.get(kind, (1, 0))  # a kind newer than this table has at least a beginning
        if count % weights:
            raise InvalidGGUF(f"has a tensor with half a block: {name}")
        return count, offset + count // weights * size


def _form(kind: int) -> struct.Struct:
    form = _SCALARS.get(kind)
    if form is None:
        raise InvalidGGUF(f"has a value of an unknown type: {kind}")
    return form
