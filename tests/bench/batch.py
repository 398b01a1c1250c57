"""Many prompts, as ratios in one run: `python tests/bench/batch.py [--runs N] [--records N] [--kept N]`.

`lm respond --each` is measured against itself with one prediction at a time, against a process for each prompt, and
against the official SDK; then its memory with few and many records, and how fast it passes over records that its
results file answers. Contenders run in turn, whole processes each; ratios are those of medians. Nothing here is
asserted.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from measuring import HERE, Run, busy_seconds, fast_server, measure, seconds

SHORT = 1_000
PROCESSES = 100
SLOW_RECORDS = 64
WORDS = "one two three four five six seven eight nine ten"
JOBS = 8


class Contender(NamedTuple):
    """A command, its input, and how often it has to run for all records."""

    command: list[str]
    stdin: Path
    times: int = 1

    def run(self) -> Run:
        """Measure it; what runs many times is run once for each ten, and scaled."""
        counted = max(1, self.times * PROCESSES // SHORT)
        runs = [measure(self.command, self.stdin) for _ in range(counted)]
        scale = self.times / counted
        wall, busy = (scale * sum(times) for times in ((r.seconds for r in runs), (r.busy_seconds for r in runs)))
        return Run(wall, max(run.peak_kib for run in runs), busy)


def respond(port: str | int, *options: str) -> list[str]:
    """A command line of `lm respond`."""
    return [sys.executable, "-m", "lmcli", "respond", "--host", f"127.0.0.1:{port}", *options]


def each_line(port: str | int, *options: str) -> list[str]:
    """The same for the lines of the input."""
    return respond(port, "--each", "line", *options)


def in_turn(contenders: dict[str, Contender], runs: int) -> dict[str, list[Run]]:
    """Run all in turn, many times."""
    rounds = [{name: contender.run() for name, contender in contenders.items()} for _ in range(runs)]
    return {name: [one[name] for one in rounds] for name in contenders}


def lines(path: Path, records: Iterator[str]) -> Path:
    """A file of records."""
    with path.open("w") as file:
        file.writelines(f"{record}\n" for record in records)
    return path


@contextmanager
def echo_server(*options: str) -> Iterator[str]:
    """`lm serve`; gives its port."""
    command = [sys.executable, "-m", "lmcli", "serve", "-q", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip().rpartition(":")[2]
        process.terminate()


def at_once(folder: Path, runs: int) -> None:
    """Several predictions at once, with a server whose every prediction takes a while."""
    prompts = lines(folder / "words", iter([WORDS] * SLOW_RECORDS))
    with echo_server("--tokens-per-second", "50") as port:
        contenders = {f"-j {jobs}": Contender(each_line(port, "-j", str(jobs)), prompts) for jobs in (1, JOBS)}
        one, many = (seconds(found) for found in in_turn(contenders, runs).values())
    print(f"{SLOW_RECORDS} records of ten tokens, 50 tokens per second each, median of {runs}:")
    print(f"  -j 1 {one:.2f} s, -j {JOBS} {many:.2f} s, ratio 1/{one / many:.1f}  (at most 1/6)")


def against_others(port: int, folder: Path, runs: int) -> None:
    """Short prompts: one `lm`, a process for each, and the clients of the official SDK."""
    prompts = lines(folder / "short", (f"prompt {number}" for number in range(SHORT)))
    sdk = [sys.executable, str(HERE / "official_sdk_batch.py"), str(port)]
    contenders = {
        "lm --each": Contender(each_line(port, "-j", str(JOBS)), prompts),
        "SDK, loop": Contender([*sdk, "0"], prompts),
        "SDK, async": Contender([*sdk, str(JOBS)], prompts),
        "processes": Contender(respond(port, "-n", "prompt"), prompts, times=SHORT),
    }
    found = in_turn(contenders, runs)
    print(f"{SHORT} short records, -j {JOBS}, whole processes, median of {runs} (processes: {PROCESSES}, scaled):")
    for name, times in found.items():
        print(f"  {name:11} {seconds(times):7.2f} s, {busy_seconds(times):6.2f} s of a processor")
    for name, wanted in (("processes", 20), ("SDK, loop", 6), ("SDK, async", 2.5)):
        wall, busy = (of(found[name]) / of(found["lm --each"]) for of in (seconds, busy_seconds))
        print(
            f"  lm --each is {wall:.1f} times as fast as {name}, {busy:.1f} by time of a processor  (at least {wanted})"
        )


def memory(port: int, folder: Path, count: int) -> None:
    """Peak memory with few records and many, also if the first takes longest."""
    print(f"peak memory for {SHORT} and {count} records:")
    for name, first in (("all alike", "prompt"), ("the first is the slowest", "slow")):
        peaks = []
        for records in (SHORT, count):
            prompts = lines(folder / "records", (f"prompt {n}" if n else first for n in range(records)))
            peaks.append(measure(each_line(port), prompts).peak_kib)
        few, many = peaks
        print(f"  {name:24} {few / 1024:.1f} and {many / 1024:.1f} MiB, ratio {many / few:.3f}  (at most 1.10)")


def earlier_run(port: int, folder: Path, form: str, count: int) -> tuple[Path, Path]:
    """Prompts and their results file: one answer, predicted once and written for each of them."""

    def name(number: int) -> dict[str, Any]:
        return {"id": f"record-{number}"} if form == "jsonl" else {}

    def prompt(number: int) -> str:
        return orjson.dumps({**name(number), "prompt": "hello"}).decode() if form == "jsonl" else "hello"

    sample = folder / "sample"
    sample.unlink(missing_ok=True)
    first = lines(folder / "first", iter([prompt(0)]))
    measure(respond(port, "--each", form, "--results", str(sample)), first)
    result = orjson.loads(sample.read_bytes())
    results = (orjson.dumps({**result, "index": number, **name(number)}).decode() for number in range(count))
    return lines(folder / "prompts", map(prompt, range(count))), lines(folder / "results", results)


def kept(port: int, folder: Path, count: int, runs: int) -> None:
    """Records that the results file answers: read, passed over, and written."""
    print(f"{count} records that the results file answers, median of {runs}  (at least 100,000 a second):")
    for form in ("line", "jsonl"):
        prompts, results = earlier_run(port, folder, form, count)
        for output in ("text", "jsonl"):
            command = respond(port, "--each", form, "--results", str(results), "-o", output)
            found = [measure(command, prompts) for _ in range(runs)]
            rate, busy_rate = count / seconds(found), count / busy_seconds(found)
            peak = max(run.peak_kib for run in found) / 1024
            rates = f"{rate:9,.0f} records a second, {busy_rate:9,.0f} by time of a processor"
            print(f"  --each {form:5} -o {output:5} {rates}; {peak:.0f} MiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kept", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, fast_server() as port:
        folder = Path(name)
        at_once(folder, options.runs)
        against_others(port, folder, options.runs)
        memory(port, folder, options.records)
        kept(port, folder, options.kept, options.runs)


if __name__ == "__main__":
    main()
