"""The commands of a dialogue, each with what it refuses."""

import os
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import Serve
from dialogues import OpenDialogue, ParrotEngine, messages, said, talking
from screens import SIZES

from lmcli.cli.dialogue_commands import COMMANDS


def test_help_lists_every_command(talk: OpenDialogue) -> None:
    """/help names all that can be typed; what is no command is refused, with a way to say it all the same."""
    dialogue = talk()
    dialogue.see_prompt()
    shown = dialogue.ask("/help")
    for name in COMMANDS:
        assert f"\n{name} " in shown
    assert "TAB" in shown
    assert "Ctrl-C" in shown
    assert "Ctrl-D" in shown
    assert "no such command '/frob'" in dialogue.ask("/frob now")
    assert "You say: /frob now!" in dialogue.ask(" /frob now")
    dialogue.type("/exit")
    assert dialogue.end() == 0


def test_quit_is_exit(talk: OpenDialogue) -> None:
    """/quit leaves, too."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("/quit")
    assert dialogue.end() == 0


@pytest.mark.parametrize("size", SIZES)
def test_help_is_in_two_columns(talk: OpenDialogue, size: tuple[int, int]) -> None:
    """On any terminal what a command does stands to the right of it, wrapped between words."""
    dialogue = talk(size=size)
    dialogue.see_prompt()
    dialogue.ask("/help")
    listed = dialogue.screen.everything[2:-1]
    assert all(len(row) <= size[0] for row in listed)
    assert {row[18] for row in listed} == {" "}
    assert "" not in {row[19:20].strip() for row in listed}
    texts = {name.split()[0]: " ".join(row[19:] for row in rows) for name, *rows in described(listed)}
    assert texts["/file"] == "attach a text or image to the next question"
    assert list(texts)[: len(COMMANDS)] == list(COMMANDS)


def described(rows: Sequence[str]) -> Iterator[list[str]]:
    """The rows of each command, with its name before them."""
    starts = [number for number, row in enumerate(rows) if not row.startswith(" ")]
    for start, end in pairwise([*starts, len(rows)]):
        yield [rows[start], *rows[start:end]]


def test_system_shows_and_sets(talk: OpenDialogue, tmp_path: Path) -> None:
    """/system sets the system prompt of the conversation, and shows it."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    assert "no system prompt is set" in dialogue.ask("/system")
    dialogue.ask("hi")
    assert "lm: the system prompt is set\n" in dialogue.ask("/system  Be terse, and kind.")
    assert "\nBe terse, and kind.\n" in dialogue.ask("/system")
    assert messages(tmp_path / "talk.json")[0] == {"role": "system", "content": "Be terse, and kind."}
    dialogue.ask("again")
    assert said(tmp_path / "talk.json")[0::4] == ["Be terse, and kind.", "You say: again!"]
    dialogue.leave()


def test_model_shows_and_sets(talk: OpenDialogue) -> None:
    """/model names the model, and takes another one, loaded if it must be."""
    dialogue = talk()
    dialogue.see_prompt()
    assert "\necho\n" in dialogue.ask("/model")
    assert "lm: the next message goes to echo-jit\n" in dialogue.ask("/model echo-jit")
    assert "\necho-jit\n" in dialogue.ask("/model")
    assert dialogue.ask("hi").endswith("\nhi\n")
    assert "\x1b[2mecho-jit · " in dialogue.ask("/stats")
    dialogue.leave()


@pytest.mark.parametrize(
    ("key", "hint"), [("echo-jti", "did you mean /model echo-jit?"), ("gpt", "/models lists the models")]
)
def test_a_model_that_is_not_there_is_refused_at_once(
    talk: OpenDialogue, parrot: ParrotEngine, key: str, hint: str
) -> None:
    """/model with an unknown key is an error with what may be meant, and the model stays."""
    dialogue = talk()
    dialogue.see_prompt()
    shown = dialogue.ask(f"/model {key}")
    assert f"there is no model '{key}'\n" in shown
    assert f"hint:\x1b[0m {hint}\n" in shown
    dialogue.ask("hi")
    assert parrot.asked == ["hi"]
    dialogue.leave()


