"""The contract of an oracle: who says what the plan should have been."""

from abc import ABC, abstractmethod

import numpy as np

from remdm.envs.contract import PlanVecEnv


class Oracle(ABC):
    """Labels observations with plans, and acts by them.

    Attributes:
        name: Short name, printed in tables and stored with labels.
        version: Changes when labels change.
        gives_plans: Whether labels are whole plans; otherwise only their first actions count.
    """

    name: str
    version: int = 1
    gives_plans: bool = True

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

    def accompany(self, vec_env: PlanVecEnv, plan_horizon: int) -> PlanVecEnv:
        """The environments as they must be for this oracle to plan and label in them.

        Most oracles read a plan off an observation, and take them as they are. One that remembers
        the episode, or looks behind what is seen, goes along and writes its plans into the
        observations, where `plan` and `label` find them.

        Args:
            vec_env: Where episodes are played.
            plan_horizon: Tokens per plan.

        Raises:
            ValueError: If the oracle does not know these environments.
        """
        return vec_env
