"""The real command as a process, what can be seen of it from outside, and a stub of a server."""

import json
import os
import queue
import selectors
import subprocess
import sys
import sysconfig
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from conftest import PATIENCE, Packet
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

INSTANCE: Packet = {
    "type": "llm",
    "modelKey": "stub",
    "format": "gguf",
    "displayName": "Stub",
    "publisher": "tests",
    "path": "tests/stub",
    "sizeBytes": 1,
    "indexedModelIdentifier": "tests/stub",
    "deviceIdentifier": None,
    "vision": False,
    "trainedForToolUse": False,
    "maxContextLength": 4096,
    "identifier": "stub",
    "instanceReference": "stub",
    "ttlMs": None,
    "lastUsedTime": None,
    "contextLength": 4096,
}


# A warning inside `lm` is an error that its stderr shows; one of a script's own `python -c` is that script's affair.
WARNINGS = {"PYTHONWARNINGS": "error,ignore::ResourceWarning:__main__"}


def environment(folder: Path, host: str | int, **variables: str) -> dict[str, str]:
    """The environment of a command: `lm` and `python` of this suite, an empty home, a server's address or port."""
    path = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
    address = f"127.0.0.1:{host}" if isinstance(host, int) else host
    return {"PATH": path, "HOME": str(folder), "LM_HOST": address, **WARNINGS, **variables}


class Ran(NamedTuple):
    """A command line that has ended."""

    status: int
    stdout: bytes
    stderr: str


def run(
    line: str,
    folder: Path,
    variables: Mapping[str, str],
    *,
    shell: str = "sh",
    stdin: bytes | None = None,
    timeout: float = PATIENCE,
) -> Ran:
    """Run a command line in a folder, to its end; stdin is a pipe with some bytes, or the null device."""
    source: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    ran = subprocess.run(
        [shell, "-c", line], cwd=folder, env=variables, capture_output=True, timeout=timeout, check=False, **source
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr.decode())


