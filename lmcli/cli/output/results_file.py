"""The file that keeps the results of a batch: a JSON line for each finished record, on disk before it counts as done.

Lines are only ever appended, each in one write, and made durable together: one `fdatasync` for all that were appended
since the last. A line that a crash has torn is cut off when the file is opened again.
"""

import fcntl
import os
import re
import stat
from array import array
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import NoneType
from typing import Final, get_args

import orjson

from lmcli.cli.input.batch_records import BatchRecord, RecordId
from lmcli.cli.input.chat_file import sync_folder
from lmcli.cli.json_text import dump_json, load_json
from lmcli.cli.output.stdout import output_failure
from lmcli.closing import Closing
from lmcli.errors import BadInput, InUse, LmError, OutputFailed, quoted
from lmcli.values import JsonObject

LATEST_SYNC: Final = 0.1
"""How many seconds a line may wait to be made durable together with others."""

_INPUT: Final = "input"
_NOT_PARSED: Final = b'"parsed":null,'
_ID_TYPES: Final = (NoneType, *get_args(RecordId))
_FIRST_KEY: Final = b'{"index":'
_BLOCK_BYTES: Final = 1 << 18
_FREE: Final = -2
_64_BITS: Final = (1 << 64) - 1
_sync: Final = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class ResultsFile(Closing):
    """Results by record: those of earlier runs, and those that are appended.

    Args:
        path: the file, which need not exist.
        stdout: the descriptor of stdout, which must be another file.

    Raises:
        InUse: another process has locked it.
        BadInput: it is not a results file; it is unchanged.
        OutputFailed: it cannot be opened.
    """

    def __init__(self, path: Path, stdout: int) -> None:
        self._name = quoted(path)
        self._places = _Places()
        self._block, self._block_at = b"", 0
        self._unsynced_since: float | None = None
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise output_failure(self._name, error) from error
        try:
            self._lock(stdout)
            self._size = self._read_lines()
            os.ftruncate(self._descriptor, self._size)
            if not self._size:
                sync_folder(path.absolute().parent)  # a new file is durable with the folder that lists it
        except OSError as error:
            self.close()
            raise output_failure(self._name, error) from error
        except LmError:
            self.close()
            raise

    @property
    def is_due(self) -> bool:
        """Whether appended lines have waited long enough for `sync`."""
        return self._unsynced_since is not None and monotonic() - self._unsynced_since >= LATEST_SYNC

    def answer(self, record: BatchRecord, digest: str) -> JsonObject | None:
        """The result of a record from an earlier run, with the index of this run; None if there is none for its input.

        Raises:
            OutputFailed: the file cannot be read any more.
        """
        line = self._line_of(record)
        if line is None:
            return None
        # Only JSON of a model may hold integers beyond 64 bits; everywhere else the fast parser is as exact.
        result: JsonObject = orjson.loads(line) if _NOT_PARSED in line else load_json(line.decode())
        if result.pop(_INPUT) != digest or result.get("id") != record.id:
            return None
        result["index"] = record.position
        return result

    def line(self, record: BatchRecord, digest: str) -> bytes | None:
        """The result of a record from an earlier run as a line of JSON, without its input.

        None if there is none, or if it does not begin and end as `append` writes it for this record: then `answer` may
        have one.

        Raises:
            OutputFailed: the file cannot be read any more.
        """
        line = self._line_of(record)
        if line is None:
            return None
        names = {"index": record.position} | ({} if record.id is None else {"id": record.id})
        begin, end = dump_json(names).removesuffix(b"}\n"), b',"%s":"%s"}' % (_INPUT.encode(), digest.encode())
        is_own = line.startswith(begin + b',"content":') and line.endswith(end)
        is_safe = line.isascii() and b"\x7f" not in line  # others could control a terminal
        return line.removesuffix(end) + b"}\n" if is_own and is_safe else None

    def append(self, result: JsonObject, digest: str) -> None:
        """Append the result of a record.

        Raises:
            OutputFailed: it could not be written; the file is as it was before.
        """
        line = memoryview(dump_json(result | {_INPUT: digest}))
        size = len(line)
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise output_failure(self._name, error) from error
        self._size += size
        if self._unsynced_since is None:
            self._unsynced_since = monotonic()

    def sync(self) -> None:
        """Make what was appended durable.

        Raises:
            OutputFailed: the disk refuses.
        """
        if self._unsynced_since is None:
            return
        self._unsynced_since = None
        try:
            _sync(self._descriptor)
        except OSError as error:
            raise output_failure(self._name, error) from error

    def close(self) -> None:
        """Close and unlock the file."""
        os.close(self._descriptor)

    def _lock(self, stdout: int) -> None:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OutputFailed(f"cannot keep results in {self._name}: not a regular file")
        if os.path.samestat(status, os.fstat(stdout)):
            raise OutputFailed(f"cannot keep results in {self._name}: stdout is written to the same file")
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(f"the results file {self._name} is in use by another process") from error

    def _read_lines(self) -> int:
        """Note where the answer of each record is; return where the last whole line ends.

        The last line of a record counts; one with an error is not an answer.

        Raises:
            BadInput: this is another kind of file.
        """
        end, put = 0, self._places.put
        with open(self._descriptor, "rb", buffering=_BLOCK_BYTES, closefd=False) as file:
            for number, line in enumerate(file, start=1):
                if line[-1:] != b"\n" and _is_torn(line, is_first=number == 1):
                    break
                try:
                    key, is_answer = _entry(line)
                except ValueError as error:
                    hint = "--results takes a new file, or one that a batch has written"
                    message = f"{self._name} is not a results file: line {number} is not a result"
                    raise BadInput(message, hint) from error
                put(key, end if is_answer else -1)
                end += len(line)
        return end

    def _line_of(self, record: BatchRecord) -> bytes | None:
        """The line with the answer of a record; None if it has none."""
        place = self._places.get(_key(record.position, record.id))
        return None if place < 0 else self._line_at(place)

    def _line_at(self, offset: int) -> bytes:
        """A line of the file; read in blocks, because neighbours are usually asked for one after the other."""
        start = offset - self._block_at
        end = self._block.find(b"\n", start) if 0 <= start < len(self._block) else -1
        size = _BLOCK_BYTES
        while end < 0:
            self._block, self._block_at, start = os.pread(self._descriptor, size, offset), offset, 0
            end = self._block.find(b"\n")
            size *= 2
        return self._block[start:end]


