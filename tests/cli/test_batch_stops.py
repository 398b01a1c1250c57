"""A batch that is stopped: by a signal, a reader who leaves, a full disk, or by being killed outright."""

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import StartServer
from predictions import Predictions
from processes import StubServer, environment, run, start

LINES = "".join(f"{number}\n" for number in range(10)).encode()
BATCH = ("lm", "respond", "--each", "line", "-j", "2")


def records(file: Path) -> list[Any]:
    """The lines of a results file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def input_of(folder: Path, data: bytes = LINES) -> int:
    """A file on stdin."""
    (folder / "lines").write_bytes(data)
    return os.open(folder / "lines", os.O_RDONLY)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_a_batch_in_good_order(number: signal.Signals, tmp_path: Path) -> None:
    """Nothing new begins, what runs is cancelled, what is done is written and kept; the message says how to go on."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        command = (*BATCH, "--results", "done")
        with start(*command, folder=tmp_path, variables=variables, stdin=input_of(tmp_path)) as child:
            predictions.next().answer()
            one, two = predictions.take(2)
            one.say("o")
            child.wait_for(b"0\no")
            child.process.send_signal(number)
            assert {predictions.next_cancelled(), predictions.next_cancelled()} == {one.channel, two.channel}
            two.answer()  # it had ended before it saw the cancel
            one.say("ne")
            one.finish("userStopped")
            assert child.end() == -number
        assert predictions.is_all_taken
    assert child["stdout"] == b"0\none\n2\n"
    message, hint = child["stderr"].decode().splitlines()
    assert message == "lm: stopped: 2 done, 8 left"
    assert hint == "lm: hint: the same command continues the batch"
    assert [record["index"] for record in records(tmp_path / "done")] == [0, 2]


def test_the_number_of_those_left_is_not_known_while_the_input_is_open(tmp_path: Path) -> None:
    """Records of a pipe that have not been read are not counted; without a results file the hint names it."""
    reading, writing = os.pipe()
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        with start(*BATCH, folder=tmp_path, variables=variables, stdin=reading) as child:
            os.close(reading)
            os.write(writing, LINES)
            for asked in predictions.take(2):
                cancelled = asked
            child.process.send_signal(signal.SIGINT)
            for _ in range(2):
                predictions.next_cancelled()
            cancelled.lose()
            assert child.end() == -signal.SIGINT
    os.close(writing)
    assert child["stderr"].decode().splitlines() == [
        "lm: stopped: 0 done, 10 or more left",
        "lm: hint: --results FILE makes a batch that can be continued",
    ]


def test_a_signal_while_a_batch_waits_for_input(tmp_path: Path) -> None:
    """Nothing runs and nothing comes: the process dies of the signal at once."""
    reading, writing = os.pipe()
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        with start(*BATCH, folder=tmp_path, variables=variables, stdin=reading) as child:
            os.close(reading)
            os.write(writing, b"one\n")
            predictions.next().answer()
            child.wait_for(b"one\n")
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    os.close(writing)
    assert child["stderr"].startswith(b"lm: stopped: 1 done, 0 or more left\n")


def test_a_second_signal_ends_a_batch_at_once(tmp_path: Path) -> None:
    """A server that does not answer the cancel is not waited for."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        with start(*BATCH, folder=tmp_path, variables=variables, stdin=input_of(tmp_path)) as child:
            predictions.next()
            child.process.send_signal(signal.SIGINT)
            predictions.next_cancelled()
            child.process.send_signal(signal.SIGINT)
            assert child.end() == -signal.SIGINT
    assert (child["stdout"], child["stderr"]) == (b"", b"")


@pytest.mark.parametrize("form", ["jsonl", "history"])
def test_a_signal_leaves_whole_lines(form: str, tmp_path: Path) -> None:
    """What had arrived of a record that was stopped is a line that says so."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        command = (*BATCH, "-o", form)
        with start(*command, folder=tmp_path, variables=variables, stdin=input_of(tmp_path)) as child:
            predictions.next().answer()
            stopped = list(predictions.take(2))
            stopped[0].say("one")
            stopped[1].answer()
            predictions.next()
            child.process.send_signal(signal.SIGINT)
            for _ in range(2):
                predictions.next_cancelled()
            stopped[0].finish("userStopped")
            assert child.end() == -signal.SIGINT
    lines = [json.loads(line) for line in child["stdout"].splitlines()]
    assert len(lines) >= 3
    if form == "jsonl":
        assert [line["content"] for line in lines[:3]] == ["0", "one", "2"]
        assert lines[1]["error"] == {"code": 130, "message": "interrupted"}
    else:
        assert lines[1]["messages"][-1]["content"] == "one"
        assert [line["messages"][-1].get("partial", False) for line in lines[:3]] == [False, True, False]


def test_a_reader_who_leaves_ends_a_batch_silently(tmp_path: Path, start_server: StartServer) -> None:
    """`lm … | head -n 2`: what runs is cancelled, lm dies of SIGPIPE, and stderr is empty."""
    variables = environment(tmp_path, start_server().port)
    line = 'seq 100000 | lm respond --each line | head -n 2; echo "${PIPESTATUS[*]}"'
    ran = run(line, tmp_path, variables, shell="bash")
    assert ran.stdout.split(b"\n")[:2] == [b"1", b"2"]
    assert ran.stdout.split()[-2:] == [b"141", b"0"]
    assert ran.stderr == ""


