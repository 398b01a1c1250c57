"""Being stopped: a signal, a reader who leaves, a full disk and a lost connection all end a run in good order.

The process dies of the signal for real, the server is told to stop at once, and what had arrived is not lost.
"""

import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from conftest import FOREVER, PATIENCE, Connect, Packet, StartServer, query, wait_until
from faults import Listener, Peer, ScriptedServer, text_frame
from packets import piece, success
from processes import INSTANCE, StubConnection, StubServer, environment, run, start

from lmcli.server.background import Running

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
WORDS = " ".join(f"word{number}" for number in range(1000))
"""At the pace of these tests this takes a minute: a test that does not stop it fails."""

STREAMING = ("complete", {"tokens_per_second": 15})
READING = ("respond", {"prompt_tokens_per_second": 10})
LOADING = ("respond -m echo-jit", {"load_seconds": 60})


def wait_until_idle(connect: Connect, server: Running) -> None:
    """Wait until the server's model has nothing to do."""
    wire = connect(server)
    asked = {"specifier": query("echo"), "throwIfNotFound": True}
    wait_until(lambda: bool(wire.result("getInstanceProcessingState", asked) == {"status": "idle", "queued": 0}))


def last_line(file: Path) -> Any:
    """The last record of a stats file."""
    return json.loads(file.read_text().splitlines()[-1])


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_an_answer(
    number: signal.Signals, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """The process dies of the signal; stdout has what had arrived, the stats file the server's word that it stopped."""
    command, pace = STREAMING
    server = start_server(**pace)
    line = ["lm", command, "--stats-file", "stats", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"word2")
        child.process.send_signal(number)
        assert child.end() == -number
        assert child["stderr"] == b""
    assert WORDS.encode().startswith(child["stdout"])
    record = last_line(tmp_path / "stats")
    assert record["stats"]["stop_reason"] == "userStopped"
    assert record["stats"]["predicted_tokens_count"] == len(child["stdout"].split())
    assert record["exit_status"] == 128 + number
    wait_until_idle(connect, server)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_the_reading_of_a_prompt(
    number: signal.Signals, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """Nothing has come yet, so nothing is on stdout, not even a newline; the server stops reading."""
    command, pace = READING
    server = start_server(**pace)
    line = ["lm", command, "--progress", "--stats-file", "stats", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"reading 0%", "stderr")
        child.process.send_signal(number)
        assert child.end() == -number
        assert child["stdout"] == b""
    assert last_line(tmp_path / "stats")["stats"]["stop_reason"] == "userStopped"
    wait_until_idle(connect, server)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_stops_a_load(
    number: signal.Signals, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """The model does not go on loading, and nobody else has to wait for it."""
    command, pace = LOADING
    server = start_server(**pace)
    line = ["lm", *command.split(), "--progress", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"loading 0%", "stderr")
        child.process.send_signal(number)
        assert child.end() == -number
        assert child["stdout"] == b""
    assert [model["identifier"] for model in connect(server).result("listLoaded")] == ["echo"]


def test_a_text_that_was_to_be_continued_is_not_lost(tmp_path: Path, start_server: StartServer) -> None:
    """With `--echo` the input is on stdout, also where a signal comes before anything else does."""
    _, pace = LOADING
    line = ["lm", "complete", "--echo", "-m", "echo-jit", "--progress", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, start_server(**pace).port)) as child:
        child.wait_for(b"loading 0%", "stderr")
        child.process.send_signal(signal.SIGTERM)
        assert child.end() == -signal.SIGTERM
    assert child["stdout"].decode() == WORDS


def test_the_server_has_data_to_cancel_a_load(tmp_path: Path) -> None:
    """A `cancel` goes to the channel of the load before the connection is closed."""
    with StubServer() as stub:
        line = ["lm", "respond", "-m", "big", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            load = stub.wait_for("channelCreate")
            assert load["endpoint"] == "getOrLoad"
            child.process.send_signal(signal.SIGINT)
            cancel = stub.wait_for("channelSend")
            assert cancel == {"type": "channelSend", "channelId": load["channelId"], "message": {"type": "cancel"}}
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT


def test_a_signal_while_stdin_is_read(tmp_path: Path) -> None:
    """It ends the process at once and without a word."""
    reading, writing = os.pipe()
    with start("lm", "respond", folder=tmp_path, variables=environment(tmp_path, 1), stdin=reading) as child:
        os.close(reading)
        os.write(writing, bytes(1 << 17))  # more than the pipe holds: when this is taken, lm is reading
        child.process.send_signal(signal.SIGINT)
        assert child.end() == -signal.SIGINT
        assert (child["stdout"], child["stderr"]) == (b"", b"")
    os.close(writing)


class Flood:
    """Fragments as fast as they go, until the cancel comes; then the end."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._cancelled = threading.Event()

    def __call__(self, connection: StubConnection, envelope: Packet) -> None:
        """Begin with the channel, end with the cancel."""
        if envelope["type"] == "channelCreate":
            threading.Thread(target=self._pour, args=(connection, envelope["channelId"])).start()
        else:
            self._cancelled.set()

    def _pour(self, connection: StubConnection, channel: int) -> None:
        while not self._cancelled.is_set() and not connection.is_left:
            text = f"piece {len(self.sent)}\n"
            self.sent.append(text)
            connection.say(channel, text)
        connection.finish(channel, "userStopped")


def test_a_signal_stops_a_flood_and_loses_nothing(tmp_path: Path) -> None:
    """The cancel is sent in the middle of the flood; every fragment that the server had sent by then is on stdout."""
    flood = Flood()
    with StubServer(flood) as stub:
        line = ["lm", "complete", "--stats-file", "stats", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            child.wait_for(b"piece 500\n")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    assert child["stdout"].decode() == "".join(flood.sent)
    assert last_line(tmp_path / "stats")["stats"]["stop_reason"] == "userStopped"


def test_a_flood_that_does_not_end_is_left_after_a_grace(tmp_path: Path) -> None:
    """A server that goes on in spite of the cancel keeps nobody: the process dies of the signal soon."""
    bench = Path(__file__).parents[1] / "bench" / "fast_server.py"
    with start(sys.executable, str(bench), folder=tmp_path, variables=os.environ) as server:
        server.wait_for(b"\n")
        variables = environment(tmp_path, int(server["stdout"]))
        with start("lm", "complete", "n=1000000000", folder=tmp_path, variables=variables) as child:
            child.wait_for(b" token" * 10_000)
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """Where the server does not answer the cancel, nobody waits for the end of the grace."""

    def say_one(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "one\n")

    with StubServer(say_one) as stub:
        line = ["lm", "complete", "--stats-file", "stats", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            child.wait_for(b"one\n")
            child.process.send_signal(signal.SIGINT)
            stub.wait_for("channelSend")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    assert not (tmp_path / "stats").exists()  # what is done after the grace was not done


def test_a_server_that_does_not_answer_the_cancel_costs_only_the_grace(tmp_path: Path) -> None:
    """After one signal the stats are written without the server's word, and the process dies."""
    with StubServer() as stub:
        line = ["lm", "respond", "--stats-file", "stats", "hi"]
        with start(*line, folder=tmp_path, variables=environment(tmp_path, stub.port)) as child:
            stub.wait_for("channelCreate")
            child.process.send_signal(signal.SIGTERM)
            assert child.end() == -signal.SIGTERM
    record = last_line(tmp_path / "stats")
    assert (record["stats"], record["exit_status"]) == (None, 128 + signal.SIGTERM)


@pytest.mark.parametrize("name", ["INT", "HUP"])
def test_what_the_caller_ignores_stays_ignored(name: str, tmp_path: Path, start_server: StartServer) -> None:
    """Under nohup, or in the background of a script, the answer goes on to its end."""
    server = start_server(tokens_per_second=40)
    words = "one two three four five six seven eight"
    line = f"trap '' {name}; exec lm complete {words}"
    with start("sh", "-c", line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"two")
        child.process.send_signal(getattr(signal, f"SIG{name}"))
        assert child.end() == 0
    assert child["stdout"].decode() == words


def test_head_stops_the_generation(tmp_path: Path, start_server: StartServer, connect: Connect) -> None:
    """`lm … | head -n 1` is silent, lm dies of SIGPIPE, the server stops and says so."""
    server = start_server(tokens_per_second=15)
    (tmp_path / "lines").write_text(WORDS.replace(" ", "\n"))
    line = 'lm complete --stats-file stats < lines | head -n 1; echo "${PIPESTATUS[*]}"'
    ran = run(line, tmp_path, environment(tmp_path, server.port), shell="bash")
    assert (ran.stdout, ran.stderr) == (b"word0\n141 0\n", "")
    record = last_line(tmp_path / "stats")
    assert record["stats"]["stop_reason"] == "userStopped"
    assert record["exit_status"] == 141
    wait_until_idle(connect, server)


@pytest.mark.parametrize(("what", "label"), [(READING, b"reading 0%"), (LOADING, b"loading 0%")])
def test_a_reader_who_leaves_before_the_first_fragment(
    what: tuple[str, Packet], label: bytes, tmp_path: Path, start_server: StartServer, connect: Connect
) -> None:
    """There is nothing to write, and yet it is noticed: the server stops, lm dies of SIGPIPE."""
    command, pace = what
    server = start_server(**pace)
    reading, writing = os.pipe()
    line = ["lm", *command.split(), "--progress", WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port), stdout=writing) as child:
        os.close(writing)
        child.wait_for(label, "stderr")
        os.close(reading)
        assert child.end() == -signal.SIGPIPE
        assert child["stderr"].replace(b"lm: " + label + b"\n", b"") == b""
    wait_until_idle(connect, server)


def test_a_reader_who_does_not_read_cannot_keep_a_stopped_process(tmp_path: Path) -> None:
    """Stdout is full, a signal comes: the cancel is sent all the same, and the process dies within about the grace."""
    flood = Flood()
    reading, writing = os.pipe()
    with StubServer(flood) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "complete", "hi", folder=tmp_path, variables=variables, stdout=writing) as child:
            while is_writable(writing):
                assert child.process.poll() is None
            os.close(writing)
            child.process.send_signal(signal.SIGINT)
            assert stub.wait_for("channelSend")["message"] == {"type": "cancel"}
            assert child.process.wait(PATIENCE) == -signal.SIGINT
    os.close(reading)


def test_a_signal_while_the_last_fragment_is_written_loses_nothing(tmp_path: Path) -> None:
    """The rest of a fragment that stdout did not accept at once is written, though nothing is written after it."""
    text = "word " * (1 << 14)  # more than a pipe holds

    def say_all(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            connection.say(envelope["channelId"], text)

    reading, writing = os.pipe()
    with StubServer(say_all) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "complete", "hi", folder=tmp_path, variables=variables, stdout=writing) as child:
            while is_writable(writing):
                assert child.process.poll() is None
            os.close(writing)
            child.process.send_signal(signal.SIGTERM)
            assert stub.wait_for("channelSend")["message"] == {"type": "cancel"}
            with os.fdopen(reading, "rb") as pipe:
                assert pipe.read().decode() == text
            assert child.end() == -signal.SIGTERM


@pytest.mark.parametrize("form", ["json", "history"])
def test_a_signal_while_the_end_is_written_is_obeyed(form: str, tmp_path: Path) -> None:
    """An answer that comes at its end as a whole, and that nobody reads: the process dies of the signal, and says so.

    What stands on stdout is cut, so the status must not be that of success.
    """

    def handle(connection: StubConnection, envelope: Packet) -> None:
        connection.say(envelope["channelId"], "word " * 200_000)
        connection.finish(envelope["channelId"])

    reading, writing = os.pipe()
    with StubServer(handle) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "-o", form, "hi", folder=tmp_path, variables=variables, stdout=writing) as child:
            while is_writable(writing):
                assert child.process.poll() is None
            os.close(writing)
            child.process.send_signal(signal.SIGTERM)
            assert child.process.wait(PATIENCE) == -signal.SIGTERM
            assert child.end() == -signal.SIGTERM
            assert child["stderr"] == b""
    with os.fdopen(reading, "rb") as pipe, pytest.raises(json.JSONDecodeError):
        json.loads(pipe.read())


