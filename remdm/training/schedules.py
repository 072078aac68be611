"""Numbers that change while something is trained, as pure functions of a count.

What is counted is said by who asks: weights of objectives follow updates, `Experiment.schedules`
env steps. Nothing is remembered between calls, so a run that goes on needs nothing restored.
"""

import bisect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import gin


def line_until(first: float, last: float, until: float, progress: float) -> float:
    """A straight line from `first` at progress 0 to `last` at `until`, and `last` from there on."""
    if progress >= until:
        return last
    return first + (last - first) * progress / until


class Schedule(ABC):
    """A number for every update, or whatever else is counted."""

    @abstractmethod
    def __call__(self, update: int) -> float:
        """The number of update `update`, counted from 0."""


@gin.configurable(module="remdm")
class LinearRamp(Schedule):
    """`first`, then a straight line, then `last`."""

    def __init__(
        self, *, first: float = 0.0, last: float = 1.0, until: int = 1000, start: int = 0
    ) -> None:
        """Args:
        first: Value up to update `start`.
        last: Value from update `until` on.
        until: Update at which the line ends.
        start: Update at which it begins.

        Raises:
            ValueError: Unless 0 <= start < until.
        """
        if not 0 <= start < until:
            raise ValueError(
                f"a ramp needs 0 <= start < until, got {start} and {until}; set LinearRamp.start "
                "and LinearRamp.until."
            )
        self.first, self.last, self.start, self.until = first, last, start, until

    def __call__(self, update: int) -> float:
        """See `Schedule.__call__`."""
        share = min(1.0, max(0.0, (update - self.start) / (self.until - self.start)))
        return self.first + (self.last - self.first) * share


@gin.configurable(module="remdm")
class ExponentialRamp(Schedule):
    """From `first` to `last` by the same factor at every update: first * (last / first)^(n / N)."""

    def __init__(self, *, first: float = 1.0, last: float = 0.01, until: int = 1000) -> None:
        """Args:
        first: Value at update 0.
        last: Value from update `until` on.
        until: N, the update at which it ends.

        Raises:
            ValueError: Unless both values are above 0 and `until` is at least 1.
        """
        if not (first > 0 and last > 0 and until >= 1):
            raise ValueError(
                f"an exponential ramp needs first and last above 0 and until >= 1, got {first}, "
                f"{last} and {until}; set ExponentialRamp.first, .last and .until."
            )
        self.first, self.last, self.until = first, last, until

    def __call__(self, update: int) -> float:
        """See `Schedule.__call__`."""
        share = min(1.0, update / self.until)
        return float(self.first * (self.last / self.first) ** share)


@gin.configurable(module="remdm")
class PiecewiseRamp(Schedule):
    """Straight lines between given points, and constant outside of them."""

    def __init__(self, *, points: Sequence[tuple[int, float]] = ((0, 1.0),)) -> None:
        """Args:
        points: (update, value) in the order of updates.

        Raises:
            ValueError: If there is none, or updates do not rise.
        """
        updates = [update for update, _ in points]
        if not points or any(a >= b for a, b in itertools.pairwise(updates)):
            raise ValueError(
                f"points must be (update, value) with rising updates, got {list(points)!r}; set "
                "PiecewiseRamp.points."
            )
        self.updates, self.values = updates, [float(value) for _, value in points]

    def __call__(self, update: int) -> float:
        """See `Schedule.__call__`."""
        place = bisect.bisect_right(self.updates, update)
        if place in (0, len(self.updates)):
            return self.values[min(place, len(self.values) - 1)]
        before, after = self.updates[place - 1], self.updates[place]
        share = (update - before) / (after - before)
        return self.values[place - 1] + (self.values[place] - self.values[place - 1]) * share
