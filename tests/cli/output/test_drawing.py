"""Text and numbers as a terminal shows them: widths, bars, sparklines, histograms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.environment import Environment
from lmcli.cli.output.drawing import bars, clipped, columns_of, histogram, sparkline

numbers = st.floats(0, 1e9, allow_subnormal=False)


def terminal(**variables: str) -> Environment:
    """A process on a terminal."""
    return Environment(0, 1, 2, True, True, True, variables)


UTF8 = terminal(LANG="C.UTF-8", TERM="xterm")
ASCII = terminal(LC_ALL="C", TERM="xterm")


@pytest.mark.parametrize(
    ("text", "columns"), [("model", 5), ("通义千问", 8), ("🦙", 2), ("é", 1), ("e\u0301", 1), ("ﾓﾃﾞﾙ", 4), ("", 0)]
)
def test_the_width_of_a_text_is_that_on_the_terminal(text: str, columns: int) -> None:
    """Wide characters take two columns, marks none."""
    assert columns_of(text) == columns


def test_a_text_is_clipped_by_columns() -> None:
    """A character that would need a column too many is left out whole."""
    assert [clipped("a通b", width) for width in range(5)] == ["", "a", "a", "a通", "a通b"]


@pytest.mark.parametrize(
    ("variables", "blocks"),
    [
        ({"TERM": "xterm"}, "████"),
        ({"TERM": "dumb", "LANG": "C.UTF-8"}, ""),
        ({"LANG": "en_GB.UTF-8"}, "████"),
        ({"LANG": "de_DE.utf8@euro"}, "████"),
        ({"LC_CTYPE": "UTF-8"}, "████"),
        ({"LANG": "de_DE.ISO-8859-1"}, ""),
        ({"LANG": "C.UTF-8", "LC_ALL": "POSIX"}, ""),
        ({"LANG": "C.UTF-8", "LC_ALL": "", "LC_CTYPE": "C"}, ""),
    ],
)
def test_blocks_need_utf8_and_a_terminal_that_is_not_dumb(variables: dict[str, str], blocks: str) -> None:
    """LC_ALL comes before LC_CTYPE, and that before LANG; an empty one does not count."""
    assert sparkline([1.0] * 4, terminal(**variables)) == blocks


def test_bars_are_to_the_scale_of_the_largest() -> None:
    """In eighths of a column, from 0; what is unknown or 0 has none, and the least of something is seen."""
    values = [80.0, 40.0, 45.0, 1e-6, 0.0, None]
    assert bars(values, UTF8) == ["████████", "████", "████▌", "▏", "", ""]
    assert bars(values, ASCII) == ["########", "####", "#####", "#", "", ""]


def test_a_sparkline_has_a_block_for_each_value() -> None:
    """From 0 to the largest; there is none without blocks."""
    assert sparkline([8, 4, 1, 0, None, 7], UTF8) == "█▄▁  ▇"
    assert sparkline([8, 4], ASCII) == ""


@QUICK
@given(st.lists(st.none() | st.floats() | st.integers(-5, 5)))
def test_any_number_can_be_drawn(values: list[float | None]) -> None:
    """Whatever a server says, even what is no number, is a bar of eight columns at most, and a block."""
    for env in (UTF8, ASCII):
        assert all(len(bar) <= 8 for bar in bars(values, env))
    assert len(sparkline(values, UTF8)) == len(values)


@QUICK
@given(st.lists(numbers, max_size=100), st.integers(1, 20))
def test_a_histogram_counts_each_value_once(values: list[float], bins: int) -> None:
    """The bins add up to the number of values; the least is in the first bin, the greatest in the last."""
    counts = histogram(values, bins)
    assert (len(counts), sum(counts)) == (bins, len(values))
    if values and max(values) > min(values):
        assert counts[0]
        assert counts[-1]


def test_a_histogram_has_equal_steps() -> None:
    """Each value is in the step that it lies in, and a value on a border in the one above."""
    assert histogram([0.0, 1.0, 2.0, 2.5, 3.9, 4.0], 4) == [1, 1, 2, 2]
