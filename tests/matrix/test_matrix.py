"""A tenth of the matrix in every run of the suite: the same cells each time, chosen by a fixed seed.

`python tests/matrix/matrix.py` runs all of it, and prints the command that repeats a cell that failed.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from cells import DAMAGES, Cell, all_cells, run, sample
from damage import Expect
from forms import FORMS
from stage_server import ORDER, Stage

SHARE, SEED = 0.1, 1
AT_ONCE = 4
LEAST = 3000
"""So many cells the matrix has at least."""

CELLS = all_cells()


def by_form_and_stage() -> dict[tuple[str, str], list[Cell]]:
    """The chosen cells, in groups that a report can name."""
    groups = defaultdict(list)
    for cell in sample(CELLS, SHARE, SEED):
        groups[cell.form.name, str(cell.stage)].append(cell)
    return groups


@pytest.mark.parametrize(
    ("where", "cells"),
    sorted(by_form_and_stage().items()),
    ids=lambda value: "-".join(map(str, value[:2])) if isinstance(value, tuple) else "",
)
def test_what_goes_wrong_is_reported_and_nothing_is_lost(where: tuple[str, str], cells: list[Cell]) -> None:
    """Each fault in a stage of a command's dialogue: status, message, stdout and files are right, and it ends."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failed = [verdict for verdict in pool.map(run, cells) if verdict.problems]
    assert {str(verdict.cell): (verdict.problems, verdict.stderr) for verdict in failed} == {}


def test_the_matrix_is_whole() -> None:
    """Every stage, form and fault is in it, each cell once, and there are enough."""
    assert len(CELLS) >= LEAST
    assert len(set(map(str, CELLS))) == len(CELLS)
    assert {cell.form.name for cell in CELLS} == {form.name for form in FORMS}
    assert {cell.stage for cell in CELLS} >= set(ORDER) - {Stage.PROBE}
    assert {cell.damage[:2] for cell in CELLS} >= {
        d[:2] for d in DAMAGES if not d.needs_linux and d.stages != {Stage.PROBE}
    }


def test_a_broken_promise_is_noticed() -> None:
    """A judge that is told that a harmful fault is harmless, or the other way round, objects."""
    lost = next(cell for cell in CELLS if str(cell) == "middle / closed, FIN / respond / none")
    slow = next(cell for cell in CELLS if str(cell) == "middle / slow, byte by byte / respond / none")
    assert not run(lost).problems
    assert not run(slow).problems
    assert run(lost._replace(damage=lost.damage._replace(expect=Expect.COMPLETE))).problems
    assert run(slow._replace(damage=slow.damage._replace(expect=Expect.ERROR))).problems
