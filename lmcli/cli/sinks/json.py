"""The answer as one JSON object."""

from lmcli.cli.jsontext import written
from lmcli.cli.output import Output
from lmcli.cli.records import Text, outcome_error, result_record
from lmcli.cli.sinks import Outcome
from lmcli.values import Value


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
