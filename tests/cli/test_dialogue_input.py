"""Typing in a dialogue: editing, recall, blocks, what is pasted, other encodings."""

import json
from pathlib import Path

import pytest
from dialogues import CTRL_U, UP, OpenDialogue, ParrotEngine, said

UNTYPED = ["nul\0\nx", "csi\x9b31m", "escape\x1b[31m", "override\u202e"]
"""What would control the terminal, if it was recalled."""


def test_arrow_up_recalls(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """What was typed before comes back with the arrow keys, and so does what a chat file holds from other days."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("two")
    dialogue.type(UP + UP)
    assert dialogue.see_prompt().endswith("You say: one!\n")
    dialogue.leave()
    dialogue = talk("--history", "talk.json")
    dialogue.see("exits\n")
    dialogue.see_prompt()
    dialogue.type(UP + UP + UP, end="")
    dialogue.see("one")
    dialogue.ask(" hundred")
    dialogue.leave()
    assert parrot.asked == ["one", "two", "one", "one hundred"]


def test_line_editing(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """A line can be taken back and corrected, in any script."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("nonsense" + CTRL_U + "Grüße 🦉x\x7f")
    dialogue.leave()
    assert parrot.asked == ["Grüße 🦉"]


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (['"""', "one", "", "  two", '"""'], "one\n\n  two"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""all on one line"""'], "all on one line"),
    ],
)
def test_a_block_of_lines_is_one_message(
    talk: OpenDialogue, parrot: ParrotEngine, options: list[str], asked: str
) -> None:
    """What stands between three quotation marks and three more is one message, its lines as they are."""
    dialogue = talk()
    dialogue.see_prompt()
    for line in options[:-1]:
        dialogue.type(line)
        dialogue.see("… ")
    dialogue.ask(options[-1])
    dialogue.leave()
    assert parrot.asked == [asked]


BLOCKS = [
    ['"""', "one", "", "two", '"""'],
    ['"""', "  indented", "not", '"""'],
    ['"""', "/exit", '"""'],
    ['"""/save talk.json', 'is a command"""'],
    ['"""', "Grüße 🦉", "\tund so", '"""'],
]


@pytest.mark.parametrize("options", BLOCKS, ids=repr)
def test_a_block_is_recalled_whole(talk: OpenDialogue, parrot: ParrotEngine, options: list[str]) -> None:
    """Up and Enter send all lines of a block again as one message, be it that the first looks like a command."""
    dialogue = talk()
    dialogue.see_prompt()
    for line in options[:-1]:
        dialogue.type(line.replace("\t", "\x16\t"))
        dialogue.see("… ")
    dialogue.ask(options[-1])
    dialogue.ask(UP)
    dialogue.ask(UP + UP)
    dialogue.ask("one more")
    dialogue.ask(UP + UP)
    dialogue.leave()
    asked = "\n".join(options).replace('"""', "").strip("\n")
    assert parrot.asked == [asked, asked, asked, "one more", asked]


@pytest.mark.parametrize(
    "text",
    ["one\n\ntwo\nthree", "/exit", '"""\nquoted', 'x = """\ny\n"""', " both ends ", "/x\n/y", *UNTYPED],
    ids=ascii,
)
def test_what_a_chat_file_holds_is_recalled_whole(
    talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path, text: str
) -> None:
    """A message of other days comes back as it was, whatever it looks like; one that cannot be typed is left out."""
    before = [{"role": "user", "content": "earlier"}, {"role": "assistant", "content": "yes"}]
    last = [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]
    (tmp_path / "talk.json").write_text(json.dumps([*before, *last]), encoding="utf-8")
    dialogue = talk("--history", "talk.json")
    dialogue.see("exits\n")
    dialogue.see_prompt()
    dialogue.ask(UP)
    dialogue.leave()
    assert parrot.asked == ["earlier" if text in UNTYPED else text]


@pytest.mark.parametrize("variables", [{}, {"PYTHONIOENCODING": "utf-8:strict"}], ids=["C", "UTF-8"])
def test_what_is_typed_in_another_encoding(
    talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Bytes that are not UTF-8 are refused before anything is sent, but may be in the name of a file."""
    dialogue = talk("--history", "talk.json", **variables)
    dialogue.see_prompt()
    dialogue.ask("fine")
    dialogue.type_bytes(b"/system caf\xe9\r")  # in the first of such lines readline itself passes over the byte
    dialogue.see_prompt()
    for typed in (b"/system caf\xe9", b"/model caf\xe9", b"/edit caf\xe9", b"say caf\xe9"):
        dialogue.type_bytes(typed + b"\r")
        dialogue.see("the prompt is not UTF-8: '", "caf\\udce9'")
        dialogue.see_prompt()
    dialogue.type_bytes(b"/save caf\xe9\r")
    dialogue.see("saved to 'caf\\udce9'")
    dialogue.see_prompt()
    assert said(tmp_path / "caf\udce9")[-2:] == ["fine", "You say: fine!"]
    dialogue.ask("again")
    dialogue.leave()
    assert parrot.asked == ["fine", "again"]
    assert said(tmp_path / "talk.json")[-2:] == ["again", "You say: again!"]


def test_what_was_recalled_can_be_changed(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """A block is edited like a line: what is deleted and added in its last line is in what is sent."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type('"""one')
    dialogue.see("… ")
    dialogue.ask('two"""')
    dialogue.ask(UP + "\x7f\x7f\x7fand three")
    dialogue.leave()
    assert parrot.asked == ["one\ntwo", "one\nand three"]


def test_what_is_pasted_is_one_message(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """Several lines from the clipboard are one message, sent when Enter is pressed."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("\x1b[200~def f():\n\treturn 1\n\nf()\x1b[201~", end="")
    dialogue.see("f()", "f()")
    assert parrot.asked == []
    dialogue.ask("")
    dialogue.leave()
    assert parrot.asked == ["def f():\n\treturn 1\n\nf()"]
