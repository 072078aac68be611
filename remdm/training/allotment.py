"""How many actors each environment gets, and when its training episodes are cut."""

from collections.abc import Sequence

import numpy as np


def allot_actors(
    envs: Sequence[str], shares: Sequence[float] | None, actors: int
) -> tuple[str, ...]:
    """One environment name per actor, each environment's actors side by side.

    Shares are met by the largest-remainder rule, with at least one actor each.

    Args:
        envs: Environment names.
        shares: Positive weights, one per environment; equal when None.
        actors: Number of actors.

    Raises:
        ValueError: If the numbers do not fit together.
    """
    weights = np.ones(len(envs)) if shares is None else np.asarray(shares, float)
    if len(weights) != len(envs) or not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            f"actor_shares must be one positive number per environment: {len(envs)} environments, "
            f"got {shares}; set Experiment.actor_shares."
        )
    if actors < len(envs):
        raise ValueError(
            f"parallel_actors must be at least the number of training environments, {len(envs)}, "
            f"got {actors}; set Experiment.parallel_actors."
        )
    exact = weights / weights.sum() * actors
    counts = np.maximum(1, np.floor(exact)).astype(int)
    while counts.sum() < actors:
        counts[(exact - counts).argmax()] += 1
    while counts.sum() > actors:
        counts[np.where(counts > 1, counts - exact, -np.inf).argmax()] -= 1
    return tuple(env for env, n in zip(envs, counts, strict=True) for _ in range(n))


def level_caps(envs: Sequence[str], caps: Sequence[int] | None) -> dict[str, int | None]:
    """Step limit of training episodes by environment; None leaves the environment's own.

    Raises:
        ValueError: If there is not one positive number per environment.
    """
    if caps is None:
        return dict.fromkeys(envs)
    if len(caps) != len(envs) or any(cap < 1 for cap in caps):
        raise ValueError(
            f"train_step_caps must be one positive number per environment: {len(envs)} "
            f"environments, got {caps}; set Experiment.train_step_caps."
        )
    return dict(zip(envs, caps, strict=True))
