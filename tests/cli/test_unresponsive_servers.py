"""Signals and timeouts where a server accepts nothing, answers nothing, floods, or its name is not resolved."""

import itertools
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from conftest import FOREVER, PATIENCE
from faults import Listener, Peer, ScriptedServer, text_frame
from packets import piece
from processes import INSTANCE, StubServer, environment, run, start
from stopping import SIGNALS, last_line


class UnreadingServer:
    """Authenticates clients and lists what is loaded, then reads nothing more of what it is sent.

    Args:
        namespace: where it does so; on the other one it sends nothing.

    Attributes:
        has_data: set when data has come that it does not read.
        server: where it is.
    """

    def __init__(self, namespace: str) -> None:
        self.has_data = threading.Event()
        self.server = ScriptedServer(self._play)
        self._namespace = namespace
        self._is_left = threading.Event()

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_left.set()
        self.server.__exit__(kind, error, trace)

    def _play(self, peer: Peer) -> None:
        peer.greet()
        if peer.path == "/llm":
            peer.send({"type": "rpcResult", "callId": peer.receive()["callId"], "result": [INSTANCE]})
        if peer.path != self._namespace:
            peer.wait_until_left()
        peer.socket.recv(1, socket.MSG_PEEK)
        self.has_data.set()
        self._is_left.wait(3 * PATIENCE)


LARGE = 40_000_000
"""More than the buffers of the system hold."""

SENDINGS = [
    pytest.param("/llm", "lm respond < large.txt", id="a prompt"),
    pytest.param("/files", "lm respond -n -f large.png hi", id="an image"),
]


def make_large_files(folder: Path) -> None:
    """A text and what begins as an image does."""
    (folder / "large.txt").write_bytes(b"x" * LARGE)
    (folder / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(LARGE))


@pytest.mark.parametrize(("namespace", "line"), SENDINGS)
def test_a_signal_while_the_request_is_sent(namespace: str, line: str, tmp_path: Path) -> None:
    """A server that takes nothing of what is asked keeps nobody: one signal is enough."""
    make_large_files(tmp_path)
    with UnreadingServer(namespace) as unreading:
        variables = environment(tmp_path, unreading.server.port)
        with start("sh", "-c", f"exec {line}", folder=tmp_path, variables=variables) as child:
            assert unreading.has_data.wait(PATIENCE)
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
            assert (child["stdout"], child["stderr"]) == (b"", b"")


@pytest.mark.parametrize(("namespace", "line"), SENDINGS)
def test_the_timeout_holds_while_the_request_is_sent(namespace: str, line: str, tmp_path: Path) -> None:
    """A server that takes nothing for so long is as silent as one that says nothing."""
    make_large_files(tmp_path)
    with UnreadingServer(namespace) as unreading:
        ran = run(
            line.replace("respond", "respond --timeout 0.5"), tmp_path, environment(tmp_path, unreading.server.port)
        )
        assert unreading.has_data.is_set()
    assert (ran.status, ran.stdout) == (75, b"")
    error, hint = ran.stderr.splitlines()
    assert error == "lm: error: the server accepted no data for 0.5 s"
    assert hint == "lm: hint: a larger --timeout waits longer"


def answer_list(peer: Peer) -> None:
    """Serve `/llm` as far as the list of loaded models."""
    peer.greet()
    peer.send({"type": "rpcResult", "callId": peer.receive()["callId"], "result": [INSTANCE]})
    peer.wait_until_left()


class StuckServer(Listener):
    """Takes a connection up to a stage, and then sends nothing more.

    Args:
        stage: what it does not answer: the `handshake`, the `authentication`, or the upload of a `file`.
        count: which connection that is; those before it are served as far as the list of loaded models.

    Attributes:
        is_reached: set once that is asked of it.
    """

    def __init__(self, stage: str, count: int) -> None:
        self.is_reached = threading.Event()
        numbers = itertools.count(1)

        def attend(connection: socket.socket) -> None:
            if next(numbers) < count:
                answer_list(Peer(connection))
            if stage == "handshake":
                connection.recv(65536)
            else:
                peer = Peer(connection)
                peer.receive()
                if stage == "file":
                    peer.send({"success": True})
                    peer.receive()
            self.is_reached.set()
            while connection.recv(65536):
                pass

        super().__init__(attend)


STUCK = [
    *((f"lm {command}", 1, stage) for command in ("respond hi", "models") for stage in ("handshake", "authentication")),
    *(("lm respond -f image.png hi", 2, stage) for stage in ("handshake", "authentication", "file")),
]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(("line", "count", "stage"), STUCK)
def test_a_signal_while_connecting(line: str, count: int, stage: str, number: signal.Signals, tmp_path: Path) -> None:
    """The first signal ends the process at once, whatever it waits for, on the first socket and on that for files."""
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with StuckServer(stage, count) as stuck:
        variables = environment(tmp_path, stuck.port)
        with start(*line.split(), folder=tmp_path, variables=variables) as child:
            assert stuck.is_reached.wait(PATIENCE)
            child.process.send_signal(number)
            assert child.end() == -number
            assert (child["stdout"], child["stderr"]) == (b"", b"")


