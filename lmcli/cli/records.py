"""The records of a prediction that scripts read: result, error, stats; their keys are part of the contract."""

from typing import Any

from lmcli.client.payloads import parse_object
from lmcli.errors import LmError
from lmcli.values import Fragment, JsonObject, ModelInstance, Stats

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
    """The text of a prediction, gathered: the answer and, apart from it, the reasoning."""

    def __init__(self) -> None:
        self._answer: list[str] = []
        self._reasoning: list[str] = []

    def add(self, values: list[Any]) -> None:
        """Take the fragments among the values."""
        for value in values:
            if type(value) is Fragment:
                if value.reasoning_type == "none":
                    self._answer.append(value.content)
                elif value.reasoning_type == "reasoning":
                    self._reasoning.append(value.content)

    @property
    def answer(self) -> str:
        """What is outside of the reasoning."""
        return "".join(self._answer)

    @property
    def reasoning(self) -> str:
        """What is inside, without its tags."""
        return "".join(self._reasoning)


def result_record(text: Text, model: ModelInstance | None, stats: Stats | None, *, is_structured: bool) -> JsonObject:
    """A finished prediction: the keys of `-o json`."""
    parsed = parse_object(text.answer) if is_structured else None
    return {
        "content": text.answer,
        "reasoning": text.reasoning or None,
        "parsed": parsed if isinstance(parsed, dict) else None,
        "model": None if model is None else model_record(model),
        "stats": None if stats is None else stats_record(stats),
    }


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


def error_record(error: LmError) -> JsonObject:
    """What went wrong: the exit status and the message."""
    return {"code": int(error.exit_code), "message": error.message}
