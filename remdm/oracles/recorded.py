"""Labels that were written into the observations while an expert looked on.

What an expert would do may hang on its memory, or on what the world hides, and is then only known
while an episode is played. It is recorded with the steps, and whoever labels later finds it there.
"""

import numpy as np

PLAN, WEIGHT = "expert/plan", "expert/weight"
"""Observations int8 [plan_horizon] and float32 []: a plan, and 0 where the expert was not asked."""
VECTOR = "expert/vector"
"""Observation float32 [D]: the vector that the expert would act by, where actions are vectors."""
TAKEN = "taken/vector"
"""Observation float32 [D], where actions are vectors: the one that was taken, before bounds."""


def recorded_plans(
    observations: dict[str, np.ndarray], plan_horizon: int, fix: str
) -> tuple[np.ndarray, np.ndarray]:
    """The labels in some observations; see `Oracle.label`.

    Args:
        observations: By name [T, ...].
        plan_horizon: Tokens per plan.
        fix: How to have labels recorded.

    Raises:
        ValueError: If there are none, or for shorter plans.
    """
    plans = observations.get(PLAN)
    if plans is None or plans.shape[1] < plan_horizon:
        found = "none" if plans is None else f"plans of {plans.shape[1]} tokens"
        raise ValueError(
            f"an expert's plans of {plan_horizon} tokens must have been recorded with the "
            f"observations, found {found}. {fix}"
        )
    plans = np.ascontiguousarray(plans[:, :plan_horizon])
    return plans, observations[WEIGHT].astype(np.float32)
