"""Files that are attached in a dialogue."""

import base64
import os
from pathlib import Path

import pytest
from conftest import Packet
from dialogues import CTRL_C, OpenDialogue, ParrotEngine, messages, talking
from processes import StubConnection, StubServer

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def test_a_text_and_an_image_go_with_the_next_question(
    talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path
) -> None:
    """/file attaches as -f does, says so with the size, lists what is attached, and takes a name with ~ and spaces."""
    (tmp_path / "my notes.txt").write_text("words\n" * 300, encoding="utf-8")
    (tmp_path / "pixel.png").write_bytes(PNG)
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    assert dialogue.ask("/file").endswith("nothing is attached\n")
    assert "lm: attached: my notes.txt (2 kB)\n" in dialogue.ask("/file ~/my notes.txt")
    assert "lm: attached: my notes.txt (2 kB), pixel.png (" in dialogue.ask("/file pixel.png")
    assert f"\nmy notes.txt (2 kB)\npixel.png ({len(PNG)} B)\n" in dialogue.ask("/file")
    dialogue.ask("what?")
    assert dialogue.ask("/file").endswith("nothing is attached\n")
    dialogue.ask("sure?")
    dialogue.leave()
    assert parrot.asked == ["my notes.txt:\n\n" + "words\n" * 300 + "\nwhat?", "sure?"]
    text, image = messages(tmp_path / "talk.json")[0]["content"]
    assert (text["type"], image["path"]) == ("text", str(tmp_path / "pixel.png"))
    assert messages(tmp_path / "talk.json")[2]["content"] == "sure?"


def test_a_file_with_an_unusual_name(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """An emoji, and control characters, which are shown escaped."""
    (tmp_path / "a 🦜.txt").write_text("polly", encoding="utf-8")
    (tmp_path / "bell\a.txt").write_text("ding", encoding="utf-8")
    dialogue = talk("-f", "bell\a.txt")
    dialogue.see_prompt()
    assert "bell\\x07.txt (4 B), a 🦜.txt (5 B)\n" in dialogue.ask("/file a 🦜.txt")
    assert "\nbell\\x07.txt (4 B)\n" in dialogue.ask("/file")
    dialogue.leave()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.txt", "cannot read 'nowhere.txt': no such file or directory"),
        (".", "cannot read '.': is a directory"),
        ("latin.txt", "'latin.txt' is neither UTF-8 text nor a JPEG, PNG or WebP image"),
        ("~nosuchuser/x", "no such user: '~nosuchuser/x'"),
        ("-", "'-' is the terminal here"),
        ("/dev/stdin", "'/dev/stdin' is the terminal here"),
        ("https://example.org/x", "cannot read 'https://example.org/x': URLs are not fetched"),
    ],
)
def test_what_cannot_be_attached(
    talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path, name: str, message: str
) -> None:
    """It is one line of error, and the dialogue goes on with what was attached before."""
    (tmp_path / "fine.txt").write_text("fine", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    dialogue = talk("-f", "fine.txt")
    dialogue.see_prompt()
    shown = dialogue.ask(f"/file {name}")
    assert f"lm: \x1b[31;1merror:\x1b[0m {message}\n" in shown
    assert shown.count("error:") == 1
    dialogue.ask("what?")
    dialogue.leave()
    assert parrot.asked == ["fine.txt:\n\nfine\n\nwhat?"]


def test_ctrl_c_while_a_file_is_read(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """A FIFO that nobody writes to is not waited for longer than until Ctrl-C."""
    os.mkfifo(tmp_path / "pipe")
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("/file pipe")
    dialogue.see("/file pipe\n")
    dialogue.interrupt_typing()
    dialogue.ask("hi")
    dialogue.leave()
    assert parrot.asked == ["hi"]


def test_undo_detaches_the_last_file(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """/undo takes back what was attached, one file at a time, before it removes a question."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name[0], encoding="utf-8")
    dialogue = talk("--history", "talk.json")
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("/file a.txt")
    dialogue.ask("/file b.txt")
    assert "lm: detached 'b.txt'\n" in dialogue.ask("/undo")
    dialogue.ask("two")
    assert "lm: removed the last question and its answer\n" in dialogue.ask("/undo")
    dialogue.leave()
    assert parrot.asked == ["one", "a.txt:\n\na\n\ntwo"]


def test_retry_leaves_the_files_to_the_next_question(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """A question that has its answer is asked again as it was; what was attached since waits for the next one."""
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.ask("one")
    dialogue.ask("/file a.txt")
    dialogue.ask("/retry")
    dialogue.ask("two")
    dialogue.leave()
    assert parrot.asked == ["one", "one", "a.txt:\n\na\n\ntwo"]


def test_a_file_that_is_attached_after_a_failure_goes_with_retry(tmp_path: Path) -> None:
    """What was attached goes with the next question that gets an answer, also if it was asked before."""
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    held: list[Packet] = []

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelSend":
            connection.finish(envelope["channelId"], "userStopped")
        elif not held:
            held.append(envelope)
        else:
            connection.say(envelope["channelId"], "at last")
            connection.finish(envelope["channelId"])

    with StubServer(handle) as stub, talking(tmp_path, stub.port, "--history", "talk.json") as dialogue:
        dialogue.see_prompt()
        dialogue.ask("/file a.txt")
        dialogue.type("what?")
        stub.wait_for("channelCreate")
        dialogue.type(CTRL_C, end="")
        dialogue.see_prompt()
        dialogue.ask("/file b.txt")
        assert dialogue.ask("/retry").endswith("at last\n")
        assert dialogue.ask("/file").endswith("nothing is attached\n")
        dialogue.leave()
    assert messages(tmp_path / "talk.json")[0]["content"] == "a.txt:\n\na\n\nb.txt:\n\nb\n\nwhat?"
