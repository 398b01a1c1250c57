"""Exact figures over many values, in eight bytes a value."""

from array import array


class Sample:
    """Values that are looked at together, such as all times to the first token."""

    def __init__(self) -> None:
        self._values = array("d")
        self._is_ordered = True

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float | None) -> None:
        """Take one value; None is none."""
        if value is not None:
            self._values.append(value)
            self._is_ordered = False

    def quantile(self, share: float) -> float | None:
        """The value below which this share (0.0 to 1.0) of the values lies; None without any.

        Between two values it is interpolated, the lowest being 0.0 and the highest 1.0: what the method `inclusive` of
        Python's statistics.quantiles gives, and for 0.5 the median.
        """
        if not self._values:
            return None
        if not self._is_ordered:
            self._values = array("d", sorted(self._values))
            self._is_ordered = True
        position = share * (len(self._values) - 1)
        below = int(position)
        above = min(below + 1, len(self._values) - 1)
        return self._values[below] + (self._values[above] - self._values[below]) * (position - below)

    def histogram(self, bars: int) -> list[int]:
        """How many values lie in each of so many equal steps from the lowest to the highest."""
        counts = [0] * bars
        if self._values:
            low, high = min(self._values), max(self._values)
            width = (high - low) / bars or 1.0
            for value in self._values:
                counts[min(int((value - low) / width), bars - 1)] += 1
        return counts
