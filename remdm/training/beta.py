"""How often the oracle acts while data is collected (DAgger's beta; Ross et al. 2011, sec. 3.2)."""

from abc import ABC, abstractmethod

import gin

from remdm.training.schedules import line_until


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
        return line_until(self.first, self.last, self.until, progress)


@gin.configurable(module="remdm")
class ConstantBeta(BetaSchedule):
    """The same all the time, unless `Experiment.schedules` moves it.

    So any function of the env steps is a beta, as a ramp between points:

        Experiment.beta_schedule_type = @ConstantBeta
        Experiment.schedules = {"ConstantBeta.value": @PiecewiseRamp()}
    """

    def __init__(self, *, value: float = 0.0) -> None:
        """Args:
        value: Beta.

        Raises:
            ValueError: If it is outside [0, 1].
        """
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"value must be in [0, 1], got {value}; set ConstantBeta.value.")
        self.value = value

    def __call__(self, progress: float) -> float:
        """See `BetaSchedule.__call__`."""
        return self.value


DECAY = 0.9


def decay_between(first: float, last: float, steps: float) -> float:
    """The factor per step by which `first` becomes `last` in `steps` steps: (last / first)^(1 / n).

    Backwards, a decay d with each of N updates makes last / first = d^N.
    """
    return (last / first) ** (1.0 / steps)


@gin.configurable(module="remdm")
class ExponentialBeta(BetaSchedule):
    """`first * decay ** (100 * progress)`: beta shrinks by `decay` with each percent of the run.

    With `last` the decay is the one that ends there, whatever the number of epochs: epoch i of N
    begins with `first * (last / first) ** (i / N)`. A decay d per epoch, as others state it, is
    `last = first * d ** N`, or d ** (N / 100) per percent.
    """

    def __init__(
        self, *, first: float = 1.0, decay: float = DECAY, last: float | None = None
    ) -> None:
        """Args:
        first: Beta at progress 0.
        decay: Factor per percent of the run.
        last: Beta at progress 1, which sets the decay; None leaves it to `decay`.

        Raises:
            ValueError: If an argument is outside [0, 1], `last` cannot be reached by factors, or
                both `decay` and `last` are set.
        """
        given = {"first": first, "decay": decay} | ({} if last is None else {"last": last})
        for name, value in given.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(
                    f"{name} must be in [0, 1], got {value}; set ExponentialBeta.{name}."
                )
        if last is not None:
            if decay != DECAY:
                raise ValueError(
                    f"last={last} sets the decay, and decay={decay} would be another one; set "
                    f"ExponentialBeta.decay = {DECAY}, its default, or ExponentialBeta.last = None."
                )
            if not (first > 0.0 and last > 0.0):
                raise ValueError(
                    "first and last must be above 0, or no factor leads from one to the other, "
                    f"got {first} and {last}; set ExponentialBeta.first and ExponentialBeta.last, "
                    "or take LinearBeta."
                )
            decay = decay_between(first, last, 100.0)
        self.first, self.last, self.decay = first, last, decay

    def __call__(self, progress: float) -> float:
        """See `BetaSchedule.__call__`."""
        if self.last is not None:  # no rounding of the decay, which 100 factors would add up
            return self.first * (self.last / self.first) ** progress
        return self.first * self.decay ** (100.0 * progress)
