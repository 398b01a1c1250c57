"""The model's reasoning on stderr: dim, or indented on a terminal without colour."""

import re
from collections.abc import Callable

from lmcli.cli.messages import Messages
from lmcli.cli.output.sinks import Outcome
from lmcli.errors import KEPT_IN_TEXT, escaped
from lmcli.values import Fragment, Value


class ReasoningSink:
    """Shows reasoning as it arrives, and ends its line before the answer starts.

    On a terminal without colour it has a heading and an indent, and a blank line separates it from the answer.

    Args:
        messages: writes it to stderr.
        is_terminal: escape the same characters as in an answer.
        erase_progress: called before anything is shown.
    """

    tick: float | None = None

    def __init__(self, messages: Messages, *, is_terminal: bool, erase_progress: Callable[[], None]) -> None:
        self._messages = messages
        self._is_terminal = is_terminal
        self._is_indented = is_terminal and not messages.has_color
        self._erase_progress = erase_progress
        self._last = ""

    def burst(self, values: list[Value]) -> None:
        """Show the reasoning among the values."""
        fragments = [v for v in values if isinstance(v, Fragment)]
        text = "".join(f.content for f in fragments if f.reasoning_type == "reasoning")
        if self._is_indented and not self._last:
            text = text.lstrip("\n")
        if text:
            self._erase_progress()
            shown = escaped(text, keep=KEPT_IN_TEXT) if self._is_terminal else text
            self._messages.dim(self._indented(shown) if self._is_indented else shown)
            self._last = text[-1]
        answer = "".join(f.content for f in fragments if f.reasoning_type == "none")
        if answer:
            self._end_line(gap="\n" if self._is_indented and not answer.startswith("\n") else "")

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  for every outcome
        """End the line."""
        self._end_line()

    def _indented(self, text: str) -> str:
        heading = "" if self._last else "reasoning:\n"
        return heading + re.sub(r"\n(?=[^\n])", "\n  ", (self._last or "\n") + text)[1:]

    def _end_line(self, gap: str = "") -> None:
        if self._last:
            self._messages.raw(("" if self._last == "\n" else "\n") + gap)
        self._last = ""
