"""A batch is a pipeline: read as needed, a few predictions at once, written in the order of the records."""

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import PATIENCE, Packet, StartServer
from predictions import Predictions
from processes import Child, StubConnection, StubServer, environment, run, start

WINDOW = 64
"""How many answers may wait for the oldest one, itself included."""


@contextmanager
def batch(
    predictions: "Callable[[StubConnection, Packet], None]", folder: Path, *options: str
) -> Iterator[tuple[Child, int]]:
    """Run a batch of lines against a stub server; gives the process, and the descriptor that feeds it."""
    reading, writing = os.pipe()
    command = ("lm", "respond", "--each", "line", *options)
    with StubServer(predictions) as stub:
        variables = environment(folder, stub.port)
        with start(*command, folder=folder, variables=variables, stdin=reading) as child:
            os.close(reading)
            try:
                yield child, writing
            finally:
                os.close(writing)


def wait_until_steady(count: Callable[[], int]) -> int:
    """Wait until a number has not changed for a while: the only way to see that nothing more happens."""
    deadline, last, since = time.monotonic() + PATIENCE, -1, 0.0
    while time.monotonic() < deadline:
        if count() != last:
            last, since = count(), time.monotonic()
        elif time.monotonic() - since > 0.5:
            return last
        time.sleep(0.01)
    raise AssertionError("it does not end")


def feed(writing: int, lines: list[str]) -> None:
    """Write lines and close the input."""
    with os.fdopen(os.dup(writing), "w") as pipe:
        pipe.writelines(f"{line}\n" for line in lines)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, writing)  # the last writer of the pipe is gone, and the number stays valid
    os.close(null)


def test_the_first_answer_comes_while_the_input_is_open(tmp_path: Path) -> None:
    """Whoever feeds records one by one gets the answer to each before the next."""
    predictions = Predictions()
    with batch(predictions, tmp_path) as (child, stdin):
        for word in (b"one", b"two", b"three"):
            os.write(stdin, word + b"\n")
            predictions.next().answer()
            child.wait_for(word + b"\n")
        os.write(stdin, b"fo")
        os.write(stdin, b"ur")
        feed(stdin, [])
        predictions.next().answer()
        assert child.end() == 0
        assert child["stdout"] == b"one\ntwo\nthree\nfour\n"


def test_the_oldest_answer_streams_and_the_others_wait(tmp_path: Path) -> None:
    """Each fragment of the oldest unfinished record is written at once; later ones come whole, and in order."""
    predictions = Predictions()
    with batch(predictions, tmp_path, "-j", "3") as (child, stdin):
        feed(stdin, ["1", "2", "3", "4"])
        first, second, third = predictions.take(3)
        third.say("third")
        third.finish()
        fourth = predictions.next()  # the end of one is the beginning of the next
        second.say("sec")
        first.say("fi")
        child.wait_for(b"fi")
        first.say("rst")
        child.wait_for(b"first")
        assert child["stdout"] == b"first"
        first.finish()
        child.wait_for(b"first\nsec")  # what has arrived of the one that is the oldest now
        second.say("ond")
        child.wait_for(b"second")
        second.finish()
        child.wait_for(b"second\nthird\n")
        fourth.answer()
        assert child.end() == 0
        assert child["stdout"] == b"first\nsecond\nthird\n4\n"


@pytest.mark.parametrize("jobs", [1, 2, 4, 7])
def test_so_many_predictions_run_at_once(jobs: int, tmp_path: Path) -> None:
    """`-j N` predictions are in flight as long as there are records, and never more; `-j 1` one after the other."""
    predictions, lines = Predictions(), [str(number) for number in range(40)]
    options = ("-j", str(jobs)) if jobs != 4 else ()  # which is the default
    with batch(predictions, tmp_path, *options) as (child, stdin):
        feed(stdin, lines)
        running = list(predictions.take(jobs))
        for number in range(jobs, len(lines)):
            assert predictions.is_all_taken
            running.pop(number % jobs).answer()
            running.append(predictions.next())
            assert running[-1].text == lines[number]
        for asked in reversed(running):
            asked.answer()
        assert child.end() == 0
        assert child["stdout"].decode().split() == lines