@pytest.mark.parametrize("stage", ["handshake", "authentication", "file"])
@pytest.mark.parametrize("options", ["", "--timeout 100"])
def test_a_reader_who_leaves_while_connecting(stage: str, options: str, tmp_path: Path) -> None:
    """Nobody waits for an image to be uploaded for an answer that has no reader."""
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    reading, writing = os.pipe()
    line = f"lm respond -f image.png {options} hi"
    with StuckServer(stage, 2) as stuck:
        variables = environment(tmp_path, stuck.port)
        with start(*line.split(), folder=tmp_path, variables=variables, stdout=writing) as child:
            os.close(writing)
            assert stuck.is_reached.wait(PATIENCE)
            os.close(reading)
            assert child.end() == -signal.SIGPIPE
            assert child["stderr"] == b""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_the_server_is_looked_for(number: signal.Signals, tmp_path: Path) -> None:
    """A port that does not answer the greeting keeps nobody who wants to leave."""
    is_asked = threading.Event()

    def attend(connection: socket.socket) -> None:
        assert connection.recv(65536).startswith(b"GET /lmstudio-greeting ")
        is_asked.set()
        connection.recv(1)

    with Listener(attend) as silent:
        (tmp_path / "sitecustomize.py").write_text(
            f"import lmcli.client.discovery as d\nd.API_PORTS, d.HTTP_PORT = (), {silent.port}\n"
            f"d.greetings.__kwdefaults__['within'] = {FOREVER}\n"
        )
        variables = environment(tmp_path, "", PYTHONPATH=str(tmp_path))
        with start("lm", "respond", "hi", folder=tmp_path, variables=variables) as child:
            assert is_asked.wait(PATIENCE)
            child.process.send_signal(number)
            assert child.end() == -number
            assert (child["stdout"], child["stderr"]) == (b"", b"")


FLOODS = {
    "pings": b"\x89\0",
    "unknown messages": text_frame(b'{"type":"weather"}'),
    "fragments": text_frame(json.dumps(piece("x")).encode()),
}


@contextmanager
def flooding(frames: bytes) -> Iterator[ScriptedServer]:
    """A server that answers a prediction with the same for ever, and ignores the cancel."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send({"type": "rpcResult", "callId": peer.receive()["callId"], "result": [INSTANCE]})
        peer.receive()
        while True:
            peer.socket.sendall(frames * 5_000)

    with ScriptedServer(script) as server:
        yield server


def unbounded(folder: Path, port: int) -> dict[str, str]:
    """The environment of a command that accepts a flood for ever, so that nothing else ends it first."""
    bounds = "import lmcli.client.websocket as w, lmcli.wire.multiplexer as m\nw.IDLE_FRAMES = m.IGNORED = 1e18\n"
    (folder / "sitecustomize.py").write_text(bounds)
    return environment(folder, port, PYTHONPATH=str(folder))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("frames", FLOODS.values(), ids=FLOODS)
def test_a_signal_in_a_flood(frames: bytes, number: signal.Signals, tmp_path: Path) -> None:
    """However much a server sends, meaning or none: the first signal ends the process, within about the grace."""
    with flooding(frames) as server:
        variables = unbounded(tmp_path, server.port)
        line = ["lm", "respond", "-v", "--stats-file", "stats", "hi"]
        with start(*line, folder=tmp_path, variables=variables, stdout=subprocess.DEVNULL) as child:
            child.wait_for(b'"endpoint":"predict"', "stderr")
            child.process.send_signal(number)
            assert child.end() == -number
    assert last_line(tmp_path / "stats")["exit_status"] == 128 + number


@pytest.mark.parametrize("name", ["pings", "unknown messages"])
def test_the_timeout_holds_in_a_flood(name: str, tmp_path: Path) -> None:
    """Signs of life are not an answer."""
    with flooding(FLOODS[name]) as server:
        ran = run("lm respond --timeout 0.3 hi", tmp_path, unbounded(tmp_path, server.port))
    assert (ran.status, ran.stdout) == (75, b"")
    assert ran.stderr.startswith("lm: error: the server was silent for 0.3 s\n")


HANGING_RESOLVER = """
import socket, sys, threading
resolve = socket.getaddrinfo
def hang(host, port, *options, flags=0, **more):
    if flags & socket.AI_NUMERICHOST or {allowed}:
        return resolve(host if flags else "127.0.0.1", port, *options, flags=flags, **more)
    print("resolving", file=sys.stderr, flush=True)
    threading.Event().wait()
socket.getaddrinfo = hang
"""


def hanging_resolver(folder: Path, port: int, allowed: int = 0) -> dict[str, str]:
    """The environment of a command whose system does not resolve names, after some that it does."""
    is_allowed = f"bool({allowed}) and bool(counts.pop())"
    code = f"counts = [0] + [1] * {allowed}" + HANGING_RESOLVER.format(allowed=is_allowed)
    (folder / "sitecustomize.py").write_text(code)
    return environment(folder, f"studio.example:{port}", PYTHONPATH=str(folder))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_a_name_is_resolved(number: signal.Signals, tmp_path: Path) -> None:
    """The resolver of the system cannot be interrupted; the process ends all the same."""
    with start("lm", "respond", "hi", folder=tmp_path, variables=hanging_resolver(tmp_path, 1)) as child:
        child.wait_for(b"resolving\n", "stderr")
        child.process.send_signal(number)
        assert child.end() == -number


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_a_name_is_resolved_again(number: signal.Signals, tmp_path: Path) -> None:
    """The same for the socket for files, while signals are watched."""
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with StubServer() as stub:
        variables = hanging_resolver(tmp_path, stub.port, allowed=1)
        with start("lm", "respond", "-f", "image.png", "hi", folder=tmp_path, variables=variables) as child:
            child.wait_for(b"resolving\n", "stderr")
            child.process.send_signal(number)
            assert child.end() == -number


def test_the_timeout_holds_while_a_name_is_resolved(tmp_path: Path) -> None:
    """A resolver that hangs is a server that is silent."""
    ran = run("lm respond --timeout 0.5 hi", tmp_path, hanging_resolver(tmp_path, 1))
    assert (ran.status, ran.stdout) == (75, b"")
    assert ran.stderr.splitlines()[1] == "lm: error: no connection to studio.example:1 within 0.5 s"
