"""The echo of a terminal, which is off while an answer is drawn: Enter would move the cursor away from its block."""

import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_LOCAL_FLAGS: Final = 3


@contextmanager
def without_echo(terminal: int) -> Iterator[None]:
    """Inside the block, let a terminal not show what is typed.

    It is not lost: what reads the terminal next, such as line editing or the shell, gets it and shows it. If a signal
    ends or stops the process here, a shell that edits lines, such as bash, zsh or fish, restores the terminal.
    """
    is_changed = _set_echo(terminal, is_on=False)
    try:
        yield
    finally:
        if is_changed:
            _set_echo(terminal, is_on=True)


def _set_echo(terminal: int, *, is_on: bool) -> bool:
    """Switch the echo on or off, unless in the background, where that would stop the process; True if it was not so."""
    with suppress(OSError, termios.error):  # it was closed, or belongs to another session
        attributes = termios.tcgetattr(terminal)
        if os.tcgetpgrp(terminal) == os.getpgrp() and bool(attributes[_LOCAL_FLAGS] & termios.ECHO) != is_on:
            attributes[_LOCAL_FLAGS] ^= termios.ECHO
            termios.tcsetattr(terminal, termios.TCSANOW, attributes)
            return True
    return False
