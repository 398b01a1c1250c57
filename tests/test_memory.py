"""Memory of the real command: near the size of a large input or answer, not a multiple of it."""

from pathlib import Path

import pytest
from memory import CASES, MEGABYTE, Case, peak

SIZE = 30 * MEGABYTE
CONSTANT = 12 * MEGABYTE
"""Pieces and frames under way, and what the system rounds up."""

LIMITS = {
    "prompt on stdin": 1.5,
    "prompt and question": 1.5,
    "text to complete": 1.5,
    "text file, -f": 2.5,
    "image, -f": 1.5,
    "history of one message": 2.5,
    "chat file": 2.5,
    "one line for lm stats": 3.5,
    "tool call, text": 3.5,
    "tool call, history": 3.5,
    "answer, text": 0.0,
    "answer, jsonl": 0.0,
    "answer, json": 0.0,
    "answer, history": 0.0,
    "answer, chat file": 0.0,
}
"""By case, how often the size may be in memory: JSON that is parsed is there twice, as text and as values.

The arguments of a tool call come in pieces, which are not kept, and once more in one packet.
"""

GROWTH = 1.25
"""The peaks of two sizes differ by less: what the system rounds up differs from run to run."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> int:
    """What a small request takes."""
    return peak(Case("respond -n hi"), 0, tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("case", LIMITS)
def test_a_large_input_or_answer_is_in_memory_about_once(case: str, base: int, tmp_path: Path) -> None:
    """The peak of the resident memory above that of a small request is bounded by the size."""
    above = peak(CASES[case], SIZE, tmp_path) - base
    assert above <= LIMITS[case] * SIZE + CONSTANT, f"{above / SIZE:.2f} times the size"


@pytest.mark.parametrize("case", [case for case, limit in LIMITS.items() if not limit])
def test_memory_does_not_grow_with_the_answer(case: str, tmp_path: Path) -> None:
    """An answer that is three times as long takes no more memory, whatever is written at its end."""
    short, long = (peak(CASES[case], size * MEGABYTE, tmp_path) for size in (40, 120))
    assert long < GROWTH * short, f"{short / MEGABYTE:.0f} MB, then {long / MEGABYTE:.0f} MB"
