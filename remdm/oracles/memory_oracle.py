"""The teacher: breadth-first search with the agent's own memory of the episode."""

from collections.abc import Callable

import gin
import numpy as np

from remdm.maps import NUM_ACTIONS
from remdm.oracles.contract import Oracle
from remdm.oracles.search import label_maps
from remdm.tokens import end_token

MAP_KEYS = ("terrain", "visited", "searched", "blocked", "position")


@gin.configurable(module="remdm")
class MemoryOracle(Oracle):
    """Plans over what the agent remembers: stairs, else the unknown, else hidden passages.

    A label is a pure function of the observation and goes up to the first uncertain event
    (see `remdm.oracles.search`), so it can be asked about any memory, also an imagined one.
    """

    name = "memory"
    version = 1

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.label`; every observation gets a plan of weight 1."""
        return written_plans(label_maps, observations, plan_horizon)


def written_plans(
    write: Callable[..., None], observations: dict[str, np.ndarray], plan_horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Plans and weights of a compiled function that labels remembered maps.

    Args:
        write: Takes the arrays of `MAP_KEYS`, the END token, and int8 [T, plan_horizon] to fill.
        observations: By name [T, ...].
        plan_horizon: Tokens per plan.

    Returns:
        See `Oracle.label`; all weights are 1.
    """
    count = len(observations["position"])
    plans = np.empty((count, plan_horizon), np.int8)
    maps = (_read_only(observations[key]) for key in MAP_KEYS)
    write(*maps, end_token(NUM_ACTIONS), plans)
    return plans, np.ones(count, np.float32)


def _read_only(array: np.ndarray) -> np.ndarray:
    """A contiguous view that cannot be written, so that there is one kind of array to compile for.

    Observations come mapped from files as well as fresh from environments.
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
