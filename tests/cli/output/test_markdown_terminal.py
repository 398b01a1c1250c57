"""Markdown on a terminal while it arrives: what is on the screen and in the scrollback, to the cell."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PATIENCE, StartServer, wait_until
from dialogues import CTRL_C, OpenDialogue
from processes import environment
from screens import SIZES
from test_markdown_text import TABLE, whole
from windows import answering, authored, window

ITEMS = [f"- item {number} with **bold** words that are wrapped where there is no room\n" for number in range(40)]
CODE = ["```python\n", *[f"value_{number} = {number}\n" for number in range(60)], "```\n"]
ROWS = ["| a | b |\n", "|---|---|\n", *[f"| row {number} | {number} |\n" for number in range(60)]]
WORDS = [f"word{number} " for number in range(600)]
LONG = {
    "list": ITEMS,
    "code": ["Before\n\n", *CODE, "\nAfter\n"],
    "table": ROWS,
    "paragraph": WORDS,
    "quote": [f"> {item}" for item in ITEMS],
}
NAMES = re.compile(r"item \d+|value_\d+|row \d+|word\d+|After")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pieces", LONG.values(), ids=list(LONG))
def test_a_block_longer_than_the_screen_is_there_once(tmp_path: Path, size: tuple[int, int], pieces: list[str]) -> None:
    """Whatever its length, the answer is on the screen and in the scrollback whole, each line once."""
    with answering(tmp_path, "--markdown", size=size) as (terminal, author):
        for start in range(0, len(pieces), 9):
            text = "".join(pieces[start : start + 9])
            author.write(text)
            terminal.see(NAMES.findall(text)[-1])
        author.finish()
        assert terminal.end() == 0
        assert terminal.screen.everything == whole("".join(pieces), size[0])
        assert terminal.screen.is_cursor_visible


def test_of_a_long_block_in_progress_the_end_is_shown(tmp_path: Path) -> None:
    """It has half of the rows, with a sign above it, and the cursor stands at its beginning."""
    with answering(tmp_path, "--markdown", size=(40, 12)) as (terminal, author):
        author.write("# Title\n\n" + "".join(CODE[:-1]))
        terminal.see("value_59")
        assert terminal.screen.rows == ["Title", "…", *(f"value_{n} = {n}" for n in range(56, 60)), "```"]
        assert terminal.screen.cursor == (0, 1)


SHORT = "A first paragraph.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nA second one with **bold** text"


@pytest.mark.parametrize("first", SIZES, ids=str)
@pytest.mark.parametrize("second", [(40, 24), (60, 12), (30, 8), (100, 40)], ids=str)
def test_a_resize_neither_loses_nor_doubles_anything(
    tmp_path: Path, first: tuple[int, int], second: tuple[int, int]
) -> None:
    """The block in progress is drawn for the new size, and printed for the size at its end."""
    with answering(tmp_path, "--markdown", size=first) as (terminal, author):
        author.write(SHORT)
        terminal.see("A second one")
        terminal.resize(*second)
        author.write(", and ever more of it, until it takes a number of rows that depends on the width: ")
        author.write(" ".join(WORDS[:40]))
        terminal.see("word39")
        terminal.resize(*first)
        author.write(" the end")
        terminal.see("the end")
        terminal.resize(*second)
        author.finish()
        assert terminal.end() == 0
        shown = [row for row in terminal.screen.everything if row]
        assert sorted(set(shown)) == sorted(shown)
        words = " ".join(shown)
        assert re.findall(r"word\d+", words) == [word.strip() for word in WORDS[:40]]
        assert [words.count(text) for text in ("A first", "│ 1 │ 2 │", "A second", "the end")] == [1, 1, 1, 1]
        assert max(map(len, shown)) <= second[0]


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_a_terminal_that_wraps_lines_again_has_everything_once(tmp_path: Path) -> None:
    """In tmux, too, which wraps lines again when it is resized, nothing of a region that was drawn stays behind."""

    def tmux(*arguments: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "socket"), "-f", os.devnull, *arguments]
        return subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout

    def scrollback() -> str:
        return " ".join(tmux("capture-pane", "-p", "-J", "-S", "-1000").split())

    with authored() as (port, authors):
        variables = environment(tmp_path, port, LC_ALL="C.UTF-8", TERM="xterm")
        tmux("new-session", "-d", "-x", "80", "-y", "24", "echo; lm respond --markdown question; echo over; exec cat")
        try:
            author = authors.get(timeout=PATIENCE)
            for number, (columns, rows) in enumerate([(40, 12), (80, 24), (50, 24), (120, 30), (60, 12), (80, 24)]):
                author.write(f"- item{number} and {' '.join(WORDS[number * 30 : number * 30 + 30])}\n")
                last = WORDS[number * 30 + 29].strip()
                wait_until(lambda last=last: last in scrollback())  # type: ignore[misc]
                tmux("resize-window", "-x", str(columns), "-y", str(rows))
            author.finish()
            wait_until(lambda: "over" in scrollback())
            assert re.findall(r"item\d+|word\d+|over", scrollback()) == [
                *(f"{name}".strip() for n in range(6) for name in [f"item{n}", *WORDS[n * 30 : n * 30 + 30]]),
                "over",
            ]
        finally:
            tmux("kill-server")


def test_a_resize_alone_draws_again(tmp_path: Path) -> None:
    """What is in progress fits the window also while nothing arrives."""
    with answering(tmp_path, "--markdown", size=(80, 24)) as (terminal, author):
        author.write("one two three four five six seven eight nine ten")
        terminal.see("nine ten")
        terminal.resize(20, 24)
        terminal.wait(lambda: terminal.screen.rows == ["one two three four", "five six seven eight", "nine ten"])
        terminal.resize(60, 24)
        terminal.wait(lambda: terminal.screen.rows == ["one two three four five six seven eight nine ten"])


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_ctrl_c_leaves_what_had_arrived_once(tmp_path: Path, size: tuple[int, int]) -> None:
    """What is in progress is printed, whole and rendered; the process dies of the signal."""
    text = "# Title\n\n" + "".join(ITEMS[:9]) + "\nSome **bold** text and *more"
    with answering(tmp_path, "--markdown", size=size) as (terminal, author):
        author.write(text)
        terminal.see("text and *more")
        terminal.type(CTRL_C)
        assert terminal.end() == -signal.SIGINT
        assert terminal.screen.everything == whole(text, size[0])
        assert {cell.bold for cell in terminal.screen.cells("bold text")[:4]} == {True}
        assert terminal.screen.is_cursor_visible


def test_a_termination_leaves_what_had_arrived_once(tmp_path: Path) -> None:
    """SIGTERM does what Ctrl-C does; SIGKILL leaves a terminal that wraps lines and shows its cursor."""
    with answering(tmp_path, "--markdown") as (terminal, author):
        author.write("Some **bold** text and *more")
        terminal.see("text and *more")
        terminal.process.terminate()
        assert terminal.end() == -signal.SIGTERM
        assert terminal.screen.everything == ["Some bold text and *more"]
    with answering(tmp_path, "--markdown") as (terminal, author):
        author.write("Some **bold** text and *more")
        terminal.see("text and *more")
        terminal.process.kill()
        terminal.end()
        assert terminal.screen.is_cursor_visible
        assert terminal.written.endswith(b"\x1b[?7h")


def test_an_error_stands_below_what_had_arrived(tmp_path: Path) -> None:
    """What is in progress is printed before the message about its end."""
    with answering(tmp_path, "--markdown") as (terminal, author):
        author.write("# Title\n\nSome **bold** text and *more")
        terminal.see("text and *more")
        author.disconnect()
        assert terminal.end() == 3
        rows = terminal.screen.everything
        assert rows[:3] == ["Title", "", "Some bold text and *more"]
        assert rows[3].startswith("lm: error: ")


def test_it_is_drawn_at_most_twelve_times_a_second(tmp_path: Path) -> None:
    """However fast the fragments come, what is in progress is drawn no more often."""
    with answering(tmp_path, "--markdown") as (terminal, author):
        author.write("first")
        terminal.see("first")
        began = time.monotonic()
        for number in range(2000):
            author.write(f"\nline{number}")
        terminal.see("line1999")
        most = 12 * (time.monotonic() - began) + 2
        author.finish()
        assert terminal.end() == 0
        assert 2 <= terminal.written.count(b"\x1b[?7h") <= most


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_wide_characters_stay_in_their_cells(tmp_path: Path, size: tuple[int, int]) -> None:
    """Characters of two columns and of none are drawn and printed at the right place, however they arrive."""
    text = (
        "漢字とかな交じりの文章は、とても長いので折り返されます。改行はありません。\n\n"
        "| 名前 | e\u0301te\u0301 |\n|---|---|\n| 東京 | naïve |\n| ok | 👍 |\n\n- 한국어 **굵은** 글씨\n- 👍 end"
    )
    with answering(tmp_path, "--markdown", size=size) as (terminal, author):
        for char in text:
            author.write(char)
        terminal.see("end")
        author.finish()
        assert terminal.end() == 0
        table = [row for row in terminal.screen.everything if row.startswith(("│", "╭", "╰", "├"))]
        assert [row.replace("e\u0301", "é").replace("é", "é") for row in table[1:2]] == ["│ 名前 │ été   │"]
        assert table[3] == "│ 東京 │ naïve │"
        assert {cell.bold for cell in terminal.screen.cells("굵은")} == {True}
        assert sum("한국어" in row for row in terminal.screen.everything) == 1
        joined = "".join(terminal.screen.everything)
        assert joined.startswith("漢字とかな交じりの文章は、とても長いので折り返されます。改行はありません。")


def test_reasoning_stays_dim_above_the_answer(tmp_path: Path) -> None:
    """Reasoning is above what follows it, and below what came before it."""
    with answering(tmp_path, "--markdown", size=(60, 24)) as (terminal, author):
        author.write("Let me *think*", is_reasoning=True)
        terminal.see("Let me *think*")
        author.write("# Title\n\nSome **bold")
        terminal.see("Some **bold")
        author.write("Wait, ", is_reasoning=True)
        terminal.see("Wait,")
        author.write("yes.", is_reasoning=True)
        author.write("A *last* text.")
        terminal.see("A last text.")
        author.finish()
        assert terminal.end() == 0
        assert terminal.screen.rows == ["Let me *think*", "Title", "", "Some **bold", "Wait, yes.", "", "A last text."]
        assert all(cell.dim for text in ("Let me *think*", "Wait, yes.") for cell in terminal.screen.cells(text))
        assert not any(cell.dim for cell in terminal.screen.cells("A last text."))


RICH = "# Title\n\nSome **bold** `code`:\n\n```python\ndef f(): ...\n```\n\n" + TABLE


def rendered_with(tmp_path: Path, *arguments: str, **variables: str) -> list[str]:
    """The rows of the same answer."""
    with answering(tmp_path, *arguments, variables=variables) as (terminal, author):
        author.write(RICH)
        author.finish()
        assert terminal.end() == 0
        return terminal.screen.everything


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--markdown"], {}),
        ([], {"LM_MARKDOWN": "1"}),
        (["--markdown"], {"LM_MARKDOWN": "0"}),
        (["--markdown"], {"NO_COLOR": "1"}),
    ],
)
def test_what_turns_it_on(tmp_path: Path, arguments: list[str], variables: dict[str, str]) -> None:
    """The option and the environment turn it on, the option before the environment."""
    rows = rendered_with(tmp_path, *arguments, **variables)
    assert rows[0] == "Title"
    assert "│ bb   │   22 │" in rows


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        ([], {}),
        (["--no-markdown"], {"LM_MARKDOWN": "1"}),
        (["--markdown"], {"TERM": "dumb"}),
        ([], {"LM_MARKDOWN": "off"}),
    ],
)
def test_what_leaves_it_off(tmp_path: Path, arguments: list[str], variables: dict[str, str]) -> None:
    """By default, without the option, and on a dumb terminal the answer is shown as it arrives."""
    assert rendered_with(tmp_path, *arguments, **variables) == RICH.split("\n")


@pytest.mark.parametrize("option", ["json", "history"])
def test_other_forms_of_output_are_not_rendered(tmp_path: Path, option: str) -> None:
    """The option has an effect on text only."""
    assert "**bold**" in "".join(rendered_with(tmp_path, "--markdown", "-o", option))


@pytest.mark.parametrize(("arguments", "variables"), [([], {"NO_COLOR": "1"}), (["--color", "never"], {})])
def test_without_colour_nothing_is_coloured(tmp_path: Path, arguments: list[str], variables: dict[str, str]) -> None:
    """Bold stays, colours go, and code keeps its marks."""
    with answering(tmp_path, "--markdown", *arguments, variables=variables) as (terminal, author):
        author.write(RICH)
        author.finish()
        assert terminal.end() == 0
        assert {cell.color for row in terminal.screen.rows if row for cell in terminal.screen.cells(row)} == {"default"}
        assert {cell.bold for cell in terminal.screen.cells("bold")} == {True}
        assert terminal.screen.rows[2] == "Some bold `code`:"


def test_without_utf_8_lines_are_ascii(tmp_path: Path) -> None:
    """In another locale tables and lists are drawn in ASCII."""
    rows = rendered_with(tmp_path, "--markdown", LC_ALL="C")
    assert "".join(rows).isascii()
    assert "| bb   |   22 |" in rows


def test_an_answer_of_nothing_prints_nothing(tmp_path: Path) -> None:
    """Where there is no text, there is no line either."""
    with answering(tmp_path, "--markdown") as (terminal, author):
        author.finish()
        assert terminal.end() == 4
        assert terminal.screen.rows[0] == "lm: error: the answer is empty"


def test_a_dialogue_renders_and_a_command_switches_it(talk: OpenDialogue) -> None:
    """In a dialogue Markdown is rendered; `/markdown` turns it off and on again."""
    chat = talk(LM_MARKDOWN="")
    chat.see_prompt()
    assert chat.ask("some *words*").endswith("You say: some \x1b[3mwords\x1b[0m!\n")
    assert "answers are shown as they arrive" in chat.ask("/markdown")
    assert chat.ask("some *words*").endswith("You say: some *words*!\n")
    assert "answers are rendered" in chat.ask("/markdown on")
    assert chat.ask("more *words*").endswith("You say: more \x1b[3mwords\x1b[0m!\n")
    assert "/markdown takes on or off, not 'maybe'" in chat.ask("/markdown maybe")
    chat.leave()


def test_a_dialogue_takes_the_option_and_the_environment(talk: OpenDialogue) -> None:
    """What turns it off is heeded in a dialogue, too."""
    for chat in (talk("--no-markdown", LM_MARKDOWN="1"), talk(LM_MARKDOWN="no")):
        chat.see_prompt()
        assert chat.ask("some *words*").endswith("You say: some *words*!\n")
        assert "answers are rendered" in chat.ask("/markdown")
        assert "some \x1b[3mwords\x1b[0m!\n" in chat.ask("some *words*")
        chat.leave()


def test_a_batch_is_not_rendered(tmp_path: Path, start_server: StartServer) -> None:
    """With --each the answers are written as they are."""
    server = start_server()
    with window(tmp_path, server.port, "sh", "-c", "echo '**a**' | lm respond --each line --markdown") as terminal:
        assert terminal.end() == 0
        assert terminal.screen.rows[0] == "**a**"