@pytest.mark.parametrize("name", ["ECHO-JIT", "lmcli/echo", "echo-jit@Q4_K_M"])
def test_a_model_has_more_names_than_its_key(talk: OpenDialogue, name: str) -> None:
    """Which model a part of a name, or one with a quantization, means is for the server to say."""
    dialogue = talk()
    dialogue.see_prompt()
    assert f"lm: the next message goes to {name}\n" in dialogue.ask(f"/model {name}")
    dialogue.leave()


def test_a_part_of_a_key_is_enough(talk: OpenDialogue) -> None:
    """A text that only one model has in its key stands for that."""
    dialogue = talk()
    dialogue.see_prompt()
    assert "lm: the next message goes to echo-jit\n" in dialogue.ask("/model JIT")
    assert dialogue.ask("hi").endswith("\nhi\n")
    dialogue.leave()


def test_a_model_is_set_while_the_server_is_away(tmp_path: Path, serve: Serve) -> None:
    """/model does not need the server; the next question does."""
    server = serve()
    with talking(tmp_path, server.port) as dialogue:
        dialogue.see_prompt()
        server.end(signal.SIGTERM)
        assert "lm: the next message goes to echo-jit\n" in dialogue.ask("/model echo-jit")
        assert "error:" in dialogue.ask("/models")
        serve(port=server.port)
        assert dialogue.ask("hi").endswith("\nhi\n")
        dialogue.leave()


@pytest.mark.parametrize("size", SIZES)
def test_models_lists_what_can_be_used(talk: OpenDialogue, tmp_path: Path, size: tuple[int, int]) -> None:
    """/models has the language models, marks the one in use, and says which are loaded, on the terminal only."""
    with (tmp_path / "out.txt").open("wb") as out:
        dialogue = talk("-q", size=size, stdout=out)
        dialogue.see_prompt()
        dialogue.ask("/models")
        assert dialogue.screen.everything[1:4] == [
            "   MODEL     SIZE  LOADED",
            "*  echo      0 B   yes",
            "   echo-jit  0 B",
        ]
        dialogue.ask("/model echo-jit")
        assert "\n*  echo-jit  0 B\n" in dialogue.ask("/models")
        dialogue.ask("hi")
        shown = dialogue.ask("/models")
        assert "\n   echo      0 B   yes\n*  echo-jit  0 B   yes\n" in shown
        dialogue.leave()
    assert (tmp_path / "out.txt").read_bytes() == b"hi\n"


