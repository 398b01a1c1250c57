"""The answer as a stream of JSON lines: progress, fragments, and a result or an error at the end."""

from lmcli.cli.jsontext import written
from lmcli.cli.output import Output
from lmcli.cli.records import Text, outcome_error, result_record
from lmcli.cli.sinks import Outcome
from lmcli.values import Fragment, JsonObject, LoadProgress, Value


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
