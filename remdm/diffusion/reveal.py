"""How many masked positions a denoising step decides, and which."""

import math
from abc import ABC, abstractmethod

import gin
import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.step import Step

# Entropies of certain tokens are rounding errors, not exact zeros.
ENTROPY_TOLERANCE = 1e-9


class Reveal(ABC):
    """Picks the masked positions to commit.

    Attributes:
        needs_grid: Whether it follows a time grid; otherwise it goes on until all is decided.
        needs_order: Whether it wants positions sorted by an `Order`.
        counts: Whether it makes the number of visible tokens follow the grid exactly.
        redecides: Whether it decides committed positions anew, too; free positions that it does
            not choose then become MASK.
    """

    needs_grid: bool
    needs_order: bool
    counts: bool = False
    redecides: bool = False

    @abstractmethod
    def __call__(self, step: Step, positions: Tensor | None, unmask: Tensor | float) -> Tensor:
        """Choose.

        Args:
            step: The denoising step.
            positions: int64 [b, H], masked positions in front, first the ones to decide first;
                None unless `needs_order`.
            unmask: Probability of a masked position to be revealed, a number or [b, 1].

        Returns:
            bool [b, H], a subset of `step.masked`, or of `step.free` if it `redecides`.
        """


@gin.configurable(module="remdm")
class BernoulliReveal(Reveal):
    """Each masked position on its own, as in MDLM and ReMDM (arXiv 2503.00307)."""

    needs_grid = True
    needs_order = False

    def __call__(self, step: Step, positions: Tensor | None, unmask: Tensor | float) -> Tensor:
        """See `Reveal.__call__`."""
        return step.masked & (step.uniform(draws.POSITION) < unmask)


@gin.configurable(module="remdm")
class CountReveal(Reveal):
    """As many positions as make the number of visible ones follow the schedule exactly.

    Has the token marginals of `BernoulliReveal` with fewer tokens decided in the same step, where
    they cannot see each other.
    """

    needs_grid = True
    needs_order = True
    counts = True

    def __call__(self, step: Step, positions: Tensor | None, unmask: Tensor | float) -> Tensor:
        """See `Reveal.__call__`; counts are of free positions, locked ones do not matter."""
        visible = step.committed
        if step.remasked is not None:
            visible = visible & ~step.remasked
        return _first(step, positions, step.target - visible.sum(-1) + step.surplus)


@gin.configurable(module="remdm")
class SeedCountReveal(Reveal):
    """The seed's schedule: step k of K decides `H * k // K` *further* positions.

    Meant as a running total but used as an increment, so everything is decided in about half
    of the steps. Kept to reproduce the seed.
    """

    needs_grid = True
    needs_order = True

    def __init__(self, *, min_share: float = 0.1) -> None:
        """Args:
            min_share: Least share of the plan decided per step (at least one position).

        Raises:
            ValueError: Unless it is in [0, 1].
        """
        if not 0 <= min_share <= 1:
            raise ValueError(f"SeedCountReveal.min_share must be in [0, 1], got {min_share}")
        self.min_share = min_share

    def __call__(self, step: Step, positions: Tensor | None, unmask: Tensor | float) -> Tensor:
        """See `Reveal.__call__`."""
        horizon = step.masked.shape[1]
        count = max(1, int(self.min_share * horizon), horizon * (step.index + 1) // step.num_steps)
        return _first(step, positions, torch.full_like(step.keys, count))


@gin.configurable(module="remdm")
class EntropyBoundReveal(Reveal):
    """As many positions as can be decided together at a bounded error (arXiv 2505.24857).

    The largest prefix U of the order with `sum of entropies over U - largest entropy in U` at
    most gamma, which bounds how far the product of marginals over U is from their joint, in nats.
    gamma = 0 decides one position a call, and every certain one with it; gamma = inf decides all.
    """

    needs_grid = False
    needs_order = True

    def __init__(self, *, gamma: float = 0.3) -> None:
        """Args:
            gamma: Bound in nats per call.

        Raises:
            ValueError: If it is negative.
        """
        if not gamma >= 0:
            raise ValueError(
                f"EntropyBoundReveal.gamma is a bound in nats and must be at least 0, got {gamma}"
            )
        self.gamma = gamma

    def __call__(self, step: Step, positions: Tensor | None, unmask: Tensor | float) -> Tensor:
        """See `Reveal.__call__`."""
        assert positions is not None
        if math.isinf(self.gamma):
            return step.masked
        entropies = step.entropies().masked_fill(~step.masked, 0.0).gather(-1, positions)
        excess = entropies.cumsum(-1) - entropies.cummax(-1).values
        if step.doubted is not None:
            # Doubted positions come last; each waits for a call of its own.
            doubted = step.doubted.gather(-1, positions)
            doubted[:, 0] = False
            excess = excess.masked_fill(doubted, torch.inf)
        return _first(step, positions, (excess <= self.gamma + ENTROPY_TOLERANCE).sum(-1))


@gin.configurable(module="remdm")
class ThresholdReveal(Reveal):
    """Every position whose likeliest class is likely enough, at least one (Fast-dLLM).

    Parallel greedy decoding by confidence of arXiv 2505.22618: with n tokens above 1 - e and
    (n + 1) e at most 1 the likeliest tokens are also the likeliest together.
    """

    needs_grid = False
    needs_order = True

    def __init__(self, *, tau: float = 0.9) -> None:
        """Args:
            tau: Probability that has to be exceeded, in [0, 1]; 0 decides all in one call and 1
                one position per call.

        Raises:
            ValueError: If it is outside.
        """
        if not 0 <= tau <= 1:
            raise ValueError(f"ThresholdReveal.tau must be a probability in [0, 1], got {tau}")
        self.tau = tau

    def __call__(self, step: Step, positions: Tensor | None, unmask: Tensor | float) -> Tensor:
        """See `Reveal.__call__`."""
        sure = step.masked & (step.probs.amax(-1) > self.tau)
        if step.doubted is not None:
            sure = sure & ~step.doubted
        none = (~sure.any(-1)).long()
        return sure | _first(step, positions, none)


@gin.configurable(module="remdm")
class RedecideReveal(Reveal):
    """The Craftax seed's evaluation: every position is drawn anew, the most confident ones stay.

    After step k of K a position stays if its confidence is at least the `H * k // K`-th largest;
    all others are MASK. Locked positions are drawn and counted, too, and then put back, as in the
    seed: confidence in what is given takes places from what is to be decided.
    """

    needs_grid = True
    needs_order = False
    redecides = True

    def __call__(self, step: Step, positions: Tensor | None, unmask: Tensor | float) -> Tensor:
        """See `Reveal.__call__`."""
        count = step.masked.shape[1] * (step.index + 1) // step.num_steps
        if count == 0:
            return torch.zeros_like(step.masked)
        threshold = step.sampled_confidence.topk(count, -1).values[:, -1:]
        return step.free & (step.sampled_confidence >= threshold)


def _first(step: Step, positions: Tensor | None, count: Tensor) -> Tensor:
    """The first `count` [b] of `positions` that are masked."""
    assert positions is not None
    ranks = positions.argsort(-1)
    return step.masked & (ranks < count[:, None])
