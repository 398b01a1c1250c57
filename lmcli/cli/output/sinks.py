"""Sinks: one for each form of output, all fed by the loop in `delivery`."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from lmcli.cli.output.stdout import Output
from lmcli.errors import KEPT_IN_TEXT, Incomplete, LmError, PredictionFailed, escaped
from lmcli.values import Fragment, PredictionEnd, ToolCallFailure, ToolCallRequest, Value


class Outcome(NamedTuple):
    """How a prediction ended.

    Attributes:
        end: the end of the prediction; None if it did not arrive.
        error: why the answer is not complete, if it is not.
        signum: the signal that stopped it, if one did.
        recovered: an answer found in the reasoning, in place of an empty one.
        tool_calls: the tool calls that are complete.
        tool_call_failures: those that are not valid.
    """

    end: PredictionEnd | None = None
    error: LmError | None = None
    signum: int | None = None
    recovered: str | None = None
    tool_calls: Sequence[ToolCallRequest] = ()
    tool_call_failures: Sequence[ToolCallFailure] = ()

    @property
    def is_partial(self) -> bool:
        """Whether the answer was cut short."""
        is_stopped = self.end is None or self.end.stats.stop_reason == "userStopped"
        return is_stopped or isinstance(self.error, Incomplete | PredictionFailed)


class Sink(Protocol):
    """Receives bursts of values as they arrive, then the outcome, once."""

    def burst(self, values: list[Value]) -> None:
        """Process the values that arrived together."""

    def finish(self, outcome: Outcome) -> None:
        """Complete the output."""


class StderrSink(Sink, Protocol):
    """Shows progress or reasoning on stderr.

    Attributes:
        tick: the longest time between bursts, which may be empty, in seconds; None: unlimited.
    """

    tick: float | None


class TextSink:
    """Writes the text of fragments, reasoning left out; one write for those that arrived together.

    Args:
        output: stdout.
        is_terminal: escape control characters and bidirectional overrides, so that a model cannot control the
            terminal.
        ends_line: end with a newline, if the text does not.
        preface: text to write first: with the first text of the answer, or at the end.
    """

    def __init__(self, output: Output, *, is_terminal: bool, ends_line: bool, preface: str = "") -> None:
        self._output = output
        self._preface = preface
        self._is_terminal = is_terminal
        self._ends_line = ends_line or is_terminal

    def burst(self, values: list[Value]) -> None:
        """Write the text of the fragments that arrived together."""
        text = "".join([v.content for v in values if type(v) is Fragment and v.reasoning_type == "none"])
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
