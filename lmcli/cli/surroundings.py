"""What surrounds the process, as one value that is passed in: descriptors, terminals, environment."""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

_WIDTH: Final = 80
_OFF: Final = ("", "0", "false", "no")


class Surroundings(NamedTuple):
    """The process as the commands see it; nothing below the door looks at `sys` or `os.environ` itself."""

    stdin: int
    stdout: int
    stderr: int
    stdin_is_terminal: bool
    stdout_is_terminal: bool
    stderr_is_terminal: bool
    environment: Mapping[str, str]

    @classmethod
    def of_process(cls) -> "Surroundings":
        """This process. A standard stream that the caller closed is opened on nothing first.

        Else the next socket would get its number, and what is meant for the caller would go to the server.
        """
        for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
            _ensure_open(descriptor, flags)
        return cls(0, 1, 2, os.isatty(0), os.isatty(1), os.isatty(2), os.environ)

    def setting(self, name: str) -> str | None:
        """An environment variable; empty counts as not set."""
        return self.environment.get(name) or None

    @property
    def width(self) -> int:
        """The columns of the terminal on stdout; 80 where it does not say."""
        return _width(self.stdout)

    @property
    def stderr_width(self) -> int:
        """The same of the one on stderr."""
        return _width(self.stderr)

    def has_color(self, when: str) -> bool:
        """Whether stderr may carry colour: `always`, `never`, or `auto` by the terminal and its conventions."""
        if when != "auto":
            return when == "always"
        if self.setting("NO_COLOR"):
            return False
        if (forced := self.environment.get("FORCE_COLOR")) is not None:
            return forced.lower() not in _OFF
        return self.stderr_is_terminal and self.environment.get("TERM") != "dumb"


def _width(descriptor: int) -> int:
    try:
        return os.get_terminal_size(descriptor).columns or _WIDTH
    except OSError:
        return _WIDTH


def _ensure_open(descriptor: int, flags: int) -> None:
    """Open a closed descriptor on the null device; stdout for reading only, so that writing to it still fails."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
