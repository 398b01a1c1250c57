"""What is meant: a request made of typed options and input, ready to be sent."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from lmcli.cli.document import Document
from lmcli.cli.options import ModelOptions, Overflow, SamplingOptions
from lmcli.client import requests
from lmcli.client.config import OPTIONS, PREDICTION_PREFIX
from lmcli.client.requests import Opening
from lmcli.errors import UsageError, quoted
from lmcli.values import JsonObject, LoadConfig, OverflowPolicy, PredictionConfig

_POLICIES: Final[Mapping[Overflow, OverflowPolicy]] = {
    Overflow.STOP: "stopAtLimit",
    Overflow.MIDDLE: "truncateMiddle",
    Overflow.ROLLING: "rollingWindow",
}


class Request(NamedTuple):
    """A prediction that is asked for: the next turn of a document, or the continuation of a text.

    Attributes:
        subject: a `Document` for a turn, a text for a raw continuation.
        config: the sampling options.
        preset: the name of a preset on the server.
    """

    subject: Document | str
    config: PredictionConfig
    preset: str | None = None

    def opening(self, model: str | None) -> Opening:
        """The request in the words of today's servers."""
        if isinstance(self.subject, str):
            return requests.complete(model, self.subject, self.config, self.preset)
        return requests.respond(model, self.subject.chat().messages, self.config, self.preset)

    def fallback(self, model: str | None) -> Opening | None:
        """The same in the words of older servers, where they had others."""
        if isinstance(self.subject, str):
            return requests.complete_by_predict(model, self.subject, self.config, self.preset)
        return None


def sampling_config(typed: SamplingOptions) -> PredictionConfig:
    """What the options ask of the server.

    Raises:
        UsageError: a value cannot be.
    """
    return PredictionConfig(
        temperature=typed.temperature,
        max_tokens=typed.max_tokens,
        top_p_sampling=typed.top_p,
        top_k_sampling=typed.top_k,
        min_p_sampling=typed.min_p,
        repeat_penalty=typed.repeat_penalty,
        seed=typed.seed,
        stop_strings=tuple(typed.stop) if typed.stop else None,
        draft_model=typed.draft_model,
        context_overflow_policy=_POLICIES[typed.overflow],
        raw=dict(_raw_field(assignment) for assignment in typed.set_ or ()),
    )


def load_config(typed: ModelOptions) -> LoadConfig:
    """How a model is to be loaded, if this run loads it.

    Raises:
        UsageError: the share of the GPU is no number and no word that is known.
    """
    ratio: Any = typed.gpu
    if typed.gpu not in (None, "max", "off"):
        try:
            ratio = float(str(typed.gpu))
        except ValueError as error:
            raise UsageError(f"--gpu takes a number from 0 to 1, max or off, not {quoted(typed.gpu)}") from error
    return LoadConfig(context_length=typed.context_length, gpu_ratio=ratio)


def load_opening(key: str, typed: ModelOptions) -> Opening:
    """The request for a model by name."""
    if typed.ttl is not None and not typed.ttl > 0:
        raise UsageError(f"--ttl takes a number of seconds above 0, not {typed.ttl:g}")
    return requests.get_or_load(key, load_config(typed), ttl=typed.ttl)


def _raw_field(assignment: str) -> tuple[str, Any]:
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise UsageError(
            f"--set takes KEY=JSON, not {quoted(assignment)}", "for example --set reasoning.enableThinking=false"
        )
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(
            f"the value of --set {key} is no JSON: {quoted(text)}", f"a text needs quotes: --set '{key}=\"{text}\"'"
        ) from error
    return (key if key.startswith(PREDICTION_PREFIX) else PREDICTION_PREFIX + key), value


def options_record(typed: SamplingOptions) -> JsonObject:
    """The sampling options that were given, for a record; never the prompt."""
    config = sampling_config(typed)
    given = {name: value for name in OPTIONS if (value := getattr(config, name)) is not None}
    return given | dict(config.raw)
