"""The memory oracle's plans, thought on to the horizon."""

import gin
import numpy as np

from remdm.maps import NUM_ACTIONS
from remdm.oracles.memory_oracle import MAP_KEYS, MemoryOracle
from remdm.oracles.tours import tour_maps
from remdm.tokens import end_token


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
        count = len(observations["position"])
        plans = np.empty((count, plan_horizon), np.int8)
        # Read-only like what is mapped from files, so that there is one kind to compile for.
        terrain, visited, searched, blocked, position = (
            np.ascontiguousarray(observations[key]).view() for key in MAP_KEYS
        )
        for array in (terrain, visited, searched, blocked, position):
            array.flags.writeable = False
        tour_maps(terrain, visited, searched, blocked, position, end_token(NUM_ACTIONS), plans)
        return plans, np.ones(count, np.float32)

    def plan(
        self, observations: dict[str, np.ndarray], plan_horizon: int, rng: np.random.Generator
    ) -> np.ndarray:
        """See `Oracle.plan`; up to the first uncertain event."""
        return MemoryOracle.label(self, observations, plan_horizon)[0]
