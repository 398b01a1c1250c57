"""The line after an answer of a dialogue, and the warning before the context is full."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Packet
from dialogues import Dialogue, OpenDialogue, messages, talking
from processes import StubConnection, StubServer

from lmcli import Client
from lmcli.server.background import Running


@contextmanager
def talking_to_a_model_that_uses(
    folder: Path, *totals: int, options: tuple[str, ...] = (), columns: int = 80, stop_reason: str = "eosFound"
) -> Iterator[Dialogue]:
    """A dialogue with a model that says how many tokens of its context are used after each answer."""
    uses = iter(totals)

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "yes")
        connection.finish(envelope["channelId"], stop_reason, totalTokensCount=next(uses), tokensPerSecond=45.24)

    with StubServer(handle) as stub, talking(folder, stub.port, *options, size=(columns, 24)) as dialogue:
        dialogue.see_prompt()
        yield dialogue
        dialogue.leave()


def test_stats_switches_a_line_on_and_off(tmp_path: Path) -> None:
    """/stats says which, shows the line for the last answer, and from then on after each answer, dim."""
    with talking_to_a_model_that_uses(tmp_path, 100, 200, 300, options=("--history", "talk.json")) as dialogue:
        assert dialogue.ask("/stats").endswith("lm: statistics after each answer are on\n")
        assert dialogue.ask("/stats").endswith("lm: statistics after each answer are off\n")
        assert dialogue.ask("one").endswith("\nyes\n")
        line = "stub · 100 of 4,096 tokens (2 %) · 45.2 tokens/s"
        assert dialogue.ask("/stats").endswith(f" are on\n\x1b[2m{line}\n\x1b[0m")
        assert all(cell.dim for cell in dialogue.screen.cells(line))
        assert dialogue.ask("two").endswith("yes\n\x1b[2mstub · 200 of 4,096 tokens (5 %) · 45.2 tokens/s\n\x1b[0m")
        assert dialogue.ask("/stats").endswith("lm: statistics after each answer are off\n")
        assert dialogue.ask("three").endswith("\nyes\n")
    assert [message["content"] for message in messages(tmp_path / "talk.json")][1::2] == ["yes"] * 3


def test_without_colour_it_is_plain(tmp_path: Path) -> None:
    """NO_COLOR leaves out what makes it dim, and --quiet leaves the line that was asked for."""
    with talking_to_a_model_that_uses(tmp_path, 100, options=("-q", "--color", "never")) as dialogue:
        assert dialogue.ask("/stats") == "/stats\n"
        assert dialogue.ask("one").endswith("yes\nstub · 100 of 4,096 tokens (2 %) · 45.2 tokens/s\n")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "stub · 1,234 of 4,096 tokens (30 %) · 45.2 tokens/s"),
        (50, "1,234 of 4,096 tokens (30 %) · 45.2 tokens/s"),
        (40, "1,234 of 4,096 tokens · 45.2 tokens/s"),
        (30, "1,234 of 4,096 tokens"),
    ],
)
def test_on_a_narrow_terminal_it_is_shorter(tmp_path: Path, columns: int, line: str) -> None:
    """It stays one row: first the name of the model goes, then the percentage, then the speed."""
    with talking_to_a_model_that_uses(tmp_path, 1234, columns=columns) as dialogue:
        dialogue.ask("/stats")
        dialogue.ask("one")
        rows = dialogue.screen.everything
        assert rows[rows.index("yes") + 1 : rows.index("yes") + 3] == [line, ">"]


def test_a_long_name_is_cut(tmp_path: Path, server: Running) -> None:
    """What is left of the row is for the name."""
    name = "echo-with-a-name-that-is-longer-than-what-is-left"
    with Client(f"127.0.0.1:{server.port}", api_token="") as client:
        client.llm.load_new_instance("echo-jit", name)
    with talking(tmp_path, server.port, "-m", name, size=(60, 24)) as dialogue:
        dialogue.see_prompt()
        dialogue.ask("/stats")
        dialogue.ask("hi")
        row = next(row for row in dialogue.screen.everything if " tokens (" in row)
        assert len(row) == 60
        assert row.partition("… · ")[0] == name[: row.index("…")]
        dialogue.leave()


def test_stats_of_the_option_are_switched_off_first(talk: OpenDialogue) -> None:
    """`lm chat --stats` prints its lines after each answer, until /stats; then /stats switches the line."""
    dialogue = talk("--stats")
    dialogue.see_prompt()
    assert "\nModel used: Echo\n" in dialogue.ask("one")
    assert dialogue.ask("/stats").endswith("lm: statistics after each answer are off\n")
    assert dialogue.ask("two").endswith("\nYou say: two!\n")
    dialogue.ask("/stats")
    shown = dialogue.ask("three")
    assert "\x1b[2mecho · " in shown
    assert "Model used" not in shown
    dialogue.leave()


def test_a_context_that_is_nearly_full_is_a_warning_once(tmp_path: Path) -> None:
    """It says so when nine tenths are used, and again when that is so after it was not."""
    with talking_to_a_model_that_uses(tmp_path, 3600, 3700, 3800, 100, 4000) as dialogue:
        warned = ["nearly full" in dialogue.ask(text) for text in ("one", "two", "three", "four")]
        assert warned == [False, True, False, False]
        shown = dialogue.ask("five")
        assert "warning:\x1b[0m the context of the model is nearly full: 4,000 of 4,096 tokens (98 %)\n" in shown
        assert "/clear begins a new conversation\n" in shown


def test_a_context_that_is_full_is_not_nearly_full(tmp_path: Path) -> None:
    """The answer that it cuts is an error; that is enough."""
    with talking_to_a_model_that_uses(tmp_path, 4096, stop_reason="contextLengthReached") as dialogue:
        shown = dialogue.ask("one")
        assert "the context of stub is full (4096 tokens)" in shown
        assert "nearly full" not in shown


def test_what_a_server_does_not_say_is_left_out(tmp_path: Path) -> None:
    """Without counts and speed the line is the name of the model."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "yes")
        connection.finish(envelope["channelId"])

    with StubServer(handle) as stub, talking(tmp_path, stub.port) as dialogue:
        dialogue.see_prompt()
        dialogue.ask("/stats")
        assert dialogue.ask("one").endswith("yes\n\x1b[2mstub\n\x1b[0m")
        dialogue.leave()
