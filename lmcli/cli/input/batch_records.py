"""Records of a batch: stdin split as it is needed, each record parsed by itself."""

import os
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Final, NamedTuple

import orjson

from lmcli.cli.choices import Each
from lmcli.cli.input.document import Document, recognize
from lmcli.cli.input.incoming import decoded
from lmcli.cli.json_text import parse_json
from lmcli.client.waiting import Interrupt, Woken, wait
from lmcli.errors import BadInput, NoInput, quoted, reason

RecordId = str | int | float

_BLOCK_BYTES: Final = 1 << 16
_COUNTED_BYTES: Final = 1 << 30
_THIS: Final = "the record"
_FORMS: Final = "a record is a text, a chat history, or an object with prompt or messages, and id and config if need be"


class BatchRecord(NamedTuple):
    """One record of the input.

    Attributes:
        position: its number, from 0.
        subject: a text or a history.
        content: what is asked for, as bytes; equal for two records that ask for the same, whatever their ids.
        id: its own name, if it has one.
        config: sampling options for this record only, under the SDK's names.
        error: why it cannot be read, if it cannot.
    """

    position: int
    subject: Document | str
    content: bytes
    id: RecordId | None = None
    config: Mapping[str, Any] | None = None
    error: BadInput | None = None

    @property
    def name(self) -> str:
        """The record in a message: its number, counted from 1, and its id."""
        shown = quoted(self.id, limit=60) if isinstance(self.id, str) else self.id
        return f"record {self.position + 1}" + ("" if self.id is None else f" (id {shown})")


class Splitter:
    """Splits bytes that come in blocks into the bytes of records, without their byte order marks.

    Blank lines are passed over, as xargs does.
    """

    def __init__(self, each: Each) -> None:
        self._takes_blank = each is Each.NUL
        self._separator = b"\0" if each is Each.NUL else b"\n"
        self._partial: list[bytes] = []

    def feed(self, block: bytes) -> list[bytes]:
        """The records that a block completes."""
        first, *others = block.split(self._separator)
        self._partial.append(first)
        if not others:
            return []
        whole = [b"".join(self._partial), *others[:-1]]
        self._partial = others[-1:]
        return self._stripped(whole)

    def end(self) -> list[bytes]:
        """The last record, if no separator followed it."""
        rest, self._partial = b"".join(self._partial), []
        return self._stripped([rest]) if rest else []

    def _stripped(self, records: list[bytes]) -> list[bytes]:
        records = [record.removeprefix(BOM_UTF8) for record in records]
        return records if self._takes_blank else [record for record in records if record and not record.isspace()]


class RecordReader:
    """Reads records from a descriptor, no more than it is asked for.

    Args:
        descriptor: where the records come from.
        each: how they are separated.

    Attributes:
        is_at_end: the input has ended; records may be left to take.
    """

    def __init__(self, descriptor: int, each: Each) -> None:
        self.is_at_end = False
        self._descriptor = descriptor
        self._parse = _PARSERS[each]
        self._splitter = Splitter(each)
        self._unparsed: deque[bytes] = deque()
        self._count = 0

    @property
    def count(self) -> int:
        """How many records were read, taken or not."""
        return self._count + len(self._unparsed)

    @property
    def waiting_count(self) -> int:
        """How many records were read and not taken."""
        return len(self._unparsed)

    def wait(self, interrupts: Sequence[Interrupt]) -> None:
        """Wait for something to read, or an interrupt."""
        if not self._unparsed:
            wait(self._descriptor, interrupts=interrupts)

    @property
    def can_read(self) -> bool:
        """Whether there is something to read without waiting, or the end."""
        return wait(self._descriptor, timeout=0) is Woken.READY

    def read(self) -> None:
        """Read a block; waits if nothing is there.

        Raises:
            NoInput: the input cannot be read.
        """
        try:
            block = os.read(self._descriptor, _BLOCK_BYTES)
        except BlockingIOError:  # another process made the shared pipe non-blocking
            return
        except OSError as error:
            raise NoInput(f"cannot read stdin: {reason(error)}") from error
        self.is_at_end = not block
        self._unparsed.extend(self._splitter.feed(block) if block else self._splitter.end())

    def take(self) -> BatchRecord | None:
        """The next record; None if no complete one was read."""
        if not self._unparsed:
            return None
        data = self._unparsed.popleft()
        position, self._count = self._count, self._count + 1
        try:
            return self._parse(position, data)
        except BadInput as error:
            return BatchRecord(position, "", data, error=error)


def count_records(descriptor: int, each: Each) -> int | None:
    """How many records are left in a file; None if it is very large, or is not one that can be read twice."""
    try:
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError:  # a pipe or a terminal
        return None
    if os.fstat(descriptor).st_size - position > _COUNTED_BYTES:
        return None
    splitter, count = Splitter(each), 0
    while block := os.pread(descriptor, _BLOCK_BYTES, position):
        position += len(block)
        count += len(splitter.feed(block))
    return count + len(splitter.end())


def _text(data: bytes) -> str:
    """Decode a record.

    Raises:
        BadInput: it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "".join(decoded([data], _THIS))  # says where the error is


def _line_record(position: int, data: bytes) -> BatchRecord:
    return BatchRecord(position, _text(data.removesuffix(b"\r")), data)


def _text_record(position: int, data: bytes) -> BatchRecord:
    return BatchRecord(position, _text(data), data)


def _json_record(position: int, data: bytes) -> BatchRecord:
    """Parse a line: a text, a history, or an object with `prompt` or `messages`.

    Raises:
        BadInput: it is not valid JSON.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        value = parse_json(_text(data), _THIS)  # says where the error is
    content, name, config = data, None, None
    try:
        if isinstance(value, dict):
            content = _content(value, data)
            name = _id(value)
            config = _config(value)
        return BatchRecord(position, _subject(value), content, name, config)
    except BadInput as error:
        return BatchRecord(position, "", content, name, config, error)


_PARSERS: Final = {Each.LINE: _line_record, Each.NUL: _text_record, Each.JSONL: _json_record}


def _id(value: dict[str, Any]) -> RecordId | None:
    name = value.get("id")
    if type(name) not in (str, int, float, NoneType):
        raise BadInput("id: expected a text or a number")
    return name


def _config(value: dict[str, Any]) -> dict[str, Any] | None:
    config = value.get("config")
    if type(config) not in (dict, NoneType):
        raise BadInput("config: expected an object of sampling options")
    return config


def _subject(value: Any) -> Document | str:
    """The text or history of a record."""
    if isinstance(value, dict) and ("prompt" in value) == ("messages" in value):
        raise BadInput("expected either prompt or messages", _FORMS)
    subject = value["prompt"] if isinstance(value, dict) and "prompt" in value else value
    if isinstance(subject, str):
        return subject
    try:
        document = recognize(value) if subject is value else None
    except BadInput as error:
        raise BadInput(error.message) from error  # without its hint, which is an option for a single input
    if document is None:
        raise BadInput("neither a text nor a chat history", _FORMS)
    return document


def _content(value: dict[str, Any], data: bytes) -> bytes:
    """The record without its id, in one order of its keys."""
    try:
        return orjson.dumps({k: v for k, v in value.items() if k != "id"}, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # a number beyond 64 bits
        return data