class _Places:
    """Places in a file by key: a hash table in two arrays, because a batch may have millions of records.

    Keys are told apart by their 64-bit hash alone; the line at the place holds the key itself.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mask = 7
        self._hashes = array("q", [0]) * 8
        self._values = array("q", [_FREE]) * 8

    def get(self, key: int | str) -> int:
        """The place of a key; negative if it has none."""
        return self._values[self._slot(hash(key))]

    def put(self, key: int | str, place: int) -> None:
        """Note the place of a key; -1 takes it away."""
        hashed = hash(key)
        slot = self._slot(hashed)
        is_new = self._values[slot] == _FREE
        self._hashes[slot], self._values[slot] = hashed, place
        if is_new:
            self._count += 1
            if self._count * 2 > self._mask:
                self._grow()

    def _slot(self, hashed: int) -> int:
        """Where a hash is, or belongs.

        Indexes stand side by side. What meets them there is sent far away, as in Python's dictionaries: the next free
        slot may be as far as there are indexes.
        """
        hashes, values, mask = self._hashes, self._values, self._mask
        slot = hashed & mask
        if hashes[slot] == hashed or values[slot] == _FREE:
            return slot
        rest = hashed & _64_BITS
        while values[slot] != _FREE and hashes[slot] != hashed:
            rest >>= 5
            slot = (5 * slot + rest + 1) & mask
        return slot

    def _grow(self) -> None:
        old = zip(self._hashes, self._values, strict=True)
        self._hashes, self._values = self._hashes * 2, array("q", [_FREE]) * (2 * len(self._values))
        self._mask = len(self._values) - 1
        for hashed, value in old:
            if value != _FREE:
                slot = self._slot(hashed)
                self._hashes[slot], self._values[slot] = hashed, value


def _key(index: int, name: RecordId | None) -> int | str:
    """What a result is found by: its id, else its index. Texts alone have hashes that differ: -1 has that of -2."""
    return index if name is None else repr(name)


def _entry(line: bytes) -> tuple[int | str, bool]:
    """What the result in a line is found by, and whether it is an answer, not an error.

    Raises:
        ValueError: it is not a result.
    """
    result = orjson.loads(line)
    try:
        index, name = result["index"], result.get("id")
        is_result = type(index) is int and type(result[_INPUT]) is str and type(name) in _ID_TYPES
    except (KeyError, TypeError) as error:  # it has other keys, or none
        raise ValueError from error
    if not is_result:
        raise ValueError
    return _key(index, name), "error" not in result


def _is_torn(line: bytes, *, is_first: bool) -> bool:
    """Whether a last line without a newline is a result, or the beginning of one.

    A machine that crashed may have left zeros in place of the rest. A file of nothing but zeros is something else, and
    so is one that holds other JSON: the beginning of an object is not valid.
    """
    text = line.rstrip(b"\0")
    if not text:
        return not is_first
    try:
        _entry(text)
    except orjson.JSONDecodeError:
        return _FIRST_KEY.startswith(text) or re.match(_FIRST_KEY + rb"\d", text) is not None
    except ValueError:
        return False
    return True
