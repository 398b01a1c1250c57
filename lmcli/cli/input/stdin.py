"""Input from stdin, files and arguments: the conversation or text to continue. All rules of input are here."""

import codecs
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from lmcli.cli.choices import InputForm, OutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.document import Document, recognize
from lmcli.cli.input.image_access import is_below_working_directory, require_access
from lmcli.cli.input.incoming import Incoming, decoded, without_newline
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
    return read_turn(options, words, env, messages).document(system_prompt(options))


class Turn(NamedTuple):
    """The input of a turn: the history, if stdin holds one, and the next user message, if there is one."""

    history: Document | None
    message: JsonObject | None

    def document(self, system: str | None) -> Document:
        """The conversation to continue, with this system prompt, if there is one.

        Raises:
            BadInput: the history is not valid; with the path of the error.
        """
        document = self.history if self.history is not None else Document.new()
        document = document if system is None else document.with_system(system)
        if self.message is not None:
            document = document.with_entry(self.message)
        document.chat()  # raises BadInput before anything is sent
        return document


def read_turn(options: InputOptions, words: Sequence[str], env: Environment, messages: Messages) -> Turn:
    """Read the input of a turn from stdin, files and words.

    Raises:
        NoInput: the input is empty.
        BadInput: see `read_document`.
    """
    is_passed_on = options.output == OutputForm.HISTORY
    attached = Attachments.read(options.file or (), env, messages, is_passed_on=is_passed_on)
    question = attached.prepend_to(join_words(words))
    skips_stdin = options.no_stdin or any(map(is_stdin, options.file or ()))
    stdin = None if skips_stdin else open_stdin(env, messages, has_words=bool(words))
    history = None if stdin is None else _history(stdin, options.input)
    if history is not None:
        return turn_after(history, question, attached, options.file or ())
    turn = turn_about(stdin, question, attached, drops_newline=True)
    if stdin is not None and stdin.is_empty:
        _warn_of_empty_stdin(env, messages, _SKIP_ADVICE)
    return turn


def turn_about(stdin: Incoming | None, question: str, attached: "Attachments", *, drops_newline: bool) -> Turn:
    """The turn that asks a question about a text; `drops_newline` drops one at the end of the text.

    Raises:
        NoInput: both are empty.
    """
    may_be_empty = bool(attached.images)
    prompt = make_prompt(stdin, question, drops_newline=drops_newline, may_be_empty=may_be_empty)
    return Turn(None, attached.message(prompt))


def turn_after(history: Document, question: str, attached: "Attachments", named: Sequence[Path]) -> Turn:
    """The turn that continues a history.

    Args:
        history: the history.
        question: may be empty.
        attached: files attached to the question.
        named: the files that the user has named, which the history may refer to.

    Raises:
        BadInput: the history ends with an answer, and there is no question; or it refers to another image.
    """
    require_access(history, named)
    if question or attached.images:
        return Turn(history, attached.message(question))
    last = history.entries[-1]
    if last.get("role") == "assistant" and last.get("tool_calls"):
        raise BadInput("the history ends with tool calls", "add a message with the role tool for the result of each")
    if last.get("role") == "assistant":
        raise BadInput("the history ends with an answer", "give the next question as an argument")
    return Turn(history, None)


class AttachedText(NamedTuple):
    """A text file that is attached to a question."""

    name: str
    text: str


class Attachments(NamedTuple):
    """Files attached to a question, in order: texts, each to be put under its name, and images as message parts."""

    files: tuple[AttachedText | JsonObject, ...] = ()

    @classmethod
    def read(
        cls, paths: Sequence[Path], env: Environment, messages: Messages, *, is_passed_on: bool = False
    ) -> "Attachments":
        """Read files, recognised by their content; `-` is stdin.

        Args:
            paths: the files.
            env: the environment.
            messages: writes messages to stderr.
            is_passed_on: another process will read the history, so it has to contain images that it may not name.

        Raises:
            UsageError: stdin is named more than once.
            NoInput: a file cannot be read.
            BadInput: a file is neither text nor an image that LM Studio accepts.
        """
        if sum(map(is_stdin, paths)) > 1:
            raise UsageError("-f names stdin twice, but it can be read only once")
        return cls(tuple(_attachment(path, env, messages, is_passed_on=is_passed_on) for path in paths))

    @property
    def images(self) -> list[JsonObject]:
        """The images."""
        return [file for file in self.files if isinstance(file, dict)]

    @property
    def sizes(self) -> list[tuple[str, int]]:
        """Name and size in bytes of each file."""
        return [
            (file["name"], file["sizeBytes"]) if isinstance(file, dict) else (file.name, len(file.text.encode()))
            for file in self.files
        ]

    def prepend_to(self, question: str) -> str:
        """The texts and then the question, separated by blank lines."""
        texts = [
            piece
            for file in self.files
            if isinstance(file, AttachedText)
            for piece in (f"{file.name}:\n\n", file.text, "" if file.text[-1:] in ("", "\n") else "\n", "\n")
        ]
        return "".join([*texts, question] if question else texts[:-1])

    def message(self, text: str) -> JsonObject:
        """A user message: a string, or with images an array of parts, the text first."""
        parts = [{"type": "text", "text": text}] if text else []
        return {"role": "user", "content": [*parts, *self.images] if self.images else text}


