"""The TAB key in a dialogue, by what is on the screen."""

from pathlib import Path

import pytest
from conftest import Packet
from dialogues import CTRL_C, CTRL_U, Dialogue, OpenDialogue, ParrotEngine, said, talking
from processes import StubConnection, StubServer
from screens import SIZES

from lmcli.cli.tab_key import is_libedit

readline = pytest.importorskip("readline")

TAB = "\t"
pytestmark = pytest.mark.skipif(is_libedit(readline), reason="test_libedit.py has what holds with libedit")


def give_up(dialogue: Dialogue) -> None:
    """Clear the line and leave."""
    dialogue.type(CTRL_U, end="")
    dialogue.leave()


def test_a_command_is_completed(talk: OpenDialogue) -> None:
    """/he and TAB is /help and a space."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("/he" + TAB, end="")
    dialogue.see("/help ")
    assert dialogue.screen.rows[-1] == "> /help"
    assert dialogue.screen.cursor == (len("> /help "), len(dialogue.screen.rows) - 1)
    assert "list these commands" in dialogue.ask("")
    dialogue.leave()


def test_the_words_of_a_command_are_completed(talk: OpenDialogue) -> None:
    """One after the other, where it takes several, and the command understands them."""
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("/rea" + TAB + "h" + TAB, end="")
    dialogue.see("ide")
    assert "reasoning is hidden; asked of the server: off" in dialogue.ask(" of" + TAB)
    dialogue.type("/mark" + TAB + "of" + TAB, end="")
    dialogue.see("ff")
    assert "answers are shown as they arrive" in dialogue.ask("")
    dialogue.leave()


@pytest.mark.parametrize("size", SIZES)
def test_commands_are_listed_with_their_slash(talk: OpenDialogue, size: tuple[int, int]) -> None:
    """TAB lists those that begin so, below the line, which stays as it was."""
    dialogue = talk(size=size)
    dialogue.see_prompt()
    dialogue.type("/sa" + TAB, end="")
    dialogue.see("/save ")
    dialogue.type(CTRL_U + "/st" + TAB, end="")
    dialogue.see("/stats ")
    dialogue.type(CTRL_U + "/s" + TAB + TAB, end="")
    dialogue.see("/system", "> /s")
    *_, line, names, again = dialogue.screen.rows
    assert (line, again) == ("> /s", "> /s")
    assert {"/save", "/stats", "/system"} <= set(names.split())
    give_up(dialogue)


LISTED = {
    (80, 24): ["a file.txt             zeta                   🦉.txt", "notes on something.md  猫猫/"],
    (40, 12): ["a file.txt", "notes on something.md", "zeta", "猫猫/", "🦉.txt"],
}


@pytest.mark.parametrize("size", SIZES)
def test_files_are_listed_by_the_last_part_of_their_paths(
    talk: OpenDialogue, tmp_path: Path, size: tuple[int, int]
) -> None:
    """In columns, with a slash after folders; a wide character takes two cells, also in the line."""
    (tmp_path / "my dir" / "猫猫").mkdir(parents=True)
    for name in ("a file.txt", "🦉.txt", "zeta", "notes on something.md"):
        (tmp_path / "my dir" / name).touch()
    dialogue = talk(size=size)
    dialogue.see_prompt()
    dialogue.type("/save m" + TAB, end="")
    dialogue.see("/save my dir/")
    dialogue.type(TAB + TAB, end="")
    dialogue.see("zeta", "> /save my dir/")
    rows = dialogue.screen.rows
    line = rows.index("> /save my dir/")
    assert rows[line + 1 :] == [*LISTED[size], "> /save my dir/"]
    dialogue.type("🦉" + TAB, end="")
    dialogue.see("🦉.txt")
    assert dialogue.screen.rows[-1] == "> /save my dir/🦉.txt"
    assert dialogue.screen.cursor == (len("> /save my dir/🦉.txt") + 1, len(dialogue.screen.rows) - 1)
    give_up(dialogue)


@pytest.mark.parametrize("size", SIZES)
def test_more_candidates_than_rows(talk: OpenDialogue, tmp_path: Path, size: tuple[int, int]) -> None:
    """All are listed, without a question that nobody could answer, and the line stands below them."""
    for number in range(120):
        (tmp_path / f"file {number:03}").touch()
    dialogue = talk(size=size)
    dialogue.see_prompt()
    dialogue.type("/save fi" + TAB, end="")
    dialogue.see("le ")
    dialogue.type(TAB + TAB, end="")
    dialogue.see("file 119", "> /save file ")
    assert dialogue.screen.rows[-1] == "> /save file"
    shown = "\n".join(dialogue.screen.everything)
    assert all(f"file {number:03}" in shown for number in range(120))
    assert "possibilities" not in shown
    dialogue.ask("042 copy")
    assert said(tmp_path / "file 042 copy") == []
    dialogue.leave()


def test_a_name_with_spaces_and_one_that_is_not_utf8(talk: OpenDialogue, tmp_path: Path) -> None:
    """What TAB completes is the file that the command works on; here it refuses to overwrite it."""
    (tmp_path / "my file").touch()
    dialogue = talk(LC_ALL="C.UTF-8")
    dialogue.see_prompt()
    assert "'my file' already exists" in dialogue.ask("/save m" + TAB)
    try:
        (tmp_path / "caf\udce9").touch()
    except OSError:
        pytest.skip("this file system has no names that are not UTF-8")
    assert "'caf\\udce9' already exists" in dialogue.ask("/save c" + TAB)
    dialogue.leave()


def test_a_model_key_is_completed(talk: OpenDialogue) -> None:
    """The keys are those of the server."""
    dialogue = talk()
    dialogue.see_prompt()
    assert "the next message goes to echo-jit\n" in dialogue.ask("/model e" + TAB + "-" + TAB)
    dialogue.leave()


class ModelServer(StubServer):
    """A server that may be silent when it is asked for its models.

    Attributes:
        is_silent: it is.
        questions: how often it was asked.
    """

    is_silent = False
    questions = 0

    def _answer(self, connection: StubConnection, envelope: Packet) -> None:
        if envelope.get("endpoint") == "listDownloadedModels":
            self.questions += 1
            self._envelopes.put(envelope)
        if not (envelope.get("endpoint") == "listDownloadedModels" and self.is_silent):
            super()._answer(connection, envelope)


def here(connection: StubConnection, envelope: Packet) -> None:
    """Answer a question."""
    connection.say(envelope["channelId"], "here")
    connection.finish(envelope["channelId"])


def test_the_models_are_listed_once(tmp_path: Path) -> None:
    """At the first TAB that needs them, not at the start, nor at each TAB."""
    with ModelServer(here) as stub, talking(tmp_path, stub.port) as dialogue:
        dialogue.see_prompt()
        assert "here\n" in dialogue.ask("hello")
        assert stub.questions == 0
        for _ in range(3):
            dialogue.type(CTRL_U + "/model s" + TAB, end="")
            dialogue.see("tub")
        assert stub.questions == 1
        give_up(dialogue)


def test_a_server_that_lists_no_models(tmp_path: Path) -> None:
    """TAB waits for it until Ctrl-C, and the dialogue goes on."""
    with ModelServer(here) as stub, talking(tmp_path, stub.port) as dialogue:
        stub.is_silent = True
        dialogue.see_prompt()
        dialogue.type("/model st" + TAB, end="")
        assert stub.wait_for("rpcCall")["endpoint"] == "listDownloadedModels"
        dialogue.type(CTRL_C, end="")
        dialogue.see("\a")
        assert "here\n" in dialogue.ask(CTRL_U + "hello")
        stub.is_silent = False
        assert "the next message goes to stub\n" in dialogue.ask("/model s" + TAB)
        dialogue.leave()


def test_tab_in_a_message_is_a_tab(talk: OpenDialogue, parrot: ParrotEngine) -> None:
    """In a line, in a block and in the text of a command; the terminal does not ring."""
    dialogue = talk()
    dialogue.see_prompt()
    shown = dialogue.ask("a" + TAB + "b")
    dialogue.type('"""' + TAB + "/he" + TAB)
    dialogue.see("… ")
    dialogue.type("/he" + TAB + '"""')
    shown += dialogue.see_prompt()
    shown += dialogue.ask("/system x" + TAB + "y")
    dialogue.ask("z")
    dialogue.leave()
    assert parrot.asked == ["a\tb", "\t/he\t\n/he\t", "z"]
    assert "\a" not in shown


def test_what_is_pasted_is_not_completed(talk: OpenDialogue, parrot: ParrotEngine, tmp_path: Path) -> None:
    """Tabs in it stay tabs, be it that it begins like a command."""
    (tmp_path / "zeta").touch()
    dialogue = talk()
    dialogue.see_prompt()
    dialogue.type("\x1b[200~ /save\tz\t/he\t\x1b[201~", end="")
    dialogue.see("/he")
    dialogue.ask("!")
    dialogue.leave()
    assert parrot.asked == ["/save\tz\t/he\t!"]
