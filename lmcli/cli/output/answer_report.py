"""A line after an answer of a dialogue: the model, how much of its context is used, and its speed."""

from typing import Final

from lmcli.cli.environment import Environment
from lmcli.cli.messages import Messages
from lmcli.cli.output.drawing import clipped, columns_of
from lmcli.errors import escaped
from lmcli.values import PredictionEnd

_NEARLY_FULL: Final = 0.9
_SEPARATOR: Final = " · "
_MIN_NAME_COLUMNS: Final = 12
"""The name of a model is left out where it would have less."""


class AnswerReport:
    """Reports on the answers of a dialogue, and warns when the context is nearly full.

    Args:
        env: the environment.
        messages: writes messages to stderr.

    Attributes:
        is_on: write a line after each answer.
        last: the end of the last answer.
    """

    def __init__(self, env: Environment, messages: Messages) -> None:
        self.is_on = False
        self.last: PredictionEnd | None = None
        self._env = env
        self._messages = messages

    def add(self, end: PredictionEnd | None) -> None:
        """Report on an answer; without an end it was cut short, and nothing is known."""
        was_nearly_full = self.last is not None and _is_nearly_full(self.last)
        self.last = end or self.last
        if end is None:
            return
        if self.is_on:
            self.write()
        if _is_nearly_full(end) and not was_nearly_full and end.stats.stop_reason != "contextLengthReached":
            self._messages.warning(f"the context of the model is nearly full: {_context(end)}")
            self._messages.hint("/clear begins a new conversation")

    def write(self) -> None:
        """Write the line about the last answer, if there is one."""
        if self.last is not None:
            self._messages.dim(f"{_line(self.last, self._env.stderr_width)}\n")


def _line(end: PredictionEnd, width: int) -> str:
    """The longest form that fits; the last one in any case."""
    speed = end.stats.tokens_per_second
    speeds = [] if speed is None else [f"{speed:,.1f} tokens/s"]
    context = _context(end)
    brief = context.partition(" (")[0]
    name = escaped(end.model_info.identifier)
    room = width - columns_of(_SEPARATOR.join(["", context, *speeds]))
    if columns_of(name) > room >= _MIN_NAME_COLUMNS:
        name = f"{clipped(name, room - 1)}…"
    forms = [[name, context, *speeds], [context, *speeds], [brief, *speeds], [brief]]
    lines = (_SEPARATOR.join(filter(None, form)) for form in forms)
    return next((line for line in lines if line and columns_of(line) <= width), clipped(name, width))


def _context(end: PredictionEnd) -> str:
    """How much of the context is used; empty if the server does not say."""
    used, size = end.stats.total_tokens_count, end.model_info.context_length
    return f"{used:,} of {size:,} tokens ({100 * used / size:.0f} %)" if used is not None and size else ""


def _is_nearly_full(end: PredictionEnd) -> bool:
    used, size = end.stats.total_tokens_count, end.model_info.context_length
    return used is not None and used >= _NEARLY_FULL * size > 0
