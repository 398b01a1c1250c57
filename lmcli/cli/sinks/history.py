"""The answer as the whole chat history with the new turn at its end; feeds straight back into `lm respond`."""

import orjson

from lmcli.cli.document import Document, assistant_entry
from lmcli.cli.output import Output
from lmcli.cli.records import Text
from lmcli.cli.sinks import Outcome
from lmcli.client.session import Value


class HistorySink:
    """Writes the updated history when the prediction has ended; nothing at all if nothing had arrived."""

    def __init__(self, output: Output, document: Document, *, is_terminal: bool) -> None:
        self._output = output
        self._document = document
        self._layout = orjson.OPT_INDENT_2 if is_terminal else 0
        self._text = Text()

    def burst(self, values: list[Value]) -> None:
        """Gather."""
        self._text.add(values)

    def finish(self, outcome: Outcome) -> None:
        """Write the history; an answer that is not complete is marked `partial`."""
        is_partial = outcome.error is not None or outcome.end is None
        if is_partial and not self._text.answer:
            return
        entry = assistant_entry(self._text, outcome.end, is_partial=is_partial)
        updated = self._document.with_entry(entry)
        self._output.write(orjson.dumps(updated.raw, option=self._layout | orjson.OPT_APPEND_NEWLINE))