class Child:
    """A process that is running; what it writes is read when it is waited for.

    Args:
        process: the process.
        streams: descriptors to read, by name.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", streams: Mapping[str, int]) -> None:
        self.process = process
        self._written = {name: bytearray() for name in streams}
        self._selector = selectors.DefaultSelector()
        for name, descriptor in streams.items():
            self._selector.register(descriptor, selectors.EVENT_READ, name)

    def __getitem__(self, stream: str) -> bytes:
        """What was written to a stream, as far as it was read."""
        return bytes(self._written[stream])

    def wait_for(self, text: bytes, stream: str = "stdout") -> None:
        """Wait until a text was written."""
        self._read_until(lambda: text in self._written[stream])
        assert text in self._written[stream], {name: bytes(data) for name, data in self._written.items()}

    def end(self) -> int:
        """Read to the end of all streams, and wait for the process; gives its return code."""
        self._read_until(lambda: False)
        return self.process.wait(PATIENCE)

    def _read_until(self, is_enough: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._selector.get_map() and not is_enough():
            ready = self._selector.select(deadline - time.monotonic())
            assert ready, {name: bytes(data) for name, data in self._written.items()}
            for key, _ in ready:
                data = _read(key.fd)
                self._written[key.data] += data
                if not data:
                    self._selector.unregister(key.fd)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # a terminal whose other side is closed
        return b""


class Terminal:
    """A terminal of 80 columns that does not show what is typed.

    Attributes:
        keyboard_and_screen: its other side: what is written there is typed, what is read there was shown.
    """

    def __init__(self) -> None:
        self.keyboard_and_screen, self.line = os.openpty()
        attributes = termios.tcgetattr(self.line)
        attributes[3] &= ~termios.ECHO
        termios.tcsetattr(self.line, termios.TCSANOW, attributes)
        termios.tcsetwinsize(self.line, (24, 80))

    def type(self, keys: bytes) -> None:
        """Type something."""
        os.write(self.keyboard_and_screen, keys)


def running_processes() -> Mapping[int, int]:
    """All processes that run: the parent of each, by number. Those that have ended and wait for their parent do not."""
    if sys.platform == "linux":
        stats = [_text(entry / "stat").rpartition(")") for entry in Path("/proc").glob("[0-9]*")]
        lines = [f"{front.partition(' ')[0]} {' '.join(back.split()[1::-1])}" for front, _, back in stats if back]
    else:
        lines = subprocess.check_output(["ps", "-A", "-o", "pid=,ppid=,stat="], text=True).splitlines()
    rows = [line.split() for line in lines]
    return {int(number): int(parent) for number, parent, state in rows if not state.startswith("Z")}


def children_of(parent: int) -> list[int]:
    """The processes that a process has started, and that run, in the order of their numbers."""
    return sorted(number for number, of in running_processes().items() if of == parent)


def command_of(process: int) -> str:
    """What a process runs, with its arguments; empty if it has ended. After a fork it is still that of its parent."""
    if sys.platform == "linux":
        return _text(Path(f"/proc/{process}/cmdline")).replace("\0", " ")
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(process)], capture_output=True, text=True, check=False)
    return shown.stdout


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


Stream = int | Terminal


@contextmanager
def start(
    *command: str,
    folder: Path,
    variables: Mapping[str, str],
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.PIPE,
    stderr: Stream = subprocess.PIPE,
    in_new_session: bool = False,
) -> Iterator[Child]:
    """Start a command.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        variables: its environment.
        stdin: a `Terminal` or what `Popen` takes; empty by default.
        stdout: the same; a pipe that is read by default.
        stderr: the same. Where it is the terminal of stdout, that is read as `stdout`.
        in_new_session: the command has no terminal of its own at first.
    """
    terminals = {stream for stream in (stdin, stdout, stderr) if isinstance(stream, Terminal)}
    with subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        bufsize=0,
        stdin=_descriptor(stdin),
        stdout=_descriptor(stdout),
        stderr=_descriptor(stderr),
        start_new_session=in_new_session,
    ) as process:
        for terminal in terminals:
            os.close(terminal.line)
        read = {"stdout": _reading_end(stdout, process.stdout)}
        if stderr is not stdout or stderr == subprocess.PIPE:
            read["stderr"] = _reading_end(stderr, process.stderr)
        try:
            yield Child(process, {name: descriptor for name, descriptor in read.items() if descriptor is not None})
        finally:
            process.kill()
            for terminal in terminals:
                os.close(terminal.keyboard_and_screen)


def _descriptor(stream: Stream) -> int:
    return stream.line if isinstance(stream, Terminal) else stream


def _reading_end(stream: Stream, pipe: IO[bytes] | None) -> int | None:
    if isinstance(stream, Terminal):
        return stream.keyboard_and_screen
    return None if pipe is None else pipe.fileno()


class StubServer:
    """A server with one loaded model whose channels a test handles.

    Args:
        handle: called with each envelope that is neither authentication nor call, and the connection that it came on.
        models: the result of each call.

    Attributes:
        port: where it listens.
    """

    def __init__(
        self,
        handle: "Callable[[StubConnection, Packet], None] | None" = None,
        *,
        models: Sequence[Packet] = (INSTANCE,),
    ) -> None:
        self._handle = handle
        self._models = models
        self._envelopes: queue.Queue[Packet] = queue.Queue()
        self._server = serve(self._attend, "127.0.0.1", 0, compression=None, max_size=None, close_timeout=0)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.port: int = self._server.socket.getsockname()[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()

    def wait_for(self, kind: str) -> Packet:
        """Wait for an envelope of a kind; others are passed over."""
        while True:
            envelope = self._envelopes.get(timeout=PATIENCE)
            if envelope["type"] == kind:
                return envelope

    def _attend(self, socket: ServerConnection) -> None:
        connection = StubConnection(socket)
        with suppress(ConnectionClosed):
            for text in socket:
                self._answer(connection, json.loads(text))

    def _answer(self, connection: "StubConnection", envelope: Packet) -> None:
        if "authVersion" in envelope:
            connection.send({"success": True})
        elif envelope["type"] == "rpcCall":
            connection.send({"type": "rpcResult", "callId": envelope["callId"], "result": list(self._models)})
        else:
            if self._handle is not None:
                self._handle(connection, envelope)
            self._envelopes.put(envelope)


class StubConnection:
    """A connection to a stub server.

    Attributes:
        socket: the connection.
        is_left: the client is gone.
    """

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self.is_left = False

    def send(self, value: Packet) -> None:
        """Send a value; whether the client has left is noted only."""
        try:
            self.socket.send(json.dumps(value))
        except ConnectionClosed:
            self.is_left = True

    def say(self, channel: int, text: str) -> None:
        """Send a fragment."""
        piece = {
            "content": text,
            "tokensCount": 1,
            "containsDrafted": False,
            "reasoningType": "none",
            "isStructural": False,
        }
        self.send({"type": "channelSend", "channelId": channel, "message": {"type": "fragment", "fragment": piece}})

    def finish(self, channel: int, stop_reason: str = "eosFound", **more: float) -> None:
        """Send the end of a prediction, with more stats by their keys on the wire."""
        config: Packet = {"fields": []}
        stats = {"stopReason": stop_reason, "promptTokensCount": 1, "predictedTokensCount": 1, **more}
        end = {"stats": stats, "modelInfo": INSTANCE, "loadModelConfig": config, "predictionConfig": config}
        self.send({"type": "channelSend", "channelId": channel, "message": {"type": "success", **end}})
        self.send({"type": "channelClose", "channelId": channel})
