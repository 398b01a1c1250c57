"""The tool calls of the built-in models: a line `call NAME {…}` of the prompt calls a tool that the request offers."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lmcli.chat import Message, ToolCallResult
from lmcli.values import ToolCallFailure, ToolCallRequest
from lmcli.wire.prediction_config import PREDICTION_PREFIX

TOOLS_KEY: Final = PREDICTION_PREFIX + "tools"
TOOL_CHOICE_KEY: Final = PREDICTION_PREFIX + "toolChoice"

_LINE: Final = re.compile(r"call[ \t]+(\S+)[ \t]*(.*)")


@dataclass(frozen=True, slots=True)
class ToolCallLine:
    """A line that calls a tool.

    Attributes:
        id: the identifier of the call.
        name: the name of the tool.
        arguments: what stands behind the name, as text.
    """

    id: str
    name: str
    arguments: str

    def value(self) -> ToolCallRequest | ToolCallFailure:
        """The call that it makes, or why it is not valid."""
        try:
            arguments = json.loads(self.arguments)
        except (ValueError, RecursionError):
            arguments = None
        if isinstance(arguments, dict):
            return ToolCallRequest(self.name, arguments, self.id)
        problem = "Failed to parse tool call: the arguments are not a JSON object"
        return ToolCallFailure(problem, self.name, self.arguments)


def separated(text: str, messages: Sequence[Message], values: Mapping[str, Any]) -> tuple[str, Sequence[ToolCallLine]]:
    """Separate the lines of a prompt that call a tool from those to repeat.

    Args:
        text: the prompt.
        messages: the conversation; the calls get identifiers that are not in it.
        values: the effective config by wire key.
    """
    names = frozenset(_offered(values))
    if not names:
        return text, ()
    lines = text.splitlines(keepends=True)
    found = [match if (match := _LINE.fullmatch(line.strip())) and match[1] in names else None for line in lines]
    matches = [match for match in found if match is not None]
    first = 1 + sum(isinstance(part, ToolCallRequest) for message in messages for part in message.content)
    calls = [ToolCallLine(f"call-{number}", match[1], match[2] or "{}") for number, match in enumerate(matches, first)]
    return "".join(line for line, match in zip(lines, found, strict=True) if match is None), calls


def results_at_end(messages: Sequence[Message]) -> str | None:
    """The results of tools that end a conversation, one a line; None if it does not end with any."""
    results: list[str] = []
    for message in reversed(messages):
        if message.role != "tool":
            break
        results[:0] = [part.content for part in message.content if isinstance(part, ToolCallResult)]
    return "\n".join(results) if results else None


def _offered(values: Mapping[str, Any]) -> Iterator[str]:
    """The names of the tools that the model may call."""
    match values.get(TOOL_CHOICE_KEY):
        case {"mode": "none"}:
            return
    match values.get(TOOLS_KEY):
        case {"type": "toolArray", "tools": list(tools)}:
            for tool in tools:
                match tool:
                    case {"type": "function", "function": {"name": str(name)}}:
                        yield name
