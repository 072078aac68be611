"""Interquartile means of several runs, and how far chance between seeds could move them.

A score is the win rate of one training run in one environment. The interquartile mean leaves out
the lowest and the highest quarter of all scores (Agarwal et al. 2021, arXiv:2108.13264, section
4.3). Its interval is a stratified percentile bootstrap: runs are drawn anew in each environment on
its own. With few seeds it is too narrow: by simulation with 7 environments it covers 82 % with 3
seeds, 91 % with 5 and 93 % with 10 where it says 95 %.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

# From so many seeds on an interval may be believed.
ENOUGH_SEEDS = 5
RESAMPLES = 10_000
_BATCH = 1 << 20  # scores drawn at a time


@dataclass(frozen=True, slots=True)
class IQM:
    """An interquartile mean with its interval.

    Attributes:
        value: Of all scores.
        low: Lower limit; None with one seed, which cannot say how seeds differ.
        high: Upper limit; likewise.
        seeds: Runs behind it.
        envs: Environments behind it.
    """

    value: float
    low: float | None
    high: float | None
    seeds: int
    envs: int


def interquartile_mean(scores: np.ndarray) -> np.ndarray:
    """Mean without the lowest and the highest quarter.

    As in scipy's `trim_mean(scores, 0.25)`, a quarter that is no whole number is rounded down.

    Args:
        scores: float64 [..., n], n at least 1.

    Returns:
        float64 [...].
    """
    cut = scores.shape[-1] // 4
    ordered = np.sort(scores, axis=-1)
    kept: np.ndarray = ordered[..., cut : scores.shape[-1] - cut].mean(axis=-1)
    return kept


def bootstrap_iqm(
    scores: ArrayLike,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> IQM:
    """The interquartile mean over runs and environments with a stratified bootstrap interval.

    Args:
        scores: [seeds, environments].
        generator: Draws the runs.
        resamples: How often.
        confidence: Coverage that is aimed at, in (0, 1).

    Raises:
        ValueError: If there are no scores, or one is not finite, or `confidence` is not between 0
            and 1.
    """
    table = np.asarray(scores, float)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(
            "scores must be finite numbers [seeds, environments] with at least one of each, "
            f"got shape {table.shape}."
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}; 0.95 is usual.")
    seeds, envs = table.shape
    value = float(interquartile_mean(table.reshape(-1)))
    if seeds == 1:
        return IQM(value, None, None, seeds, envs)
    drawn = resampled_iqms(table, generator, resamples)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return IQM(value, float(low), float(high), seeds, envs)


def resampled_iqms(
    scores: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """Interquartile means of tables whose runs were drawn anew in each environment.

    Args:
        scores: float64 [seeds, environments].
        generator: Draws the runs.
        resamples: How many tables.

    Returns:
        float64 [resamples].
    """
    seeds, envs = scores.shape
    most = max(1, _BATCH // scores.size)
    found = []
    for first in range(0, resamples, most):
        count = min(most, resamples - first)
        rows = generator.integers(seeds, size=(count, seeds, envs))
        tables = scores[rows, np.arange(envs)]
        found.append(interquartile_mean(tables.reshape(count, -1)))
    return np.concatenate(found)
