"""`lm` as the filter of an editor: what it writes takes the place of a text, on whichever stream it is."""

import subprocess
from pathlib import Path

import pytest
from conftest import PATIENCE, StartServer
from processes import environment, run
from shells import program

from lmcli.server.background import Running

STORY = "Once upon a time 🦉\n\tthere was"


def filtered(command: str, text: str, folder: Path, host: str | int) -> str:
    """What a text becomes when an editor filters all of it through a command, by way of files as on a screen."""
    file = folder / "a story.txt"
    file.write_text(text + "\n")
    subprocess.run(
        [program("ex"), "-s", file.name],
        cwd=folder,
        env=environment(folder, host, SHELL="/bin/sh"),
        input=f"set shelltemp\n%!{command}\nx!\n".encode(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,  # the editor's own status
    )
    return file.read_text()


def test_an_answer_takes_the_place_of_the_text(tmp_path: Path, start_server: StartServer) -> None:
    """`:%!lm respond` leaves the answer and nothing else, also where a user at a terminal would be told something."""
    server = start_server(load_seconds=0.5)
    assert run("lm models load echo-jit", tmp_path, environment(tmp_path, server.port)).status == 0
    assert filtered("lm respond", STORY, tmp_path, server.port) == f"{STORY}\n"
    assert filtered("lm respond 'And then?'", STORY, tmp_path, server.port) == f"{STORY}\n\nAnd then?\n"


def test_a_text_is_continued_in_place(tmp_path: Path, server: Running) -> None:
    """`:%!lm complete --echo` leaves the text, and what the model adds after it."""
    assert filtered("lm complete --echo", STORY, tmp_path, server.port) == f"{STORY}\n{STORY}\n"


@pytest.mark.parametrize("options", ["", "-m no-such-model"])
def test_a_text_that_is_not_continued_is_still_there(options: str, tmp_path: Path, server: Running) -> None:
    """Where nothing comes the text comes back, and below it why: no server, no model."""
    host = server.port if options else "127.0.0.1:1"
    left = filtered(f"lm complete --echo {options}", STORY, tmp_path, host)
    assert left.startswith(f"{STORY}\nlm: error: ")
    assert left.count("\n") < 6