def test_retry_and_undo(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """/retry asks the last question again in place of its answer; /undo takes both back, one turn at a time."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    assert "there is no question yet" in dialogue.ask("/retry")
    assert "there is nothing to undo" in dialogue.ask("/undo")
    dialogue.ask("one")
    dialogue.ask("two")
    assert "You say: two!" in dialogue.ask("/retry")
    assert parrot.asked == ["one", "two", "two"]
    assert said(tmp_path / "talk.json") == ["one", "You say: one!", "two", "You say: two!"]
    assert "lm: removed the last question and its answer\n" in dialogue.ask("/undo")
    assert said(tmp_path / "talk.json") == ["one", "You say: one!"]
    dialogue.ask("/undo")
    assert said(tmp_path / "talk.json") == []
    dialogue.ask("three")
    assert said(tmp_path / "talk.json") == ["three", "You say: three!"]
    dialogue.leave()


def test_save(talk: OpenDialogue, tmp_path: Path) -> None:
    """/save writes the conversation to any file and says so, and `lm chat --history` goes on from there."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    assert "/save needs the name of a file" in dialogue.ask("/save")
    assert "lm: saved to 'my own talk.json'\n" in dialogue.ask("/save my own talk.json")
    dialogue.ask("/save ~/home.json")
    assert said(tmp_path / "my own talk.json") == said(tmp_path / "home.json") == ["one", "You say: one!"]
    dialogue.leave()
    dialogue = talk("--history", "my own talk.json")
    dialogue.see("exits\n")
    dialogue.see_prompt()
    dialogue.ask("two")
    dialogue.leave()
    assert said(tmp_path / "my own talk.json") == ["one", "You say: one!", "two", "You say: two!"]


def test_save_overwrites_files_of_this_conversation_and_no_others(talk: OpenDialogue, tmp_path: Path) -> None:
    """What /save wrote, and the file of --history, may be written again; all else that is there is refused."""
    (tmp_path / "thesis.md").write_text("years of work", encoding="utf-8")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to("thesis.md")
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    for name in ("thesis.md", "empty", "link"):
        shown = dialogue.ask(f"/save {name}")
        assert f"'{name}' already exists and does not belong to this conversation\n" in shown
        assert "choose another name\n" in shown
    assert (tmp_path / "thesis.md").read_text(encoding="utf-8") == "years of work"
    dialogue.ask("/save copy.json")
    dialogue.ask("two")
    for name in ("copy.json", "./talk.json"):
        assert "lm: saved to " in dialogue.ask(f"/save {name}")
        assert said(tmp_path / name) == ["one", "You say: one!", "two", "You say: two!"]
    dialogue.leave()


def test_save_into_a_folder_that_does_not_exist(talk: OpenDialogue, tmp_path: Path) -> None:
    """The message says what is missing, and the hint can be typed."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    shown = dialogue.ask("/save no such/talk.json")
    assert "cannot write to 'no such/talk.json': the folder 'no such' does not exist\n" in shown
    assert "mkdir -p 'no such' creates it\n" in shown
    dialogue.leave()


def test_a_history_in_a_folder_that_does_not_exist(talk: OpenDialogue) -> None:
    """It ends the dialogue before it begins."""
    dialogue = talk("--history", "no/such/talk.json")
    dialogue.see("cannot write to 'no/such/talk.json': the folder 'no/such' does not exist\n", "mkdir -p no/such ")
    assert dialogue.end() == 74


def test_save_where_it_cannot_be(talk: OpenDialogue, tmp_path: Path) -> None:
    """The home of nobody, a folder and a FIFO are errors, and the dialogue goes on."""
    os.mkfifo(tmp_path / "pipe")
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    assert "no such user: '~nosuchuser/x'" in dialogue.ask("/save ~nosuchuser/x")
    assert "'.' is not a regular file" in dialogue.ask("/save .")
    assert "'pipe' is not a regular file" in dialogue.ask("/save pipe")
    assert dialogue.ask("two").endswith("You say: two!\n")
    dialogue.ask("/save talk.json")
    assert said(tmp_path / "talk.json") == ["one", "You say: one!", "two", "You say: two!"]
    dialogue.leave()


def test_edit(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """/edit has a question written in the user's editor, from the text behind it; leaving it empty asks nothing."""
    editor = tmp_path / "my editor"
    editor.write_text('#!/bin/sh\necho editing\nread -r key\ncp "$2" seen\nprintf "$key" > "$2"\n', encoding="utf-8")
    editor.chmod(0o700)
    dialogue = talk(EDITOR=f"'{editor}' --wait")
    dialogue.see_prompt()
    dialogue.type("/edit a draft")
    dialogue.see("editing\n")
    dialogue.type(r"one\n\ntwo\n")
    dialogue.see("You say: one\n\ntwo!\n")
    dialogue.see_prompt()
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "a draft"
    dialogue.type("/edit")
    dialogue.see("editing\n")
    dialogue.ask("")
    assert parrot.asked == ["one\n\ntwo"]
    dialogue.leave()


def test_an_editor_of_another_encoding(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """What it wrote is named as what it is, and is not asked."""
    dialogue = talk(EDITOR="sh -c 'printf caf\\\\351 > \"$0\"'")
    dialogue.see_prompt()
    assert "the edited text is not UTF-8: byte 3 is 0xe9" in dialogue.ask("/edit")
    dialogue.leave()
    assert parrot.asked == []


def test_an_editor_that_fails(talk: OpenDialogue) -> None:
    """An editor that is not there or gives up is an error, and the dialogue goes on."""
    dialogue = talk(VISUAL="no-such-editor", EDITOR="false")
    dialogue.see_prompt()
    assert "the editor 'no-such-editor' failed" in dialogue.ask("/edit")
    dialogue.leave()
    dialogue = talk(EDITOR="false")
    dialogue.see_prompt()
    assert "the editor 'false' failed" in dialogue.ask("/edit")
    dialogue.leave()
