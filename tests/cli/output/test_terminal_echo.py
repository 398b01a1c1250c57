"""What is typed while an answer is rendered: it is not shown in the answer, not lost, and the shell shows it again."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PATIENCE
from dialogues import CTRL_D, CTRL_Z, Dialogue, in_shell, on_terminal, talking
from screens import SIZES
from test_markdown_terminal import SHORT
from test_markdown_text import whole
from windows import Author, answering, authored


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_what_is_typed_meanwhile_is_not_in_the_answer(tmp_path: Path, size: tuple[int, int]) -> None:
    """Enter would move the cursor away from the block in progress, and each drawing after it would be a row too low."""
    with answering(tmp_path, "--markdown", size=size) as (terminal, author):
        author.write(SHORT)
        terminal.see("A second one")
        terminal.type("next question\rand one more\r")
        author.write(" and the end")
        terminal.see("end")
        author.finish()
        assert terminal.end() == 0
        assert terminal.screen.everything == whole(SHORT + " and the end", size[0])


def test_a_question_typed_during_an_answer_is_asked_after_it(tmp_path: Path) -> None:
    """It stands at the next prompt, as if it had been typed there."""
    with authored() as (port, authors), talking(tmp_path, port, "-q", LM_MARKDOWN="1") as dialogue:
        dialogue.see_prompt()
        dialogue.type("one")
        author = authors.get(timeout=PATIENCE)
        author.write("The **first** answer")
        dialogue.see("answer")
        dialogue.type("two")
        author.write(", which goes on")
        dialogue.see("goes on")
        author.finish()
        author = authors.get(timeout=PATIENCE)
        author.write("The second")
        author.finish()
        dialogue.see("The second", "> ")
        shown = [row for row in dialogue.screen.everything if row]
        assert shown == ["> one", "The first answer, which goes on", "> two", "The second", ">"]
        dialogue.leave()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_after_the_echo_is_back(signum: signal.Signals, tmp_path: Path) -> None:
    """No shell is needed to restore it."""
    with answering(tmp_path, "--markdown") as (terminal, author):
        author.write("Some **bold** text")
        terminal.see("text")
        assert not terminal.has_echo
        terminal.process.send_signal(signum)
        assert terminal.end() == -signum
        assert terminal.has_echo


def stop_and_go_on(dialogue: Dialogue, author: Author) -> None:
    """Press Ctrl-Z, look at the shell, and continue."""
    dialogue.type(CTRL_Z, end="")
    dialogue.see("Stopped", "$ ")
    assert dialogue.has_echo
    dialogue.type("fg")
    author.finish()


ENDS: dict[str, Callable[[Dialogue, Author], None]] = {
    "its end": lambda _, author: author.finish(),
    "a lost connection": lambda _, author: author.disconnect(),
    "Ctrl-Z": stop_and_go_on,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_the_terminal_is_as_it_was(end: Callable[[Dialogue, Author], None], tmp_path: Path) -> None:
    """Whether the command has ended or is stopped, the shell has a terminal that shows what is typed."""
    with authored() as (port, authors), in_shell(tmp_path, port) as dialogue:
        dialogue.type("lm respond --markdown question")
        author = authors.get(timeout=PATIENCE)
        author.write("Some **bold** text")
        dialogue.see("text")
        assert not dialogue.has_echo
        end(dialogue, author)
        dialogue.see("$ ")
        assert dialogue.has_echo
        dialogue.type(CTRL_D, end="")


def test_in_the_background_the_terminal_is_left_alone(tmp_path: Path) -> None:
    """It belongs to others, and to change it would stop the process."""
    with authored() as (port, authors), in_shell(tmp_path, port) as dialogue:
        dialogue.type("lm respond --markdown question & wait; echo ov''er")
        author = authors.get(timeout=PATIENCE)
        author.write("Some **bold** text")
        dialogue.see("text")
        assert dialogue.has_echo
        author.finish()
        dialogue.see("Done", "over", "$ ")
        dialogue.type(CTRL_D, end="")


def test_an_answer_that_is_not_rendered_leaves_the_terminal_alone(tmp_path: Path) -> None:
    """There is nothing on it that typed text could disturb."""
    with authored() as (port, authors), on_terminal(tmp_path, port, "lm", "respond", "question") as dialogue:
        author = authors.get(timeout=PATIENCE)
        author.write("Some text")
        dialogue.see("text")
        assert dialogue.has_echo
        author.finish()
        assert dialogue.end() == 0
