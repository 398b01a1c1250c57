"""On a terminal: what the user sees there, looked at through a real pseudo-terminal."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import StartServer
from processes import Terminal, environment, run, start

from lmcli.server.background import Running

ESCAPE = b"\x1b"
COLOR = re.compile(rb"\x1b\[[0-9;]*m")
TERM = {"TERM": "xterm-256color"}

OWNING_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Screen:
    """What a terminal shows after some bytes; it knows the sequences that `lm` may use, and refuses all others.

    Attributes:
        has_cursor: the cursor can be seen.
    """

    _PIECE = re.compile(r"\x1b\[(?P<private>\??)(?P<number>[0-9;]*)(?P<final>[A-Za-z])|(?P<char>[^\x1b])", re.DOTALL)

    def __init__(self, shown: bytes) -> None:
        self.has_cursor = True
        self._lines = [""]
        self._row = self._column = 0
        text = shown.decode()
        at = 0
        while at < len(text):
            piece = self._PIECE.match(text, at)
            assert piece is not None, text[at : at + 20]
            at = piece.end()
            if piece["char"]:
                self._show(piece["char"])
            else:
                self._obey(piece["private"] + piece["final"], piece["number"])

    @property
    def lines(self) -> list[str]:
        """What can be read, without empty lines at the end."""
        return "\n".join(line.rstrip() for line in self._lines).rstrip("\n").split("\n")

    def _show(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._row += 1
            self._lines += [""] * (self._row + 1 - len(self._lines))
        else:
            assert char.isprintable() or char == "\t", char
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + char + line[self._column + 1 :]
            self._column += 1

    def _obey(self, order: str, number: str) -> None:
        match order:
            case "m":  # a colour
                pass
            case "K" if number in ("0", ""):
                self._lines[self._row] = self._lines[self._row][: self._column]
            case "K" if number == "2":
                self._lines[self._row] = ""
            case "A":
                self._row -= int(number or 1)
            case "?h" | "?l" if number == "25":
                self.has_cursor = order == "?h"
            case _:
                raise AssertionError((order, number))


def test_control_characters_are_shown_and_not_obeyed(tmp_path: Path, server: Running) -> None:
    """A model cannot drive the terminal: all but newline and tab is escaped there, and only there."""
    text = "red \x1b[31m\x1b]0;title\x07 back\x08\x7f \x9b31m tab\tline\nend"
    variables = environment(tmp_path, server.port, **TERM)
    with start("lm", "complete", text, folder=tmp_path, variables=variables, stdout=Terminal()) as child:
        assert child.end() == 0
    expected = "red \\x1b[31m\\x1b]0;title\\x07 back\\x08\\x7f \\x9b31m tab\tline\r\nend\r\n"
    assert child["stdout"].decode() == expected
    with start("lm", "complete", text, folder=tmp_path, variables=variables) as child:
        assert child.end() == 0
    assert child["stdout"].decode() == text


def test_the_direction_of_writing_is_not_overridden(tmp_path: Path, server: Running) -> None:
    """Overrides are shown escaped, in an answer, in reasoning and in names; what right-to-left text needs is kept."""
    kept = "\u05d0\u200e\u200f\u202a\u202b\u202c\u2066\u2067\u2068\u2069\u061c"
    text = f"<think>hm \u202e{kept}</think>red \u202dblue\u202e{kept}"
    variables = environment(tmp_path, server.port, **TERM)
    line = ["lm", "respond", "--color", "never", text]
    with start(*line, folder=tmp_path, variables=variables, stdout=Terminal(), stderr=Terminal()) as child:
        assert child.end() == 0
    assert child["stdout"].decode() == f"red \\u202dblue\\u202e{kept}\r\n"
    assert f"  hm \\u202e{kept}\r\n" in child["stderr"].decode()
    ran = run("cat | lm respond --reasoning show", tmp_path, variables, stdin=text.encode())
    assert ran.stdout.decode() == f"red \u202dblue\u202e{kept}\n"
    assert ran.stderr == f"hm \u202e{kept}\n"
    ran = run("lm respond -n -f 'a\u202e.txt' -f 'b\u2066.txt' hi", tmp_path, variables)
    assert ran.stderr == "lm: error: cannot read 'a\\u202e.txt': no such file or directory\n"


@pytest.mark.parametrize("command", ["respond", "complete"])
def test_the_line_is_ended(command: str, tmp_path: Path, server: Running) -> None:
    """The shell's prompt begins on a line of its own, also after `complete`; an ended line is not ended twice."""
    for text in ("hi", "hi\n"):
        variables = environment(tmp_path, server.port, **TERM)
        with start("lm", command, text, folder=tmp_path, variables=variables, stdout=Terminal()) as child:
            assert child.end() == 0
        assert child["stdout"] == b"hi\r\n"


