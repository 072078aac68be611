"""Chance, the row that every table needs."""

import gin
import numpy as np

from remdm.envs.contract import PlanVecEnv
from remdm.maps import NUM_ACTIONS, NUM_DIRECTIONS
from remdm.oracles.contract import Oracle
from remdm.tokens import end_token


@gin.configurable(module="remdm")
class RandomPolicy(Oracle):
    """Acts uniformly at random, and has no opinion to learn from (labels of weight 0)."""

    name = "random"

    def __init__(self, *, moves_only: bool = True) -> None:
        """Args:
        moves_only: In map environments draw from the eight moves only; otherwise, and
            everywhere else, from all actions.
        """
        self.num_actions = NUM_ACTIONS
        self.num_choices = NUM_DIRECTIONS if moves_only else NUM_ACTIONS

    def accompany(self, vec_env: PlanVecEnv, plan_horizon: int) -> PlanVecEnv:
        """See `Oracle.accompany`; learns what actions there are."""
        if "position" not in vec_env.observation_spec:
            self.num_actions = self.num_choices = vec_env.num_actions
        return vec_env

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """All END, all weight 0."""
        count = _count(observations)
        plans = np.full((count, plan_horizon), end_token(self.num_actions), np.int8)
        return plans, np.zeros(count, np.float32)

    def plan(
        self, observations: dict[str, np.ndarray], plan_horizon: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Independent uniform actions."""
        shape = (_count(observations), plan_horizon)
        return rng.integers(self.num_choices, size=shape).astype(np.int8)


def _count(observations: dict[str, np.ndarray]) -> int:
    return len(next(iter(observations.values())))
