"""Dialogues with a Python whose module readline is libedit, as on macOS; it draws the prompt again at every key."""

import json
from pathlib import Path

import pytest
from dialogues import CTRL_C, CTRL_D, UP, OpenDialogue, ParrotEngine

from lmcli.cli.tab_key import is_libedit

readline = pytest.importorskip("readline")
pytestmark = pytest.mark.skipif(not is_libedit(readline), reason="this Python has GNU Readline")


def test_tab_completes(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """Commands, names of files and model keys; a tab in a message is a tab."""
    (tmp_path / "my owl 🦉").touch()
    dialogue = talk(LC_ALL="C.UTF-8")
    dialogue.see_prompt()
    dialogue.type("/he\t")
    dialogue.see("list these commands", "> ")
    dialogue.type("/save m\t")
    dialogue.see("'my owl 🦉' already exists", "> ")
    dialogue.type("/model e\t-\t")
    dialogue.see("the next message goes to echo-jit", "> ")
    dialogue.type("/model echo")
    dialogue.see("the next message goes to echo", "> ")
    dialogue.type("a\tb")
    dialogue.see("You say: a\tb!", "> ")
    assert parrot.asked == ["a\tb"]


def test_candidates_are_listed_and_the_line_stays(talk: OpenDialogue, tmp_path: Path) -> None:
    """They are whole lines: libedit inserts what the listed texts have in common."""
    for name in ("one.txt", "only.txt"):
        (tmp_path / name).touch()
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("/save o\t\t", end="")
    dialogue.see("/save one.txt", "/save only.txt", "> /save on")
    dialogue.type("l\t")
    dialogue.see("'only.txt' already exists")


def test_what_was_typed_is_recalled(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """A message of several lines, too, whole; Ctrl-C clears the line, Ctrl-D exits."""
    typed = tmp_path / ".local" / "state" / "lm" / "typed"
    typed.parent.mkdir(parents=True)
    typed.write_text(json.dumps("one\n  two") + "\n")
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("three", end="")
    dialogue.see("three")
    dialogue.type(CTRL_C, end="")
    dialogue.see("\n", "> ")
    dialogue.type(UP)
    dialogue.see("You say: one\n  two!\n", "> ")
    dialogue.type("four")
    dialogue.see("You say: four!\n", "> ")
    dialogue.type(CTRL_D, end="")
    assert dialogue.end() == 0
    assert parrot.asked == ["one\n  two", "four"]
    assert [json.loads(line) for line in typed.read_text().splitlines()] == ["one\n  two", "four"]
