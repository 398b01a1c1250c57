"""Run the matrix of stages, faults and commands: `python tests/matrix/matrix.py [--share X] [--seed N] [--only TEXT]`.

Each cell is a real process against a real server on a real socket. Printed are the cells by stage and fault, the
longest run and the largest process, and for each cell that failed why, and the command that repeats it alone. The
status is that of the matrix: 0 if every cell holds its promise.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parent.parent))

from cells import TRY_AGAIN, Cell, Verdict, all_cells, run, sample
from damage import Expect
from stage_server import ORDER, Stage

_WIDTH = 11
_PROMISES: Final[Mapping[str, Callable[[Verdict], bool]]] = {
    "ends, by itself or when it is told to": lambda verdict: True,
    "a failure has its status, one line of error, and no traceback": lambda verdict: verdict.status > 0,
    "what had arrived is on stdout": lambda verdict: verdict.cell.stage in (Stage.MIDDLE, Stage.SUCCESS, Stage.CLOSE),
    "what is harmless does no harm": lambda verdict: verdict.cell.damage.expect is Expect.COMPLETE,
    "a signal is obeyed": lambda verdict: verdict.obeyed > 0,
    "--timeout ends a silence": lambda verdict: verdict.status == TRY_AGAIN,
    "a chat file stays whole": lambda verdict: "--history" in verdict.cell.form.command,
}
"""What the README promises, and which cells each promise is kept in."""


def main() -> int:
    """Run what was asked for."""
    options = _options()
    cells = [cell for cell in all_cells() if all(part in str(cell) for part in options.only)]
    if options.share < 1:
        cells = sample(cells, options.share, options.seed)
    if options.list:
        print(*cells, sep="\n")
        return 0
    began = time.monotonic()
    verdicts = []
    for verdict in _run(cells, options.jobs):
        verdicts.append(verdict)
        if verdict.problems:
            print("\n".join(_explanation(verdict)), flush=True)
    failed = [verdict for verdict in verdicts if verdict.problems]
    print("\n".join(table(verdicts)))
    minutes = (time.monotonic() - began) / 60
    print(f"{len(cells)} cells, {len(cells) - len(failed)} hold, {len(failed)} fail; {minutes:.1f} minutes")
    print("\n".join(_promises(verdicts)))
    print("\n".join(_extremes(verdicts)))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1, help="the share of the cells to run, such as 0.1")
    parser.add_argument("--seed", type=int, default=1, help="chooses the share")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cells with this in their name")
    parser.add_argument("--jobs", type=int, default=4 * (os.cpu_count() or 1), help="cells at a time")
    parser.add_argument("--list", action="store_true", help="print the cells and run none")
    return parser.parse_args()


def _run(cells: Sequence[Cell], jobs: int) -> Iterator[Verdict]:
    with ThreadPoolExecutor(jobs) as pool:
        for count, verdict in enumerate(pool.map(_guarded, cells), 1):
            if sys.stderr.isatty() or count % 500 == 0:
                print(f"\r{count} of {len(cells)}", end="", file=sys.stderr, flush=True)
            yield verdict
    print(file=sys.stderr)


def _guarded(cell: Cell) -> Verdict:
    try:
        return run(cell)
    except Exception as error:  # noqa: BLE001  a cell that cannot be run is one that failed
        return Verdict(cell, [f"the server failed: {error!r}"], 0, 0, 0, 0, "")


def table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """The cells by fault and stage; of those that failed, how many."""
    ran = Counter((v.cell.damage.group, v.cell.stage) for v in verdicts)
    failed = Counter((v.cell.damage.group, v.cell.stage) for v in verdicts if v.problems)
    groups = list(dict.fromkeys(v.cell.damage.group for v in verdicts))
    stages = [stage for stage in ORDER if any(s is stage for _, s in ran)]
    yield "".join(f"{title:>{_WIDTH}}" for title in ("", *stages))
    for group in groups:
        counts = [_count(ran[group, stage], failed[group, stage]) for stage in stages]
        yield "".join(f"{text:>{_WIDTH}}" for text in (group, *counts))


def _count(ran: int, failed: int) -> str:
    return f"{failed} of {ran}" if failed else str(ran or ".")


def _explanation(verdict: Verdict) -> Iterator[str]:
    yield ""
    yield f"FAILED {verdict.cell}: status {verdict.status}, {verdict.seconds:.1f} s"
    yield from (f"  {problem[:300]}" for problem in verdict.problems)
    yield from (f"  | {line[:200]}" for line in verdict.stderr.splitlines()[-6:])
    yield f"  python tests/matrix/matrix.py --only '{verdict.cell}'"


def _promises(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for promise, is_about in _PROMISES.items():
        about = [verdict for verdict in verdicts if is_about(verdict)]
        yield f"{_count(len(about), sum(map(bool, (v.problems for v in about)))):>{_WIDTH}}  {promise}"


def _extremes(verdicts: Sequence[Verdict]) -> Iterator[str]:
    if verdicts:
        slowest = max(verdicts, key=lambda verdict: verdict.seconds)
        latest = max(verdicts, key=lambda verdict: verdict.obeyed)
        largest = max(verdicts, key=lambda verdict: verdict.peak_kib)
        yield f"longest: {slowest.seconds:.1f} s, {slowest.cell}"
        yield f"slowest to obey a signal: {latest.obeyed:.1f} s, {latest.cell}"
        yield f"largest: {largest.peak_kib / 1024:.0f} MiB, {largest.cell}"


if __name__ == "__main__":
    sys.exit(main())