@pytest.mark.parametrize("reads_on", [False, True], ids=["who leaves it", "who reads on"])
def test_a_stopped_flood_keeps_an_answer_without_a_hole(tmp_path: Path, *, reads_on: bool) -> None:
    """A chat file holds the beginning of what was generated, and stdout the beginning of that, however slow it is."""
    flood = Flood()
    reading, writing = os.pipe()
    with StubServer(flood) as stub:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "chat", "-n", "--history", "talk.json", "hi")
        with start(*command, folder=tmp_path, variables=variables, stdout=writing) as child:
            while is_writable(writing):
                assert child.process.poll() is None
            os.close(writing)
            child.process.send_signal(signal.SIGINT)
            assert stub.wait_for("channelSend")["message"] == {"type": "cancel"}
            with os.fdopen(reading, "rb") as pipe:
                if not reads_on:
                    assert child.process.wait(PATIENCE) == -signal.SIGINT
                written = pipe.read().decode()
            assert child.end() == -signal.SIGINT
    answer = json.loads((tmp_path / "talk.json").read_text())["messages"][1]
    assert answer["partial"] is True
    kept, generated = answer["content"], "".join(flood.sent)
    assert kept == generated[: len(kept)]
    assert written == kept[: len(written)]
    assert written
    if reads_on:
        assert written == kept == generated


