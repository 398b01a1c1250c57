"""How a dialogue that is continued begins: with its last turns."""

import json
from pathlib import Path
from typing import Any

import pytest
from dialogues import Dialogue, OpenDialogue, ParrotEngine
from screens import SIZES

from lmcli.chat import Chat
from lmcli.cli.output.drawing import columns_of
from lmcli.cli.output.last_turns import last_turns

POEM = "\n".join(f"line {number} of a poem" for number in range(40))


def entry(role: str, content: Any, **more: Any) -> dict[str, Any]:
    """A message of a chat file."""
    return {"role": role, "content": content, **more}


def begin(talk: OpenDialogue, folder: Path, *entries: Any, options: tuple[str, ...] = (), **more: Any) -> Dialogue:
    """Continue a conversation, up to the first prompt."""
    (folder / "talk.json").write_text(json.dumps({"messages": entries}), encoding="utf-8")
    dialogue = talk("--history", "talk.json", *options, **more)
    dialogue.see("exits\n")
    dialogue.see_prompt()
    return dialogue


@pytest.mark.parametrize("size", SIZES)
def test_the_last_turns_are_shown_dim(talk: OpenDialogue, tmp_path: Path, size: tuple[int, int]) -> None:
    """The last two questions and answers, below the number of messages before; what follows is not dim."""
    texts = ["hello", "well met", "where are we?", "on chapter 3", "and who is it?", "the gardener"]
    entries = [entry(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]
    dialogue = begin(talk, tmp_path, entry("system", "Be terse."), *entries, size=size)
    assert dialogue.screen.rows == [
        "2 earlier messages, then:",
        "> where are we?",
        "on chapter 3",
        "> and who is it?",
        "the gardener",
        "lm: /help lists commands, Ctrl-D exits",
        ">",
    ]
    for text in dialogue.screen.rows[:5]:
        assert all(cell.dim for cell in dialogue.screen.cells(text))
    assert not any(cell.dim for cell in dialogue.screen.cells("lm: /help"))
    dialogue.leave()


@pytest.mark.parametrize("size", SIZES)
def test_long_turns_are_cut(talk: OpenDialogue, tmp_path: Path, size: tuple[int, int]) -> None:
    """Two thirds of the screen at most; of an answer there is the beginning, of a question its end."""
    document = f"poem.txt:\n\n{POEM}\n\nWhat is line 3?"
    entries = [entry("user", document), entry("assistant", POEM), entry("user", "again"), entry("assistant", POEM)]
    dialogue = begin(talk, tmp_path, *entries, size=size)
    rows = dialogue.screen.rows
    shown = rows[: rows.index("lm: /help lists commands, Ctrl-D exits")]
    assert len(rows) == len(shown) + 2
    assert len(shown) <= size[1] * 2 / 3
    assert shown[0] == "the conversation so far:"
    assert shown[1].startswith("> …")
    assert "  What is line 3?" in shown
    assert [row for row in shown if row.startswith("line 0")] == ["line 0 of a poem"] * 2
    assert sum(row.endswith("…") for row in shown) == 2
    dialogue.leave()


def test_nothing_is_shown_of_a_new_conversation(talk: OpenDialogue, tmp_path: Path) -> None:
    """Neither of a file that is not there, nor of an empty one, nor of one with a system prompt only."""
    dialogue = talk("--history", "new.json")
    assert dialogue.see_prompt() == "lm: /help lists commands, Ctrl-D exits\n"
    dialogue.leave()
    for text in ("", '{"messages": []}', '[{"role": "system", "content": "Be terse."}]'):
        (tmp_path / "talk.json").write_text(text, encoding="utf-8")
        dialogue = talk("--history", "talk.json")
        assert dialogue.see_prompt() == "lm: /help lists commands, Ctrl-D exits\n"
        dialogue.leave()


def test_quiet_leaves_them_out(talk: OpenDialogue, tmp_path: Path) -> None:
    """-q begins with the prompt."""
    (tmp_path / "talk.json").write_text(json.dumps([entry("user", "hi"), entry("assistant", "ho")]), encoding="utf-8")
    dialogue = talk("-q", "--history", "talk.json")
    assert dialogue.see_prompt() == ""
    dialogue.leave()


def test_without_colour_they_are_set_apart(talk: OpenDialogue, tmp_path: Path) -> None:
    """An indent and a blank line tell them from what follows."""
    entries = [entry("user", "hi\nthere"), entry("assistant", "ho")]
    dialogue = begin(talk, tmp_path, *entries, options=("--color", "never"))
    expected = ["the conversation so far:", "  > hi", "    there", "  ho", "", "lm: /help lists commands, Ctrl-D exits"]
    assert dialogue.screen.rows[:-1] == expected
    dialogue.leave()


def test_they_come_before_the_answer_to_an_argument(talk: OpenDialogue, tmp_path: Path) -> None:
    """`lm chat --history talk.json 'and now?'` shows where one was, then answers."""
    dialogue = begin(talk, tmp_path, entry("user", "hi"), entry("assistant", "ho"), options=("and now?",))
    rows = dialogue.screen.rows
    assert rows[1:4] == ["> hi", "ho", "You say: and now?!"]
    dialogue.leave()


def test_they_are_not_part_of_the_answers(talk: OpenDialogue, tmp_path: Path) -> None:
    """With stdout in a file they are on the terminal all the same."""
    with (tmp_path / "out.txt").open("wb") as out:
        dialogue = begin(talk, tmp_path, entry("user", "hi"), entry("assistant", "ho"), stdout=out)
        assert dialogue.screen.rows[1:3] == ["> hi", "ho"]
        dialogue.leave()
    assert (tmp_path / "out.txt").read_bytes() == b""


def test_what_is_not_text_is_named(talk: OpenDialogue, tmp_path: Path) -> None:
    """Images, tool calls and results are named, and reasoning is left out."""
    image = {"type": "file", "path": "/far/away/chart 1.png"}
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    dialogue = begin(
        talk,
        tmp_path,
        entry("user", [{"type": "text", "text": "what is it?"}, image]),
        entry("assistant", "", tool_calls=[call], reasoning="hm"),
        entry("tool", "5", tool_call_id="1"),
        entry("assistant", "five", reasoning="hm"),
    )
    assert dialogue.screen.rows[1:6] == [
        "> what is it?",
        "  (image chart 1.png)",
        "(calls the tool add)",
        "(result of a tool)",
        "five",
    ]
    dialogue.leave()


def test_a_chat_file_does_not_drive_the_terminal(talk: OpenDialogue, tmp_path: Path) -> None:
    """Control characters are shown escaped."""
    image = {"type": "file", "path": "\x1b[2Jx.png"}
    entries = [entry("user", ["\x1b[31mred", image]), entry("assistant", "\x07bell\x9b31m\r\u202eover")]
    dialogue = begin(talk, tmp_path, *entries)
    assert dialogue.screen.rows[1:4] == [
        "> \\x1b[31mred",
        "  (image \\x1b[2Jx.png)",
        "\\x07bell\\x9b31m\\r\\u202eover",
    ]
    dialogue.leave()


@pytest.mark.parametrize(
    "text", ["日本" * 400, "🦜 " * 400, "e\u0301" * 900, "word " * 400, "\tx" * 99, "\n\n\na\n" * 99]
)
@pytest.mark.parametrize("columns", [3, 20, 40, 80])
@pytest.mark.parametrize("is_indented", [False, True])
def test_every_row_fits(text: str, columns: int, is_indented: bool) -> None:  # noqa: FBT001  a parameter of the test
    """Wide characters count as two columns, and marks as none; the rows are at most two thirds of the screen."""
    chat = Chat.from_history([entry(role, text) for role in ("user", "assistant") * 3])
    for rows in (6, 12, 24, 100):
        shown = last_turns(chat.messages, columns, rows, is_indented=is_indented).split("\n")[:-1]
        heading, *others = shown
        assert len(shown) <= max(rows * 2 / 3, 3)
        assert all(columns_of(row) <= max(columns, 7) for row in others)
        assert any("…" in row for row in others)
        assert heading.endswith("then:")


def test_a_long_conversation_without_answers(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """Tool calls without end after one question: the last of them are shown."""
    chat = Chat.from_history([entry("user", "go"), *[entry("assistant", f"step {n}") for n in range(100)]])
    shown = last_turns(chat.messages, 80, 24, is_indented=False).splitlines()
    assert shown == ["86 earlier messages, then:", *(f"step {n}" for n in range(85, 100))]


def test_a_huge_message_is_not_read_through() -> None:
    """A message of a hundred million columns is cut before it is measured."""
    chat = Chat.from_history([entry("user", "x" * 50_000_000), entry("assistant", "日" * 50_000_000)])
    shown = last_turns(chat.messages, 80, 24, is_indented=False).splitlines()
    assert len(shown) == 11
