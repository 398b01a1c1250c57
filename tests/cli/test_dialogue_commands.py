"""The commands of a dialogue, each with what it refuses."""

import os
from pathlib import Path

from dialogues import OpenDialogue, ParrotEngine, messages, said


def test_help_lists_every_command(talk: OpenDialogue) -> None:
    """/help names all that can be typed; what is no command is refused, with a way to say it all the same."""
    dialogue = talk()
    dialogue.see_prompt()
    shown = dialogue.ask("/help")
    for name in ("help", "system", "model", "retry", "undo", "save", "stats", "edit", "exit"):
        assert f"\n  /{name} " in shown
    assert "TAB" in shown
    assert "Ctrl-C" in shown
    assert "Ctrl-D" in shown
    assert "no such command '/frob'" in dialogue.ask("/frob now")
    assert "You say: /frob now!" in dialogue.ask(" /frob now")
    dialogue.type("/exit")
    assert dialogue.end() == 0


def test_system_shows_and_sets(talk: OpenDialogue, tmp_path: Path) -> None:
    """/system sets the system prompt of the conversation, and shows it."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    assert "no system prompt is set" in dialogue.ask("/system")
    dialogue.ask("hi")
    assert "lm: the system prompt is set\n" in dialogue.ask("/system  Be terse, and kind.")
    assert "lm: Be terse, and kind.\n" in dialogue.ask("/system")
    assert messages(tmp_path / "talk.json")[0] == {"role": "system", "content": "Be terse, and kind."}
    dialogue.ask("again")
    assert said(tmp_path / "talk.json")[0::4] == ["Be terse, and kind.", "You say: again!"]
    dialogue.leave()


def test_model_shows_and_sets(talk: OpenDialogue) -> None:
    """/model names the model, and takes another one, loaded if it must be; one that is not there is an error."""
    dialogue = talk()
    dialogue.see_prompt()
    assert "lm: echo\n" in dialogue.ask("/model")
    dialogue.ask("/model no-such-model")
    shown = dialogue.ask("hi")
    assert "no model 'no-such-model'" in shown
    assert "there are: echo, echo-jit" in shown
    assert "lm: the next message goes to echo-jit\n" in dialogue.ask("/model echo-jit")
    assert "lm: echo-jit\n" in dialogue.ask("/model")
    assert dialogue.ask("hi").endswith("\nhi\n")
    assert "Model used: Echo (loaded on request)\n" in dialogue.ask("/stats")
    dialogue.leave()


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


def test_stats(talk: OpenDialogue) -> None:
    """/stats shows the stats of the last answer, once there is one."""
    dialogue = talk()
    dialogue.see_prompt()
    assert "there is no answer yet" in dialogue.ask("/stats")
    dialogue.ask("one two")
    shown = dialogue.ask("/stats")
    assert "\nModel used: Echo\n" in shown
    assert "\nPredicted tokens: 4\n" in shown
    assert "\nStop reason: eosFound\n" in shown
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
