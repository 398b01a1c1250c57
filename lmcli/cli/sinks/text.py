"""The answer as text, each fragment at once."""

from lmcli.cli.output import Output
from lmcli.cli.sinks import Outcome
from lmcli.errors import KEPT_IN_TEXT, escaped
from lmcli.values import Fragment, Value


class TextSink:
    """Writes the text of fragments, reasoning left out; one write for those that arrived together.

    Args:
        output: where to.
        is_terminal: show control characters and overrides of the direction of writing escaped, so that a model cannot
            drive the terminal.
        ends_line: end with a newline, if the text does not.
        preface: a text to write first, at the latest when it is known that nothing follows it.
    """

    def __init__(self, output: Output, *, is_terminal: bool, ends_line: bool, preface: str = "") -> None:
        self._output = output
        self._preface = preface
        self._is_terminal = is_terminal
        self._ends_line = ends_line or is_terminal

    def burst(self, values: list[Value]) -> None:
        """Write the text that has arrived together."""
        text = "".join(v.content for v in values if type(v) is Fragment and v.reasoning_type == "none")
        if text:
            self._write(text)

    def finish(self, outcome: Outcome) -> None:
        """End the line."""
        if outcome.recovered is not None:
            self.burst([Fragment(outcome.recovered)])
        if self._preface:
            self._write("")
        if self._ends_line and self._output.last not in (b"", b"\n"):
            self._output.write(b"\n")

    def _write(self, text: str) -> None:
        text, self._preface = self._preface + text, ""
        self._output.write((escaped(text, keep=KEPT_IN_TEXT) if self._is_terminal else text).encode())
