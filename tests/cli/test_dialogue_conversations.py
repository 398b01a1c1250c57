"""Other conversations in a dialogue: /clear, /load, and the way back."""

import fcntl
import json
from pathlib import Path

import pytest
from conftest import StartServer
from dialogues import CTRL_C, OpenDialogue, ParrotEngine, messages, said
from processes import environment, run


def write_chat(path: Path, *texts: str, system: str | None = None) -> None:
    """A chat file with questions and answers in turn."""
    roles = ("user", "assistant")
    entries = [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]
    first = [] if system is None else [{"role": "system", "content": system}]
    path.write_text(json.dumps({"messages": [*first, *entries]}), encoding="utf-8")


def test_clear_forgets_the_messages(talk: OpenDialogue, tmp_path: Path) -> None:
    """/clear begins a new conversation with the model and the system prompt of the old one."""
    dialogue = talk("-v", "-m", "echo-jit", "-s", "Be terse.")
    dialogue.see_prompt()
    dialogue.ask("one")
    assert "lm: a new conversation begins\n" in dialogue.ask("/clear")
    shown = dialogue.ask("two")
    assert '"text":"Be terse."' in shown
    assert '"text":"two"' in shown
    assert "one" not in shown
    assert "\necho-jit\n" in dialogue.ask("/model")
    dialogue.leave()


def test_clear_leaves_the_file_as_it_is(talk: OpenDialogue, tmp_path: Path) -> None:
    """The file of --history keeps the old conversation, is not the new one's, and /save writes that elsewhere."""
    dialogue = talk("--history", "talk.json", "-s", "Be terse.")
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("/save copy.json")
    before = (tmp_path / "talk.json").read_bytes()
    assert "lm: a new conversation begins, not kept in 'talk.json'\n" in dialogue.ask("/clear")
    dialogue.ask("two")
    dialogue.ask("/system Be kind.")
    for name in ("talk.json", "copy.json"):
        assert "already exists and does not belong to this conversation" in dialogue.ask(f"/save {name}")
    dialogue.ask("/save new.json")
    dialogue.leave()
    assert (tmp_path / "talk.json").read_bytes() == before
    assert said(tmp_path / "new.json") == ["Be kind.", "two", "You say: two!"]


def test_undo_goes_back_before_clear(talk: OpenDialogue, tmp_path: Path) -> None:
    """/undo takes back the questions since /clear, then /clear: the old conversation is kept in its file again."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("/clear")
    dialogue.ask("two")
    assert "lm: removed the last question and its answer\n" in dialogue.ask("/undo")
    assert "lm: back in the conversation before /clear\n" in dialogue.ask("/undo")
    dialogue.ask("three")
    dialogue.leave()
    assert said(tmp_path / "talk.json") == ["one", "You say: one!", "three", "You say: three!"]


def test_nothing_to_clear(talk: OpenDialogue, tmp_path: Path) -> None:
    """A conversation that has not begun is not left, so its file is still its own."""
    dialogue = talk("--history", "talk.json", "-s", "Be terse.")
    dialogue.see_prompt()
    assert "there is nothing to clear" in dialogue.ask("/clear")
    dialogue.ask("one")
    dialogue.ask("/clear")
    assert "there is nothing to clear" in dialogue.ask("/clear")
    assert "back in the conversation before /clear" in dialogue.ask("/undo")
    assert "removed the last question and its answer" in dialogue.ask("/undo")
    assert "there is nothing to undo" in dialogue.ask("/undo")
    dialogue.leave()
    assert said(tmp_path / "talk.json") == ["Be terse."]


def test_clear_forgets_a_question_without_an_answer(talk: OpenDialogue, tmp_path: Path) -> None:
    """/retry does not ask it again; a conversation that it would have begun keeps its file."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("/model ech")
    assert "error:" in dialogue.ask("one")
    assert "removed the last question" in dialogue.ask("/clear")
    assert "there is no question yet" in dialogue.ask("/retry")
    dialogue.ask("/model echo")
    dialogue.ask("two")
    dialogue.ask("/model ech")
    dialogue.ask("three")
    assert "a new conversation begins, not kept in 'talk.json'" in dialogue.ask("/clear")
    assert "there is no question yet" in dialogue.ask("/retry")
    dialogue.leave()
    assert said(tmp_path / "talk.json") == ["two", "You say: two!"]


