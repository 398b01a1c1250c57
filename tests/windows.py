"""A command in the window of a terminal, beside a server whose answer a test writes piece by piece."""

import codecs
import os
import queue
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

from conftest import PATIENCE, Packet
from dialogues import TAKE_THE_TERMINAL, has_echo
from processes import StubConnection, StubServer, environment
from screens import Screen

NO_VARIABLES: Mapping[str, str] = MappingProxyType({})


class Window:
    """A command and the terminal that it runs on; what it writes is shown when something is waited for.

    Args:
        process: the command.
        terminal: the other end of its terminal.
        size: columns and rows of the terminal.

    Attributes:
        screen: what has been shown so far.
        written: the same as bytes.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", terminal: int, size: tuple[int, int]) -> None:
        self.process = process
        self.screen = Screen(*size)
        self.written = b""
        self._terminal = terminal
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    @property
    def has_echo(self) -> bool:
        """See the function `has_echo`."""
        return has_echo(self._terminal)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size of the terminal."""
        self.screen.resize(columns, rows)
        termios.tcsetwinsize(self._terminal, (rows, columns))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._terminal, keys.encode())

    def see(self, text: str) -> None:
        """Wait until a row of the screen has a text."""
        self.wait(lambda: any(text in row for row in self.screen.rows))

    def wait(self, is_reached: Callable[[], bool]) -> None:
        """Wait until the screen is in some state."""
        deadline = time.monotonic() + PATIENCE
        while not is_reached():
            ready, _, _ = select.select([self._terminal], [], [], deadline - time.monotonic())
            assert ready, "\n".join(self.screen.everything)
            assert self._read(), "\n".join(self.screen.everything)

    def end(self) -> int:
        """Show everything to the end; gives the return code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        try:
            data = os.read(self._terminal, 1 << 16)
        except OSError:  # the process has ended
            return False
        self.written += data
        self.screen.write(self._decoder.decode(data))
        return bool(data)


@contextmanager
def window(
    folder: Path,
    host: int,
    *command: str,
    size: tuple[int, int] = (80, 24),
    variables: Mapping[str, str] = NO_VARIABLES,
) -> Iterator[Window]:
    """Start a command on a terminal of its own, of so many columns and rows."""
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (size[1], size[0]))
    env = environment(folder, host, **{"TERM": "xterm", **variables})
    line = [sys.executable, "-ISc", TAKE_THE_TERMINAL, *command]
    with subprocess.Popen(
        line, cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield Window(process, ours, size)
        finally:
            process.kill()
            os.close(ours)


class Author:
    """Writes an answer, piece by piece.

    Args:
        connection: the connection of the client.
        channel: the channel of the prediction.
    """

    def __init__(self, connection: StubConnection, channel: int) -> None:
        self._connection = connection
        self._channel = channel

    def write(self, text: str, *, is_reasoning: bool = False) -> None:
        """Send a fragment."""
        if is_reasoning:
            fragment = {"content": text, "tokensCount": 1, "containsDrafted": False, "reasoningType": "reasoning"}
            message = {"type": "fragment", "fragment": fragment | {"isStructural": False}}
            self._connection.send({"type": "channelSend", "channelId": self._channel, "message": message})
        else:
            self._connection.say(self._channel, text)

    def disconnect(self) -> None:
        """Close the connection in the middle of the answer."""
        self._connection.socket.close()

    def finish(self) -> None:
        """End the answer."""
        self._connection.finish(self._channel)


@contextmanager
def authored() -> Iterator[tuple[int, "queue.Queue[Author]"]]:
    """Start a server whose answers are written by the test: its port, and an author for each answer."""
    authors: queue.Queue[Author] = queue.Queue()

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            authors.put(Author(connection, envelope["channelId"]))
        elif envelope["type"] == "channelSend":  # cancel
            connection.finish(envelope["channelId"], "userStopped")

    with StubServer(handle) as server:
        yield server.port, authors


@contextmanager
def answering(
    folder: Path, *arguments: str, size: tuple[int, int] = (80, 24), variables: Mapping[str, str] = NO_VARIABLES
) -> Iterator[tuple[Window, Author]]:
    """Start `lm respond` with arguments in a window; its answer is written by the test."""
    with ExitStack() as stack:
        port, authors = stack.enter_context(authored())
        command = ("lm", "respond", *arguments, "question")
        opened = stack.enter_context(window(folder, port, *command, size=size, variables=variables))
        yield opened, authors.get(timeout=PATIENCE)
