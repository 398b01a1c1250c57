"""What was typed in a dialogue comes back in the next one."""

import json
import stat
from pathlib import Path

import pytest
from dialogues import UP, Dialogue, OpenDialogue, ParrotEngine
from processes import environment, run

from lmcli.cli.recall_file import MAX_ENTRIES
from lmcli.cli.tab_key import is_libedit
from lmcli.server.background import Running

readline = pytest.importorskip("readline")
pytestmark = pytest.mark.skipif(is_libedit(readline), reason="test_libedit.py has what holds with libedit")


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """The file that keeps it."""
    return tmp_path / ".local" / "state" / "lm" / "typed"


def kept(typed: Path) -> list[str]:
    """What the file has."""
    return [json.loads(line) for line in typed.read_text("utf-8").splitlines()]


def say(dialogue: Dialogue, *lines: str) -> None:
    """Type messages, at the first prompt."""
    dialogue.see_prompt()
    for line in lines:
        dialogue.ask(line)


def test_what_was_typed_is_recalled_in_the_next_dialogue(talk: OpenDialogue, parrot: ParrotEngine, typed: Path) -> None:
    """Messages and commands, in the order in which they were typed, without repetitions in a row."""
    dialogue = talk()
    say(dialogue, "one", "one", "/system", "two")
    dialogue.leave()
    assert kept(typed) == ["one", "/system", "two"]
    assert oct(stat.S_IMODE(typed.stat().st_mode)) == "0o600"
    dialogue = talk()
    dialogue.see_prompt()
    assert "You say: two!" in dialogue.ask(UP)
    assert "no system prompt is set" in dialogue.ask(UP + UP)
    assert "You say: one more!" in dialogue.ask(UP * 4 + " more")
    dialogue.leave()
    assert parrot.asked == ["one", "one", "two", "two", "one more"]
    assert kept(typed) == ["one", "/system", "two", "/system", "one more"]


