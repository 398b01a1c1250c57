"""The answer as JSON: one object, a stream of lines, or the chat history with the new turn at its end."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.json_text import dump_lines, json_pieces
from lmcli.cli.output.results import (
    StoredTextCollector,
    outcome_error,
    result_record,
    token_record,
    tool_call_failure_record,
    tool_call_record,
)
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.output.stdout import Output
from lmcli.values import (
    Fragment,
    JsonObject,
    LoadProgress,
    PromptProgress,
    ToolCallFailure,
    ToolCallRequest,
    Value,
)


class JsonSink(StoredTextCollector):
    """Writes one object when the prediction has ended: indented on a terminal, else on one line."""

    def __init__(self, output: Output, *, is_terminal: bool, is_structured: bool) -> None:
        super().__init__(keeps_tokens=True, is_indented=is_terminal)
        self._output = output
        self._is_terminal = is_terminal
        self._is_structured = is_structured

    def finish(self, outcome: Outcome) -> None:
        """Write the object; with an `error` in it if the answer is not complete."""
        super().finish(outcome)
        record = result_record(self, outcome, is_structured=self._is_structured)
        if (error := outcome_error(outcome)) is not None:
            record["error"] = error
        _write(self._output, record, is_indented=self._is_terminal)


class JsonLinesSink(StoredTextCollector):
    """Writes a line for each value; one write for those that arrived together."""

    def __init__(self, output: Output, *, is_structured: bool) -> None:
        super().__init__(keeps_tokens=True)
        self._output = output
        self._is_structured = is_structured

    def burst(self, values: list[Value]) -> None:
        """Write the values that arrived together."""
        super().burst(values)
        events = [event(value) for value in values if (event := _EVENTS.get(type(value))) is not None]
        if events:
            self._output.write(dump_lines(events))

    def finish(self, outcome: Outcome) -> None:
        """Write the last line."""
        super().finish(outcome)
        error = outcome_error(outcome)
        kind = {"type": "result"} if error is None else {"type": "error", **error}
        _write(self._output, kind | result_record(self, outcome, is_structured=self._is_structured))


def _fragment_event(fragment: Fragment) -> JsonObject:
    event: JsonObject = {"type": "fragment", "content": fragment.content, "reasoning_type": fragment.reasoning_type}
    return event | {"tokens": list(map(token_record, fragment.tokens))} if fragment.tokens else event


def _reading_event(reading: PromptProgress) -> JsonObject:
    event: JsonObject = {"type": "prompt_processing_progress", "progress": reading.progress}
    return event if reading.details is None else event | {"details": reading.details.as_dict()}


_EVENTS: Final[Mapping[type, Callable[[Any], JsonObject]]] = {
    Fragment: _fragment_event,
    PromptProgress: _reading_event,
    LoadProgress: lambda loading: {"type": "model_load_progress", "progress": loading.progress},
    ToolCallRequest: lambda call: {"type": "tool_call", **tool_call_record(call)},
    ToolCallFailure: lambda failure: {"type": "tool_call_failure", **tool_call_failure_record(failure)},
}
"""The lines that values are written as; others, such as pieces of a tool call, are not written."""


class HistorySink(StoredTextCollector):
    """Writes the updated history when the prediction has ended; nothing if no text and no tool call arrived."""

    def __init__(self, output: Output, document: Document, *, is_terminal: bool) -> None:
        super().__init__()
        self._output = output
        self._document = document
        self._is_terminal = is_terminal

    def finish(self, outcome: Outcome) -> None:
        """Write the history; an answer that is not complete is marked `partial`."""
        super().finish(outcome)
        entry = assistant_entry(self, outcome)
        if entry is not None:
            _write(self._output, self._document.with_entry(entry).raw, is_indented=self._is_terminal)


def _write(output: Output, value: Any, *, is_indented: bool = False) -> None:
    """Write a value that may contain a whole answer."""
    for piece in json_pieces(value, is_indented=is_indented):
        output.write(piece)
