"""Reading what is typed on a terminal: line editing, recall, several lines, and the user's own editor."""

import os
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from lmcli.cli.environment import Environment
from lmcli.errors import NoInput, UsageError, quoted, reason

_FENCE: Final = '"""'
_PROMPT: Final = "> "
_MORE: Final = "… "


class Cancelled(Exception):
    """What was being typed, or done, is to be forgotten (Ctrl-C)."""


class Entry(NamedTuple):
    """What was typed.

    Attributes:
        text: without the quotation marks around a block.
        is_block: it stood between quotation marks: a message, whatever it begins with.
    """

    text: str
    is_block: bool


class LineEditor:
    """Reads messages line by line.

    Args:
        recalled: the messages that the arrow keys bring back from the beginning.
    """

    def __init__(self, recalled: Iterable[str]) -> None:
        self._remember: Callable[[str], None] = lambda _: None
        self._last = ""
        try:
            import readline  # noqa: PLC0415  not on every system
        except ImportError:
            return
        # The interpreter switches this off for its own sake; on, a pasted text of several lines is one message.
        readline.parse_and_bind("set enable-bracketed-paste on")
        readline.set_auto_history(False)  # else a block is recalled line by line
        self._remember = readline.add_history
        for text in recalled:
            self._keep(_as_typed(text))

    def read(self) -> Entry:
        r'''One message: a line, or the lines between """ and """. It can be recalled whole.

        Raises:
            EOFError: there is nothing more to come (Ctrl-D).
            Cancelled: Ctrl-C.
        '''
        text = _line(_PROMPT)
        if not text.lstrip().startswith(_FENCE):
            self._keep(text)
            return Entry(text, is_block=False)
        lines = [text.lstrip().removeprefix(_FENCE)]
        while not lines[-1].rstrip().endswith(_FENCE):
            lines.append(_line(_MORE))
        lines[-1] = lines[-1].rstrip().removesuffix(_FENCE)
        message = "\n".join(lines).strip("\n")
        self._keep(_as_typed(message))
        return Entry(message, is_block=True)

    def _keep(self, text: str) -> None:
        """Have the arrow keys bring a text back; the same twice in a row is kept once."""
        if text and text != self._last:
            self._last = text
            with suppress(ValueError):  # line editing has no form for it, such as a NUL
                self._remember(text)


def _as_typed(message: str) -> str:
    """What to type to send exactly this message: a block, if as a line it would be a command or lose its indent."""
    is_plain = message == message.strip() and not message.startswith(("/", _FENCE))
    return message if is_plain else f"{_FENCE}\n{message}\n{_FENCE}"


def compose(text: str, env: Environment) -> str:
    """Have a text written in the user's editor ($VISUAL, $EDITOR, vi).

    Raises:
        UsageError: the editor cannot be run.
        NoInput: the edited text cannot be read.
    """
    command = env.setting("VISUAL") or env.setting("EDITOR") or "vi"
    descriptor, name = tempfile.mkstemp(prefix="lm-", suffix=".md")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        subprocess.run([*shlex.split(command), name], check=True)  # noqa: S603  the user's own choice
        return path.read_text(encoding="utf-8").strip("\n")
    except (FileNotFoundError, PermissionError, subprocess.CalledProcessError, ValueError) as error:
        raise UsageError(f"the editor {quoted(command)} failed", "set VISUAL or EDITOR to another editor") from error
    except OSError as error:
        raise NoInput(f"cannot read the edited text: {reason(error)}") from error
    finally:
        path.unlink(missing_ok=True)


def _line(prompt: str) -> str:
    with interruptible():
        return input(prompt)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C end what is done here, and not the process.

    Raises:
        Cancelled: Ctrl-C was pressed.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Cancelled from interrupt
    finally:
        signal.signal(signal.SIGINT, before)