def test_a_message_of_several_lines_is_recalled_whole(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """In the next dialogue, too; it may be changed, and is kept again as it was sent."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type('"""')
    dialogue.see("… ")
    dialogue.type("/one")
    dialogue.see("… ")
    dialogue.ask('  two"""')
    dialogue.leave()
    for _ in range(2):
        dialogue = talk()
        dialogue.see_prompt()
        dialogue.ask(UP + "\x7f" * 4 + '!\n"""')
        dialogue.leave()
    assert parrot.asked == ["/one\n  two", "/one\n  two!", "/one\n  two!!"]


def test_a_message_longer_than_the_screen_is_recalled_whole(
    talk: OpenDialogue, parrot: ParrotEngine, typed: Path
) -> None:
    """It is sent with the lines that the screen has no room for."""
    text = "\n".join(f"line {number} of a long message" for number in range(30))
    typed.parent.mkdir(parents=True)
    typed.write_text(json.dumps(text) + "\n")
    dialogue = talk(size=(40, 12))
    dialogue.see_prompt()
    dialogue.type(UP, end="")
    dialogue.see("line 0 of a long message", "line 1")
    dialogue.ask("!")
    dialogue.leave()
    assert parrot.asked == [text + "!"]


def test_what_the_conversation_has_is_recalled_first(
    talk: OpenDialogue, parrot: ParrotEngine, typed: Path, tmp_path: Path
) -> None:
    """Up goes back through the questions of --history, and then through what was typed in other dialogues."""
    question = {"role": "user", "content": "in the file"}
    (tmp_path / "talk.json").write_text(json.dumps([question, {"role": "assistant", "content": "yes"}]))
    dialogue = talk()
    say(dialogue, "elsewhere")
    dialogue.leave()
    dialogue = talk("--history", "talk.json")
    dialogue.see("Ctrl-D exits")
    say(dialogue, UP, UP + UP)
    dialogue.leave()
    assert parrot.asked == ["elsewhere", "in the file", "elsewhere"]
    assert kept(typed) == ["elsewhere", "elsewhere"]


def test_two_dialogues_at_once_lose_nothing(talk: OpenDialogue, typed: Path) -> None:
    """Each is kept as it is typed, between those of the other."""
    dialogues = [talk(), talk()]
    for dialogue in dialogues:
        dialogue.see_prompt()
    for number in range(3):
        for name, dialogue in zip("ab", dialogues, strict=True):
            dialogue.ask(f"{name} {number}")
    for dialogue in dialogues:
        dialogue.leave()
    assert kept(typed) == ["a 0", "b 0", "a 1", "b 1", "a 2", "b 2"]


def test_nothing_is_kept_and_read_if_the_user_says_so(talk: OpenDialogue, parrot: ParrotEngine, typed: Path) -> None:
    """LM_NO_TYPED=1 leaves the file alone; recall works within the dialogue."""
    dialogue = talk()
    say(dialogue, "one")
    dialogue.leave()
    dialogue = talk(LM_NO_TYPED="1")
    say(dialogue, UP + "two", UP)
    dialogue.leave()
    assert parrot.asked == ["one", "two", "two"]
    assert kept(typed) == ["one"]


def test_a_line_that_begins_with_a_space_is_not_kept(talk: OpenDialogue, parrot: ParrotEngine, typed: Path) -> None:
    """It is recalled in its dialogue alone."""
    dialogue = talk()
    say(dialogue, " secret", "open", UP + UP)
    dialogue.leave()
    assert parrot.asked == ["secret", "open", "secret"]
    assert kept(typed) == ["open"]


def test_what_would_control_the_terminal_is_not_recalled(talk: OpenDialogue, parrot: ParrotEngine, typed: Path) -> None:
    """Whoever has written it into the file."""
    typed.parent.mkdir(parents=True)
    evil = ["escape\x1b[31m", "csi\x9b31m", "override\u202e", "nul\0"]
    typed.write_text("".join(json.dumps(text) + "\n" for text in ["earlier", *evil]) + '{"no": "text"}\nnot JSON')
    dialogue = talk()
    say(dialogue, UP, "later")
    dialogue.leave()
    assert parrot.asked == ["earlier", "later"]
    assert typed.read_bytes().endswith(b'not JSON\n"later"\n')


def test_the_file_is_bounded(talk: OpenDialogue, typed: Path) -> None:
    """What is typed removes the oldest lines when there are too many."""
    typed.parent.mkdir(parents=True)
    typed.write_text('"old"\n' * (2 * MAX_ENTRIES + 1))
    dialogue = talk()
    say(dialogue, "new")
    dialogue.leave()
    assert kept(typed) == ["old"] * (MAX_ENTRIES - 1) + ["new"]


def test_a_state_folder_that_cannot_be_used(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """One warning, with what to do about it, and the dialogue goes on."""
    (tmp_path / "file").touch()
    dialogue = talk(XDG_STATE_HOME=str(tmp_path / "file"))
    dialogue.see("what is typed is not kept in '", "/file/lm/typed': not a directory\n", "LM_NO_TYPED=1 ")
    say(dialogue, "one", "two")
    assert "warning" not in dialogue.ask(UP)
    dialogue.leave()
    assert parrot.asked == ["one", "two", "two"]


def test_a_pipe_keeps_nothing(tmp_path: Path, server: Running, typed: Path) -> None:
    """Only what is typed in a dialogue is kept: not what `lm chat` reads, nor its arguments."""
    ran = run("echo one | lm chat && lm chat -n two", tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout) == (0, b"one\ntwo\n")
    assert not typed.exists()


def test_a_python_without_line_editing(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path, typed: Path) -> None:
    """Without the module readline there are no TAB and no recall, and all else works."""
    (tmp_path / "readline.py").write_text("raise ImportError")
    dialogue = talk(PYTHONPATH=str(tmp_path))
    dialogue.see_prompt()
    dialogue.ask("/he\tone")
    dialogue.ask("two")
    dialogue.type('"""three')
    dialogue.see("… ")
    dialogue.ask('four"""')
    dialogue.interrupt_typing()
    dialogue.leave()
    assert parrot.asked == ["two", "three\nfour"]
    assert not typed.exists()


def test_a_locale_that_is_not_utf8(talk: OpenDialogue, parrot: ParrotEngine, typed: Path) -> None:
    """What was typed elsewhere is recalled as it was."""
    typed.parent.mkdir(parents=True)
    typed.write_text('"Grüße 🦉"\n', encoding="utf-8")
    dialogue = talk(LC_ALL="C")
    say(dialogue, UP)
    dialogue.leave()
    assert parrot.asked == ["Grüße 🦉"]
