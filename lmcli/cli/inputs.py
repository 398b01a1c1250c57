"""Typed words and stdin → what the model is asked. The rules of input are all here."""

import codecs
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import orjson

from lmcli.cli.document import Document, recognize
from lmcli.cli.options import InputForm, RespondOptions
from lmcli.cli.surroundings import Surroundings
from lmcli.cli.voice import Voice
from lmcli.client.waiting import Woken, wait
from lmcli.errors import BadInput, NoInput, UsageError, quoted, reason

_PATIENCE: Final = 2.0
_BLOCK: Final = 1 << 20


def read_turn(typed: RespondOptions, words: Sequence[str], here: Surroundings, voice: Voice) -> Document:
    """The conversation to continue: stdin as a history or a text, the words as the question at its end.

    Raises:
        NoInput: there is nothing to ask.
        BadInput: stdin is not UTF-8, or a history with a flaw.
    """
    question = joined(words)
    text = None if typed.no_stdin else read_stdin(here, voice, has_words=bool(words))
    history = None if text is None else _history(text, typed.input)
    if history is None:
        document = Document.of_text(_asked(None if text is None else _without_newline(text), question))
    else:
        document = _continued(history, question)
    system = system_prompt(typed)
    document = document if system is None else document.with_system(system)
    document.chat()  # a flaw is reported before anything is sent
    return document


def read_text(words: Sequence[str], here: Surroundings, voice: Voice, *, no_stdin: bool) -> str:
    """The text to continue: stdin exactly as it is, then the words.

    Raises:
        NoInput: there is nothing to continue.
        BadInput: stdin is not UTF-8.
    """
    text = None if no_stdin else read_stdin(here, voice, has_words=bool(words))
    return _asked(text, joined(words))


def read_stdin(here: Surroundings, voice: Voice, *, has_words: bool) -> str | None:
    """All of stdin; None where it is a terminal.

    Raises:
        BadInput: it is not UTF-8; the message names the byte.
        NoInput: it cannot be read.
    """
    if here.stdin_is_terminal:
        return None
    blocks: list[bytes] = []
    try:
        if has_words and here.stderr_is_terminal and wait(here.stdin, timeout=_PATIENCE) is Woken.TIMED_OUT:
            voice.note("waiting for stdin (-n to skip)")
        while block := os.read(here.stdin, _BLOCK):
            blocks.append(block)
    except OSError as error:
        raise NoInput(f"cannot read stdin: {reason(error)}", "-n does not read it") from error
    return decoded(b"".join(blocks), "stdin")


def decoded(data: bytes, name: str) -> str:
    """Bytes as text, a byte order mark dropped.

    Raises:
        BadInput: they are not UTF-8.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}", "iconv -t UTF-8 converts it"
        ) from error


def joined(words: Sequence[str]) -> str:
    """The words of the argument as one text.

    Raises:
        BadInput: they are not UTF-8.
    """
    text = " ".join(words)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"the prompt is not UTF-8: {quoted(text, limit=60)}") from error
    return text


def system_prompt(typed: RespondOptions) -> str | None:
    """The system prompt that was given, as text or as a file.

    Raises:
        UsageError: both were.
        NoInput, BadInput: the file cannot be read.
    """
    if typed.system_file is None:
        return None if typed.system is None else joined([typed.system])
    if typed.system is not None:
        raise UsageError("--system and --system-file exclude each other")
    return _without_newline(read_file(typed.system_file))


def read_file(path: Path) -> str:
    """A file as text.

    Raises:
        NoInput: it cannot be read.
        BadInput: it is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NoInput(f"cannot read {quoted(path)}: {reason(error)}") from error
    return decoded(data, quoted(path))


def parse_json(text: str, name: str) -> Any:
    """JSON as a value.

    Raises:
        BadInput: with line and column.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{name} is no JSON: {where}: {error.msg.partition(':')[0]}") from error


def _history(text: str, form: InputForm) -> Document | None:
    if form is InputForm.TEXT:
        return None
    if form is InputForm.JSON:
        return _must_be_history(parse_json(text, "stdin"))
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return recognize(value)


def _must_be_history(value: Any) -> Document:
    document = recognize(value)
    if document is None:
        raise BadInput(
            "stdin is no chat history", 'a chat history looks like {"messages": [{"role": "user", "content": "hi"}]}'
        )
    return document


def _continued(history: Document, question: str) -> Document:
    if question:
        return history.with_entry({"role": "user", "content": question})
    if history.entries[-1].get("role") == "assistant":
        raise BadInput("the history ends with an answer", "give the next question as an argument")
    return history


def _asked(text: str | None, question: str) -> str:
    if not text:
        if not question:
            missing = "there is no prompt" if text is None else "stdin is empty"
            raise NoInput(f"nothing to ask: {missing}", "give the prompt on stdin or as an argument")
        return question
    if not question:
        return text
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}\n{question}"


def _without_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
