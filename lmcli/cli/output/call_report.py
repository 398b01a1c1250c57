"""Messages on stderr about the tool calls of an answer."""

from lmcli.cli.messages import Messages
from lmcli.cli.output.sinks import Outcome
from lmcli.errors import quoted

_MAX_NAME = 60


def report_tool_calls(
    outcome: Outcome, messages: Messages, *, shown_by: str | None, is_kept: bool, record: str = ""
) -> None:
    """Warn of tool calls that are not valid, and of those that are lost because stdout does not show them.

    Args:
        outcome: the outcome of the prediction.
        messages: writes the messages.
        shown_by: the value of `-o` that shows tool calls, if the chosen one does not.
        is_kept: whether a file or a conversation keeps them, so that a note is enough.
        record: the record in front of each message.
    """
    prefix = f"{record}: " if record else ""
    for failure in outcome.tool_call_failures:
        name = "" if failure.name is None else f" {quoted(failure.name, limit=_MAX_NAME)}"
        messages.warning(f"{prefix}the tool call{name} is not valid: {failure.message}")
    if outcome.tool_calls and shown_by is not None:
        names = list(dict.fromkeys(quoted(call.name, limit=_MAX_NAME) for call in outcome.tool_calls))
        tools, calls = _plural("tool", len(names)), _plural("call", len(outcome.tool_calls))
        report = messages.note if is_kept else messages.warning
        report(f"{prefix}the model called the {tools} {', '.join(names)}; -o {shown_by} shows the {calls}")


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"
