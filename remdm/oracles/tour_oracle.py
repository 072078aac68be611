"""The memory oracle's plans, thought on to the horizon."""

import gin
import numpy as np

from remdm.oracles.memory_oracle import MemoryOracle, written_plans
from remdm.oracles.tours import tour_maps


@gin.configurable(module="remdm")
class TourOracle(MemoryOracle):
    """Labels with tours over several frontiers; acts like `MemoryOracle`.

    A tour begins with the plan of `MemoryOracle` and goes on as if it had taught nothing (see
    `remdm.oracles.tours`). It is a pure function of the observation, too. Who acts does better to
    look again at the first uncertain event, so `plan` ends there.
    """

    name = "tours"
    version = 1

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.label`; every observation gets a tour of weight 1."""
        return written_plans(tour_maps, observations, plan_horizon)

    def plan(
        self, observations: dict[str, np.ndarray], plan_horizon: int, rng: np.random.Generator
    ) -> np.ndarray:
        """See `Oracle.plan`; up to the first uncertain event."""
        return MemoryOracle.label(self, observations, plan_horizon)[0]
