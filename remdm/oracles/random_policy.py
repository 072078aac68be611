"""Chance, the row that every table needs."""

import gin
import numpy as np

from remdm.maps import NUM_ACTIONS, NUM_DIRECTIONS
from remdm.oracles.contract import Oracle
from remdm.tokens import end_token


@gin.configurable(module="remdm")
class RandomPolicy(Oracle):
    """Acts uniformly at random, and has no opinion to learn from (labels of weight 0)."""

    name = "random"

    def __init__(self, *, moves_only: bool = True) -> None:
        """Args:
        moves_only: Draw from the eight moves only; otherwise from all actions.
        """
        self.num_choices = NUM_DIRECTIONS if moves_only else NUM_ACTIONS

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """All END, all weight 0."""
        count = len(observations["position"])
        plans = np.full((count, plan_horizon), end_token(NUM_ACTIONS), np.int8)
        return plans, np.zeros(count, np.float32)

    def plan(
        self, observations: dict[str, np.ndarray], plan_horizon: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Independent uniform actions."""
        shape = (len(observations["position"]), plan_horizon)
        return rng.integers(self.num_choices, size=shape).astype(np.int8)