def test_load_goes_on_where_a_file_ends(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """/load shows the last turns of a chat file, dim, and what follows is kept there, as with --history."""
    write_chat(tmp_path / "my talk.json", "hello", "well met", system="Be kind.")
    dialogue = talk("--history", "first.json", "-s", "Be terse.")
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.type("/load ~/my talk.json")
    dialogue.see("the conversation in '", "/my talk.json' goes on, and is kept there\n", "> hello\nwell met\n")
    dialogue.see_prompt()
    assert all(cell.dim for cell in dialogue.screen.cells("well met"))
    assert "\nBe kind.\n" in dialogue.ask("/system")
    dialogue.ask("two")
    assert "already exists and does not belong to this conversation" in dialogue.ask("/save first.json")
    assert "lm: saved to 'my talk.json'\n" in dialogue.ask("/save my talk.json")
    dialogue.leave()
    assert said(tmp_path / "my talk.json") == ["Be kind.", "hello", "well met", "two", "You say: two!"]
    assert said(tmp_path / "first.json") == ["Be terse.", "one", "You say: one!"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "/load needs the name of a file"),
        ("nowhere.json", "cannot read 'nowhere.json': no such file"),
        ("no/where.json", "cannot read 'no/where.json': no such file"),
        ("dangling.json", "cannot read 'dangling.json': no such file"),
        (".", "'.' is not a regular file"),
        ("broken.json", "'broken.json' is not valid JSON: line 1, column 2"),
        ("other.json", "'other.json' is not a chat file"),
        ("role.json", "messages[0].role: unknown role 'king'"),
        ("~nosuchuser/x", "no such user: '~nosuchuser/x'"),
    ],
)
def test_a_file_that_cannot_be_loaded(talk: OpenDialogue, tmp_path: Path, name: str, message: str) -> None:
    """It is one line of error, makes no file, and the conversation goes on in its own file."""
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "other.json").write_text('{"name": "lm"}', encoding="utf-8")
    (tmp_path / "role.json").write_text('[{"role": "king", "content": "hi"}]', encoding="utf-8")
    (tmp_path / "dangling.json").symlink_to("nowhere.json")
    before = set(tmp_path.iterdir())
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    shown = dialogue.ask(f"/load {name}".rstrip())
    assert message in shown
    assert shown.count("error:") == 1
    dialogue.ask("two")
    dialogue.leave()
    assert said(tmp_path / "talk.json") == ["one", "You say: one!", "two", "You say: two!"]
    assert {path for path in tmp_path.iterdir() if path.suffix == ".json"} - before == {tmp_path / "talk.json"}


def test_load_does_not_drop_what_no_file_has(talk: OpenDialogue, tmp_path: Path) -> None:
    """A conversation that is in no file is not lost to /load, until it is saved or cleared."""
    write_chat(tmp_path / "talk.json", "hello", "well met")
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    shown = dialogue.ask("/load talk.json")
    assert "no file has the conversation so far" in shown
    assert "/save FILE keeps it, /clear drops it" in shown
    dialogue.ask("/save one.json")
    dialogue.ask("two")
    assert "no file has the conversation so far" in dialogue.ask("/load talk.json")
    dialogue.ask("/save one.json")
    dialogue.type("/load talk.json")
    dialogue.see("> hello\nwell met\n")
    dialogue.see_prompt()
    assert said(tmp_path / "one.json") == ["one", "You say: one!", "two", "You say: two!"]
    dialogue.leave()
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("/clear")
    dialogue.type("/load talk.json")
    dialogue.see("> hello\nwell met\n")
    dialogue.see_prompt()
    dialogue.leave()


def test_a_loaded_file_is_shared(talk: OpenDialogue, start_server: StartServer, tmp_path: Path) -> None:
    """What another process adds to a loaded file is part of the conversation, as with --history."""
    write_chat(tmp_path / "talk.json", "hello", "well met")
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("/load talk.json")
    dialogue.see("well met\n")
    dialogue.see_prompt()
    other = start_server()
    assert run("lm chat -n --history talk.json two", tmp_path, environment(tmp_path, other.port)).status == 0
    dialogue.ask("three")
    dialogue.leave()
    assert said(tmp_path / "talk.json") == ["hello", "well met", "two", "two", "three", "You say: three!"]


def test_two_dialogues_on_one_file(talk: OpenDialogue, tmp_path: Path) -> None:
    """One leaves the file with /clear, the other goes on with it, and /undo in the first one sees all of it."""
    one, two = talk("--history", "talk.json"), talk("--history", "talk.json")
    for dialogue in (one, two):
        dialogue.see_prompt()
    one.ask("first")
    one.ask("/clear")
    two.ask("second")
    one.ask("elsewhere")
    one.ask("/undo")
    one.ask("/undo")
    one.ask("third")
    assert said(tmp_path / "talk.json")[0::2] == ["first", "second", "third"]
    assert messages(tmp_path / "talk.json")[-1]["content"] == "You say: third!"
    for dialogue in (one, two):
        dialogue.leave()


def test_ctrl_c_while_another_process_uses_the_file(talk: OpenDialogue, tmp_path: Path) -> None:
    """It gives the prompt back, and the question can be asked again when the file is free; /clear does not wait."""
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    with (tmp_path / ".talk.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        dialogue.type("one")
        dialogue.see("waiting for another lm that is using 'talk.json'\n")
        dialogue.type(CTRL_C, end="")
        dialogue.see_prompt()
    assert dialogue.ask("/retry").endswith("You say: one!\n")
    with (tmp_path / ".talk.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        dialogue.ask("/clear")
        assert dialogue.ask("two").endswith("You say: two!\n")
    dialogue.leave()
    assert said(tmp_path / "talk.json") == ["one", "You say: one!"]
