"""Remasking rules that keep the number of visible tokens on the schedule while they doubt some."""

import gin
import torch
from torch import Tensor

from remdm.diffusion.grids import GridStep
from remdm.diffusion.remask import (
    IndependentRemask,
    Remask,
    Remasking,
    check_eta,
    doubt_shares,
    sigma_max,
)
from remdm.diffusion.step import Step


@gin.configurable(module="remdm")
class BudgetedConfRemask(IndependentRemask):
    """Confidence decides which tokens are redrawn, a budget how many, a balance what it costs.

    With w the softmax of -confidence / temperature over the n committed positions,
    `sigma_l = min(sigma_max, eta * sigma_max * n * w_l)`: the mean sigma is that of
    `RescaleRemask`. Masked positions are revealed with the probability that makes the expected
    number of visible tokens alpha_s of the free ones, from the row's own counts.
    """

    def __init__(self, *, eta: float = 0.5, temperature: float = 0.1) -> None:
        """Args:
            eta: Mean of sigma as a share of its bound, in [0, 1].
            temperature: Of the softmax, in units of probability, above 0; small values redraw
                the least certain tokens only.

        Raises:
            ValueError: If a value is out of range.
        """
        check_eta("BudgetedConfRemask", eta)
        if not temperature > 0:
            raise ValueError(f"BudgetedConfRemask.temperature must be above 0, got {temperature}")
        self.eta = eta
        self.temperature = temperature

    def sigma(self, step: Step) -> Tensor | float:
        """See `IndependentRemask.sigma`."""
        bound = sigma_max(step.alpha_t, step.alpha_s)
        count = step.committed.sum(-1, keepdim=True).double()
        return (self.eta * bound * count * doubt_shares(step, self.temperature)).clamp(max=bound)

    def unmask(self, step: Step, sigma: Tensor | float) -> Tensor | float:
        """See `IndependentRemask.unmask`: (alpha_s n_free - sum of 1 - sigma) / n_masked."""
        kept = ((1.0 - sigma) * step.committed).sum(-1)
        wanted = step.alpha_s * step.free.sum(-1) - kept
        return (wanted / step.masked.sum(-1).clamp_min(1)).clamp(0.0, 1.0)[:, None]

    def can_act(self, grid_step: GridStep, index: int, num_steps: int) -> bool:
        """See `Remask.can_act`."""
        del index, num_steps
        bound = sigma_max(grid_step.alpha_t, grid_step.alpha_s)
        return grid_step.remasks and self.eta * bound > 0


@gin.configurable(module="remdm")
class SwapRemask(Remask):
    """Each step takes the least certain tokens back and decides as many others instead.

    P2 (arXiv 2502.03540) held to a few exchanges per step, so that a plan settles down. What
    counts is the confidence that a token was committed with.
    """

    needs_counts = True

    def __init__(self, *, swaps: int = 1, competitive: bool = False) -> None:
        """Args:
            swaps: Tokens taken back per step, at least 1; fewer where fewer than that stay masked
                after the step.
            competitive: Take back after the reveal, so that a doubtful newcomer may be the one
                that goes. Better where a wrong token can be told at once (open rooms), worse where
                it shows later (Sudoku).

        Raises:
            ValueError: If `swaps` is less than 1.
        """
        if swaps < 1:
            raise ValueError(
                f"SwapRemask.swaps must be at least 1, got {swaps}; for none set "
                "Sampler.remask = @NoRemask()"
            )
        self.swaps = swaps
        self.after_reveal = competitive

    def surplus(self, step: Step) -> Tensor | int:
        """See `Remask.surplus`."""
        return (step.free.sum(-1) - step.target).clamp(max=self.swaps)

    def __call__(self, step: Step) -> Remasking:
        """See `Remask.__call__`."""
        kept = step.target
        if not self.after_reveal:
            kept = step.committed.sum(-1) - self.surplus(step)
        return Remasking(_beyond(kept, step, step.committed_confidence), 0.0)


@gin.configurable(module="remdm")
class PathRemask(Remask):
    """P2's self-planning (arXiv 2502.03540): every position competes for a place at every step.

    A token committed before scores `eta * log` of the confidence it was committed with, the token
    drawn for a masked position now the log of its confidence; the best of all, alpha_s of the free
    positions, are visible after the step, so the order plays no part.
    """

    after_reveal = True
    needs_counts = True

    def __init__(self, *, eta: float = 1.0) -> None:
        """Args:
            eta: 1 lets all compete alike, 0 keeps every committed token; in [0, 1].

        Raises:
            ValueError: If it is outside.
        """
        check_eta("PathRemask", eta)
        self.eta = eta

    def surplus(self, step: Step) -> Tensor | int:
        """See `Remask.surplus`; all that is masked is drawn."""
        return step.masked.shape[1]

    def __call__(self, step: Step) -> Remasking:
        """See `Remask.__call__`."""
        old = step.committed if step.revealed is None else step.committed & ~step.revealed
        # Newcomers are below a certain token by a hair, so that eta = 0 keeps all the old ones.
        newcomer = step.committed_confidence.log().clamp(max=-1e-12)
        weighted = self.eta * step.committed_confidence.clamp_min(1e-300).log()
        return Remasking(_beyond(step.target, step, torch.where(old, weighted, newcomer)), 0.0)


def _beyond(kept: Tensor, step: Step, scores: Tensor) -> Tensor:
    """The committed tokens that are not among the `kept` [b] best of their row, bool [b, H]."""
    scores = scores.masked_fill(~step.committed, -torch.inf)
    ranks = scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return step.committed & (ranks >= kept[:, None])
