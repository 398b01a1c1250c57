"""The README's table of speed and its chart are what the benchmark prints and draws."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench import BLOCK, CHART, JAVASCRIPT, README, Row, clients, panels
from chart import Panel, drawn
from conftest import PATIENCE
from measuring import HERE

SHOWN = BLOCK.search(README.read_text(encoding="utf-8"))


def shown() -> str:
    """What the README shows."""
    assert SHOWN is not None, "the README has no place for the table"
    return SHOWN[2]


def rows_of(text: str) -> list[Row]:
    """The cells of a table, without the rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in (lines[0], *lines[2:])]


def form_of(text: str) -> str:
    """A text whose figures and line breaks do not count."""
    without_system = re.sub(r"\b(Linux|Darwin)\b", "…", text)
    return " ".join(re.sub(r"-?\d[\d.,]*\d|-?\d", "0", without_system).split())


def test_the_table_of_the_readme_is_that_of_the_benchmark(tmp_path: Path) -> None:
    """A short run prints the same columns, rows of the same form, and the same sentence below them."""
    small = ["--runs", "1", "--streams", "1", "--fragments", "1000", "--alone", "3"]
    command = [sys.executable, str(HERE / "bench.py"), *small, "--chart", str(tmp_path / "chart.svg"), "lm respond"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=6 * PATIENCE, check=True)
    printed, kept = rows_of(ran.stdout), {row[0]: row for row in rows_of(shown())}
    assert [row[0] for row in printed] == ["client", "`lm respond`", "`lm respond -o jsonl`", "bare loop"]
    assert [form_of(" | ".join(kept[row[0]])) for row in printed] == [form_of(" | ".join(row)) for row in printed]
    assert form_of(shown().rpartition("|")[2]) == form_of(ran.stdout.rpartition("|")[2])
    assert (tmp_path / "chart.svg").read_text() == drawn(panels(printed))


def test_the_readme_shows_every_client(tmp_path: Path) -> None:
    """Each contender has a row, also the SDK that is installed for the run."""
    assert [row[0] for row in rows_of(shown())[1:]] == list(clients(0, tmp_path))
    assert JAVASCRIPT in shown()


def test_the_chart_is_that_of_the_table() -> None:
    """The picture that the README shows has the table's medians."""
    assert CHART.read_text(encoding="utf-8") == drawn(panels(rows_of(shown())))
    assert f"]({CHART.relative_to(README.parent)})" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["lm respond", "a <b> & c"])
def test_a_bar_is_as_long_as_its_figure(name: str) -> None:
    """The longest fills its place, the others are in proportion; names are escaped."""
    picture = drawn([Panel("Title", "ms", [(name, "200"), ("other", "1,000"), ("third", "500")])])
    small, large, middle = map(float, re.findall(r'<rect class="(?:own|other)".* width="([\d.]+)"', picture))
    assert (round(large / small, 1), round(large / middle, 1)) == (5.0, 2.0)
    assert "<b>" not in picture
