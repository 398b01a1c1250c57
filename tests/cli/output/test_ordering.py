"""Answers that are made at the same time are written one after the other, whatever happens first."""

import os
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.output.ordering import Answer, OrderedOutput
from lmcli.cli.output.stdout import Output
from lmcli.cli.signals import SignalWatcher


class Step(NamedTuple):
    """What happens next: to which of the answers, whether it is lost and begins again, and whether all is flushed."""

    which: int
    is_lost: bool
    is_flushed: bool


STEPS = st.lists(st.builds(Step, st.integers(0, 20), st.booleans(), st.booleans()), max_size=60)
ANSWERS = st.lists(st.lists(st.binary(max_size=3), max_size=4), max_size=6)


class Progress:
    """How far an answer is."""

    def __init__(self, answer: Answer, pieces: list[bytes]) -> None:
        self.answer = answer
        self.pieces = pieces
        self.sent = 0
        self.is_finished = False

    def step(self, ordered: OrderedOutput, *, is_lost: bool) -> None:
        """Stream the next piece or finish; a lost one begins again, and streams in vain."""
        if self.is_finished:
            return
        if is_lost:
            self.answer.restart()
            self.sent = 0
        elif self.sent < len(self.pieces):
            self.answer.stream(self.pieces[self.sent])
            self.sent += 1
        else:
            ordered.finish(self.answer, b"".join(self.pieces))
            self.is_finished = True


@QUICK
@given(ANSWERS, STEPS)
def test_any_interleaving_writes_the_answers_in_order(answers: list[list[bytes]], steps: list[Step]) -> None:
    """At each moment stdout is the beginning of the whole, up to the end of what is known of the oldest answer."""
    whole = b"".join(piece for pieces in answers for piece in pieces)
    with TemporaryFile() as stdout:
        ordered = OrderedOutput(Output(stdout.fileno(), SignalWatcher()))
        running = [Progress(ordered.begin(), pieces) for pieces in answers]
        for step in steps if running else []:
            running[step.which % len(running)].step(ordered, is_lost=step.is_lost)
            ordered.advance()
            if step.is_flushed:
                ordered.flush()
                written = written_to(stdout)
                assert whole.startswith(written)
                assert len(written) >= known(running)
        for progress in running:
            while not progress.is_finished:
                progress.step(ordered, is_lost=False)
        ordered.advance()
        ordered.flush()
        assert written_to(stdout) == whole
        assert (len(ordered), ordered.held_size) == (0, 0)


def written_to(file: IO[bytes]) -> bytes:
    """What a file holds."""
    return os.pread(file.fileno(), 1 << 16, 0)


def known(running: list[Progress]) -> int:
    """How many bytes must have been written: those of the finished answers before the oldest unfinished one."""
    size = 0
    for progress in running:
        if not progress.is_finished:
            break
        size += len(b"".join(progress.pieces))
    return size