def is_writable(pipe: int) -> bool:
    """Whether a pipe takes more."""
    return bool(select.select([], [pipe], [], 0)[1])


def test_a_full_disk_stops_the_generation(tmp_path: Path, start_server: StartServer, connect: Connect) -> None:
    """The first write that fails is the last: status 74, and the server is told at once."""
    server = start_server(tokens_per_second=15)
    line = f"lm complete --stats-file stats '{WORDS}' > /dev/full"
    ran = run(line, tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stderr) == (74, "lm: error: cannot write to standard output: no space left on device\n")
    record = last_line(tmp_path / "stats")
    assert (record["stats"]["stop_reason"], record["exit_status"]) == ("userStopped", 74)
    wait_until_idle(connect, server)


@pytest.mark.parametrize(
    ("line", "status", "stdout"),
    [
        ("lm respond hi >&-", 74, b""),
        ("lm models >&-", 74, b""),
        ("lm respond --help >&-", 74, b""),
        ("lm --version >&-", 74, b""),
        ("lm --version >&- 2>&-", 74, b""),
        ("lm --version <&- >&- 2>&-", 74, b""),
        ("lm --version >/dev/full 2>&-", 74, b""),
        ("lm --help >&- 2>&-", 74, b""),
        ("lm help <&- >&- 2>&-", 74, b""),
        ("lm respond hi 2>&-", 0, b"hi\n"),
        ("lm respond --stats hi 2>/dev/full", 0, b"hi\n"),
        ("lm respond -m nope hi 2>&-", 69, b""),
        ("lm respond hi <&-", 0, b"hi\n"),
        ("lm respond <&-", 66, b""),
        ("lm respond hi <&- 2>&-", 0, b"hi\n"),
        ("lm respond hi <&- >&- 2>&-", 74, b""),
    ],
)
def test_closed_streams(line: str, status: int, stdout: bytes, tmp_path: Path, server: Running) -> None:
    """A closed stdin is empty, a closed stdout cannot be written, a closed stderr is nobody's error."""
    ran = run(line, tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout) == (status, stdout), ran.stderr
    assert "Traceback" not in ran.stderr
    assert bool(ran.stderr) == (status != 0 and "2>&-" not in line)


