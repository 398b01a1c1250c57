"""Input on a terminal: line editing, recall, messages of several lines, and the user's editor."""

import os
import shlex
import signal
import subprocess
import termios
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Final, NamedTuple

from lmcli.cli.environment import Environment
from lmcli.cli.input.incoming import decoded
from lmcli.cli.recall_file import RecallFile
from lmcli.cli.signals import handling
from lmcli.cli.tab_key import Candidate, Complete, bind_tab, in_locale, insert_tab, is_libedit
from lmcli.errors import KEPT_IN_TEXT, NoInput, UsageError, escaped, quoted, reason

_FENCE: Final = '"""'
_PROMPT: Final = "> "
_CONTINUATION_PROMPT: Final = "… "
_TERMINAL: Final = 0
_PASTE_OFF: Final = b"\x1b[?2004l"
"""Ends the marking of what is pasted. Source: xterm, "Bracketed Paste Mode"."""


class Cancelled(Exception):
    """The input or operation was cancelled (Ctrl-C)."""


class _Continued(Exception):
    """The process was stopped (Ctrl-Z), and continues; `text` was typed before."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class Entry(NamedTuple):
    """One message or command.

    Attributes:
        text: the text, without the quotation marks around a block.
        is_block: it was between quotation marks, and so is a message even if it starts with a slash.
    """

    text: str
    is_block: bool


class LineEditor:
    """Reads messages line by line.

    Args:
        questions: messages that the arrow keys recall.
        typed: what was typed in other dialogues, recalled before the questions; what is typed is added to it.
        complete: what TAB completes a line to.
        is_dumb: the terminal shows escape sequences as text.
    """

    def __init__(
        self, questions: Iterable[str], typed: RecallFile | None, complete: Complete, *, is_dumb: bool
    ) -> None:
        self._add_to_history: Callable[[str], None] = lambda _: None
        self._complete = complete
        self._typed: RecallFile | None = None
        self._last = ""
        self._is_in_block = False
        self._on_stop = b"\n"
        self._readline: ModuleType | None = None
        try:
            import readline  # noqa: PLC0415  not on every system
        except ImportError:
            return
        if not (is_libedit(readline) or is_dumb):
            # Python disables this by default; enabled, pasted text of several lines is one message.
            readline.parse_and_bind("set enable-bracketed-paste on")
            self._on_stop = _PASTE_OFF + b"\n"
        self._readline = readline
        bind_tab(readline, self._candidates)
        readline.set_auto_history(False)  # otherwise a block would be recalled line by line
        self._add_to_history = lambda text: readline.add_history(in_locale(text))
        for text in (*(typed.read() if typed else ()), *map(_input_of, questions)):
            self._add(text)
        self._typed = typed

    def read(self) -> Entry:
        r'''One message: a line, or the lines between """ and """. A block is recalled as a whole.

        Bytes that are not UTF-8 are surrogates.

        Raises:
            EOFError: the input has ended (Ctrl-D).
            Cancelled: Ctrl-C was pressed.
        '''
        first = self._line(_PROMPT)
        if not first.lstrip().startswith(_FENCE):
            self._keep(first, first)
            return Entry(first, is_block=False)
        self._is_in_block = True
        try:
            message = self._block(first.lstrip().removeprefix(_FENCE))
        finally:
            self._is_in_block = False
        self._keep(_input_of(message), first)
        return Entry(message, is_block=True)

    def _block(self, line: str) -> str:
        """The message whose first line this is, after the quotation marks."""
        lines = [line]
        while not lines[-1].rstrip().endswith(_FENCE):
            lines.append(self._line(_CONTINUATION_PROMPT))
        lines[-1] = lines[-1].rstrip().removesuffix(_FENCE)
        return "\n".join(lines).strip("\n")

    def _line(self, prompt: str) -> str:
        text = ""
        while True:
            try:
                with interruptible(), self._stoppable():
                    return self._input(prompt, text)
            except _Continued as continued:
                text = continued.text

    def _input(self, prompt: str, text: str) -> str:
        """A line of input that begins with some text, which can be edited."""
        if self._readline:
            self._readline.set_startup_hook(partial(self._readline.insert_text, text))
        try:
            return input(prompt)
        except UnicodeDecodeError as error:  # where the locale is not that of the keyboard
            return error.object.decode(errors="surrogateescape")

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Restore the terminal when Ctrl-Z stops the process inside the block.

        Line editing has set it to echo nothing, and Python does not let readline handle signals. In the background
        it is left alone: others use it. The signals that end the process have no handler, because line editing
        overlooks one that comes just before it waits for a key; shells restore the terminal then.

        Raises:
            _Continued: the process was stopped, and continues.
        """
        readline = self._readline
        if readline is None:
            yield
            return
        try:
            found = termios.tcgetattr(_TERMINAL)
        except termios.error as error:  # it was closed
            raise EOFError from error

        def stop(signum: int, _: FrameType | None) -> None:
            edited = found
            with suppress(OSError, termios.error):  # it was closed
                edited = termios.tcgetattr(_TERMINAL)
                if os.tcgetpgrp(_TERMINAL) == os.getpgrp():
                    termios.tcsetattr(_TERMINAL, termios.TCSANOW, found)
                    os.write(_TERMINAL, self._on_stop)
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            signal.signal(signum, stop)
            with suppress(termios.error):
                termios.tcsetattr(_TERMINAL, termios.TCSANOW, edited)
            raise _Continued(readline.get_line_buffer())

        with handling([signal.SIGTSTP], stop):
            yield

    def _candidates(self, line: str) -> Sequence[Candidate]:
        return insert_tab(line) if self._is_in_block else self._complete(line)

    def _keep(self, text: str, first_line: str) -> None:
        """Recall a text in this dialogue, and in others unless its first line begins with a space."""
        if self._add(text) and self._typed and not first_line.startswith(" "):
            self._typed.append(text)

    def _add(self, text: str) -> bool:
        """Recall a text, unless it repeats the last one, or recalling it would control the terminal."""
        if not text or text == self._last or escaped(text, keep=KEPT_IN_TEXT) != text:
            return False
        self._last = text
        self._add_to_history(text)
        return True


def _input_of(message: str) -> str:
    """The input for exactly this message: a block if a line would be read as a command or lose its indent."""
    is_plain = message == message.strip() and not message.startswith(("/", _FENCE))
    return message if is_plain else f"{_FENCE}\n{message}\n{_FENCE}"


def edit_text(text: str, env: Environment) -> str:
    """Edit a text in the user's editor ($VISUAL, $EDITOR, vi).

    Raises:
        UsageError: the editor cannot be run.
        NoInput, BadInput: the edited text cannot be read.
    """
    import tempfile  # noqa: PLC0415  1.3 ms of the first prompt, and only /edit needs it

    command = env.setting("VISUAL") or env.setting("EDITOR") or "vi"
    descriptor, name = tempfile.mkstemp(prefix="lm-", suffix=".md")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        subprocess.run([*shlex.split(command), name], check=True)  # noqa: S603  the user's choice
        return "".join(decoded([path.read_bytes()], "the edited text")).strip("\n")
    except (FileNotFoundError, PermissionError, subprocess.CalledProcessError, ValueError) as error:
        raise UsageError(f"the editor {quoted(command)} failed", "set VISUAL or EDITOR to another editor") from error
    except OSError as error:
        raise NoInput(f"cannot read the edited text: {reason(error)}") from error
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end the block, not the process.

    Raises:
        Cancelled: Ctrl-C was pressed.
    """
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Cancelled from interrupt
    finally:
        signal.signal(signal.SIGINT, previous)
