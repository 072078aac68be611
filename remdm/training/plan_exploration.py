"""Other actions than the planner's while it collects, so that its mistakes are met and labelled.

Drawn tokens explore by themselves (`sampler_collect_options = {"temperature": 1.0}`); what is here
also reaches where the planner never wants to go. Only plans of the planner are altered, and only
while training data is collected.
"""

from abc import ABC, abstractmethod

import gin
import numpy as np


class PlanExploration(ABC):
    """Alters plans before they are executed; a pure function of its arguments.

    Attributes:
        num_actions: Size of the action set.
        first: Epsilon at the beginning of the run.
        last: Epsilon from `until` on.
        until: Share of all epochs over which it moves in a straight line; 0 means `last` at once.
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
        kind = type(self).__name__
        for name, value in (("first", first), ("last", last), ("until", until)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {value}; set {kind}.{name}.")
        self.num_actions = num_actions
        self.first, self.last, self.until = first, last, until

    def epsilon(self, progress: float) -> float:
        """Epsilon at `progress`, the share of all epochs done, in [0, 1]."""
        if progress >= self.until:
            return self.last
        return self.first + (self.last - self.first) * progress / self.until

    @abstractmethod
    def __call__(self, plans: np.ndarray, progress: float, rng: np.random.Generator) -> np.ndarray:
        """Other plans in place of some.

        Args:
            plans: Integers [N, plan_horizon]: actions, then END; not changed.
            progress: The share of all epochs done.
            rng: Source of randomness; as many draws whatever the plans are.

        Returns:
            The plans to execute, of the same shape and dtype.
        """


@gin.configurable(module="remdm", denylist=["num_actions"])
class EpsilonPlans(PlanExploration):
    """A plan is replaced by random actions with probability epsilon (epsilon-greedy over plans)."""

    def __call__(self, plans: np.ndarray, progress: float, rng: np.random.Generator) -> np.ndarray:
        """See `PlanExploration.__call__`."""
        chosen = rng.random(len(plans)) < self.epsilon(progress)
        random = rng.integers(self.num_actions, size=plans.shape).astype(plans.dtype)
        return np.where(chosen[:, None], random, plans)


@gin.configurable(module="remdm", denylist=["num_actions"])
class EpsilonActions(PlanExploration):
    """Each action is random with probability epsilon; plans end where they did."""

    def __call__(self, plans: np.ndarray, progress: float, rng: np.random.Generator) -> np.ndarray:
        """See `PlanExploration.__call__`."""
        chosen = rng.random(plans.shape) < self.epsilon(progress)
        random = rng.integers(self.num_actions, size=plans.shape).astype(plans.dtype)
        return np.where(chosen & (plans < self.num_actions), random, plans)
