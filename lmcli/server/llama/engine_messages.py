"""What the server and the process of a model send each other.

Pure: messages in, bytes out, and back. A message is a line with a JSON array: the name of its class, then its fields.
The server numbers its requests, and every message has the number of the request that it belongs to:

Load             ReadProgress…, Loaded, then Finished; or Rejected
Predict          PromptProgress and Token…, then Finished or Rejected; the server ends it with Close, at any time
Tokenize, CountTokens, ApplyTemplate    Result or Rejected

Of a prediction no more than WINDOW messages are on the way: the process sends further ones as Grant permits.
"""

from collections.abc import Mapping
from types import GenericAlias
from typing import Any, Final, NamedTuple, get_args, get_type_hints

import orjson

from lmcli.record import distinct
from lmcli.values import JsonObject
from lmcli.wire.surrogates import repaired

# Large enough that neither side waits for the other to be scheduled.
WINDOW: Final = 64

# The exit status of the process after a load that failed, whose reason is in its log.
CANNOT_LOAD: Final = 3

# The tokens of a prompt that are read at a time, between which progress is reported and a cancel takes effect.
BATCH_TOKENS: Final = 512


class InvalidMessage(Exception):
    """A line is not a message."""


class LoadOptions(NamedTuple):
    """How to load a model.

    Attributes:
        context_length: in tokens, of each prediction.
        sessions: the number of concurrent predictions.
        gpu_layers: the number of layers on the GPU; None for llama.cpp's default.
        threads: the number of threads; None for llama.cpp's default.
        load_mode: how the file is read: one of `xllamacpp.llama_load_mode`.
        has_flash_attention: whether to use it; None for llama.cpp's default.
        parameters: further fields of `xllamacpp.CommonParams`; the types of the cache by name, and the default seed.
    """

    context_length: int
    sessions: int
    gpu_layers: int | None
    threads: int | None
    load_mode: str
    has_flash_attention: bool | None
    parameters: JsonObject


@distinct
class Load(NamedTuple):
    """Load a model: its files, the fields of LoadOptions, and whether llama.cpp logs."""

    number: int
    files: list[str]
    options: JsonObject
    is_verbose: bool


@distinct
class Predict(NamedTuple):
    """Run a prediction: the body of a completion in llama.cpp's form."""

    number: int
    body: JsonObject


@distinct
class Grant(NamedTuple):
    """Permit so many further messages of a prediction."""

    number: int
    further: int


@distinct
class Close(NamedTuple):
    """Stop a prediction, if it still runs, and drop what it has not sent."""

    number: int


@distinct
class Tokenize(NamedTuple):
    """Tokenize a text; `add_special` adds the token for the beginning, if the model has one."""

    number: int
    text: str
    add_special: bool


@distinct
class CountTokens(NamedTuple):
    """Count the tokens of a text."""

    number: int
    text: str


@distinct
class ApplyTemplate(NamedTuple):
    """Apply the prompt template of the model to messages and tools in the form of OpenAI, with arguments."""

    number: int
    messages: list[Any]
    arguments: JsonObject
    tools: list[Any]


@distinct
class ReadProgress(NamedTuple):
    """The share of the files that is read, 0.0 to 1.0."""

    number: int
    share: float | int


@distinct
class Loaded(NamedTuple):
    """What llama.cpp found: whether there is a GPU, and the texts that begin and end a prompt in templates."""

    number: int
    has_gpu: bool
    bos: str
    eos: str


@distinct
class PromptProgress(NamedTuple):
    """How many tokens the prompt has, how many of them were cached, and how many are done, with those."""

    number: int
    total: int
    cached: int
    done: int


@distinct
class Token(NamedTuple):
    """A token of the answer.

    Attributes:
        text: whole characters; empty if the token ends inside a character.
        finish: the reason why it is the last one, or None.
        predicted: the number of tokens so far, or None if llama.cpp does not report it.
        rate: tokens per second so far.
        log_probs: the tokens that it stands for, if they were requested, each with its text, its number, the logarithm
            of its probability, and its candidates: text, number and logarithm of each.
    """

    number: int
    text: str
    finish: str | None
    predicted: int | None
    rate: float | int | None
    log_probs: list[Any]


@distinct
class Finished(NamedTuple):
    """A load or a prediction is complete."""

    number: int


@distinct
class Rejected(NamedTuple):
    """A request failed: the name of the error's class, its text, and the tokens of a prompt that is too long."""

    number: int
    kind: str
    text: str
    prompt_tokens: int


@distinct
class Result(NamedTuple):
    """What was requested: token numbers, a number of tokens, or a prompt."""

    number: int
    value: Any


Request = Load | Predict | Grant | Close | Tokenize | CountTokens | ApplyTemplate
Reply = ReadProgress | Loaded | PromptProgress | Token | Finished | Rejected | Result
Message = Request | Reply

_CLASSES: Final[Mapping[str, Any]] = {kind.__name__: kind for kind in (*Request.__args__, *Reply.__args__)}


def _field_type(hint: Any) -> Any:
    """What `isinstance` tests for an annotation: for a union a tuple, which is tested faster."""
    if hint is Any:
        return object
    return hint.__origin__ if isinstance(hint, GenericAlias) else get_args(hint) or hint


_FIELD_TYPES: Final[Mapping[str, tuple[Any, ...]]] = {
    name: tuple(map(_field_type, get_type_hints(kind).values())) for name, kind in _CLASSES.items()
}


def encode(message: Message) -> bytes:
    """Write a message.

    Lone surrogates, which cannot be encoded as UTF-8, are replaced.

    Raises:
        TypeError: a value cannot be written, such as an integer of more than 64 bits.
    """
    fields = (type(message).__name__, *message)
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:
        return orjson.dumps(without_surrogates(fields), option=orjson.OPT_APPEND_NEWLINE)


class Decoder:
    """Reads messages from bytes that arrive in pieces of any size."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def receive_data(self, data: bytes) -> list[Message]:
        """The messages that are complete.

        Raises:
            InvalidMessage: a line is not a message.
        """
        if b"\n" not in data:  # a long message is not searched again with each piece
            self._begun.append(data)
            return []
        *lines, rest = b"".join((*self._begun, data)).split(b"\n")
        self._begun = [rest] if rest else []
        return [_decode(line) for line in lines]


def _decode(line: bytes) -> Message:
    try:
        name, *fields = orjson.loads(line)
        kind, types = _CLASSES[name], _FIELD_TYPES[name]
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidMessage("it is not a message") from error
    if len(fields) != len(types) or not all(map(isinstance, fields, types)):
        raise InvalidMessage(f"the fields of {name} are others")
    message: Message = kind._make(fields)
    return message


def without_surrogates(value: Any) -> Any:
    """Replace the lone surrogates in a JSON value."""
    match value:
        case str():
            return repaired(value)
        case Mapping():
            return {without_surrogates(key): without_surrogates(inner) for key, inner in value.items()}
        case list() | tuple():
            return [without_surrogates(inner) for inner in value]
    return value