def test_json_is_indented(tmp_path: Path, server: Running) -> None:
    """On a terminal JSON is for eyes; a stream of lines stays a stream of lines."""
    for form, first in (("json", b"{\r\n"), ("history", b"{\r\n"), ("jsonl", b'{"type":')):
        variables = environment(tmp_path, server.port, **TERM)
        with start("lm", "respond", "-o", form, "hi", folder=tmp_path, variables=variables, stdout=Terminal()) as child:
            assert child.end() == 0
        assert child["stdout"].startswith(first)


def test_models_are_a_table(tmp_path: Path, server: Running) -> None:
    """With headings, in columns, without colour."""
    variables = environment(tmp_path, server.port, **TERM)
    with start("lm", "models", folder=tmp_path, variables=variables, stdout=Terminal()) as child:
        assert child.end() == 0
    assert ESCAPE not in child["stdout"]
    lines = Screen(child["stdout"]).lines
    assert lines[0].split()[:2] == ["KEY", "KIND"]
    assert [line.split()[0] for line in lines[1:]] == ["echo", "echo-jit", "echo-embed"]


@pytest.mark.parametrize(
    ("arguments", "pace", "label"),
    [
        (["respond", "-m", "echo-jit"], {"load_seconds": 0.8}, b"loading"),
        (["complete"], {"prompt_tokens_per_second": 2.5}, b"reading"),
    ],
)
def test_a_bar_shows_what_takes_long_and_goes_before_the_answer(
    arguments: list[str], pace: dict[str, float], label: bytes, tmp_path: Path, start_server: StartServer
) -> None:
    """While a model loads or a prompt is read there is a bar; then there is the answer and nothing else."""
    server = start_server(**pace)
    terminal = Terminal()
    variables = environment(tmp_path, server.port, **TERM)
    line = ["lm", *arguments, "one", "two"]
    with start(*line, folder=tmp_path, variables=variables, stdout=terminal, stderr=terminal) as child:
        child.wait_for(label)
        assert Screen(child["stdout"].rpartition(ESCAPE)[0]).has_cursor
        assert child.end() == 0
    screen = Screen(child["stdout"])
    assert screen.lines == ["one two"]
    assert screen.has_cursor


def test_the_input_is_shown_with_its_continuation(tmp_path: Path, start_server: StartServer) -> None:
    """`--echo` leaves the line to the progress until there is something to go on with; nothing in it is obeyed."""
    server = start_server(load_seconds=0.6)
    variables = environment(tmp_path, server.port, **TERM)
    for command in (["lm"], ["sh", "-c", 'lm "$@" | cat', "lm"]):
        terminal = Terminal()
        line = [*command, "complete", "--echo", "-m", "echo-jit", "one two"]
        with start(*line, folder=tmp_path, variables=variables, stdout=terminal, stderr=terminal) as child:
            child.wait_for(b"loading")
            assert child.end() == 0
        assert Screen(child["stdout"]).lines == ["one twoone two"]
        assert run("lm models unload echo-jit", tmp_path, variables).status == 0
    variables["LM_HOST"] = "127.0.0.1:1"
    line = ["lm", "complete", "--echo", "red \x1b[31m"]
    with start(*line, folder=tmp_path, variables=variables, stdout=Terminal()) as child:
        assert child.end() == 69
    assert child["stdout"] == b"red \\x1b[31m\r\n"


