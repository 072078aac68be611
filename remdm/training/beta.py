"""How often the oracle acts while data is collected (DAgger's beta; Ross et al. 2011, sec. 3.2)."""

from abc import ABC, abstractmethod

import gin


class BetaSchedule(ABC):
    """Probability that a plan to execute is the oracle's, as a pure function of progress."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Beta at `progress`, the share of all epochs done, in [0, 1]."""


@gin.configurable(module="remdm")
class LinearBeta(BetaSchedule):
    """From `first` down to `last` in a straight line, and constant afterwards."""

    def __init__(self, *, first: float = 0.5, last: float = 0.0, until: float = 0.25) -> None:
        """Args:
        first: Beta at progress 0.
        last: Beta from progress `until` on.
        until: Share of all epochs over which beta falls; 0 means `last` at once.

        Raises:
            ValueError: If an argument is outside [0, 1].
        """
        for name, value in (("first", first), ("last", last), ("until", until)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}; set LinearBeta.{name}.")
        self.first, self.last, self.until = first, last, until

    def __call__(self, progress: float) -> float:
        """See `BetaSchedule.__call__`."""
        if progress >= self.until:
            return self.last
        return self.first + (self.last - self.first) * progress / self.until


@gin.configurable(module="remdm")
class ExponentialBeta(BetaSchedule):
    """`first * decay ** (100 * progress)`: beta shrinks by `decay` with each percent of the run."""

    def __init__(self, *, first: float = 1.0, decay: float = 0.9) -> None:
        """Args:
        first: Beta at progress 0.
        decay: Factor per percent of the run.

        Raises:
            ValueError: If an argument is outside [0, 1].
        """
        for name, value in (("first", first), ("decay", decay)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"{name} must be in [0, 1], got {value}; set ExponentialBeta.{name}."
                )
        self.first, self.decay = first, decay

    def __call__(self, progress: float) -> float:
        """See `BetaSchedule.__call__`."""
        return self.first * self.decay ** (100.0 * progress)
