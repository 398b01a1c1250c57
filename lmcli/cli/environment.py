"""The environment of the process as one value that is passed in: descriptors, terminals, environment variables."""

import os
import signal
import stat
from collections.abc import Mapping
from typing import Final, NamedTuple


class Variable(NamedTuple):
    """One environment variable.

    Attributes:
        name: its name.
        meaning: its effect, lower case and without a period.
        option: the option that it belongs to; commands that have the option use the variable.
        is_value: whether it sets the value of the option, so that the help of the option names it.
    """

    name: str
    meaning: str
    option: str
    is_value: bool = False


VARIABLES: Final = (
    Variable("LM_MODEL", "key of the model to use", "--model", is_value=True),
    Variable("LM_HOST", "address of the server", "-H", is_value=True),
    Variable("LMS_API_SERVER_INFO_PATH", "JSON file with the server's port", "-H"),
    Variable("LM_API_TOKEN", "API token", "--token-file", is_value=True),
    Variable("LMSTUDIO_API_TOKEN", "API token, if LM_API_TOKEN is not set", "--token-file", is_value=True),
    Variable("SSL_CERT_FILE", "certificate authorities to trust, for https and wss", "-H"),
    Variable("LM_TIMEOUT", "longest silence of the server, in seconds", "--timeout", is_value=True),
    Variable("LM_MARKDOWN", "1 or 0: whether Markdown is rendered", "--markdown", is_value=True),
    Variable("TMUX", "set by tmux, where less of Markdown is drawn at first", "--markdown"),
    Variable("NO_COLOR", "no colour on stderr, if it is not empty", "--color"),
    Variable("FORCE_COLOR", "colour even in a pipe; not if empty, 0, no or false", "--color"),
    Variable("TERM", "dumb: no colour or block characters, progress as lines", "--color"),
    Variable("LC_ALL", "locale; if not UTF-8, no block characters", "--by"),
    Variable("LC_CTYPE", "the same, if LC_ALL is not set", "--by"),
    Variable("LANG", "the same, if neither of them is set", "--by"),
    Variable("VISUAL", "editor for /edit in a dialogue", "--history"),
    Variable("EDITOR", "the same, if VISUAL is not set; else vi", "--history"),
    Variable("LM_NO_TYPED", "what is typed in a dialogue is not kept, if not empty", "--history"),
    Variable("XDG_STATE_HOME", "folder of lm/typed; else ~/.local/state", "--history"),
    Variable("HOME", "where LM Studio's settings and models are", "-H"),
    Variable("HF_HUB_CACHE", "cache of Hugging Face, for local models", "-H"),
    Variable("HF_HOME", "folder of hub/, if HF_HUB_CACHE is not set", "-H"),
    Variable("XDG_CACHE_HOME", "folder of lm/ and huggingface/; else ~/.cache", "-H"),
)


_DEFAULT_SIZE: Final = (80, 24)
_FALSE: Final = ("", "0", "false", "no")


class Environment(NamedTuple):
    """The environment of the process; modules below `main` do not use `sys` or `os.environ` themselves."""

    stdin: int
    stdout: int
    stderr: int
    stdin_is_terminal: bool
    stdout_is_terminal: bool
    stderr_is_terminal: bool
    variables: Mapping[str, str]

    @classmethod
    def of_process(cls) -> "Environment":
        """The environment of this process; a closed standard stream is opened on the null device first.

        Otherwise the next socket would get its descriptor, and output for the caller would go to the server.
        """
        for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
            _ensure_open(descriptor, flags)
        return cls(0, 1, 2, os.isatty(0), os.isatty(1), os.isatty(2), os.environ)

    def setting(self, name: str) -> str | None:
        """An environment variable; empty counts as not set."""
        return self.variables.get(name) or None

    def with_terminal_on_stdin(self) -> "Environment | None":
        """The same with the terminal on descriptor 0, which line editing reads, and the document there on a new one.

        None where nobody is asked: without a document, as on the null device; if an output is not the terminal of this
        session, because what a script collects must not depend on where the script was started; and in the background,
        where reading the terminal stops a process (SIGTTIN). A shell without job control leaves a job in the background
        in its own process group, but has it ignore SIGINT. Source: POSIX, XBD 11.1.4 and XCU 2.11.
        """
        has_document = not stat.S_ISCHR(os.fstat(self.stdin).st_mode)
        if not (has_document and self.stderr_is_terminal) or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            return None
        try:
            if os.tcgetpgrp(self.stdout) != os.getpgrp():
                return None
            terminal = os.open("/dev/tty", os.O_RDWR)
        except OSError:
            return None
        document = os.dup(self.stdin)
        os.dup2(terminal, self.stdin)
        os.close(terminal)
        return self._replace(stdin=document)

    @property
    def width(self) -> int:
        """The number of columns of the terminal on stdout; 80 if unknown."""
        return _size(self.stdout)[0]

    @property
    def size(self) -> tuple[int, int]:
        """The columns and rows of the terminal on stdout at this time; 80 and 24 if unknown."""
        return _size(self.stdout)

    @property
    def stderr_width(self) -> int:
        """The same for stderr."""
        return _size(self.stderr)[0]

    @property
    def stderr_rows(self) -> int:
        """The number of rows of the terminal on stderr; 24 if unknown."""
        return _size(self.stderr)[1]

    def has_color(self, when: str, *, is_terminal: bool | None = None) -> bool:
        """Whether to use colour: `always`, `never`, or `auto`, depending on terminal and environment.

        Args:
            when: one of them.
            is_terminal: whether it is for a terminal; that of stderr, if not given.
        """
        if when != "auto":
            return when == "always"
        if self.setting("NO_COLOR"):
            return False
        if (forced := self.variables.get("FORCE_COLOR")) is not None:
            return forced.lower() not in _FALSE
        is_terminal = self.stderr_is_terminal if is_terminal is None else is_terminal
        return is_terminal and self.variables.get("TERM") != "dumb"


def _size(descriptor: int) -> tuple[int, int]:
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return _DEFAULT_SIZE
    return columns or _DEFAULT_SIZE[0], rows or _DEFAULT_SIZE[1]


def _ensure_open(descriptor: int, flags: int) -> None:
    """Open a closed descriptor on the null device; stdout for reading only, so that writing to it still fails."""
    try:
        os.fstat(descriptor)
    except OSError:
        opened = os.open(os.devnull, flags)
        if opened != descriptor:
            os.dup2(opened, descriptor)
            os.close(opened)
