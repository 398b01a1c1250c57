"""Percentiles over many values."""

from collections.abc import Sequence
from statistics import median, quantiles


def percentiles(values: Sequence[float], *percents: int, more_is_better: bool = False) -> dict[str, float | None]:
    """Percentiles by name, such as `p95`: the value that 95 % of the values are no worse than; None without any.

    For times these are no longer ones; where more is better, as for tokens per second, these are no lower ones: p95 is
    the slow tail of both. Between two values it is interpolated, as by `statistics.quantiles` with `inclusive`.
    """
    if not values:
        return dict.fromkeys(map("p{}".format, percents))
    ordered = sorted(values)
    cuts = quantiles(ordered, n=100, method="inclusive") if len(ordered) > 1 else ordered * 99
    cuts[49] = median(ordered)  # the same, but to the last bit
    return {f"p{percent}": cuts[(100 - percent if more_is_better else percent) - 1] for percent in percents}
