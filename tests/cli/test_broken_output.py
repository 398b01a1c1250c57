"""Readers that leave or do not read, full disks, closed streams: a run ends in good order."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import PATIENCE, Connect, Packet, StartServer
from processes import StubConnection, StubServer, environment, run, start
from stopping import LOADING, READING, SIGNALS, STREAMING, WORDS, Flood, is_writable, last_line, wait_until_idle

from lmcli.server.background import Running


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
