"""The model's reasoning, dim on stderr."""

from collections.abc import Callable

from lmcli.cli.sinks import Outcome
from lmcli.cli.voice import Voice
from lmcli.errors import KEPT_IN_TEXT, escaped
from lmcli.values import Fragment, Value


class ReasoningSink:
    """Shows reasoning as it comes, and ends its line before the answer begins.

    Args:
        voice: says it.
        is_terminal: show escaped what is shown escaped in an answer.
        make_room: called before anything is shown, to take away what stands there.
    """

    tick: float | None = None

    def __init__(self, voice: Voice, *, is_terminal: bool, make_room: Callable[[], None]) -> None:
        self._voice = voice
        self._is_terminal = is_terminal
        self._make_room = make_room
        self._last = ""

    def burst(self, values: list[Value]) -> None:
        """Show the reasoning among the values."""
        fragments = [v for v in values if isinstance(v, Fragment)]
        text = "".join(f.content for f in fragments if f.reasoning_type == "reasoning")
        if text:
            self._make_room()
            self._last = text[-1]
            self._voice.aside(escaped(text, keep=KEPT_IN_TEXT) if self._is_terminal else text)
        if any(f.reasoning_type == "none" for f in fragments):
            self._end_line()

    def finish(self, outcome: Outcome) -> None:  # noqa: ARG002  the line ends however it ended
        """End the line."""
        self._end_line()

    def _end_line(self) -> None:
        if self._last not in ("", "\n"):
            self._voice.raw("\n")
        self._last = ""
