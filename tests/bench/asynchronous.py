"""The asynchronous API beside the official SDK's, in one run: `python tests/bench/asynchronous.py [--runs N]`.

Each client runs in turn, in a process of its own, against a server that is never the bottleneck: many short
predictions on one connection, some of them at once, and one long stream. What is timed begins after the model handle is
there. Absolute times say little on a shared machine; the ratios of medians do. Nothing here is asserted.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from importlib import import_module
from statistics import median
from typing import Any, NamedTuple

from measuring import fast_server

CLIENTS = {"lmcli": "lmcli", "official SDK": "lmstudio"}


class Run(NamedTuple):
    """What one process took: seconds, and its largest resident memory in KiB."""

    seconds: float
    peak_kib: int


async def predict(model: Any, count: int, at_once: int) -> None:
    """Run predictions of one fragment, some at once."""
    slots = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with slots:
            await model.respond("hi")

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())


async def stream(model: Any, fragments: int) -> None:
    """Read one long answer."""
    count = 0
    async for _ in await model.respond_stream(f"n={fragments}"):
        count += 1
    assert count == fragments


async def work(library: str, port: int, task: str, first: int, second: int) -> None:
    """Do one task and print what it took."""
    async with import_module(library).AsyncClient(f"127.0.0.1:{port}") as client:
        model = await client.llm.model("echo")
        await model.respond("hi")
        began = time.perf_counter()
        await (predict(model, first, second) if task == "predict" else stream(model, first))
        seconds = time.perf_counter() - began
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def measure(library: str, port: int, *task: object) -> Run:
    """Run one process to its end."""
    command = [sys.executable, __file__, "--work", library, str(port), *map(str, task)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return Run(*json.loads(done.stdout))


def in_turn(port: int, runs: int, *task: object) -> dict[str, list[Run]]:
    """Run both clients in turn."""
    rounds = [{name: measure(library, port, *task) for name, library in CLIENTS.items()} for _ in range(runs)]
    return {name: [one[name] for one in rounds] for name in CLIENTS}


def show(what: str, count: int, found: dict[str, list[Run]], unit: str, wanted: int) -> None:
    """Print a figure of each client, and their ratio."""
    seconds = {name: median(run.seconds for run in runs) for name, runs in found.items()}
    print(what)
    for name, taken in seconds.items():
        peak = max(run.peak_kib for run in found[name]) / 1024
        print(f"  {name:13} {taken / count * 1e6:8.1f} us per {unit}, {count / taken:9,.0f} /s, {peak:6.1f} MiB")
    print(f"  official SDK / lmcli {seconds['official SDK'] / seconds['lmcli']:.1f}  (at least {wanted})")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--predictions", type=int, default=1000)
    parser.add_argument("--fragments", type=int, default=100_000)
    parser.add_argument("--work", nargs="+", metavar="WORD", help="what the process of one client does")
    options = parser.parse_args()
    if options.work:
        library, port, task, *counts = options.work
        asyncio.run(work(library, int(port), task, *[*map(int, counts), 0][:2]))
        return
    with fast_server() as port:
        for at_once in (8, 64, options.predictions):
            found = in_turn(port, options.runs, "predict", options.predictions, at_once)
            title = f"{options.predictions} predictions of one fragment, {at_once} at once"
            show(title, options.predictions, found, "prediction", 3)
        found = in_turn(port, options.runs, "stream", options.fragments)
        show(f"one stream of {options.fragments} fragments", options.fragments, found, "fragment", 10)


if __name__ == "__main__":
    main()
