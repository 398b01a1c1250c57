"""Exact figures over many values: percentiles, and the counts of a histogram."""

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import QUICK

from lmcli.cli.quantiles import Sample

figures = st.floats(0, 1e9, allow_subnormal=False)


def sample(values: list[float]) -> Sample:
    """A sample of some values."""
    one = Sample()
    for value in values:
        one.add(value)
    return one


def close(value: float) -> object:
    """The same but for the last digits, which depend on the order of a multiplication."""
    return pytest.approx(value, rel=1e-12, abs=1e-12)


@QUICK
@given(st.lists(figures, min_size=2, max_size=200))
def test_percentiles_are_those_of_the_statistics_module(values: list[float]) -> None:
    """Every percentile is the one of `statistics.quantiles`, with the least and the greatest value as 0 and 100."""
    one = sample(values)
    expected = statistics.quantiles(values, n=100, method="inclusive")
    assert [one.quantile(percent / 100) for percent in range(1, 100)] == [close(value) for value in expected]


@QUICK
@given(st.lists(figures, min_size=1, max_size=200))
def test_a_half_is_the_median(values: list[float]) -> None:
    """The share 0.5 is `statistics.median`, also of one value."""
    assert sample(values).quantile(0.5) == close(statistics.median(values))


@QUICK
@given(st.lists(figures, min_size=1, max_size=50))
def test_the_ends_are_the_least_and_the_greatest(values: list[float]) -> None:
    """0 and 1 are values of the sample, to the last bit; nothing between lies beyond them."""
    one = sample(values)
    assert (one.quantile(0.0), one.quantile(1.0)) == (min(values), max(values))
    assert all(min(values) <= (one.quantile(share) or 0.0) <= max(values) for share in (0.05, 0.5, 0.95, 0.99))


@QUICK
@given(figures, st.integers(1, 20))
def test_values_that_are_equal_have_no_other_percentile(value: float, count: int) -> None:
    """A figure that is the same in each run is shown as it is, not with a digit that came of reckoning."""
    one = sample([value] * count)
    assert {one.quantile(share) for share in (0.0, 0.5, 0.95, 0.99, 1.0)} == {value}


@QUICK
@given(st.lists(figures, min_size=1, max_size=20), st.lists(figures, min_size=1, max_size=20))
def test_values_may_be_added_after_a_look(first: list[float], second: list[float]) -> None:
    """A percentile is that of all values so far, whenever it is asked for."""
    one = sample(first)
    assert one.quantile(1.0) == max(first)
    for value in second:
        one.add(value)
    assert [one.quantile(share) for share in (0.0, 0.5, 0.95)] == [
        sample(first + second).quantile(share) for share in (0.0, 0.5, 0.95)
    ]


def test_what_is_not_known_is_no_value() -> None:
    """None is left out, and nothing at all has no percentile."""
    one = Sample()
    one.add(None)
    assert (len(one), one.quantile(0.5), one.histogram(3)) == (0, None, [0, 0, 0])
    one.add(2.0)
    assert (len(one), one.quantile(0.5)) == (1, 2.0)


@QUICK
@given(st.lists(figures, max_size=100), st.integers(1, 20))
def test_a_histogram_counts_each_value_once(values: list[float], bars: int) -> None:
    """The bars add up to the number of values; the least is in the first bar, the greatest in the last."""
    counts = sample(values).histogram(bars)
    assert (len(counts), sum(counts)) == (bars, len(values))
    if values and max(values) > min(values):
        assert counts[0]
        assert counts[-1]


def test_a_histogram_has_equal_steps() -> None:
    """Each value is in the step that it lies in, and a value on a border in the one above."""
    assert sample([0.0, 1.0, 2.0, 2.5, 3.9, 4.0]).histogram(4) == [1, 1, 2, 2]
