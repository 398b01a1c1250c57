"""What an answer costs, beside a bare loop and the official SDKs: `python tests/bench/bench.py [CLIENT…]`.

Whole processes run in turn, against a server that is never the bottleneck: `lm`, its Python module, a loop that does
the least that is possible, and the official SDKs for Python and JavaScript. Absolute times say little on a shared
machine; ratios of one run do. `--readme` writes the table into the README and draws its chart. Nothing is asserted.
"""

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

from chart import Panel, drawn
from measuring import HERE, fast_server, measure, slowest

ROOT = HERE.parents[1]
README = ROOT / "README.md"
CHART = ROOT / ".pictures" / "speed.svg"
BLOCK = re.compile(r"(<!-- measured by python tests/bench/bench.py --readme -->\n)(.*?)(<!-- end -->)", re.DOTALL)
YARDSTICK = "bare loop"
RESPOND, RELAY = "`lm respond`", "relay"
PYTHON, JAVASCRIPT = SDKS = ("`lmstudio`, Python", "`@lmstudio/sdk`, JavaScript")
SHORTER = 10
"""How often the long answers of the official SDKs are contained in the others: theirs would take minutes."""
SDK = "@lmstudio/sdk@1.5.0"
WIDTH = 120

Command = Callable[[str], list[str]]
Row = tuple[str, ...]
Found = TypeVar("Found")


class Costs(NamedTuple):
    """What a client took, in seconds and KiB.

    Attributes:
        answers: for each short answer, the whole process.
        fragments: for each long answer, a fragment without the start of the process, measured beside it.
        peak_kib: the largest resident memory.
    """

    answers: list[float]
    fragments: list[float]
    peak_kib: int


def clients(port: int, folder: Path) -> dict[str, Command]:
    """The command lines, made of a prompt; the folder contains what is installed for this run."""
    python, module = sys.executable, str(HERE / "python_client.py")
    lm = [python, "-m", "lmcli", "respond", "-n", "--host", f"127.0.0.1:{port}"]
    return {
        RESPOND: lambda prompt: [*lm, prompt],
        "`lm respond -o jsonl`": lambda prompt: [*lm, "-o", "jsonl", prompt],
        "`lmcli.Client`": lambda prompt: [python, module, "lmcli", str(port), prompt],
        "`lmcli.AsyncClient`": lambda prompt: [python, module, "lmcli", str(port), prompt, "--async"],
        YARDSTICK: lambda prompt: [python, str(HERE / "bare_loop.py"), str(port), prompt],
        PYTHON: lambda prompt: [python, module, "lmstudio", str(port), prompt],
        JAVASCRIPT: lambda prompt: ["node", str(folder / "official_sdk.mjs"), str(port), prompt],
    }


def chosen(port: int, folder: Path, words: Sequence[str]) -> dict[str, Command]:
    """The clients whose names contain one of the words, or all, and the yardstick; those that can be run."""
    found = {
        name: command
        for name, command in clients(port, folder).items()
        if name == YARDSTICK or not words or any(word in name for word in words)
    }
    if JAVASCRIPT in found and not has_javascript_sdk(folder):
        print(f"{JAVASCRIPT} is left out: npm cannot install it", file=sys.stderr)
        del found[JAVASCRIPT]
    return found


def has_javascript_sdk(folder: Path) -> bool:
    """Install the SDK into a folder with its program; whether that was possible."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        return False
    shutil.copy(HERE / "official_sdk.mjs", folder)
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", SDK]
    return subprocess.run(install, cwd=folder, capture_output=True, check=False).returncode == 0


def costs(commands: dict[str, Command], options: argparse.Namespace) -> dict[str, Costs]:
    """Measure short answers and long ones; the first of each kind is not counted."""
    counts = {name: length_of(name, options.fragments) for name in commands}
    runs = options.streams
    short = in_turn(commands, lambda name: measure(commands[name]("hi")), options.runs)
    long = in_turn(
        commands, lambda name: (measure(commands[name]("hi")), measure(commands[name](f"n={counts[name]}"))), runs
    )
    return {
        name: Costs(
            answers=[run.seconds for run in short[name]],
            fragments=[(flood.seconds - start.seconds) / counts[name] for start, flood in long[name]],
            peak_kib=max(flood.peak_kib for _, flood in long[name]),
        )
        for name in commands
    }


def delays(
    names: Iterable[str], folder: Path, options: argparse.Namespace, *, are_awake: bool
) -> dict[str, list[float]]:
    """The delays of fragments that come alone, of clients and of a process that writes what it reads, in turn.

    Args:
        names: the clients.
        folder: see `clients`.
        options: how many of them.
        are_awake: whether processors are kept from halting.
    """
    import latency  # after memory is measured: a process counts what its parent had

    def command(name: str, port: int) -> list[str]:
        if name == RELAY:
            return [sys.executable, str(HERE / "bare_loop.py"), str(port), "one", "--relay"]
        return clients(port, folder)[name]("one")

    def take(name: str) -> list[float]:
        return latency.delays(lambda port: command(name, port), options.alone)

    with latency.awake() if are_awake else nullcontext():
        found = in_turn([*names, RELAY], take, options.streams)
    return {name: [delay for run in runs for delay in run] for name, runs in found.items()}


def length_of(name: str, fragments: int) -> int:
    """How many fragments the long answer of a client has."""
    return fragments // SHORTER if name in SDKS else fragments


def in_turn(names: Iterable[str], take: Callable[[str], Found], runs: int) -> dict[str, list[Found]]:
    """Take all clients in turn, many times."""
    rounds = [{name: take(name) for name in names} for _ in range(runs + 1)]
    return {name: [one[name] for one in rounds[1:]] for name in names}


def table(found: dict[str, Costs], late: dict[str, list[float]]) -> list[Row]:
    """The headings and the cells, median / 99th percentile; a ratio is the median of those in each round."""
    bare = found[YARDSTICK]
    headings = ("client", "answer, ms", "/ bare loop", "fragments/s", "/ bare loop", "latency, µs", "memory, MiB")
    return [
        headings,
        *(
            (
                name,
                f"{median(one.answers) * 1e3:.0f} / {slowest(one.answers) * 1e3:.0f}",
                f"{_ratio(one.answers, bare.answers):.2f}",
                f"{_rate(median(one.fragments))} / {_rate(slowest(one.fragments))}",
                f"{_ratio(bare.fragments, one.fragments):.2f}",
                _microseconds(late[name]),
                f"{one.peak_kib / 1024:.0f}",
            )
            for name, one in found.items()
        ),
    ]


def _ratio(these: list[float], those: list[float]) -> float:
    return median(this / that for this, that in zip(these, those, strict=True))


def _microseconds(delays: list[float]) -> str:
    return f"{median(delays) * 1e6:.0f} / {slowest(delays) * 1e6:.0f}"


def _rate(seconds: float) -> str:
    return f"{round(1 / seconds, -2):,.0f}"


def as_markdown(rows: Sequence[Row]) -> str:
    """A table that is aligned in the source, too: names to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in [lines[0], rule, *lines[1:]])