def test_a_slow_record_does_not_fill_the_memory(tmp_path: Path) -> None:
    """When so many answers wait for the oldest, no further record is begun; when it ends, they go on."""
    predictions, lines = Predictions(), [str(number) for number in range(300)]
    with batch(predictions, tmp_path) as (child, stdin):
        feed(stdin, lines)
        first = predictions.next()
        for asked in predictions.take(WINDOW - 1):
            asked.answer()
        assert wait_until_steady(lambda: predictions.count) == WINDOW
        first.answer()
        for asked in predictions.take(len(lines) - WINDOW):
            asked.answer()
        assert child.end() == 0
        assert child["stdout"].decode().split() == lines


def test_large_answers_that_wait_are_bounded_by_their_size(tmp_path: Path) -> None:
    """A few large answers fill the window as many small ones do."""
    predictions, size = Predictions(), 1 << 20
    with batch(predictions, tmp_path) as (child, stdin):
        feed(stdin, [str(number) for number in range(40)])
        first = predictions.next()
        threading.Thread(target=answer_with, args=(predictions, size, 39)).start()
        assert wait_until_steady(lambda: predictions.count) < 20
        first.answer()
        assert child.end() == 0
        assert len(child["stdout"]) == len(b"0\n") + 39 * (size + 1)


def answer_with(predictions: Predictions, size: int, count: int) -> None:
    """Give so many predictions an answer of this size."""
    for asked in predictions.take(count):
        asked.say("x" * size)
        asked.finish()


def test_a_reader_who_does_not_read_holds_the_batch(tmp_path: Path) -> None:
    """While nobody reads stdout, no more is asked of the server than fits into the window; then nothing is missing."""
    predictions = Predictions()

    def handle(connection: StubConnection, envelope: Packet) -> None:
        predictions(connection, envelope)
        if envelope["type"] == "channelCreate":
            predictions.next().answer()

    lines = [f"{number} " + "x" * 4000 for number in range(1000)]
    reading, writing = os.pipe()
    (tmp_path / "lines").write_text("".join(f"{line}\n" for line in lines))
    with StubServer(handle) as stub, (tmp_path / "lines").open() as stdin:
        variables = environment(tmp_path, stub.port)
        command = ("lm", "respond", "--each", "line")
        with start(*command, folder=tmp_path, variables=variables, stdin=stdin.fileno(), stdout=writing) as child:
            os.close(writing)
            assert select.select([reading], [], [], PATIENCE)[0]
            assert wait_until_steady(lambda: predictions.count) < 4 * WINDOW
            with os.fdopen(reading, "rb") as pipe:
                assert pipe.read().decode().splitlines() == lines
            assert child.end() == 0


def test_the_model_is_obtained_once_on_one_connection(tmp_path: Path, start_server: StartServer) -> None:
    """However many records there are; so too where the model has to be loaded."""
    variables = environment(tmp_path, start_server().port)
    for options, question in (("", "listLoaded"), ("-m echo-jit", "getOrLoad")):
        ran = run(f"seq 50 | lm respond --each line -v {options}", tmp_path, variables)
        assert (ran.status, ran.stdout.split()) == (0, [b"%d" % number for number in range(1, 51)])
        assert ran.stderr.count(f'"{question}"') == 1
        assert ran.stderr.count("connected to") == 1
        assert ran.stderr.count('"predict"') == 50


def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path, start_server: StartServer) -> None:
    """Ten times the records take hardly more memory: neither input nor answers are kept."""
    variables = environment(tmp_path, start_server().port)
    (tmp_path / "peak.py").write_text(
        "import json, resource, subprocess, sys\n"
        "subprocess.run(['lm', 'complete', '--each', 'line', '-j', '8'], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    peaks = []
    for count in (100, 1000):
        ran = run(
            "python peak.py", tmp_path, variables, stdin=b"".join(b"%d %s\n" % (n, b"x" * 10_000) for n in range(count))
        )
        assert ran.status == 0, ran.stderr
        peaks.append(int(ran.stdout))
    assert peaks[1] < 1.15 * peaks[0]
