"""The end of a conversation as a reminder: its last turns, each message cut to a few rows of the terminal."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from lmcli.chat import FilePart, ImagePart, Message, Part, TextPart
from lmcli.cli.output.drawing import clipped
from lmcli.client.images import image_name
from lmcli.errors import KEPT_IN_TEXT, escaped
from lmcli.values import ToolCallRequest

_TURNS_COUNT: Final = 2
_MAX_ROWS: Final = 5
"""The rows of one message."""
_PROMPT: Final = "> "
_INDENT: Final = "  "
_CUT: Final = "…"


def last_turns(messages: Sequence[Message], columns: int, rows: int, *, is_indented: bool) -> str:
    """The last turns, below a line with the number of messages before; they take two thirds of the rows at most.

    Args:
        messages: the conversation, without the system prompt.
        columns: the width of the terminal.
        rows: its height.
        is_indented: set the text apart by an indent and a blank line, because it is not dim.
    """
    indent, gap = (_INDENT, "\n") if is_indented else ("", "")
    room = max(rows * 2 // 3 - 1 - len(gap), 1)
    shown = _turns(messages)[-room:]
    width = columns - len(indent)
    # One row for each message fits in any case.
    blocks = next(b for n in range(_MAX_ROWS, 0, -1) if sum(map(len, b := _blocks(shown, width, n))) <= room)
    earlier = len(messages) - len(shown)
    heading = f"{earlier} earlier message{'s' if earlier > 1 else ''}, then:" if earlier else "the conversation so far:"
    return "".join(f"{line}\n" for line in [heading, *(indent + row for block in blocks for row in block)]) + gap


def _turns(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages from the question on that is the last but one."""
    questions = [index for index, message in enumerate(messages) if message.role == "user"]
    return messages[questions[-_TURNS_COUNT:][0] :] if questions else messages


def _blocks(messages: Sequence[Message], columns: int, max_rows: int) -> list[list[str]]:
    """The rows of each message: the end of a question, which comes after what it is about, or the start of an answer.

    One column remains for the mark of a cut.
    """
    return [
        _question(message, max(columns - len(_PROMPT) - 1, 1), max_rows)
        if message.role == "user"
        else _answer(message, max(columns - 1, 1), max_rows)
        for message in messages
    ]


def _question(message: Message, columns: int, max_rows: int) -> list[str]:
    text = _text(message)
    end = text[-_enough(columns, max_rows) :]
    rows = list(_wrapped(end, columns))
    first, *others = rows[-max_rows:] or [""]
    mark = _CUT if (len(end), len(rows)) != (len(text), len(others) + 1) else ""
    return [f"{_PROMPT}{mark}{first}", *(f"{_INDENT}{row}" for row in others)]


def _answer(message: Message, columns: int, max_rows: int) -> list[str]:
    text = _text(message)
    start = text[: _enough(columns, max_rows)]
    rows = list(islice(_wrapped(start, columns), max_rows + 1))
    *others, last = rows[:max_rows] or [""]
    mark = _CUT if (len(start), len(rows)) != (len(text), len(others) + 1) else ""
    return [*others, f"{last}{mark}"]


def _enough(columns: int, max_rows: int) -> int:
    """A number of characters that fills so many rows, unless most of them have no width."""
    return 2 * columns * max_rows


def _text(message: Message) -> str:
    return "\n".join(map(_part_text, message.content)).strip()


def _part_text(part: Part) -> str:
    match part:
        case TextPart():
            return part.text
        case ImagePart():
            return f"(image {image_name(part.source)})"
        case FilePart():
            return f"(file {part.name})"
        case ToolCallRequest():
            return f"(calls the tool {part.name})"
    return "(result of a tool)"


def _wrapped(text: str, columns: int) -> Iterator[str]:
    """The rows of a text that is wrapped between words; without blank lines."""
    for line in escaped(text, keep=KEPT_IN_TEXT).expandtabs().splitlines():
        rest = line.rstrip()
        while rest:
            start = rest[: 2 * columns]  # enough for a row, and little to measure
            row = clipped(start, columns) or rest[:1]
            if row != rest:
                row = row[: row.rfind(" ") + 1] or row
            rest = rest[len(row) :]
            yield row.rstrip()