def panels(rows: Sequence[Row]) -> list[Panel]:
    """The chart of a table: its medians, without the figures behind the slash."""
    charts = {
        1: ("One answer, whole process", "ms, less is better"),
        3: ("One long stream", "fragments per second, more is better"),
        5: ("From the server's socket to stdout", "µs, less is better"),
    }
    return [
        Panel(title, note, [(row[0].replace("`", ""), row[column].partition(" ")[0]) for row in rows[1:]])
        for column, (title, note) in charts.items()
    ]


def circumstances(
    options: argparse.Namespace,
    peaks: Sequence[float],
    late: dict[str, list[float]],
    halting: dict[str, list[float]],
) -> str:
    """Where and how it was measured; the delays are those of processors that are awake, and of some that halt."""
    few, many = (f"{peak / 1024:.0f} MiB" for peak in peaks)
    streams, fragments = options.streams, options.fragments
    text = (
        f"Measured on {datetime.now().astimezone():%Y-%m-%d} with {os.cpu_count()} processors, {platform.system()}, "
        f"Python {platform.python_version()}: median / 99th percentile of {options.runs} short answers, {streams} "
        f"streams of {fragments:,} fragments ({fragments // SHORTER:,} for the SDKs), and {streams * options.alone:,} "
        f"fragments that came alone. A process that writes what it reads has a latency of "
        f"{_microseconds(late[RELAY])} µs. With processors that halt while they are idle, it has "
        f"{_microseconds(halting[RELAY])} µs, and `lm respond` {_microseconds(halting[RESPOND])} µs. "
        f"For an answer of 1,000 fragments `lm respond` takes {few} of memory, for one of {2 * fragments:,} {many}."
    )
    return f"{textwrap.fill(text, WIDTH)}\n"


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=21, help="of the short answers")
    parser.add_argument("--streams", type=int, default=5, help="runs of the others")
    parser.add_argument("--fragments", type=int, default=500_000, help="of a long answer")
    parser.add_argument("--alone", type=int, default=250, help="fragments that come alone, in one of these runs")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="draw the medians as SVG")
    parser.add_argument("--readme", action="store_true", help="write the README's table and its chart")
    parser.add_argument("words", nargs="*", metavar="CLIENT", help="words of their names; all by default")
    options = parser.parse_args()
    with fast_server() as port, tempfile.TemporaryDirectory() as name:
        commands = chosen(port, Path(name), options.words)
        respond = clients(port, Path(name))[RESPOND]
        peaks = [measure(respond(f"n={count}")).peak_kib for count in (1_000, 2 * options.fragments)]
        found = costs(commands, options)
        awake = delays(commands, Path(name), options, are_awake=True)
        halting = delays([RESPOND], Path(name), options, are_awake=False)
    rows = table(found, awake)
    text = f"{as_markdown(rows)}\n{circumstances(options, peaks, awake, halting)}"
    print(text, end="")
    for file in filter(None, (options.chart, CHART if options.readme else None)):
        file.write_text(drawn(panels(rows)), encoding="utf-8")
    if options.readme:
        readme = README.read_text(encoding="utf-8")
        README.write_text(BLOCK.sub(lambda block: f"{block[1]}{text}{block[3]}", readme), encoding="utf-8")


if __name__ == "__main__":
    main()
