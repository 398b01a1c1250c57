"""`-o code` while the answer streams: what is written when, and what ends it early."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from predictions import Predictions
from processes import StubServer, Terminal, environment, start

PIECES = {
    "So:\n``": b"",
    "`sh\necho ": b"echo ",
    "on": b"echo on",
    "e\n`": b"echo one\n",
    "x": b"echo one\n`x",
    "\n``": b"echo one\n`x\n",
    "`": b"echo one\n`x\n",
    "\nand": b"echo one\n`x\n",
    "\n~~~\nb": b"echo one\n`x\n\nb",
}
"""Pieces of an answer, and all that must then be on stdout."""


def test_code_is_written_as_it_arrives(tmp_path: Path) -> None:
    """Each part of a line at once, but for what could still be a closing fence."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "-n", "-o", "code", "hi", folder=tmp_path, variables=variables) as child:
            asked = predictions.next()
            for piece, written in PIECES.items():
                asked.say(piece)
                child.wait_for(written)
                assert child["stdout"] == written
            asked.finish()
            assert child.end() == 0
    assert child["stdout"] == b"echo one\n`x\n\nb\n"


@pytest.mark.parametrize(("text", "code"), [("```\none", b"one\n"), ("one", b"")])
def test_a_signal_leaves_the_code_that_had_arrived(text: str, code: bytes, tmp_path: Path) -> None:
    """Its last line is ended; if there is none, the signal is all that ends the process, without an error."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "chat", "-n", "-o", "code", "--history", "talk.json", "hi")
        with start(*command, folder=tmp_path, variables=variables) as child:
            asked = predictions.next()
            asked.say(text)
            child.wait_for(code.rstrip())
            child.process.send_signal(signal.SIGINT)
            predictions.next_cancelled()
            asked.finish("userStopped")
            assert child.end() == -signal.SIGINT
    assert (child["stdout"], child["stderr"]) == (code, b"")
    answer = json.loads((tmp_path / "talk.json").read_text())["messages"][-1]
    assert (answer["content"], answer["partial"]) == (text, True)


@pytest.mark.parametrize("text", ["```\none\ntwo\n", "```\none\n```\nNow some prose\n", "No code yet\n"])
def test_a_reader_who_leaves_stops_the_generation(text: str, tmp_path: Path) -> None:
    """`lm respond -o code … | head -n 1`, also while there is nothing to write: lm cancels and dies of SIGPIPE."""
    predictions = Predictions()
    reading, writing = os.pipe()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "respond", "-n", "-o", "code", "hi")
        with start(*command, folder=tmp_path, variables=variables, stdout=writing) as child:
            os.close(writing)
            predictions.next().say(text)
            if "```" in text:
                assert os.read(reading, 4) == b"one\n"
            os.close(reading)
            predictions.next_cancelled()
            assert child.end() == -signal.SIGPIPE
    assert child["stderr"] == b""


def test_a_lost_connection_leaves_the_code_that_had_arrived(tmp_path: Path) -> None:
    """With the status of an answer that is not complete, though the block has no end."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "-n", "-o", "code", "hi", folder=tmp_path, variables=variables) as child:
            asked = predictions.next()
            asked.say("```\none")
            child.wait_for(b"one")
            asked.lose()
            assert child.end() == 3
    assert child["stdout"] == b"one\n"
    assert child["stderr"].startswith(b"lm: error: the connection ")


def test_a_record_that_is_predicted_again_has_its_code_once(tmp_path: Path) -> None:
    """In a batch, after the connection was lost in the middle of a block; another record has none, and has failed."""
    predictions = Predictions()
    (tmp_path / "records").write_text("one\ntwo\n")
    with StubServer(predictions) as stub, (tmp_path / "records").open() as stdin:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "respond", "-q", "--each", "line", "-j", "1", "-o", "code")
        with start(*command, folder=tmp_path, variables=variables, stdin=stdin.fileno()) as child:
            asked = predictions.next()
            asked.say("```\nfir")
            child.wait_for(b"fir")
            asked.lose()
            asked = predictions.next()
            asked.say("```\nfirst\nsecond\n```\n")
            asked.finish()
            asked = predictions.next()
            asked.say("no code")
            asked.finish()
            assert child.end() == 4
    assert child["stdout"] == b"first\nsecond\n\n"
    assert child["stderr"].startswith(b"lm: error: record 2: the answer has no fenced code block\n")


@pytest.mark.parametrize(("to_terminal", "written"), [(True, b"\\x1b[2J\tx\r\n"), (False, b"\x1b[2J\tx\n")])
def test_code_cannot_drive_the_terminal(tmp_path: Path, *, to_terminal: bool, written: bytes) -> None:
    """On a terminal control characters are shown escaped, as those of a text; in a pipe they are not."""
    predictions = Predictions()
    stdout = Terminal() if to_terminal else subprocess.PIPE
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "respond", "-n", "-o", "code", "hi")
        with start(*command, folder=tmp_path, variables=variables, stdout=stdout) as child:
            asked = predictions.next()
            asked.say("```\n\x1b[2J\tx\n```\n")
            asked.finish()
            assert child.end() == 0
    assert child["stdout"] == written
