"""Input from stdin, files and arguments: the conversation or text to continue. All rules of input are here."""

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
from lmcli.cli.json_text import load_json, parse_json
from lmcli.cli.messages import Messages
from lmcli.cli.options import ChatOptions, RespondOptions, StatsOptions, SystemOptions
from lmcli.client.images import data_url, is_image
from lmcli.client.local_files import read_bytes, refuse_device, require_memory
from lmcli.client.waiting import Woken, wait
from lmcli.errors import BadInput, NoInput, UsageError, quoted, reason
from lmcli.values import JsonObject

InputOptions = RespondOptions | ChatOptions | StatsOptions

_NOTE_AFTER: Final = 2.0
_BLOCK_BYTES: Final = 1 << 20
_SKIP_ADVICE: Final = " (-n skips it)"
_STDIN_NAMES: Final = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_DESCRIPTOR_PATHS: Final = ("/dev/fd/*", "/proc/*/fd/*")


def read_document(options: InputOptions, words: Sequence[str], env: Environment, messages: Messages) -> Document:
    """Read the conversation to continue: stdin as a history or a text, then files, then the words as the question.

    Raises:
        NoInput: the input is empty.
        BadInput: stdin or a file is not UTF-8, or the history is not valid.
    """
    turn = read_turn(options, words, env, messages)
    document = turn.history if turn.history is not None else Document.new()
    system = system_prompt(options)
    document = document if system is None else document.with_system(system)
    if turn.message is not None:
        document = document.with_entry(turn.message)
    document.chat()  # raises BadInput before anything is sent
    return document


class Turn(NamedTuple):
    """The input of a turn: the history, if stdin holds one, and the next user message, if there is one."""

    history: Document | None
    message: JsonObject | None


def read_turn(options: InputOptions, words: Sequence[str], env: Environment, messages: Messages) -> Turn:
    """Read the input of a turn from stdin, files and words.

    Raises:
        NoInput: the input is empty.
        BadInput: see `read_document`.
    """
    attached = Attachments.read(options.file or (), env, messages)
    question = attached.prepend_to(join_words(words))
    skips_stdin = options.no_stdin or any(map(_is_stdin, options.file or ()))
    text = None if skips_stdin else read_stdin(env, messages, has_words=bool(words))
    history = None if text is None else _history(text, options.input)
    if history is None:
        stdin = None if text is None else _without_newline(text)
        prompt = _prompt(stdin or "", question, may_be_empty=bool(attached.images))
        _warn_if_empty(stdin, env, messages, _SKIP_ADVICE)
        return Turn(None, attached.message(prompt))
    if question or attached.images:
        return Turn(history, attached.message(question))
    if history.entries[-1].get("role") == "assistant":
        raise BadInput("the history ends with an answer", "give the next question as an argument")
    return Turn(history, None)


class Attachments(NamedTuple):
    """Files attached to a question: texts, each under its name, and images as message parts."""

    texts: tuple[str, ...] = ()
    images: tuple[JsonObject, ...] = ()

    @classmethod
    def read(cls, paths: Sequence[Path], env: Environment, messages: Messages) -> "Attachments":
        """Read files, recognised by their content; `-` is stdin.

        Raises:
            UsageError: stdin is named more than once.
            NoInput: a file cannot be read.
            BadInput: a file is neither text nor an image that LM Studio accepts.
        """
        if sum(map(_is_stdin, paths)) > 1:
            raise UsageError("-f names stdin twice, but it can be read only once")
        read = [_attachment(path, env, messages) for path in paths]
        return cls(tuple(a for a in read if isinstance(a, str)), tuple(a for a in read if isinstance(a, dict)))

    def prepend_to(self, question: str) -> str:
        """The texts and then the question, separated by blank lines."""
        texts = [text if text.endswith("\n") else f"{text}\n" for text in self.texts]
        return "\n".join([*texts, question] if question else texts)

    def message(self, text: str) -> JsonObject:
        """A user message: a string, or with images an array of parts, the text first."""
        parts = [{"type": "text", "text": text}] if text else []
        return {"role": "user", "content": [*parts, *self.images] if self.images else text}


def _attachment(path: Path, env: Environment, messages: Messages) -> str | JsonObject:
    data = _content(path, env, messages)
    name = "stdin" if _is_stdin(path) else os.fsencode(path.name).decode(errors="replace")
    if is_image(data):
        # The keys are those of the wire, so that other programs can read the history; `lm` itself uses `path`.
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
        url = str(path).replace("/", "//", 1)  # a path keeps only one of two slashes
        hint = "curl -sL URL | lm respond -f - attaches what it fetches"
        raise NoInput(f"cannot read {quoted(url)}: URLs are not fetched", hint)
    return _file_bytes(path)


def _is_stdin(path: Path) -> bool:
    return str(path) in _STDIN_NAMES


