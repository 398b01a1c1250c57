"""Resolve options and input to a request that is ready to be sent."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from lmcli.chat import Message
from lmcli.cli.input.document import Document
from lmcli.cli.json_text import is_too_deep
from lmcli.cli.options import AskOptions, LoadOptions
from lmcli.client.waiting import is_duration
from lmcli.errors import UsageError, quoted, shortened
from lmcli.values import JsonObject, LoadConfig
from lmcli.wire import requests
from lmcli.wire.config import PREDICTION_PREFIX, prediction_stack
from lmcli.wire.prediction_config import OPTIONS, Option, PredictionConfig
from lmcli.wire.requests import ChannelRequest

if TYPE_CHECKING:
    from lmcli.cli.input.schema import Schema


Resolve = Callable[[Sequence[Message]], Sequence[Message]]


class Request(NamedTuple):
    """A prediction that is asked for: the next turn of a document, or the continuation of a text.

    Attributes:
        subject: a `Document` for a turn, a text for a raw continuation.
        config: the sampling options.
        preset: the name of a preset on the server.
        schema: the form that the answer must have, if it must have one.
        stack: the sampling options as they are sent, where many requests share them.
    """

    subject: Document | str
    config: PredictionConfig
    preset: str | None = None
    schema: "Schema | None" = None
    stack: requests.Stack | None = None

    def channel_request(self, model: str | None, resolve: Resolve) -> ChannelRequest:
        """The request for current servers; `resolve` puts the images of messages on the server."""
        if isinstance(self.subject, str):
            return requests.complete(model, self.subject, self.stack or self.config, self.preset)
        return requests.respond(model, resolve(self.subject.chat().messages), self.stack or self.config, self.preset)

    @property
    def is_raw(self) -> bool:
        """Whether it is the continuation of a text."""
        return isinstance(self.subject, str)

    @property
    def is_structured(self) -> bool:
        """Whether the answer is to be JSON."""
        return self.config.structured is not None

    def fallback(self, model: str | None) -> ChannelRequest | None:
        """The same for older servers, where it differs."""
        if isinstance(self.subject, str):
            return requests.complete_by_predict(model, self.subject, self.config, self.preset)
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
    def parse(cls, words: Sequence[str]) -> "Reasoning":
        """Read the option's words.

        Raises:
            UsageError: one is neither known nor a number.
        """
        reasoning = cls()
        for word in words:
            if word in _REASONING_WORDS:
                reasoning = reasoning._replace(**_REASONING_WORDS[word])
            elif word.isascii() and word.isdigit():
                reasoning = reasoning._replace(budget=int(word[:_DIGITS]))  # too large for the option in any case
            else:
                raise UsageError(f"--reasoning takes show, hide, on, off or a number of tokens, not {quoted(word)}")
        return reasoning


_MAX_HINT: Final = 200
_DIGITS: Final = 1000
"""The number of digits that are converted: Python refuses more than 4300."""

_REASONING_WORDS: Final[Mapping[str, dict[str, bool]]] = {
    "show": {"is_shown": True},
    "hide": {"is_shown": False},
    "on": {"is_wanted": True},
    "off": {"is_wanted": False},
}


def make_request(subject: Document | str, options: AskOptions) -> Request:
    """Put together what is asked and how.

    Raises:
        UsageError, BadInput, NoInput: an option has a value that it cannot have.
    """
    schema = None if options.schema is None else _schema(options.schema)
    config = sampling_config(options, overflow=options.overflow)
    return Request(subject, config.replace(structured=schema.setting if schema else None), options.preset, schema)


def _schema(options: str) -> "Schema":
    from lmcli.cli.input.schema import Schema  # noqa: PLC0415  only --schema pays for it

    return Schema(options)


def sampling_config(options: AskOptions, *, overflow: str | None = None) -> PredictionConfig:
    """What the options ask of the server; `overflow` where the user does not say.

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
        raw=dict(_raw_field(assignment) for assignment in options.set_ or ()),
    )
    prediction_stack(config)  # an invalid value is refused before anything is sent
    return config


def _value(option: Option, given: Any) -> Any:
    """The value of an option for what was given on the command line."""
    words = option.flag.words if option.flag else None
    return tuple(given) if isinstance(given, list) else words[given] if words else given


def load_config(options: LoadOptions) -> LoadConfig:
    """How a model is to be loaded, if this run loads it.

    Raises:
        UsageError: the GPU ratio is neither a number nor one of the words.
    """
    ratio: Any = options.gpu
    if options.gpu not in (None, "max", "off"):
        try:
            ratio = float(str(options.gpu))
        except ValueError as error:
            raise UsageError(f"--gpu takes a number from 0 to 1, max or off, not {quoted(options.gpu)}") from error
    return LoadConfig(context_length=options.context_length, gpu_ratio=ratio)


def load_request(key: str, options: LoadOptions, *, identifier: str | None = None) -> ChannelRequest:
    """The request for a model by key: one that is loaded will do, unless the new one gets a name of its own.

    Raises:
        UsageError: an option has a value that it cannot have.
    """
    if options.ttl is not None and not is_duration(options.ttl):
        raise UsageError(f"--ttl takes a number of seconds above 0, not {options.ttl:g}")
    config = load_config(options)
    if identifier is None:
        return requests.get_or_load(key, config, ttl=options.ttl)
    return requests.load(key, config, identifier=identifier, ttl=options.ttl)


def _raw_field(assignment: str) -> tuple[str, Any]:
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set takes KEY=JSON, not {quoted(assignment)}", "for example --set reasoning.enableThinking=false"
        )
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        hints = (f"a text needs quotes: --set '{key}=\"{text}\"'",) if len(assignment) <= _MAX_HINT else ()
        raise UsageError(f"the value of --set {shortened(key)} is not valid JSON: {quoted(text)}", *hints) from error
    if is_too_deep(value):
        raise UsageError(f"the value of --set {shortened(key)} is nested too deeply")
    return (key if key.startswith(PREDICTION_PREFIX) else PREDICTION_PREFIX + key), value


def options_record(options: AskOptions) -> JsonObject:
    """The options for sampling that were given, for a record; never the prompt."""
    config = sampling_config(options)
    given = {name: value for name in OPTIONS if (value := getattr(config, name)) is not None}
    preset = {} if options.preset is None else {"preset": options.preset}
    return given | dict(config.raw) | preset
