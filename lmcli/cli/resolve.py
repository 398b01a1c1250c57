"""Resolve options and input to a request that is ready to be sent."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from lmcli.chat import Message
from lmcli.cli.choices import OutputForm
from lmcli.cli.environment import Environment
from lmcli.cli.input.document import Document
from lmcli.cli.json_text import is_too_deep
from lmcli.cli.options import (
    AskOptions,
    LoadOptions,
    Options,
    PredictionOptions,
    SamplingOptions,
    StatsOptions,
    TurnOptions,
)
from lmcli.client.waiting import is_duration
from lmcli.errors import BadInput, BadSetting, UsageError, quoted, shortened
from lmcli.values import JsonObject
from lmcli.wire import requests
from lmcli.wire.config import prediction_stack
from lmcli.wire.config_entries import Option
from lmcli.wire.prediction_config import OPTIONS, PREDICTION_PREFIX, PredictionConfig
from lmcli.wire.requests import ChannelRequest

if TYPE_CHECKING:
    from lmcli.cli.input.schema import Schema
    from lmcli.wire.load_config import LoadConfig


_MARKDOWN_VARIABLE: Final = "LM_MARKDOWN"
_BOOLEANS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
_OVERFLOW_KEY: Final = OPTIONS["context_overflow_policy"].key
Resolve = Callable[[Sequence[Message]], Sequence[Message]]


class Request(NamedTuple):
    """A prediction that is asked for: the next turn of a document, or the continuation of a text.

    Attributes:
        subject: a `Document` for a turn, a text for a raw continuation.
        config: the sampling options.
        preset: the name of a preset on the server.
        schema: the form that the answer must have, if it must have one.
        device: the device of LM Link that has the model; None leaves that to the server.
        stack: the sampling options as they are sent, where many requests share them.
    """

    subject: Document | str
    config: PredictionConfig
    preset: str | None = None
    schema: "Schema | None" = None
    device: str | None = None
    stack: requests.Stack | None = None

    def channel_request(self, model: str | None, resolve: Resolve) -> ChannelRequest:
        """The request for current servers; `resolve` puts the images of messages on the server."""
        if isinstance(self.subject, str):
            request = requests.complete(model, self.subject, self.stack or self.config, self.preset)
        else:
            messages = resolve(self.subject.chat().messages)
            request = requests.respond(model, messages, self.stack or self.config, self.preset)
        return request.on_device(self.device)

    @property
    def is_raw(self) -> bool:
        """Whether it is the continuation of a text."""
        return isinstance(self.subject, str)

    @property
    def must_fit(self) -> bool:
        """Whether a prompt that is longer than the context is an error."""
        policy = self.config.raw.get(_OVERFLOW_KEY, self.config.context_overflow_policy)
        return bool(policy == "stopAtLimit")

    @property
    def is_structured(self) -> bool:
        """Whether the answer is to be JSON."""
        return (self.config.structured or {}).get("type") == "json"

    def fallback(self, model: str | None) -> ChannelRequest | None:
        """The same for older servers, where it differs."""
        if isinstance(self.subject, str):
            asked = requests.complete_by_predict(model, self.subject, self.config, self.preset)
            return asked.on_device(self.device)
        return None


class Reasoning(NamedTuple):
    """What `--reasoning` says.

    Attributes:
        is_shown: whether to show it; None leaves it to the terminal.
        is_wanted: whether the model is to think at all; None leaves it to the server.
        budget: how many tokens it may think; None leaves it to the server.
    """

    is_shown: bool | None = None
    is_wanted: bool | None = None
    budget: int | None = None

    @classmethod
    def parse(cls, words: Sequence[str], name: str = "--reasoning") -> "Reasoning":
        """Read the option's words; `name` is for the message of an error.

        Raises:
            UsageError: one is neither known nor a number.
        """
        reasoning = cls()
        for word in words:
            if word in REASONING_WORDS:
                reasoning = reasoning._replace(**REASONING_WORDS[word])
            elif word.isascii() and word.isdigit():
                reasoning = reasoning._replace(budget=int(word[:_DIGITS]))  # too large for the option in any case
            else:
                raise UsageError(f"{name} takes {', '.join(REASONING_WORDS)} or a number of tokens, not {quoted(word)}")
        return reasoning


_MAX_HINT: Final = 200
_DIGITS: Final = 1000
"""The number of digits that are converted: Python refuses more than 4300."""

REASONING_WORDS: Final[Mapping[str, dict[str, bool]]] = {
    "show": {"is_shown": True},
    "hide": {"is_shown": False},
    "on": {"is_wanted": True},
    "off": {"is_wanted": False},
}
"""What can be said about reasoning in a word, and what it changes."""
DISPLAY_WORDS: Final = ("show", "hide")
"""The words that are not for the server."""


def make_request(subject: Document | str, options: PredictionOptions | StatsOptions) -> Request:
    """Put together what is asked and how.

    Raises:
        UsageError, BadInput, NoInput: an option has a value that it cannot have.
    """
    if options.schema is not None and options.grammar is not None:
        raise UsageError("--schema and --grammar exclude each other")
    if options.schema is not None and vars(options).get("output") == OutputForm.CODE:
        raise UsageError("--schema and -o code exclude each other", "-o text writes the whole answer, which is JSON")
    schema = None if options.schema is None else _schema(options.schema)
    config = sampling_config(options, overflow=options.overflow, is_raw=isinstance(subject, str))
    structured = _grammar(options) if schema is None else schema.setting
    return Request(subject, config.replace(structured=structured), options.preset, schema, options.device)


def _grammar(options: AskOptions) -> JsonObject | None:
    """The setting for a grammar, if one is given.

    Raises:
        NoInput: the file cannot be read.
        BadInput: it is not UTF-8, or empty.
    """
    if options.grammar is None:
        return None
    from lmcli.cli.input.stdin import read_file  # noqa: PLC0415  only --grammar pays for it

    text = read_file(options.grammar)
    if not text.strip():
        raise BadInput(f"the grammar {quoted(options.grammar)} is empty")
    return {"type": "gbnf", "gbnfGrammar": text}


def _schema(options: str) -> "Schema":
    from lmcli.cli.input.schema import Schema  # noqa: PLC0415  only --schema pays for it

    return Schema(options)


def sampling_config(options: AskOptions, *, overflow: str | None = None, is_raw: bool = False) -> PredictionConfig:
    """What the options ask of the server.

    Args:
        options: the options.
        overflow: what is asked for a full context where the user does not say.
        is_raw: they are for raw completion.

    Raises:
        UsageError: an option has a value that it cannot have.
    """
    reasoning = Reasoning.parse(options.reasoning or ())
    given = {name: getattr(options, name, None) for name, option in OPTIONS.items() if option.flag}
    given["context_overflow_policy"] = given["context_overflow_policy"] or overflow
    config = PredictionConfig(
        **{name: _value(OPTIONS[name], given[name]) for name in given if given[name] not in (None, [])},
        enable_thinking=reasoning.is_wanted,
        reasoning_budget=reasoning.budget,
        raw=_fields(options, are_for_load=False),
    )
    prediction_stack(config, is_raw=is_raw)  # an invalid value is refused before anything is sent
    return config


def _value(option: Option, given: Any) -> Any:
    """The value of an option for what was given on the command line."""
    words = option.flag.words if option.flag else None
    return tuple(given) if isinstance(given, list) else words[given] if words else given


def load_config(options: LoadOptions) -> "LoadConfig | None":
    """How a model is to be loaded, if this run loads it; None where no option says so.

    Raises:
        UsageError: an option has a value that it cannot have.
    """
    fields = _fields(options, are_for_load=True)
    if options.context_length is None and options.gpu is None and not fields:
        return None
    from lmcli.wire.load_config import LoadConfig  # noqa: PLC0415  only a configured load pays for it

    return LoadConfig(context_length=options.context_length, gpu_ratio=_gpu_ratio(options.gpu), raw=fields)


def _gpu_ratio(text: str | None) -> Any:
    if text in (None, "max", "off"):
        return text
    try:
        return float(str(text))
    except ValueError as error:
        raise UsageError(f"--gpu takes a number from 0 to 1, max or off, not {quoted(text)}") from error


def load_request(key: str, options: LoadOptions, *, identifier: str | None = None) -> ChannelRequest:
    """The request for a model by key: one that is loaded will do, unless the new one gets a name of its own.

    Raises:
        UsageError: an option has a value that it cannot have.
    """
    if options.ttl is not None and not is_duration(options.ttl):
        raise UsageError(f"--ttl takes a number of seconds above 0, not {options.ttl:g}")
    config = load_config(options)
    if identifier is None:
        return requests.get_or_load(key, config, ttl=options.ttl).on_device(options.device)
    return requests.load(key, config, identifier=identifier, ttl=options.ttl).on_device(options.device)


def field_prefixes(options: type[Options]) -> Sequence[str]:
    """What the keys of `--set` begin with; where a key of each kind has a name, that of the first one is meant."""
    from lmcli.wire.load_config import LOAD_PREFIX  # noqa: PLC0415  only --set pays for it

    return (PREDICTION_PREFIX, LOAD_PREFIX) if issubclass(options, SamplingOptions) else (LOAD_PREFIX,)


def _fields(options: Options, *, are_for_load: bool) -> JsonObject:
    """The fields of `--set` for a load, or for a prediction; all are checked."""
    assignments: Sequence[str] = getattr(options, "set_", None) or ()
    if not assignments:
        return {}
    from lmcli.wire.config_keys import is_load_key  # noqa: PLC0415  only --set pays for it

    fields = dict(_field(assignment, field_prefixes(type(options))) for assignment in assignments)
    return {key: value for key, value in fields.items() if is_load_key(key) is are_for_load}


def _field(assignment: str, prefixes: Sequence[str]) -> tuple[str, Any]:
    from lmcli.wire.config_keys import (  # noqa: PLC0415  only --set pays for it
        find_option,
        is_load_key,
        whole_key,
        write_field,
    )

    name, equals, text = assignment.partition("=")
    if not equals or not name:
        raise UsageError(
            f"--set takes KEY=JSON, not {quoted(assignment)}", "for example --set reasoning.enableThinking=false"
        )
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hints = (f"a text needs quotes: --set '{name}=\"{text}\"'",) if len(assignment) <= _MAX_HINT else ()
        raise UsageError(f"the value of --set {shortened(name)} is not valid JSON: {quoted(text)}", *hints) from error
    if is_too_deep(value):
        raise UsageError(f"the value of --set {shortened(name)} is nested too deeply")
    option = find_option(name, prefixes)
    if option is None:
        return whole_key(name, prefixes[0]), value
    if not any(is_load_key(option.key) is is_load_key(prefix) for prefix in prefixes):
        raise UsageError(f"{quoted(name)} is a field of a prediction, not of a load")
    return option.key, write_field(option, name, _setting(option.key, value))


def _setting(key: str, value: Any) -> Any:
    """The value of a field; tools and the choice among them may have the form of OpenAI."""
    from lmcli.wire.tool_setting import SETTINGS  # noqa: PLC0415  only --set pays for it

    read = SETTINGS.get(key.removeprefix(PREDICTION_PREFIX))
    return value if read is None else read(value)


def options_record(options: AskOptions) -> JsonObject:
    """The options for sampling that were given, for a record; never the prompt."""
    config = sampling_config(options)
    given = {name: value for name in OPTIONS if (value := getattr(config, name)) is not None}
    preset = {} if options.preset is None else {"preset": options.preset}
    return given | dict(config.raw) | preset


def renders_markdown(options: TurnOptions, env: Environment, *, by_default: bool) -> bool:
    """Whether an answer is rendered on a terminal, by the option, else the environment, else the default.

    Raises:
        BadSetting: the environment has another value than yes or no.
    """
    if options.markdown is not None:
        return options.markdown
    text = env.setting(_MARKDOWN_VARIABLE)
    if text is None:
        return by_default
    if (value := _BOOLEANS.get(text.lower())) is None:
        raise BadSetting(
            f"{_MARKDOWN_VARIABLE} is neither 1 nor 0, nor true, false, yes, no, on or off: {quoted(text)}"
        )
    return value
