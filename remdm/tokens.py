"""The token alphabet of a plan.

A plan is a row of `plan_horizon` integers. Actions are `0 .. num_actions - 1`; two more tokens
follow them: MASK (not decided yet) and END (the plan stops here). After the first END all is END.
"""

import numpy as np


def mask_token(num_actions: int) -> int:
    """The token of a position that is not decided yet."""
    return num_actions


def end_token(num_actions: int) -> int:
    """The token that closes a plan; predicted and masked in training like any action."""
    return num_actions + 1


def vocabulary_size(num_actions: int) -> int:
    """Number of symbols a denoiser reads: the actions, MASK and END."""
    return num_actions + 2


def plan_lengths(plans: np.ndarray, num_actions: int) -> np.ndarray:
    """Number of actions before the first END of each plan.

    Args:
        plans: Integer tokens, [..., plan_horizon].
        num_actions: Size of the action set.

    Returns:
        int64 [...]; `plan_horizon` where a plan has no END.
    """
    ended = plans == end_token(num_actions)
    return np.where(ended.any(-1), ended.argmax(-1), plans.shape[-1])
