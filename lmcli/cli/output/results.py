"""The records of a prediction for scripts: result, error, stats; their keys are a public interface."""

from typing import Any, ClassVar

import orjson

from lmcli.cli.json_text import load_json
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.text_buffer import JsonArray, StoredTextBuffer, TextBuffer
from lmcli.errors import LmError
from lmcli.values import (
    Fragment,
    JsonObject,
    ModelInstance,
    PredictedToken,
    Stats,
    ToolCallFailure,
    ToolCallRequest,
    Value,
)
from lmcli.wire.pieces import LongText

SIGNALLED = 128
"""Added to the number of a signal for the status of a process that died of it, as shells do."""

_REQUIRED_STATS = (
    "stop_reason",
    "predicted_tokens_count",
    "prompt_tokens_count",
    "total_tokens_count",
    "time_to_first_token_sec",
    "tokens_per_second",
    "total_time_sec",
)
_OTHER_STATS = tuple(name for name in Stats.fields if name not in (*_REQUIRED_STATS, "num_gpu_layers"))


class TextCollector:
    """A sink that collects the text of a prediction: the answer and, separately, the reasoning.

    Args:
        keeps_tokens: collect the tokens of the answer, too, if the server sends them.
        is_indented: how the tokens are written.
    """

    _buffer: ClassVar[type[TextBuffer]] = TextBuffer

    def __init__(self, *, keeps_tokens: bool = False, is_indented: bool = False) -> None:
        self._buffers = {"none": self._buffer(), "reasoning": self._buffer()}
        self._keeps_tokens = keeps_tokens
        self.tokens = JsonArray(self._buffer(), is_indented=is_indented)

    def burst(self, values: list[Value]) -> None:
        """Collect the text of the fragments."""
        fragments = [value for value in values if type(value) is Fragment]
        for kind, buffer in self._buffers.items():
            if text := "".join([f.content for f in fragments if f.reasoning_type == kind]):
                buffer.append(text)
        if self._keeps_tokens:
            answer = (f for f in fragments if f.tokens and f.reasoning_type == "none")
            self.tokens.extend(token_record(token) for fragment in answer for token in fragment.tokens)

    def finish(self, outcome: Outcome) -> None:
        """Replace the answer with the recovered one, if there is one."""
        if outcome.recovered is not None:
            self._buffers["none"] = TextBuffer([outcome.recovered])

    @property
    def answer(self) -> str | LongText:
        """The text of the answer."""
        return self._buffers["none"].contents

    @property
    def reasoning(self) -> str | LongText:
        """The text of the reasoning, without its tags."""
        return self._buffers["reasoning"].contents


class StoredTextCollector(TextCollector):
    """Collects what is written at the end, and not needed in memory until then."""

    _buffer = StoredTextBuffer


def result_record(text: TextCollector, outcome: Outcome, *, is_structured: bool) -> JsonObject:
    """A finished prediction: the keys of `-o json`."""
    end = outcome.end
    record = {
        "content": text.answer,
        "reasoning": text.reasoning or None,
        "parsed": _parsed(str(text.answer)) if is_structured else None,
        **_tool_call_records(outcome),
        "model": None if end is None else model_record(end.model_info),
        "stats": None if end is None else stats_record(end.stats),
    }
    return record | {"tokens": text.tokens} if text.tokens else record


def token_record(token: PredictedToken) -> JsonObject:
    """A token of an answer, with its candidates if there are any."""
    record = token._asdict()
    candidates = [candidate._asdict() for candidate in record.pop("candidates")]
    return record | {"candidates": candidates} if candidates else record


def _tool_call_records(outcome: Outcome) -> JsonObject:
    """The tool calls of an answer, if it has any."""
    records = {
        "tool_calls": [tool_call_record(call) for call in outcome.tool_calls],
        "tool_call_failures": [tool_call_failure_record(failure) for failure in outcome.tool_call_failures],
    }
    return {name: listed for name, listed in records.items() if listed}


def tool_call_record(call: ToolCallRequest) -> JsonObject:
    """A tool call; without arguments it has an empty object."""
    return {"id": call.id, "name": call.name, "arguments": call.arguments or {}}


def tool_call_failure_record(failure: ToolCallFailure) -> JsonObject:
    """A tool call that is not valid."""
    return {"name": failure.name, "message": failure.message, "content": failure.content}


def _parsed(text: str) -> Any:
    try:
        return load_json(text)
    except (orjson.JSONDecodeError, RecursionError):
        return None


def model_record(model: ModelInstance) -> JsonObject:
    """The model that was used."""
    return {"display_name": model.display_name, "model_key": model.model_key, "identifier": model.identifier}


def stats_record(stats: Stats) -> JsonObject:
    """The stats of the server: the required ones always, null if unknown, the others if present.

    The number of GPU layers is left out: the server documents its own value as wrong.
    """
    record: JsonObject = {name: getattr(stats, name) for name in _REQUIRED_STATS}
    for name in _OTHER_STATS:
        if (value := getattr(stats, name)) is not None:
            record[name] = value
    return record


def outcome_error(outcome: Outcome) -> JsonObject | None:
    """Why an answer is not complete: an error, or a signal if the server did not send an end in time."""
    if outcome.error is not None:
        return error_record(outcome.error)
    if outcome.end is None and outcome.signum is not None:
        return {"code": SIGNALLED + outcome.signum, "message": "interrupted"}
    return None


def error_record(error: LmError) -> JsonObject:
    """An error: the exit status and the message."""
    return {"code": int(error.exit_code), "message": error.message}
