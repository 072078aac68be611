"""Other actions than the planner's while it collects, so that its mistakes are met and labelled.

Drawn tokens explore by themselves, and more so where they are drawn hotter (`HotPlans`); epsilon
also reaches where the planner never wants to go. Only the planner explores, not the oracle, and
only while training data is collected.
"""

from abc import ABC, abstractmethod

import gin
import numpy as np

from remdm.training.schedules import line_until


class PlanExploration(ABC):
    """How plans are altered before they are executed; pure functions of their arguments.

    Attributes:
        num_actions: Size of the action set.
    """

    def __init__(self, num_actions: int) -> None:
        """Args:
        num_actions: See above.
        """
        self.num_actions = num_actions

    def heat(self, progress: float) -> float:
        """Factor on the temperature that plans are written with; see `__call__`."""
        return 1.0

    @abstractmethod
    def metrics(self, progress: float) -> dict[str, float]:
        """What to log of how much is explored; see `__call__`."""

    @abstractmethod
    def __call__(self, plans: np.ndarray, progress: float, rng: np.random.Generator) -> np.ndarray:
        """Other plans in place of some.

        Args:
            plans: Integers [N, plan_horizon]: actions, then END; not changed.
            progress: The share of all epochs done, in [0, 1].
            rng: Source of randomness; as many draws whatever the plans are.

        Returns:
            The plans to execute, of the same shape and dtype.
        """


class Epsilon(PlanExploration):
    """Random actions in place of planned ones, with a probability that moves in a straight line.

    Attributes:
        num_actions: Size of the action set.
        first: Epsilon at the beginning of the run.
        last: Epsilon from `until` on.
        until: Share of all epochs over which it moves; 0 means `last` at once.
    """

    def __init__(
        self, num_actions: int, *, first: float = 0.1, last: float = 0.0, until: float = 1.0
    ) -> None:
        """Args:
        num_actions: See above.
        first: See above.
        last: See above.
        until: See above.

        Raises:
            ValueError: If one of them is outside [0, 1].
        """
        super().__init__(num_actions)
        kind = type(self).__name__
        for name, value in (("first", first), ("last", last), ("until", until)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}; set {kind}.{name}.")
        self.first, self.last, self.until = first, last, until

    def epsilon(self, progress: float) -> float:
        """Epsilon at `progress`, the share of all epochs done, in [0, 1]."""
        return line_until(self.first, self.last, self.until, progress)

    def metrics(self, progress: float) -> dict[str, float]:
        """See `PlanExploration.metrics`."""
        return {"collect/epsilon": self.epsilon(progress)}


@gin.configurable(module="remdm", denylist=["num_actions"])
class EpsilonPlans(Epsilon):
    """A plan is replaced by random actions with probability epsilon (epsilon-greedy over plans)."""

    def __call__(self, plans: np.ndarray, progress: float, rng: np.random.Generator) -> np.ndarray:
        """See `PlanExploration.__call__`."""
        chosen = rng.random(len(plans)) < self.epsilon(progress)
        random = rng.integers(self.num_actions, size=plans.shape).astype(plans.dtype)
        return np.where(chosen[:, None], random, plans)


@gin.configurable(module="remdm", denylist=["num_actions"])
class EpsilonActions(Epsilon):
    """Each action is random with probability epsilon; plans end where they did."""

    def __call__(self, plans: np.ndarray, progress: float, rng: np.random.Generator) -> np.ndarray:
        """See `PlanExploration.__call__`."""
        chosen = rng.random(plans.shape) < self.epsilon(progress)
        random = rng.integers(self.num_actions, size=plans.shape).astype(plans.dtype)
        return np.where(chosen & (plans < self.num_actions), random, plans)


@gin.configurable(module="remdm", denylist=["num_actions"])
class HotPlans(PlanExploration):
    """Plans are written at a higher temperature, which falls to that of the sampler.

    Every token that is drawn gets it, in whatever way the agent draws; it is a factor on the
    temperature that is bound for collecting.
    """

    def __init__(
        self, num_actions: int, *, first: float = 2.0, last: float = 1.0, until: float = 1.0
    ) -> None:
        """Args:
        num_actions: Size of the action set.
        first: Factor on the temperature at the beginning of the run.
        last: Factor from `until` on.
        until: Share of all epochs over which it moves in a straight line; 0 means `last` at once.

        Raises:
            ValueError: If a factor is not above 0, or `until` outside [0, 1].
        """
        super().__init__(num_actions)
        for name, value in (("first", first), ("last", last)):
            if not 0.0 < value < float("inf"):
                raise ValueError(
                    f"{name} must be above 0 and finite, got {value}; set HotPlans.{name}."
                )
        if not 0.0 <= until <= 1.0:
            raise ValueError(f"until must be in [0, 1], got {until}; set HotPlans.until.")
        self.first, self.last, self.until = first, last, until

    def heat(self, progress: float) -> float:
        """See `PlanExploration.heat`."""
        return line_until(self.first, self.last, self.until, progress)

    def metrics(self, progress: float) -> dict[str, float]:
        """See `PlanExploration.metrics`."""
        return {"collect/heat": self.heat(progress)}

    def __call__(self, plans: np.ndarray, progress: float, rng: np.random.Generator) -> np.ndarray:
        """The plans themselves."""
        return plans
