"""The answer as JSON: one object, a stream of lines, or the whole chat history with the new turn at its end."""

from lmcli.cli.input.document import Document, assistant_entry
from lmcli.cli.jsontext import written
from lmcli.cli.output.results import Text, outcome_error, result_record
from lmcli.cli.output.sinks import Outcome
from lmcli.cli.output.stdout import Output
from lmcli.values import Fragment, JsonObject, LoadProgress, Value


class JsonSink:
    """Writes one object when the prediction has ended: indented on a terminal, else on one line."""

    def __init__(self, output: Output, *, is_terminal: bool, is_structured: bool) -> None:
        self._output = output
        self._is_terminal = is_terminal
        self._is_structured = is_structured
        self._text = Text()

    def burst(self, values: list[Value]) -> None:
        """Gather."""
        self._text.burst(values)

    def finish(self, outcome: Outcome) -> None:
        """Write the object; with an `error` in it if the answer is not complete."""
        end = outcome.end
        self._text.finish(outcome)
        record = result_record(self._text, end and end.model_info, end and end.stats, is_structured=self._is_structured)
        error = outcome_error(outcome)
        if error is not None:
            record["error"] = error
        self._output.write(written(record, is_indented=self._is_terminal))


class JsonLinesSink:
    """Writes a line for each value; one write for those that arrived together."""

    def __init__(self, output: Output, *, is_structured: bool) -> None:
        self._output = output
        self._is_structured = is_structured
        self._text = Text()

    def burst(self, values: list[Value]) -> None:
        """Write what has arrived together."""
        self._text.burst(values)
        if values:
            self._output.write(b"".join(written(_event(value)) for value in values))

    def finish(self, outcome: Outcome) -> None:
        """Write the last line."""
        end = outcome.end
        self._text.finish(outcome)
        record = result_record(self._text, end and end.model_info, end and end.stats, is_structured=self._is_structured)
        error = outcome_error(outcome)
        ending = {"type": "result"} if error is None else {"type": "error", **error}
        self._output.write(written(ending | record))


def _event(value: Value) -> JsonObject:
    if isinstance(value, Fragment):
        return {"type": "fragment", "content": value.content, "reasoning_type": value.reasoning_type}
    kind = "model_load_progress" if isinstance(value, LoadProgress) else "prompt_processing_progress"
    return {"type": kind, "progress": value.progress}


class HistorySink:
    """Writes the updated history when the prediction has ended; nothing at all if nothing had arrived."""

    def __init__(self, output: Output, document: Document, *, is_terminal: bool) -> None:
        self._output = output
        self._document = document
        self._is_terminal = is_terminal
        self._text = Text()

    def burst(self, values: list[Value]) -> None:
        """Gather."""
        self._text.burst(values)

    def finish(self, outcome: Outcome) -> None:
        """Write the history; an answer that is not complete is marked `partial`."""
        self._text.finish(outcome)
        entry = assistant_entry(self._text, outcome)
        if entry is None:
            return
        self._output.write(written(self._document.with_entry(entry).raw, is_indented=self._is_terminal))