def _attachment(path: Path, env: Environment, messages: Messages, *, is_passed_on: bool) -> AttachedText | JsonObject:
    data = _content(path, env, messages)
    name = "stdin" if is_stdin(path) else os.fsencode(path.name).decode(errors="replace")
    if is_image(data):
        # The keys are those of the wire, so that other programs can read the history; `lm` itself uses `path`.
        named = {"type": "file", "name": name, "identifier": name, "sizeBytes": len(data)}
        return {**named, "fileType": "image", "path": _source(path, data, is_passed_on=is_passed_on)}
    try:
        return AttachedText(name, data.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        raise BadInput(f"{quoted(path)} is neither UTF-8 text nor a JPEG, PNG or WebP image") from error


def _content(path: Path, env: Environment, messages: Messages) -> bytes:
    if is_stdin(path):
        data = b"".join(_stdin_blocks(env))
        if not data:
            _warn_of_empty_stdin(env, messages)
        return data
    if path.parts[:1] in (("http:",), ("https:",)) and not path.exists():
        url = str(path).replace("/", "//", 1)  # a path keeps only one of two slashes
        hint = "curl -sL URL | lm respond -f - attaches what it fetches"
        raise NoInput(f"cannot read {quoted(url)}: URLs are not fetched", hint)
    return _file_bytes(path)


def is_stdin(path: Path) -> bool:
    """Whether a path names stdin."""
    return str(path) in _STDIN_NAMES


def _source(path: Path, data: bytes, *, is_passed_on: bool) -> str:
    """The source of an image in a history: its path, or a data URL if the path cannot be read again.

    The latter are a pipe, an open file named by its descriptor, a path that is not UTF-8, and one in a folder that was
    deleted; and for another process, a path that it would refuse, see `image_access`.
    """
    try:
        source = path.absolute()
        is_transient = is_stdin(path) or not source.is_file() or any(map(source.match, _DESCRIPTOR_PATHS))
        is_refused = is_passed_on and not is_below_working_directory(source)
        return data_url(data) if is_transient or is_refused else os.fsencode(source).decode()
    except (UnicodeDecodeError, OSError):
        return data_url(data)


def read_text(words: Sequence[str], env: Environment, messages: Messages, *, no_stdin: bool) -> str:
    """Read the text to continue: stdin unchanged, then the words.

    Raises:
        NoInput: the input is empty.
        BadInput: stdin is not UTF-8.
    """
    stdin = None if no_stdin else open_stdin(env, messages, has_words=bool(words))
    prompt = make_prompt(stdin, join_words(words), drops_newline=False)
    if stdin is not None and stdin.is_empty:
        _warn_of_empty_stdin(env, messages, _SKIP_ADVICE)
    return prompt


def open_stdin(env: Environment, messages: Messages, *, has_words: bool) -> Incoming | None:
    """The text on stdin, not read yet; None if that is a terminal."""
    if env.stdin_is_terminal:
        return None
    if has_words and env.stderr_is_terminal and wait(env.stdin, timeout=_NOTE_AFTER) is Woken.TIMED_OUT:
        messages.note("waiting for stdin (-n to skip)")
    return Incoming(decoded(_stdin_blocks(env), "stdin"))


def _stdin_blocks(env: Environment) -> Iterator[bytes]:
    """Read the rest of stdin.

    Raises:
        NoInput: it cannot be read.
    """
    size = 0
    try:
        refuse_device(env.stdin)
        while block := _read_block(env.stdin):
            size += len(block)
            yield block
    except OSError as error:
        raise NoInput(f"cannot read stdin: {reason(error)}", "-n skips it") from error
    require_memory(size)


def _read_block(descriptor: int) -> bytes:
    while True:
        try:
            return os.read(descriptor, _BLOCK_BYTES)
        except BlockingIOError:  # another process made the shared pipe non-blocking
            wait(descriptor)


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
    return without_newline(read_file(options.system_file))


def read_file(path: Path) -> str:
    """Read a text file.

    Raises:
        NoInput: it cannot be read.
        BadInput: it is not UTF-8.
    """
    return "".join(decoded([_file_bytes(path)], quoted(path)))


def _file_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except OSError as error:
        raise NoInput(f"cannot read {quoted(path)}: {reason(error)}") from error


def _history(stdin: Incoming, form: InputForm) -> Document | None:
    if form is InputForm.JSON:
        return _require_history(parse_json(stdin.text(), "stdin"))
    if form is InputForm.TEXT or not stdin.may_be_history():
        return None
    try:
        value = load_json(stdin.text())
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


def make_prompt(stdin: Incoming | None, question: str, *, drops_newline: bool, may_be_empty: bool = False) -> str:
    """A text and a question about it, separated by a blank line; `drops_newline` drops one at the end of the text.

    Raises:
        NoInput: both are empty.
    """
    prompt = question if stdin is None else stdin.prompt(question, drops_newline=drops_newline)
    if not (prompt or may_be_empty):
        raise NoInput("the input is empty", "give the prompt on stdin or as an argument")
    return prompt


def _warn_of_empty_stdin(env: Environment, messages: Messages, advice: str = "") -> None:
    """Warn if stdin, which was empty, is a pipe or a file; the null device is empty on purpose."""
    mode = os.fstat(env.stdin).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode):
        messages.warning(f"stdin was empty{advice}")
