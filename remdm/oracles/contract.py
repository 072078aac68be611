"""The contract of an oracle: who says what the plan should have been."""

from abc import ABC, abstractmethod

import numpy as np


class Oracle(ABC):
    """Labels observations with plans, and acts by them.

    Attributes:
        name: Short name, printed in tables and stored with labels.
        version: Changes when labels change.
    """

    name: str
    version: int = 1

    @abstractmethod
    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The plan the oracle would make at each observation.

        Args:
            observations: By name [T, ...].
            plan_horizon: Tokens per plan.

        Returns:
            plans: int8 [T, plan_horizon]: actions, then END to the last position.
            weights: float32 [T]; 0 where the oracle has no plan.
        """

    def plan(
        self, observations: dict[str, np.ndarray], plan_horizon: int, rng: np.random.Generator
    ) -> np.ndarray:
        """The plan to execute at each observation, int8 [N, plan_horizon].

        The label itself unless the oracle acts at random.
        """
        return self.label(observations, plan_horizon)[0]
