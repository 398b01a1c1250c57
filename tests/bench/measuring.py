"""What the benchmarks share: whole processes, measured, and the server that is never the bottleneck."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

HERE = Path(__file__).parent


class Run(NamedTuple):
    """What one process took: wall seconds, its largest resident memory in KiB, and seconds of a processor."""

    seconds: float
    peak_kib: int
    busy_seconds: float


def environment() -> dict[str, str]:
    """The caller's, but with byte code cached, as an installed package has it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def fast_server() -> Iterator[int]:
    """The server; gives its port."""
    command = [sys.executable, str(HERE / "fast_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def measure(command: list[str], stdin: Path = Path(os.devnull)) -> Run:
    """Run one process to its end, with a file as its input."""
    began = time.perf_counter()
    with stdin.open("rb") as source:
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command} ended with {process.returncode}")
    unit = 1024 if sys.platform == "darwin" else 1
    return Run(seconds, usage.ru_maxrss // unit, usage.ru_utime + usage.ru_stime)


def seconds(runs: list[Run]) -> float:
    """The median."""
    return median(run.seconds for run in runs)


def busy_seconds(runs: list[Run]) -> float:
    """The median of what other work on the machine does not lengthen as much."""
    return median(run.busy_seconds for run in runs)


def slowest(values: list[float]) -> float:
    """The 99th percentile: of fewer than a hundred values, nearly the largest."""
    return quantiles(values, n=100, method="inclusive")[98] if len(values) > 1 else values[0]
