"""The records of a prediction that scripts read: result, error, stats; their keys are part of the contract."""

from typing import Any

import orjson

from lmcli.cli.output.sinks import Outcome
from lmcli.errors import LmError
from lmcli.values import Fragment, JsonObject, ModelInstance, Stats, Value

SIGNALLED = 128
"""What a shell adds to the number of a signal for the status of what died of it."""

_ALWAYS = (
    "stop_reason",
    "predicted_tokens_count",
    "prompt_tokens_count",
    "total_tokens_count",
    "time_to_first_token_sec",
    "tokens_per_second",
    "total_time_sec",
)


class Text:
    """A sink that keeps the text of a prediction: the answer and, apart from it, the reasoning."""

    def __init__(self) -> None:
        self._answer: list[str] = []
        self._reasoning: list[str] = []

    def burst(self, values: list[Value]) -> None:
        """Keep the text of the fragments."""
        for value in values:
            if isinstance(value, Fragment):
                if value.reasoning_type == "none":
                    self._answer.append(value.content)
                elif value.reasoning_type == "reasoning":
                    self._reasoning.append(value.content)

    def finish(self, outcome: Outcome) -> None:
        """Take an answer that was found elsewhere in place of the one that did not come."""
        if outcome.recovered is not None:
            self._answer = [outcome.recovered]

    @property
    def answer(self) -> str:
        """What is outside of the reasoning."""
        return "".join(self._answer)

    @property
    def reasoning(self) -> str:
        """What is inside, without its tags."""
        return "".join(self._reasoning)


class Presence:
    """A sink that only notices whether there is an answer.

    Attributes:
        is_there: something other than white space and reasoning has come.
    """

    def __init__(self) -> None:
        self.is_there = False

    def burst(self, values: list[Value]) -> None:
        """Look for text."""
        if not self.is_there:
            self.is_there = any(
                isinstance(v, Fragment) and v.reasoning_type == "none" and v.content.strip() for v in values
            )

    def finish(self, outcome: Outcome) -> None:
        """Nothing is to be written."""


def result_record(text: Text, model: ModelInstance | None, stats: Stats | None, *, is_structured: bool) -> JsonObject:
    """A finished prediction: the keys of `-o json`."""
    return {
        "content": text.answer,
        "reasoning": text.reasoning or None,
        "parsed": _parsed(text.answer) if is_structured else None,
        "model": None if model is None else model_record(model),
        "stats": None if stats is None else stats_record(stats),
    }


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def model_record(model: ModelInstance) -> JsonObject:
    """The model that was used."""
    return {"display_name": model.display_name, "model_key": model.model_key, "identifier": model.identifier}


def stats_record(stats: Stats) -> JsonObject:
    """The server's figures; those of the first rank always, null where unknown, the others where given.

    The number of GPU layers is left out: the server documents its own figure as wrong.
    """
    values = stats.as_dict()
    values.pop("num_gpu_layers")
    return {name: values.pop(name) for name in _ALWAYS} | {k: v for k, v in values.items() if v is not None}


def outcome_error(outcome: Outcome) -> JsonObject | None:
    """What kept an answer from being complete, be it a signal that the server did not answer in time."""
    if outcome.error is not None:
        return error_record(outcome.error)
    if outcome.end is None and outcome.signum is not None:
        return {"code": SIGNALLED + outcome.signum, "message": "interrupted"}
    return None


def error_record(error: LmError) -> JsonObject:
    """What went wrong: the exit status and the message."""
    return {"code": int(error.exit_code), "message": error.message}