@pytest.mark.parametrize("words", ["--version", "--help", "help", "respond --help", "models --help"])
def test_printing_into_a_pipe_without_a_reader(words: str, tmp_path: Path) -> None:
    """What needs no server dies of SIGPIPE silently, too, as other programs do in front of `| head`."""
    reading, writing = os.pipe()
    os.close(reading)
    with start("lm", *words.split(), folder=tmp_path, variables=environment(tmp_path, 1), stdout=writing) as child:
        os.close(writing)
        assert (child.end(), child["stderr"]) == (-signal.SIGPIPE, b"")


def test_a_manual_page_into_a_pipe_without_a_reader(tmp_path: Path) -> None:
    """`man` ends as if it had been called directly: it does not inherit that Python ignores SIGPIPE."""
    (tmp_path / "man").write_text("#!/bin/sh\nkill -PIPE $$\necho still there >&2\n")
    (tmp_path / "man").chmod(0o755)
    variables = environment(tmp_path, 1)
    ran = run("lm help respond", tmp_path, variables | {"PATH": f"{tmp_path}:{variables['PATH']}"})
    assert (ran.status, ran.stderr) == (128 + signal.SIGPIPE, "")


def test_a_stdin_that_does_not_block(tmp_path: Path, server: Running) -> None:
    """Another program may have made the pipe non-blocking: an empty moment is not an error, the end is waited for."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    variables = environment(tmp_path, server.port)
    with start("lm", "respond", "-i", "json", folder=tmp_path, variables=variables, stdin=reading) as child:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(b" " * (1 << 24))
            pipe.write(b'[{"role": "user", "content": "hi"}]')
        assert child.end() == 0
    assert child["stdout"] == b"hi\n"


def abort(connection: socket.socket) -> None:
    """End a connection without a goodbye."""
    connection.shutdown(socket.SHUT_RDWR)


def reset(connection: socket.socket) -> None:
    """Throw a connection away, as a machine does that starts again."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)  # its owner sees the end and closes it


