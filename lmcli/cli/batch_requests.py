"""What each record of a batch asks for, and how its result is written: what all have in common is prepared once."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lmcli.cli.choices import Each, OutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.batch_records import BatchRecord
from lmcli.cli.input.document import Document, openai_tool_calls
from lmcli.cli.input.incoming import about
from lmcli.cli.input.stdin import Attachments, join_words, make_prompt, system_prompt, turn_about, turn_after
from lmcli.cli.json_text import dump_json
from lmcli.cli.messages import Messages
from lmcli.cli.options import CompleteOptions, RespondOptions
from lmcli.cli.output.results import SIGNALLED
from lmcli.cli.resolve import Request, make_request
from lmcli.cli.target import model_key
from lmcli.errors import KEPT_IN_TEXT, BadInput, ExitCode, LmError, escaped
from lmcli.values import JsonObject
from lmcli.wire.config import prediction_config, prediction_stack, unknown_options
from lmcli.wire.prediction_config import OPTIONS, PredictionConfig

if TYPE_CHECKING:
    from hashlib import blake2b

EachOptions = RespondOptions | CompleteOptions

_DIGEST_BYTES: Final = 8
_CUT_SHORT: Final = (ExitCode.FAILED, ExitCode.INCOMPLETE)


class BatchRequests:
    """Makes the request of a record.

    Args:
        options: the options of the command.
        words: the argument, which joins every record.
        env: the environment.
        messages: writes messages to stderr.

    Raises:
        LmError: an option, or a file that it names, is not valid.
    """

    def __init__(self, options: EachOptions, words: Sequence[str], env: Environment, messages: Messages) -> None:
        self._is_raw = isinstance(options, CompleteOptions)
        self._messages = messages
        self._warned: set[str] = set()
        self._attached, self._system = Attachments(), None
        self._named: Sequence[Path] = ()
        if isinstance(options, RespondOptions):
            is_passed_on = options.output == OutputForm.HISTORY
            self._attached = Attachments.read(options.file or (), env, messages, is_passed_on=is_passed_on)
            self._named = options.file or ()
            self._system = system_prompt(options)
        self._question = self._attached.prepend_to(join_words(words))
        base = make_request("" if self._is_raw else Document.new(), options)
        stack = prediction_stack(base.config, is_raw=self._is_raw)
        self._base = base._replace(stack=stack)
        common = [self._is_raw, self._question, self._attached.images, self._system, stack, options.preset]
        device = [] if options.device is None else [options.device]
        self._common = dump_json([*common, model_key(options, env, messages), *device])

    def request(self, record: BatchRecord) -> Request:
        """The request of a record.

        Raises:
            BadInput: the record could not be read, or what it asks for is not valid.
        """
        if record.error is not None:
            raise record.error
        try:
            request = self._base._replace(subject=self._subject(record))
            return request if record.config is None else self._with_config(request, record.config, record.name)
        except LmError as error:  # as an option it would be a usage error
            raise BadInput(error.message) from error

    def digest(self, record: BatchRecord) -> str:
        """A short hash of what a record asks for, options included."""
        hashed = self._hash_of_common.copy()
        hashed.update(record.content)
        return hashed.hexdigest()

    @cached_property
    def _hash_of_common(self) -> "blake2b":
        from hashlib import blake2b  # noqa: PLC0415  only a results file needs it

        return blake2b(self._common, digest_size=_DIGEST_BYTES)

    def _subject(self, record: BatchRecord) -> Document | str:
        subject = record.subject
        if isinstance(subject, Document):
            if self._is_raw:
                raise BadInput("messages: raw completion continues a text")
            return turn_after(subject, self._question, self._attached, self._named).document(self._system)
        prompt = about(subject, self._question)
        if self._is_raw:
            return make_prompt(None, prompt, drops_newline=False)
        return turn_about(None, prompt, self._attached, drops_newline=False).document(self._system)

    def _with_config(self, request: Request, options: Mapping[str, Any], name: str) -> Request:
        """The request with sampling options that win over those of the command line."""
        self._warn(name, options)
        own = prediction_config(options)
        given = {name: value for name in OPTIONS if (value := getattr(own, name)) is not None}
        config: PredictionConfig = request.config.replace(**given, raw={**request.config.raw, **own.raw})
        stack = prediction_stack(config, is_raw=self._is_raw)  # refuses what cannot be sent
        return request._replace(config=config, stack=stack, schema=None if own.structured else request.schema)

    def _warn(self, name: str, options: Mapping[str, Any]) -> None:
        """Warn of what has no effect; a mistake in many records is reported for the first one."""
        for sentence in unknown_options(options):
            if sentence not in self._warned:
                self._warned.add(sentence)
                self._messages.warning(f"{name}: {sentence}")


class ResultWriter:
    """Writes results in the format of stdout; from the same result always the same bytes.

    Args:
        form: the format.
        each: what separates answers that are text.
        is_terminal: whether stdout is a terminal.
        is_echoed: whether the prompt comes before its continuation.
    """

    def __init__(self, form: str, each: Each, *, is_terminal: bool, is_echoed: bool) -> None:
        self.is_code = form == OutputForm.CODE
        self.is_text = self.is_code or form == OutputForm.TEXT
        self.is_json = form == OutputForm.JSONL
        self.needs_request = form == OutputForm.HISTORY or is_echoed
        self._is_history = form == OutputForm.HISTORY
        self._end = b"\0" if each is Each.NUL else b"\n"
        self._is_terminal = is_terminal
        self._is_echoed = is_echoed

    def preface(self, request: Request) -> bytes:
        """What is streamed before the answer."""
        return self.streamed(request.subject) if self._is_echoed and isinstance(request.subject, str) else b""

    def streamed(self, text: str) -> bytes:
        """A piece of an answer that is text."""
        return (escaped(text, keep=KEPT_IN_TEXT) if self._is_terminal else text).encode()

    def text_filter(self) -> Callable[[str], str]:
        """A function that returns what is streamed for each piece of one answer."""
        if not self.is_code:
            return str
        from lmcli.cli.output.code_blocks import CodeBlocks  # noqa: PLC0415  only -o code pays for it

        return CodeBlocks().feed

    def lacks_code(self, result: JsonObject) -> bool:
        """Whether a complete answer has no code, calls no tool either, and stdout gets code."""
        return self.is_code and not (result.get("tool_calls") or _code_of(result))

    def whole(self, result: JsonObject, request: Request | None) -> bytes:
        """A result.

        Args:
            result: the result.
            request: what was asked for; None if the record could not be read, or it is not needed.
        """
        if self._is_history:
            return _history_line(result, request)
        if not self.is_text:
            return dump_json(result)
        text = self.streamed(_code_of(result) if self.is_code else result["content"])
        return self.ended((self.preface(request) if request else b"") + text)

    def ended(self, text: bytes) -> bytes:
        """A text with its end: NUL, or a newline if it does not end with one."""
        return text if self._end == b"\n" and text.endswith(b"\n") else text + self._end


def _code_of(result: JsonObject) -> str:
    from lmcli.cli.output.code_blocks import code_of  # noqa: PLC0415  only -o code pays for it

    return code_of(result["content"])


def _history_line(result: JsonObject, request: Request | None) -> bytes:
    """The history with the answer at its end; null if no text and no tool call has arrived."""
    calls = result.get("tool_calls")
    has_answer = result["content"] or result["reasoning"] or calls
    if request is None or not isinstance(request.subject, Document) or not has_answer:
        return dump_json(None)
    entry = {"role": "assistant", "content": result["content"]}
    if result["reasoning"]:
        entry["reasoning"] = result["reasoning"]
    if calls:
        entry["tool_calls"] = openai_tool_calls(calls)
    if _is_partial(result):
        entry["partial"] = True
    if result["stats"] is not None:
        entry |= {"model": result["model"], "stats": result["stats"]}
    raw = request.subject.with_entry(entry).raw
    return dump_json(raw if result.get("id") is None or not isinstance(raw, dict) else {"id": result["id"], **raw})


def _is_partial(result: JsonObject) -> bool:
    """Whether an answer was cut short, by a failure or a signal."""
    code = result.get("error", {}).get("code", ExitCode.OK)
    return code in _CUT_SHORT or code > SIGNALLED
