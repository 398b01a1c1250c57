"""Percentiles over many values: those of the statistics module, and which tail of them is meant."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.series import percentiles

PERCENTS = range(1, 100)
numbers = st.floats(0, 1e9, allow_subnormal=False)


@QUICK
@given(st.lists(numbers, min_size=2, max_size=200))
def test_percentiles_are_those_of_the_statistics_module(values: list[float]) -> None:
    """Every percentile is the one of `statistics.quantiles` with the method `inclusive`."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    assert list(percentiles(values, *PERCENTS).values()) == [pytest.approx(cut, rel=1e-15) for cut in cuts]


@QUICK
@given(st.lists(numbers, min_size=1, max_size=200))
def test_p50_is_the_median(values: list[float]) -> None:
    """To the last bit, also of one value, and whichever way is better."""
    for more_is_better in (False, True):
        assert percentiles(values, 50, more_is_better=more_is_better) == {"p50": statistics.median(values)}


@QUICK
@given(st.lists(numbers, min_size=2, max_size=50))
def test_where_more_is_better_the_tail_is_that_of_the_low_values(values: list[float]) -> None:
    """p95 is then the 5th percentile; it lies among the values, and no higher than the median."""
    tail = percentiles(values, 95, more_is_better=True)["p95"]
    assert tail == percentiles(values, 5)["p5"]
    assert tail is not None
    assert min(values) <= tail * (1 + 1e-15)
    assert tail <= statistics.median(values) * (1 + 1e-15)


def test_p95_is_what_95_of_100_values_are_no_worse_than() -> None:
    """Of the times 0 to 100 s 95 % are at most 95 s; of the rates 0 to 100 tokens/s 95 % are at least 5 tokens/s."""
    assert percentiles(range(101), 95) == {"p95": 95}
    assert percentiles(range(101), 95, more_is_better=True) == {"p95": 5}


def test_without_values_there_are_no_percentiles() -> None:
    """None stands for what is not known; one value is every percentile."""
    assert percentiles([], 50, 95) == {"p50": None, "p95": None}
    assert percentiles([2.0], 1, 95, 99) == {"p1": 2.0, "p95": 2.0, "p99": 2.0}
