"""A session at a shell, recorded: keys are typed at a set speed, and what the terminal shows is kept with its time."""

import codecs
import math
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from animation import Frame
from conftest import PATIENCE
from dialogues import on_terminal
from screens import Screen

KEY_SECONDS: Final = 0.06
READING_SECONDS: Final = 0.5
TICKS_PER_SECOND: Final = 10
"""What is shown while waiting gets a time of so many a second."""
LONGEST_SILENCE: Final = 1.0
"""Seconds without a change that are kept; longer ones are cut."""


class Session:
    """A shell on a terminal.

    Args:
        terminal: the other end of the terminal.
        screen: shows what is read there.

    Attributes:
        frames: what the terminal showed.
        seconds: the time now, as it is in the frames.
    """

    def __init__(self, terminal: int, screen: Screen) -> None:
        self.frames: list[Frame] = []
        self.seconds = 0.0
        self._screen = screen
        self._terminal = terminal
        self._decode = codecs.getincrementaldecoder("utf-8")().decode

    def begin(self) -> None:
        """Let the time begin with what is shown now."""
        self.frames = [self.frames[-1]._replace(seconds=0.0)]
        self.seconds = 0.0

    def type(self, text: str) -> None:
        """Press the keys of a text, each when the one before is on the screen."""
        for key in text:
            cursor = self._screen.cursor
            self.press(key)
            while self._screen.cursor == cursor:
                self._read()
            self._keep(self.seconds)

    def press(self, key: str) -> None:
        """Press a key."""
        self.seconds += KEY_SECONDS
        os.write(self._terminal, key.encode())

    def enter(self, text: str, line: str) -> None:
        """Type a line, read it over, press Enter, and wait for what follows."""
        self.type(text)
        self.pause(READING_SECONDS)
        self.press("\r")
        self.wait_for(line)

    def wait_for(self, line: str) -> None:
        """Wait until the cursor stands in a certain line."""
        while self._line() != line:
            self.seconds += min(self._read(), LONGEST_SILENCE)
            self._keep(math.ceil(self.seconds * TICKS_PER_SECOND) / TICKS_PER_SECOND)
        self.seconds = self.frames[-1].seconds

    def pause(self, seconds: float) -> None:
        """Let what is shown be read."""
        self.seconds += seconds

    def _line(self) -> str:
        rows, row = self._screen.rows, self._screen.cursor[1]
        return rows[row] if row < len(rows) else ""

    def _read(self) -> float:
        """Read what was written; gives how long it took to come."""
        started = time.monotonic()
        ready, _, _ = select.select([self._terminal], [], [], PATIENCE)
        assert ready, "\n".join(self._screen.rows)
        while ready:
            self._screen.write(self._decode(os.read(self._terminal, 1 << 16)))
            ready, _, _ = select.select([self._terminal], [], [], 0)
        return time.monotonic() - started

    def _keep(self, seconds: float) -> None:
        screen = self._screen
        column, row = screen.cursor
        cursor = (column, screen.scrolled + row) if screen.is_cursor_visible else None
        while self.frames and self.frames[-1].seconds >= seconds:
            self.frames.pop()
        self.frames.append(Frame(seconds, screen.all_cells, screen.scrolled, cursor))


@contextmanager
def at_a_shell(folder: Path, port: int, size: tuple[int, int]) -> Iterator[Session]:
    """Start a shell on a terminal of its own, for `lm` and a server; it has shown its prompt."""
    prompt = r"\[\e[32m\]$\[\e[0m\] "
    shell = ("bash", "--norc", "--noprofile", "-i")
    variables = {"PS1": prompt, "COLORTERM": "truecolor", "LM_MARKDOWN": ""}  # empty: as it is by default
    with on_terminal(folder, port, *shell, size=size, **variables) as dialogue:
        session = Session(dialogue.terminal.child_fd, dialogue.screen)
        session.wait_for("$")
        session.begin()
        yield session
