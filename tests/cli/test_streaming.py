"""An answer is written as it arrives, although what arrives together is read and written together."""

import json
from pathlib import Path

import pytest
from predictions import Predictions
from processes import StubServer, environment, start


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_each_fragment_is_written_before_the_next_is_there(form: str, tmp_path: Path) -> None:
    """A server that waits for each piece to be on stdout before it sends the next one is not waited for."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "-n", "-o", form, "hi", folder=tmp_path, variables=variables) as child:
            asked = predictions.next()
            for number in range(20):
                asked.say(f"<{number}>")
                child.wait_for(f"<{number}>".encode())
            asked.finish()
            assert child.end() == 0


def test_what_arrives_together_is_written_together(tmp_path: Path) -> None:
    """Each line of `-o jsonl` is one fragment, in order, in whatever pieces the server's packets come."""
    predictions = Predictions()
    pieces = [f"{number}\n" + "é" * (number % 7) for number in range(3000)]
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "-n", "-o", "jsonl", "hi", folder=tmp_path, variables=variables) as child:
            asked = predictions.next()
            for piece in pieces:
                asked.say(piece)
            asked.finish()
            assert child.end() == 0
            *events, result = map(json.loads, child["stdout"].splitlines())
    assert [event["content"] for event in events] == pieces
    assert result["content"] == "".join(pieces)
