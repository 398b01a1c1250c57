"""The answer as the whole chat history with the new turn at its end; feeds straight back into `lm respond`."""

from lmcli.cli.document import Document, assistant_entry
from lmcli.cli.jsontext import written
from lmcli.cli.output import Output
from lmcli.cli.records import Text
from lmcli.cli.sinks import Outcome
from lmcli.values import Value


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
