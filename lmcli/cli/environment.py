"""The process's surroundings as one value that is passed in: descriptors, terminals, environment variables."""

import os
from collections.abc import Mapping
from typing import Final, NamedTuple


class Variable(NamedTuple):
    """One variable.

    Attributes:
        name: its name.
        meaning: what it does, with no capital letter and no period.
        option: the option that it belongs to; a command has the variable if it has the option.
        is_value: whether it stands in for the option, so that the option's help names it.
    """

    name: str
    meaning: str
    option: str
    is_value: bool = False


VARIABLES: Final = (
    Variable("LM_MODEL", "key of the model to use", "--model", is_value=True),
    Variable("LM_HOST", "address of the server", "-H", is_value=True),
    Variable("LM_API_TOKEN", "API token", "--token-file", is_value=True),
    Variable("LMSTUDIO_API_TOKEN", "API token, if LM_API_TOKEN is not set", "--token-file", is_value=True),
    Variable("SSL_CERT_FILE", "certificate authorities to trust, for https and wss", "-H"),
    Variable("LM_TIMEOUT", "longest silence of the server, in seconds", "--timeout", is_value=True),
    Variable("NO_COLOR", "no colour on stderr, if it is not empty", "--color"),
    Variable("FORCE_COLOR", "colour even in a pipe; not if empty, 0, no or false", "--color"),
    Variable("TERM", "dumb: no colour or block characters, progress as lines", "--color"),
    Variable("LC_ALL", "locale; if not UTF-8, no block characters", "--by"),
    Variable("LC_CTYPE", "the same, if LC_ALL is not set", "--by"),
    Variable("LANG", "the same, if neither of them is set", "--by"),
    Variable("VISUAL", "editor for /edit in a dialogue", "--history"),
    Variable("EDITOR", "the same, if VISUAL is not set; else vi", "--history"),
    Variable("HOME", "where LM Studio's settings are", "-H"),
    Variable("XDG_CACHE_HOME", "folder of lm/models, the completed keys; else ~/.cache", "-H"),
)


_WIDTH: Final = 80
_OFF: Final = ("", "0", "false", "no")


class Environment(NamedTuple):
    """The process as the commands see it; nothing below `main` looks at `sys` or `os.environ` itself."""

    stdin: int
    stdout: int
    stderr: int
    stdin_is_terminal: bool
    stdout_is_terminal: bool
    stderr_is_terminal: bool
    variables: Mapping[str, str]

    @classmethod
    def of_process(cls) -> "Environment":
        """This process. A standard stream that the caller closed is opened on nothing first.

        Else the next socket would get its number, and what is meant for the caller would go to the server.
        """
        for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
            _ensure_open(descriptor, flags)
        return cls(0, 1, 2, os.isatty(0), os.isatty(1), os.isatty(2), os.environ)

    def setting(self, name: str) -> str | None:
        """An environment variable; empty counts as not set."""
        return self.variables.get(name) or None

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
        if (forced := self.variables.get("FORCE_COLOR")) is not None:
            return forced.lower() not in _OFF
        return self.stderr_is_terminal and self.variables.get("TERM") != "dumb"


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