@pytest.mark.parametrize("end", [abort, reset])
def test_a_connection_lost_in_the_middle(end: Callable[[socket.socket], None], tmp_path: Path) -> None:
    """Status 3, with what had arrived on stdout, its line ended."""
    connections: list[StubConnection] = []

    def begin(connection: StubConnection, envelope: Packet) -> None:
        connections.append(connection)
        connection.say(envelope["channelId"], "one")
        connection.say(envelope["channelId"], " two")

    with StubServer(begin) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "hi", folder=tmp_path, variables=variables) as child:
            child.wait_for(b"one two")
            end(connections[0].socket.socket)
            assert child.end() == 3
    assert child["stdout"] == b"one two\n"
    assert child["stderr"].startswith(b"lm: error: the connection to 127.0.0.1:")
    assert b" was lost: " in child["stderr"]


@pytest.mark.parametrize("form", ["json", "jsonl", "history"])
def test_a_server_that_ends_in_the_middle(form: str, tmp_path: Path, start_server: StartServer) -> None:
    """Status 3; every form of output holds what had arrived, and says that it is not all."""
    server = start_server(tokens_per_second=15)
    line = ["lm", "respond", "--progress", "-o", form, WORDS]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, server.port)) as child:
        child.wait_for(b"reading 100%", "stderr")
        if form == "jsonl":
            child.wait_for(b"word2")
        server.close()
        assert child.end() == 3
    last = json.loads(child["stdout"].splitlines()[-1]) if child["stdout"] else {}
    if form == "json":
        assert last["error"]["code"] == 3
    elif form == "jsonl":
        assert (last["type"], last["code"]) == ("error", 3)
        assert last["content"].startswith("word0 word1")
    elif last:
        assert last["messages"][-1]["partial"] is True


