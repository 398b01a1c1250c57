"""A dialogue with `lm chat` on a terminal of its own: keys, what is on the screen, a model that keeps questions."""

import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import pytest
from conftest import PATIENCE, Packet, StartServer
from pexpect.fdpexpect import fdspawn
from processes import environment
from screens import Screen

from lmcli.chat import Message, TextPart
from lmcli.server.echo.echo_engine import LOADED_AT_START, EchoEngine, EchoModel, Pace
from lmcli.server.engine import LoadedModel, PredictionEvent, PredictionRequest
from lmcli.values import ModelInfo

CTRL_C, CTRL_D, CTRL_U, CTRL_Z, UP, ENTER = "\x03", "\x04", "\x15", "\x1a", "\x1b[A", "\r"

PROMPT = "> "

TAKE_THE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal on stdin that of a new session, so that its Ctrl-C is a signal, and becomes the command."""


def has_echo(terminal: int) -> bool:
    """Whether a terminal shows what is typed, which line editing does itself."""
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


class Dialogue:
    """`lm chat` and the terminal that it runs on.

    Args:
        process: the command.
        terminal: the other end of its terminal.
        size: columns and rows of the terminal.

    Attributes:
        screen: shows what has been waited for so far.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int, size: tuple[int, int]) -> None:
        self.process = process
        self.screen = Screen(*size)
        self.terminal = fdspawn(terminal, timeout=PATIENCE, encoding="utf-8", codec_errors="replace")
        self.terminal.logfile_read = self.screen

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        self.screen.resize(columns, rows)
        termios.tcsetwinsize(self.terminal.child_fd, (rows, columns))

    def type(self, text: str, *, end: str = ENTER) -> None:
        """Press keys."""
        self.terminal.send(text + end)

    def type_bytes(self, keys: bytes) -> None:
        """Press keys of a keyboard that has another encoding."""
        os.write(self.terminal.child_fd, keys)

    @property
    def has_echo(self) -> bool:
        """See the function `has_echo`."""
        return has_echo(self.terminal.child_fd)

    def see(self, *texts: str) -> None:
        """Wait until each of some texts is on the screen, in this order."""
        for text in texts:
            self.terminal.expect_exact(text.replace("\n", "\r\n"))

    def see_prompt(self) -> str:
        """Wait until something can be typed; gives what was on the screen before."""
        self.terminal.expect_exact(PROMPT)
        return re.sub(r"\x1b\[\?2004[hl]\r?", "", self.terminal.before or "").replace("\r\n", "\n")

    def ask(self, text: str) -> str:
        """Type something and wait for the next prompt; gives what was on the screen before."""
        self.type(text)
        return self.see_prompt()

    def interrupt_typing(self) -> None:
        """Press Ctrl-C at the prompt and wait for the next one."""
        self._press(CTRL_C, PROMPT)

    def stop_typing(self) -> None:
        """Press Ctrl-Z at the prompt and wait until the shell says that the process is stopped."""
        self._press(CTRL_Z, "Stopped")

    def _press(self, key: str, expected: str) -> None:
        """Press a key that sends a signal, and wait for its effect.

        Python's line editing overlooks a signal that comes just before it begins to wait for a key; one more wakes it.
        """
        self.type(key, end="")
        if self.terminal.expect_exact([expected, pexpect.TIMEOUT], timeout=1) == 1:
            self.type(key, end="")
            self.see(expected)

    def end(self) -> int:
        """Wait for the end of the process, whatever it writes before; gives its return code."""
        self.terminal.expect(pexpect.EOF)
        return self.process.wait(PATIENCE)

    def leave(self) -> None:
        """Leave with Ctrl-D; the status must be 0."""
        self.type(CTRL_D, end="")
        assert self.end() == 0


def talking(
    folder: Path, port: int, *arguments: str, stdout: Any = None, size: tuple[int, int] = (80, 24), **variables: str
) -> AbstractContextManager[Dialogue]:
    """Start `lm chat` with arguments on a terminal of its own, of so many columns and rows; stdout may go elsewhere.

    Answers are written as they arrive, unless a variable says that Markdown is rendered.
    """
    return on_terminal(folder, port, "lm", "chat", *arguments, stdout=stdout, size=size, **variables)


@contextmanager
def on_terminal(
    folder: Path, port: int, *command: str, stdout: Any = None, size: tuple[int, int] = (80, 24), **variables: str
) -> Iterator[Dialogue]:
    """Start a command on a terminal of its own, such as a shell with a pipeline that has `lm chat` in it."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (size[1], size[0]))
    taking = [sys.executable, "-ISc", TAKE_THE_TERMINAL, *command]
    env = environment(folder, port, **{"TERM": "xterm", "INPUTRC": os.devnull, "LM_MARKDOWN": "0"} | variables)
    output = theirs if stdout is None else stdout
    with subprocess.Popen(
        taking, cwd=folder, env=env, stdin=theirs, stdout=output, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield Dialogue(process, ours, size)
        finally:
            process.kill()
            os.close(ours)


@contextmanager
def in_shell(folder: Path, port: int) -> Iterator[Dialogue]:
    """Start a shell that edits no lines and controls jobs; it has shown its prompt, `$ `."""
    shell = ("bash", "--norc", "--noprofile", "--noediting", "-i")
    with on_terminal(folder, port, *shell, PS1="$ ") as dialogue:
        dialogue.see("$ ")
        yield dialogue


class Parrot(EchoModel):
    """A model that answers in other words than it was asked in, and remembers the questions."""

    def __init__(self, asked: list[str]) -> None:
        super().__init__({}, Pace())
        self._asked = asked

    def predict(self, request: PredictionRequest) -> AsyncGenerator[PredictionEvent, None]:
        """Answer the last question."""
        text = request.messages[-1].text
        self._asked.append(text)
        answer = Message("user", (TextPart(f"You say: {text}!"),))
        return super().predict(replace(request, messages=[*request.messages, answer]))


class ParrotEngine(EchoEngine):
    """An engine whose loaded model is a parrot.

    Attributes:
        asked: the questions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    async def start(self) -> Sequence[tuple[ModelInfo, LoadedModel]]:
        """The parrot, at once."""
        return [(LOADED_AT_START, Parrot(self.asked))]


@pytest.fixture
def parrot() -> ParrotEngine:
    """What stands behind the server of `talk`."""
    return ParrotEngine()


OpenDialogue = Callable[..., Dialogue]


@pytest.fixture
def talk(tmp_path: Path, start_server: StartServer, parrot: ParrotEngine) -> Iterator[OpenDialogue]:
    """Start dialogues with a parrot."""
    server = start_server(parrot)
    with ExitStack() as cleanup:
        yield lambda *arguments, **more: cleanup.enter_context(talking(tmp_path, server.port, *arguments, **more))


def messages(path: Path) -> list[Packet]:
    """The messages in a chat file."""
    found: list[Packet] = json.loads(path.read_text(encoding="utf-8"))["messages"]
    return found


def said(path: Path) -> list[str]:
    """What was said in a chat file, by whomever."""
    return [message["content"] for message in messages(path)]