def test_the_pace_is_shown_where_the_answer_goes_elsewhere(tmp_path: Path, start_server: StartServer) -> None:
    """Into a file goes the answer, byte by byte; the terminal shows how fast, and is clean afterwards."""
    server = start_server(tokens_per_second=20)
    words = " ".join("abcdefghijklmn")
    variables = environment(tmp_path, server.port, **TERM)
    line = ["sh", "-c", f"lm respond '{words}' > answer"]
    with start(*line, folder=tmp_path, variables=variables, stderr=Terminal()) as child:
        child.wait_for(b"tokens/s", "stderr")
        assert child.end() == 0
    assert (tmp_path / "answer").read_text() == words + "\n"
    assert Screen(child["stderr"]).lines == [""]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("lm respond '{}' | cat", b"reading"),
        ("lm complete '{}' | tee -a session.txt", b"reading"),
        ("lm respond -m echo-jit '{}' | cat", b"loading"),
        ("lm respond --reasoning hide '<think>a b c d e f g h</think>{}' | cat", b"thinking"),
        ("lm respond -o jsonl --progress '{}' | cat", None),
        ("lm respond -o json '{}' | cat", b"answering"),
        ("lm models load echo-jit | cat", b"loading"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_drawn_where_the_next_command_writes(
    line: str, shown: bytes | None, tmp_path: Path, start_server: StartServer
) -> None:
    """What a pipe leads to may be this very terminal: with the first byte in it the line is gone, and stays away."""
    server = start_server(tokens_per_second=20, prompt_tokens_per_second=30, load_seconds=0.6)
    words = "one two three four five six seven eight nine ten eleven twelve"
    variables = environment(tmp_path, server.port, **TERM)
    terminal = Terminal()
    command = ["sh", "-c", line.format(words)]
    with start(*command, folder=tmp_path, variables=variables, stdout=terminal, stderr=terminal) as child:
        if shown:
            child.wait_for(shown)
        assert child.end() == 0
    answer = Screen(child["stdout"]).lines[0]
    assert answer.startswith((words, "echo-jit", '{"'))
    before, _, after = child["stdout"].partition(answer[:3].encode())
    assert (ESCAPE in before) is (shown is not None)
    assert not re.search(rb"\x1b|\r(?!\n)", after)


@pytest.mark.parametrize(
    ("options", "variables"),
    [(["--no-progress"], TERM), (["-q"], TERM), ([], {"TERM": "dumb"})],
    ids=["--no-progress", "-q", "TERM=dumb"],
)
def test_no_bar_where_none_is_wanted(
    options: list[str], variables: dict[str, str], tmp_path: Path, start_server: StartServer
) -> None:
    """Not when it was switched off, not when quiet was asked for, not on a terminal that cannot go back."""
    server = start_server(load_seconds=0.6)
    everything = environment(tmp_path, server.port, **variables)
    line = ["lm", "respond", "-m", "echo-jit", *options, "hi"]
    with start(*line, folder=tmp_path, variables=everything, stderr=Terminal()) as child:
        assert child.end() == 0
    assert child["stderr"] == b""


def test_no_escape_on_stdout(tmp_path: Path, start_server: StartServer) -> None:
    """Stdout carries no colour and no cursor movement in any form, even when colour is forced and a bar is drawn."""
    for form in ("text", "code", "json", "jsonl", "history"):
        server = start_server(load_seconds=0.5)
        variables = environment(tmp_path, server.port, FORCE_COLOR="1", **TERM)
        line = [
            "lm",
            "respond",
            "--color",
            "always",
            "--stats",
            "-m",
            "echo-jit",
            "-o",
            form,
            "<think>hm</think>```\nhi",
        ]
        with start(*line, folder=tmp_path, variables=variables, stdout=Terminal(), stderr=Terminal()) as child:
            assert child.end() == 0
        assert ESCAPE not in child["stdout"]
        assert ESCAPE in child["stderr"]


class Wish(NamedTuple):
    """What says whether stderr is to be coloured, and whether it is."""

    is_colored: bool
    on_terminal: bool
    variables: dict[str, str]
    color: str = "auto"


@pytest.mark.parametrize(
    "wish",
    [
        Wish(True, True, TERM),
        Wish(False, False, TERM),
        Wish(False, True, {"TERM": "dumb"}),
        Wish(False, True, {**TERM, "NO_COLOR": "1"}),
        Wish(True, True, {**TERM, "NO_COLOR": ""}),
        Wish(True, False, {**TERM, "FORCE_COLOR": "1"}),
        Wish(False, True, {**TERM, "FORCE_COLOR": "0"}),
        Wish(False, True, {**TERM, "NO_COLOR": "1", "FORCE_COLOR": "1"}),
        Wish(True, False, {**TERM, "NO_COLOR": "1"}, color="always"),
        Wish(False, True, {**TERM, "FORCE_COLOR": "1"}, color="never"),
    ],
    ids=str,
)
def test_colour_is_for_who_wants_it(wish: Wish, tmp_path: Path, server: Running) -> None:
    """A warning is coloured on a terminal, unless NO_COLOR, FORCE_COLOR, TERM=dumb or --color say otherwise."""
    (tmp_path / "token").write_text("sk-lm-abcdefgh:abcdefghijklmnopqrst")
    (tmp_path / "token").chmod(0o644)
    stderr = Terminal() if wish.on_terminal else subprocess.PIPE
    everything = environment(tmp_path, server.port, **wish.variables)
    line = ["lm", "models", "--color", wish.color, "--token-file", "token"]
    with start(*line, folder=tmp_path, variables=everything, stderr=stderr) as child:
        assert child.end() == 0
    assert (COLOR.search(child["stderr"]) is not None) is wish.is_colored
    assert COLOR.sub(b"", child["stderr"]).startswith(b"lm: warning: the token file 'token' is readable by others")


@pytest.mark.parametrize(
    ("options", "variables"),
    [([], {"NO_COLOR": "1"}), (["--color", "never"], {}), ([], {"TERM": "dumb"})],
    ids=["NO_COLOR", "--color never", "TERM=dumb"],
)
def test_without_colour_reasoning_is_indented(
    options: list[str], variables: dict[str, str], tmp_path: Path, server: Running
) -> None:
    """It has a heading, and a blank line sets it off from the answer."""
    assert shown_on_terminal(tmp_path, server.port, *options, **variables) == (
        b"reasoning:\n  first of all\n\n  then\n  last\n\nfour\nmore\n"
    )


def test_with_colour_reasoning_is_dim(tmp_path: Path, server: Running) -> None:
    """It is as it came, between sequences that make it dim."""
    shown = shown_on_terminal(tmp_path, server.port)
    assert shown.startswith(b"\x1b[2m\n")
    assert COLOR.sub(b"", shown) == b"\nfirst of all\n\nthen\nlast\nfour\nmore\n"


def shown_on_terminal(folder: Path, port: int, *options: str, **variables: str) -> bytes:
    """What a terminal gets for an answer of several lines after reasoning of several lines."""
    terminal = Terminal()
    everything = environment(folder, port, **TERM | variables)
    line = ["lm", "respond", *options, "<think>\nfirst of all\n\nthen\nlast\n</think>four\nmore"]
    with start(*line, folder=folder, variables=everything, stdout=terminal, stderr=terminal) as child:
        assert child.end() == 0
    return child["stdout"].replace(b"\r\n", b"\n")


@pytest.mark.parametrize("command", ["respond", "complete", "stats"])
def test_nothing_to_do_on_a_terminal(command: str, tmp_path: Path, server: Running) -> None:
    """Without an argument, and with nobody but the user to wait for, there is short help on stderr and status 2."""
    variables = environment(tmp_path, server.port, **TERM)
    with start("lm", command, folder=tmp_path, variables=variables, stdin=Terminal()) as child:
        assert child.end() == 2
    assert child["stdout"] == b""
    assert child["stderr"].startswith(b"Usage: lm " + command.encode())
    assert b"lm " + command.encode() + b" --help lists the options" in child["stderr"]
    assert child["stderr"].count(b"\n") < 12


@pytest.mark.parametrize("line", ["lm respond -f notes.txt", "lm stats -f notes.txt --echo"])
def test_a_file_is_something_to_do(line: str, tmp_path: Path, server: Running) -> None:
    """With a file and no argument a terminal on stdin is not waited for: the file is what is asked."""
    (tmp_path / "notes.txt").write_text("some words\n", encoding="utf-8")
    variables = environment(tmp_path, server.port, **TERM)
    with start(*line.split(), folder=tmp_path, variables=variables, stdin=Terminal()) as child:
        assert child.end() == 0
    assert b"notes.txt:\n\nsome words\n" in child["stdout"] + child["stderr"]


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_note_is_for_a_user_at_a_terminal(stream: str, tmp_path: Path, server: Running) -> None:
    """Whichever stream that terminal is; -q keeps notes back."""
    variables = environment(tmp_path, server.port, **TERM)
    assert run("lm models load echo-jit", tmp_path, variables).status == 0
    for quiet in ([], ["-q"]):
        line = ["lm", "respond", *quiet, "hi"]
        streams: dict[str, Any] = {stream: Terminal()}
        with start(*line, folder=tmp_path, variables=variables, **streams) as child:
            assert child.end() == 0
        assert child["stderr"].startswith(b"lm: several models are loaded") is (not quiet)


def test_a_terminal_is_read_where_it_is_named(tmp_path: Path, server: Running) -> None:
    """`-f -` reads what is typed, up to the end of file, as `cat -` does."""
    variables = environment(tmp_path, server.port, **TERM)
    terminal = Terminal()
    with start("lm", "respond", "-f", "-", "why", folder=tmp_path, variables=variables, stdin=terminal) as child:
        terminal.type(b"typed\n\x04")
        assert child.end() == 0
    assert child["stdout"] == b"stdin:\n\ntyped\n\nwhy\n"


def test_a_terminal_is_not_read(tmp_path: Path, server: Running) -> None:
    """With an argument and a terminal on stdin nothing is waited for."""
    variables = environment(tmp_path, server.port, **TERM)
    with start("lm", "respond", "hi", folder=tmp_path, variables=variables, stdin=Terminal()) as child:
        assert child.end() == 0
    assert (child["stdout"], child["stderr"]) == (b"hi\n", b"")


def test_waiting_for_stdin_is_said_after_two_seconds(tmp_path: Path, server: Running) -> None:
    """A pipe that nobody writes to is the commonest way to hang: one note says what is waited for."""
    reading, writing = os.pipe()
    variables = environment(tmp_path, server.port, **TERM)
    began = time.monotonic()
    with start(
        "lm", "respond", "question", folder=tmp_path, variables=variables, stdin=reading, stderr=Terminal()
    ) as child:
        os.close(reading)
        child.wait_for(b"\n", "stderr")
        assert time.monotonic() - began > 2
        os.write(writing, b"document\n")
        os.close(writing)
        assert child.end() == 0
    assert child["stderr"] == b"lm: waiting for stdin (-n to skip)\r\n"
    assert child["stdout"] == b"document\n\nquestion\n"


def test_ctrl_c_on_the_keyboard(tmp_path: Path, start_server: StartServer) -> None:
    """It stops the answer; what had come stays, the line is ended, there is no traceback, the cursor is there."""
    server = start_server(tokens_per_second=15)
    terminal = Terminal()
    variables = environment(tmp_path, server.port, **TERM)
    line = [sys.executable, "-c", OWNING_ITS_TERMINAL, "lm", "respond", "one two three four " * 100]
    with start(
        *line,
        folder=tmp_path,
        variables=variables,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        in_new_session=True,
    ) as child:
        child.wait_for(b"one two")
        terminal.type(b"\x03")
        assert child.end() == -signal.SIGINT
    screen = Screen(child["stdout"].replace(b"^C", b""))
    assert len(screen.lines) == 1
    assert screen.lines[0].startswith("one two")
    assert child["stdout"].endswith(b"\r\n")
    assert screen.has_cursor


def test_a_bar_never_hides_the_cursor_for_long(tmp_path: Path, start_server: StartServer) -> None:
    """Whoever kills or suspends `lm` has a terminal that can be used, with its cursor."""
    server = start_server(load_seconds=60)
    variables = environment(tmp_path, server.port, **TERM)
    line = ["lm", "respond", "-m", "echo-jit", "hi"]
    with start(*line, folder=tmp_path, variables=variables, stderr=Terminal()) as child:
        child.wait_for(b"loading", "stderr")
        child.process.kill()  # no second interrupt, no hang-up is worse
        assert child.end() == -signal.SIGKILL
    assert child["stderr"].rfind(b"\x1b[?25h") >= child["stderr"].rfind(b"\x1b[?25l")


def test_script_output_has_no_escape(tmp_path: Path, server: Running) -> None:
    """In a pipe neither stream carries an escape byte, whatever TERM says."""
    ran = run(
        "lm respond --stats hi; lm models; lm respond -m nope hi", tmp_path, environment(tmp_path, server.port, **TERM)
    )
    assert ESCAPE not in ran.stdout + ran.stderr.encode()