@pytest.mark.parametrize("form", ["json", "jsonl", "history"])
def test_a_signal_completes_the_output(form: str, tmp_path: Path) -> None:
    """An interrupted answer is whole JSON on stdout, with what had arrived; a history marks it as partial."""

    def handle(connection: StubConnection, envelope: Packet) -> None:
        if envelope["type"] == "channelCreate":
            connection.say(envelope["channelId"], "one two")
        else:
            connection.finish(envelope["channelId"], "userStopped")

    with StubServer(handle) as stub:
        variables = environment(tmp_path, stub.port)
        with start("lm", "respond", "-o", form, "hi", folder=tmp_path, variables=variables) as child:
            stub.wait_for("channelCreate")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    last = json.loads(child["stdout"].splitlines()[-1])
    answer = last["messages"][-1] if form == "history" else last
    assert answer["content"] == "one two"
    assert answer["stats"]["stop_reason"] == "userStopped"
    assert answer.get("partial", False) is (form == "history")


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


def full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing more, and whose other end nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    return reading, writing


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_a_stats_file_has_no_reader(number: signal.Signals, tmp_path: Path, server: Running) -> None:
    """A FIFO is waited for, but not against a signal; with a reader it gets its line."""
    os.mkfifo(tmp_path / "fifo")
    line = ["lm", "respond", "--stats-file", "fifo", "hi"]
    variables = environment(tmp_path, server.port)
    with start(*line, folder=tmp_path, variables=variables) as child:
        child.wait_for(b"hi\n")
        child.process.send_signal(number)
        assert child.end() == -number
        assert child["stderr"] == b""
    with start(*line, folder=tmp_path, variables=variables) as child:
        child.wait_for(b"hi\n")
        assert json.loads((tmp_path / "fifo").read_text())["exit_status"] == 0
        assert child.end() == 0


@pytest.mark.parametrize("is_first", [True, False], ids=["the first one", "the second one"])
def test_a_stats_file_that_nobody_reads_keeps_no_interrupted_process(
    tmp_path: Path, start_server: StartServer, *, is_first: bool
) -> None:
    """A full FIFO, and one without a reader after an answer that was interrupted: one signal is enough."""
    command, pace = STREAMING
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) if is_first else -1
    if is_first:
        writing = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
    words = "hi" if is_first else WORDS
    line = ["lm", command, "--stats-file", "fifo", words]
    with start(*line, folder=tmp_path, variables=environment(tmp_path, start_server(**pace).port)) as child:
        child.wait_for(words.split()[0].encode())
        child.process.send_signal(signal.SIGINT)
        assert child.end() == -signal.SIGINT
    if is_first:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_while_nobody_reads_stderr(number: signal.Signals, tmp_path: Path, server: Running) -> None:
    """A full pipe on stderr is waited for, but not against a signal."""
    reading, writing = full_pipe()
    line = ["lm", "respond", "--stats", "hi"]
    variables = environment(tmp_path, server.port)
    with start(*line, folder=tmp_path, variables=variables, stderr=writing) as child:
        child.wait_for(b"hi\n")
        child.process.send_signal(number)
        assert child.end() == -number
    os.close(reading)
    os.close(writing)


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


@pytest.mark.parametrize("then", ["waits", "leaves"])
def test_an_answer_whose_channel_is_not_closed(then: str, tmp_path: Path) -> None:
    """With its result an answer is complete: status 0, although no close comes, or the connection is lost."""

    def script(peer: Peer) -> None:
        peer.greet()
        peer.send({"type": "rpcResult", "callId": peer.receive()["callId"], "result": [INSTANCE]})
        number = peer.receive()["channelId"]
        peer.send(piece("hi", number), success(number))
        if then == "waits":
            peer.wait_until_left()

    with ScriptedServer(script) as server:
        ran = run("lm respond --timeout 5 hi", tmp_path, environment(tmp_path, server.port))
    assert (ran.status, ran.stdout, ran.stderr) == (0, b"hi\n", "")
