"""Typed words and stdin → what the model is asked. The rules of input are all here."""

import codecs
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from lmcli.cli.choices import InputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.document import Document, recognize
from lmcli.cli.jsontext import parse_json, read_json
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions, RespondOptions, StatsOptions, SystemOptions
from lmcli.client.images import data_url, is_image
from lmcli.client.waiting import Woken, wait
from lmcli.errors import BadInput, NoInput, UsageError, quoted, reason
from lmcli.values import JsonObject

TurnInput = RespondOptions | ChatOptions | StatsOptions

_PATIENCE: Final = 2.0
_BLOCK: Final = 1 << 20
_NONE_MEANT: Final = " (-n if none was meant)"
_STDIN: Final = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_DESCRIPTORS: Final = ("/dev/fd/*", "/proc/*/fd/*")


def read_turn(options: TurnInput, words: Sequence[str], env: Environment, messages: Messages) -> Document:
    """The conversation to continue: stdin as a history or a text, then the files, the words as the question at its end.

    Raises:
        NoInput: there is nothing to ask.
        BadInput: stdin or a file is not UTF-8, or a history has a flaw.
    """
    asked = read_asked(options, words, env, messages)
    document = asked.document if asked.document is not None else Document.new()
    system = system_prompt(options)
    document = document if system is None else document.with_system(system)
    if asked.entry is not None:
        document = document.with_entry(asked.entry)
    document.chat()  # a flaw is reported before anything is sent
    return document


class Asked(NamedTuple):
    """What was asked: a history, if stdin holds one, and the next user message, if there is one."""

    document: Document | None
    entry: JsonObject | None


def read_asked(options: TurnInput, words: Sequence[str], env: Environment, messages: Messages) -> Asked:
    """What stdin, files and words ask together.

    Raises:
        NoInput: nothing at all.
        BadInput: see `read_turn`.
    """
    attached = Attachments.read(options.file or (), env, messages)
    question = attached.before(joined(words))
    is_taken = options.no_stdin or any(map(_is_stdin, options.file or ()))
    text = None if is_taken else read_stdin(env, messages, has_words=bool(words))
    history = None if text is None else _history(text, options.input)
    if history is None:
        told = None if text is None else _without_newline(text)
        asked = _asked(told or "", question, is_enough=bool(attached.images))
        _warn_if_empty(told, env, messages, _NONE_MEANT)
        return Asked(None, attached.entry(asked))
    if question or attached.images:
        return Asked(history, attached.entry(question))
    if history.entries[-1].get("role") == "assistant":
        raise BadInput("the history ends with an answer", "give the next question as an argument")
    return Asked(history, None)


class Attachments(NamedTuple):
    """Files that go with a question: texts, each under its name, and the parts that stand for images."""

    texts: tuple[str, ...] = ()
    images: tuple[JsonObject, ...] = ()

    @classmethod
    def read(cls, paths: Sequence[Path], env: Environment, messages: Messages) -> "Attachments":
        """Read files by their content, each once; stdin is one of them under the name `-`.

        Raises:
            UsageError: stdin is named twice.
            NoInput: one cannot be read.
            BadInput: one is neither text nor an image that LM Studio takes.
        """
        if sum(map(_is_stdin, paths)) > 1:
            raise UsageError("-f names stdin twice, and it can be read only once")
        read = [_attachment(path, env, messages) for path in paths]
        return cls(tuple(a for a in read if isinstance(a, str)), tuple(a for a in read if isinstance(a, dict)))

    def before(self, question: str) -> str:
        """The texts and the question after them, one blank line between."""
        texts = [text if text.endswith("\n") else f"{text}\n" for text in self.texts]
        return "\n".join([*texts, question] if question else texts)

    def entry(self, text: str) -> JsonObject:
        """A user message: a bare text, or with images an array of parts, the text first."""
        parts = [{"type": "text", "text": text}] if text else []
        return {"role": "user", "content": [*parts, *self.images] if self.images else text}


def _attachment(path: Path, env: Environment, messages: Messages) -> str | JsonObject:
    data = _content(path, env, messages)
    name = "stdin" if _is_stdin(path) else os.fsencode(path.name).decode(errors="replace")
    if is_image(data):
        # The keys are those of the wire, so that other programs can read the history; `path` is what `lm` goes by.
        named = {"type": "file", "name": name, "identifier": name, "sizeBytes": len(data)}
        return {**named, "fileType": "image", "path": _source(path, data)}
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise BadInput(f"{quoted(path)} is neither UTF-8 text nor a JPEG, PNG or WebP image") from error
    return f"{name}:\n\n{text}"