def _source(path: Path, data: bytes) -> str:
    """The source of an image in a history: its path, or a data URL if the path cannot be read again.

    The latter are a pipe, an open file named by its descriptor, a path that is not UTF-8, and one in a folder that was
    deleted.
    """
    try:
        source = path.absolute()
        is_transient = _is_stdin(path) or not source.is_file() or any(map(source.match, _DESCRIPTOR_PATHS))
        return data_url(data) if is_transient else os.fsencode(source).decode()
    except (UnicodeDecodeError, OSError):
        return data_url(data)


def read_text(words: Sequence[str], env: Environment, messages: Messages, *, no_stdin: bool) -> str:
    """Read the text to continue: stdin unchanged, then the words.

    Raises:
        NoInput: the input is empty.
        BadInput: stdin is not UTF-8.
    """
    text = None if no_stdin else read_stdin(env, messages, has_words=bool(words))
    prompt = _prompt(text or "", join_words(words))
    _warn_if_empty(text, env, messages, _SKIP_ADVICE)
    return prompt


def read_stdin(env: Environment, messages: Messages, *, has_words: bool) -> str | None:
    """Read all of stdin; None if it is a terminal.

    Raises:
        BadInput: it is not UTF-8; with the offset of the byte.
        NoInput: it cannot be read.
    """
    if env.stdin_is_terminal:
        return None
    if has_words and env.stderr_is_terminal and wait(env.stdin, timeout=_NOTE_AFTER) is Woken.TIMED_OUT:
        messages.note("waiting for stdin (-n to skip)")
    return decoded(_stdin_bytes(env), "stdin")


def _stdin_bytes(env: Environment) -> bytes:
    """Read the rest of stdin.

    Raises:
        NoInput: it cannot be read.
    """
    blocks: list[bytes] = []
    try:
        refuse_device(env.stdin)
        while block := _read_block(env.stdin):
            blocks.append(block)
    except OSError as error:
        raise NoInput(f"cannot read stdin: {reason(error)}", "-n skips it") from error
    data = b"".join(blocks)
    require_memory(len(data))
    return data


def _read_block(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _BLOCK_BYTES)
        except BlockingIOError:  # another process made the shared pipe non-blocking
            wait(descriptor)


def decoded(data: bytes, name: str) -> str:
    """Decode UTF-8, without a byte order mark.

    Raises:
        BadInput: the text is not UTF-8.
    """
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        hint = "-f FILE attaches an image" if is_image(data) else "iconv -t UTF-8 converts it"
        raise BadInput(f"{name} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}", hint) from error


def join_words(words: Sequence[str]) -> str:
    """Join the words of the argument.

    Raises:
        BadInput: the text is not UTF-8.
    """
    text = " ".join(words)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise not_utf8(text) from error
    return text


def not_utf8(text: str) -> BadInput:
    """The error for a prompt with bytes that are not UTF-8, as surrogates."""
    return BadInput(f"the prompt is not UTF-8: {quoted(text, limit=60)}")


def system_prompt(options: SystemOptions) -> str | None:
    """The system prompt of the options, given as text or as a file.

    Raises:
        UsageError: both were given.
        NoInput, BadInput: the file cannot be read.
    """
    if options.system_file is None:
        return None if options.system is None else join_words([options.system])
    if options.system is not None:
        raise UsageError("--system and --system-file exclude each other")
    return _without_newline(read_file(options.system_file))


def read_file(path: Path) -> str:
    """Read a text file.

    Raises:
        NoInput: it cannot be read.
        BadInput: it is not UTF-8.
    """
    return decoded(_file_bytes(path), quoted(path))


def _file_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise NoInput(f"cannot read {quoted(path)}: {reason(error)}") from error


def _history(text: str, form: InputForm) -> Document | None:
    if form is InputForm.TEXT:
        return None
    if form is InputForm.JSON:
        return _require_history(parse_json(text, "stdin"))
    try:
        value = load_json(text)
    except (orjson.JSONDecodeError, RecursionError):
        return None
    return recognize(value)


def _require_history(value: Any) -> Document:
    document = recognize(value)
    if document is None:
        raise BadInput(
            "stdin is not a chat history", 'a chat history looks like {"messages": [{"role": "user", "content": "hi"}]}'
        )
    return document


def _prompt(text: str, question: str, *, may_be_empty: bool = False) -> str:
    """A document and a question about it, separated by a blank line."""
    if not (text or question or may_be_empty):
        raise NoInput("the input is empty", "give the prompt on stdin or as an argument")
    if not (text and question):
        return text or question
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}\n{question}"


def _warn_if_empty(content: str | bytes | None, env: Environment, messages: Messages, advice: str = "") -> None:
    """Warn if stdin is a pipe or a file and was empty; the null device is empty on purpose."""
    mode = os.fstat(env.stdin).st_mode
    if content is not None and not content and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode)):
        messages.warning(f"stdin was empty{advice}")


def _without_newline(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
