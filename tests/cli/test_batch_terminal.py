"""A batch on a terminal: records that are typed, progress on one line, and one line at the end."""

import re
import signal
from pathlib import Path

import pytest
from conftest import StartServer
from predictions import Predictions
from processes import StubServer, Terminal, environment, run, start

BATCH = ("lm", "respond", "--each", "line", "-j", "2")
ERASE = b"\r\x1b[K"
FIGURES = re.compile(rb"\d+\.\d/s  \d+\.\d tokens/s  \d+:\d\d left")


def test_records_that_are_typed(tmp_path: Path, start_server: StartServer) -> None:
    """A note says what is waited for; each line is answered when it is typed; Ctrl-D ends them."""
    terminal, variables = Terminal(), environment(tmp_path, start_server().port)
    with start(*BATCH, folder=tmp_path, variables=variables, stdin=terminal) as child:
        child.wait_for(b"lm: reading records from the terminal; Ctrl-D ends them\n", "stderr")
        terminal.type(b"one\n")
        child.wait_for(b"one\n")
        terminal.type(b"two words\n\n")
        child.wait_for(b"two words\n")
        terminal.type(b"\x04")
        assert child.end() == 0
    assert child["stdout"] == b"one\ntwo words\n"


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """While the answers go to a file, one line shows how far it is, is erased for a message, and at the end."""
    predictions, screen = Predictions(), Terminal()
    (tmp_path / "lines").write_text("one\ntwo\nthree\nfour\n")
    with StubServer(predictions) as stub, (tmp_path / "lines").open() as stdin, (tmp_path / "out").open("wb") as out:
        variables = environment(tmp_path, stub.port, TERM="xterm", NO_COLOR="1")
        with start(
            *BATCH, folder=tmp_path, variables=variables, stdin=stdin.fileno(), stdout=out.fileno(), stderr=screen
        ) as child:
            predictions.next().answer()
            child.wait_for(b"1/4 done", "stderr")
            predictions.next().fail("no luck")
            child.wait_for(b"2/4 done  1 failed", "stderr")
            predictions.next().answer()
            child.wait_for(b"3/4 done  1 failed", "stderr")
            predictions.next().answer()
            assert child.end() == 1
    shown = child["stderr"].replace(b"\r\n", b"\n")
    assert FIGURES.search(shown)
    assert ERASE + b"lm: error: record 2: no luck\n" in shown
    assert re.search(rb"\r\x1b\[Klm: 4 records in \d+\.\d s, 1 failed\n$", shown)
    for line in re.split(rb"\r\x1b\[K|\n", shown):
        assert len(line) < 80
    assert (tmp_path / "out").read_text() == "one\n\nthree\nfour\n"


def test_the_total_of_a_pipe_is_shown_when_it_has_ended(tmp_path: Path) -> None:
    """Before that only what is done is known, and no time that is left."""
    predictions, screen, keyboard = Predictions(), Terminal(), Terminal()
    with StubServer(predictions) as stub, (tmp_path / "out").open("wb") as out:
        variables = environment(tmp_path, stub.port, TERM="xterm", NO_COLOR="1")
        with start(
            *BATCH, folder=tmp_path, variables=variables, stdin=keyboard, stdout=out.fileno(), stderr=screen
        ) as child:
            keyboard.type(b"one\ntwo\n")
            predictions.next().answer()
            second = predictions.next()
            child.wait_for(b"1 done", "stderr")
            assert b"left" not in child["stderr"]
            keyboard.type(b"\x04")
            child.wait_for(b"1/2 done", "stderr")
            second.answer()
            assert child.end() == 0


@pytest.mark.parametrize(
    "line",
    [
        "lm respond --each line < lines > out",
        "lm respond --each line -q < lines",
        "lm respond --each line --no-progress < lines",
    ],
)
def test_no_progress_in_a_pipe(line: str, tmp_path: Path, start_server: StartServer) -> None:
    """Where stderr is not a terminal nothing is written to it, however long it takes."""
    (tmp_path / "lines").write_text("one two three four five six\n" * 8)
    ran = run(line, tmp_path, environment(tmp_path, start_server(tokens_per_second=40).port))
    assert (ran.status, ran.stderr) == (0, "")


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {}])
def test_no_progress_beside_answers_on_the_terminal(variables: dict[str, str], tmp_path: Path) -> None:
    """Where answers are shown as they come, or the terminal has no cursor, no line is drawn; the last one is."""
    predictions, screen = Predictions(), Terminal()
    (tmp_path / "lines").write_text("one\ntwo\nthree\n")
    with StubServer(predictions) as stub, (tmp_path / "lines").open() as stdin:
        variables = environment(tmp_path, stub.port, **variables)
        with start(
            *BATCH, folder=tmp_path, variables=variables, stdin=stdin.fileno(), stdout=screen, stderr=screen
        ) as child:
            for asked in predictions.take(3):
                asked.answer()
                child.wait_for(asked.text.encode())
            assert child.end() == 0
    shown = child["stdout"].replace(b"\r\n", b"\n")
    assert re.fullmatch(rb"one\ntwo\nthree\nlm: 3 records in \d+\.\d s\n", shown)


def test_an_answer_does_not_drive_the_terminal(tmp_path: Path) -> None:
    """Control characters of an answer are shown escaped."""
    predictions, screen = Predictions(), Terminal()
    (tmp_path / "lines").write_text("one\n")
    with StubServer(predictions) as stub, (tmp_path / "lines").open() as stdin:
        variables = environment(tmp_path, stub.port)
        with start(
            *BATCH, folder=tmp_path, variables=variables, stdin=stdin.fileno(), stdout=screen, stderr=screen
        ) as child:
            asked = predictions.next()
            asked.say("a\x1b[2Jb")
            child.wait_for(rb"a\x1b[2Jb")
            asked.finish()
            assert child.end() == 0
    shown = child["stdout"].replace(b"\r\n", b"\n")
    assert re.fullmatch(rb"a\\x1b\[2Jb\nlm: 1 record in \d+\.\d s\n", shown)


def test_ctrl_c_on_a_terminal(tmp_path: Path) -> None:
    """The line of progress is erased, and what is left of the batch is said in its place."""
    predictions, screen = Predictions(), Terminal()
    (tmp_path / "lines").write_text("one\ntwo\nthree\nfour\n")
    with StubServer(predictions) as stub, (tmp_path / "lines").open() as stdin, (tmp_path / "out").open("wb") as out:
        variables = environment(tmp_path, stub.port, TERM="xterm", NO_COLOR="1")
        command = (*BATCH, "--results", "done")
        with start(
            *command, folder=tmp_path, variables=variables, stdin=stdin.fileno(), stdout=out.fileno(), stderr=screen
        ) as child:
            predictions.next().answer()
            running = {asked.channel: asked for asked in predictions.take(2)}
            child.wait_for(b"1/4 done", "stderr")
            child.process.send_signal(signal.SIGINT)
            for _ in range(2):
                running[predictions.next_cancelled()].finish("userStopped")
            assert child.end() == -signal.SIGINT
    shown = child["stderr"].replace(b"\r\n", b"\n")
    assert shown.endswith(ERASE + b"lm: stopped: 1 done, 3 left\nlm: hint: the same command continues the batch\n")