def _content(path: Path, env: Environment, messages: Messages) -> bytes:
    if _is_stdin(path):
        data = _stdin_bytes(env)
        _warn_if_empty(data, env, messages)
        return data
    if path.parts[:1] in (("http:",), ("https:",)) and not path.exists():
        url = str(path).replace("/", "//", 1)  # a path has lost one of the two
        hint = "curl -sL URL | lm respond -f - attaches what it fetches"
        raise NoInput(f"cannot read {quoted(url)}: nothing is fetched from elsewhere", hint)
    return read_bytes(path)


def _is_stdin(path: Path) -> bool:
    return str(path) in _STDIN


def _source(path: Path, data: bytes) -> str:
    """Where a history finds an image again: its path, or the image itself where there will be nothing to find.

    That is so of a pipe, of an open file that is named by its descriptor, and of a path that JSON cannot hold.
    """
    source = path.absolute()
    is_fleeting = _is_stdin(path) or not source.is_file() or any(map(source.match, _DESCRIPTORS))
    try:
        return data_url(data) if is_fleeting else os.fsencode(source).decode()
    except UnicodeDecodeError:
        return data_url(data)


def read_text(words: Sequence[str], env: Environment, messages: Messages, *, no_stdin: bool) -> str:
    """The text to continue: stdin exactly as it is, then the words.

    Raises:
        NoInput: there is nothing to continue.
        BadInput: stdin is not UTF-8.
    """
    text = None if no_stdin else read_stdin(env, messages, has_words=bool(words))
    asked = _asked(text or "", joined(words))
    _warn_if_empty(text, env, messages, _NONE_MEANT)
    return asked


def read_stdin(env: Environment, messages: Messages, *, has_words: bool) -> str | None:
    """All of stdin; None where it is a terminal.

    Raises:
        BadInput: it is not UTF-8; the message names the byte.
        NoInput: it cannot be read.
    """
    if env.stdin_is_terminal:
        return None
    if has_words and env.stderr_is_terminal and wait(env.stdin, timeout=_PATIENCE) is Woken.TIMED_OUT:
        messages.note("waiting for stdin (-n to skip)")
    return decoded(_stdin_bytes(env), "stdin")


def _stdin_bytes(env: Environment) -> bytes:
    """What is left of stdin.

    Raises:
        NoInput: it cannot be read.
    """
    blocks: list[bytes] = []
    try:
        while block := _read_block(env.stdin):
            blocks.append(block)
    except OSError as error:
        raise NoInput(f"cannot read stdin: {reason(error)}", "-n does not read it") from error
    return b"".join(blocks)


def _read_block(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _BLOCK)
        except BlockingIOError:  # whoever shares the pipe made it non-blocking
            wait(descriptor)


def decoded(data: bytes, name: str) -> str:
    """Bytes as text, a byte order mark dropped.

    Raises:
        BadInput: they are not UTF-8.
    """
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        hint = "-f FILE attaches an image" if is_image(data) else "iconv -t UTF-8 converts it"
        raise BadInput(f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}", hint) from error


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


def system_prompt(options: SystemOptions) -> str | None:
    """The system prompt that was given, as text or as a file.

    Raises:
        UsageError: both were.
        NoInput, BadInput: the file cannot be read.
    """
    if options.system_file is None:
        return None if options.system is None else joined([options.system])
    if options.system is not None:
        raise UsageError("--system and --system-file exclude each other")
    return _without_newline(read_file(options.system_file))


def read_file(path: Path) -> str:
    """A file as text.

    Raises:
        NoInput: it cannot be read.
        BadInput: it is not UTF-8.
    """
    return decoded(read_bytes(path), quoted(path))


def read_bytes(path: Path) -> bytes:
    """A file as it is.

    Raises:
        NoInput: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise NoInput(f"cannot read {quoted(path)}: {reason(error)}") from error


def _history(text: str, form: InputForm) -> Document | None:
    if form is InputForm.TEXT:
        return None
    if form is InputForm.JSON:
        return _must_be_history(parse_json(text, "stdin"))
    try:
        value = read_json(text)
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


def _asked(text: str, question: str, *, is_enough: bool = False) -> str:
    """A document and a question about it, one blank line between them; `is_enough`: neither is needed."""
    if not (text or question or is_enough):
        raise NoInput("nothing to ask: the input is empty", "give the prompt on stdin or as an argument")
    if not (text and question):
        return text or question
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}\n{question}"


def _warn_if_empty(content: str | bytes | None, env: Environment, messages: Messages, advice: str = "") -> None:
    """Say that the document is missing where a pipe or a file promised one; the null device says that none is meant."""
    mode = os.fstat(env.stdin).st_mode
    if content is not None and not content and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)):
        messages.warning(f"stdin was empty{advice}")


def _without_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