def test_a_reader_who_leaves_stops_what_runs(tmp_path: Path) -> None:
    """While nothing is written, too: each prediction in flight is cancelled on the server; what is done is kept."""
    predictions = Predictions()
    reading, writing = os.pipe()
    with StubServer(predictions) as stub:
        variables = environment(tmp_path, stub.port)
        command, stdin = (*BATCH, "--results", "done"), input_of(tmp_path)
        with start(*command, folder=tmp_path, variables=variables, stdin=stdin, stdout=writing) as child:
            os.close(writing)
            predictions.next().answer()
            running = {asked.channel: asked for asked in predictions.take(2)}
            with os.fdopen(reading, "rb") as pipe:
                assert pipe.readline() == b"0\n"
            for _ in range(2):
                running.pop(predictions.next_cancelled()).finish("userStopped")
            assert child.end() == -signal.SIGPIPE
    assert child["stderr"] == b""
    assert [record["index"] for record in records(tmp_path / "done")] == [0]


def test_a_full_disk_below_stdout_ends_a_batch(tmp_path: Path, start_server: StartServer) -> None:
    """Status 74, and how to go on."""
    variables = environment(tmp_path, start_server().port)
    ran = run("seq 100 | lm respond --each line --results done > /dev/full", tmp_path, variables)
    assert ran.status == 74
    error, message, hint = ran.stderr.splitlines()
    assert error == "lm: error: cannot write to standard output: no space left on device"
    assert message.startswith("lm: stopped: ")
    assert hint == "lm: hint: the same command continues the batch"
    kept = len(records(tmp_path / "done"))
    assert f"stopped: {kept} done" in message
    again = run("seq 100 | lm respond --each line --results done", tmp_path, variables)
    assert again.stdout.split() == [b"%d" % number for number in range(1, 101)]
    assert len(records(tmp_path / "done")) == 100


def test_a_full_disk_below_the_stats_ends_a_batch(tmp_path: Path, start_server: StartServer) -> None:
    """The record whose stats could not be written is done, the next one is not."""
    variables = environment(tmp_path, start_server().port)
    (tmp_path / "lines").write_bytes(LINES)
    ran = run("lm respond --each line -j 1 --stats-file /dev/full < lines", tmp_path, variables)
    assert (ran.status, ran.stdout) == (74, b"0\n")
    error, message, _ = ran.stderr.splitlines()
    assert error == "lm: error: cannot write to '/dev/full': no space left on device"
    assert message == "lm: stopped: 1 done, 9 left"


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_a_full_disk_below_the_results_ends_a_batch(form: str, tmp_path: Path, start_server: StartServer) -> None:
    """The file ends with a whole line, no answer counts as done that it lacks, and a run with more room goes on."""
    variables = environment(tmp_path, start_server().port)
    command = ("lm", "respond", "--each", "line", "-o", form, "--results", "done")
    whole = run(shlex.join(command[:-2]), tmp_path, variables, stdin=LINES).stdout
    # A limit to the size of files is as good as a disk that is full.
    ran = run(f"ulimit -f 4; exec {shlex.join(command)}", tmp_path, variables, stdin=LINES)
    assert ran.status == 74
    error, message, _ = ran.stderr.splitlines()
    assert error == "lm: error: cannot write to 'done': file too large"
    kept = len(records(tmp_path / "done"))
    assert 0 < kept < 10
    assert message.startswith(f"lm: stopped: {kept} done, {10 - kept} ")
    if form == "text":
        assert whole.startswith(ran.stdout.rstrip(b"\n"))
    again = run(shlex.join(command), tmp_path, variables, stdin=LINES)
    assert without_times(again.stdout) == without_times(whole)
    assert sorted(record["index"] for record in records(tmp_path / "done")) == list(range(10))


def without_times(stdout: bytes) -> list[Any]:
    """Answers without what differs from run to run."""
    return [line.partition(b',"stats"')[0] for line in stdout.splitlines()]


def test_a_batch_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """After SIGKILL what was written to stdout is in the file; only the others are sent again."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables, command = environment(tmp_path, stub.port), (*BATCH, "--results", "done")
        with start(*command, folder=tmp_path, variables=variables, stdin=input_of(tmp_path)) as child:
            predictions.next().answer()
            one, two = predictions.take(2)
            two.answer()
            predictions.next().answer()
            child.wait_for(b"0\n")
            one.say("o")
            child.wait_for(b"0\no")
            child.process.kill()
            child.end()
        done = {record["index"] for record in records(tmp_path / "done")}
        assert {0} <= done <= {0, 2, 3}
        while not predictions.is_all_taken:
            predictions.next()
        with start(*command, folder=tmp_path, variables=variables, stdin=input_of(tmp_path)) as child:
            asked = []
            for prediction in predictions.take(10 - len(done)):
                asked.append(int(prediction.text))
                prediction.answer()
            assert child.end() == 0
    assert sorted(asked) == sorted({*range(10)} - done)
    assert child["stdout"] == LINES
    assert sorted(record["index"] for record in records(tmp_path / "done")) == list(range(10))


def test_two_batches_do_not_share_a_file(tmp_path: Path) -> None:
    """The second one is refused while the first one runs, and the first one is not disturbed."""
    predictions = Predictions()
    with StubServer(predictions) as stub:
        variables, command = environment(tmp_path, stub.port), (*BATCH, "--results", "done")
        with start(*command, folder=tmp_path, variables=variables, stdin=input_of(tmp_path)) as child:
            first = predictions.next()
            ran = run("echo other | lm respond --each line --results done", tmp_path, variables)
            assert ran.status == 75
            assert ran.stderr == "lm: error: the results file 'done' is in use by another process\n"
            first.answer()
            for asked in predictions.take(9):
                asked.answer()
            assert child.end() == 0
    assert child["stdout"] == LINES
