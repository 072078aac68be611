"""Which masked positions are decided first.

With an exact denoiser and one token per step every order that looks at distributions only
samples the model exactly; `SampledConfidenceOrder` looks at the sampled token and does not.
"""

from abc import ABC, abstractmethod

import gin
import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.step import Step


class Order(ABC):
    """Scores positions; the highest score is decided first."""

    @abstractmethod
    def scores(self, step: Step) -> Tensor:
        """float64 [b, H]; only the masked positions' scores are read."""


@gin.configurable(module="remdm")
class RandomOrder(Order):
    """Uniformly random."""

    def scores(self, step: Step) -> Tensor:
        """See `Order.scores`."""
        return step.uniform(draws.POSITION)


@gin.configurable(module="remdm")
class PositionOrder(Order):
    """From the first position to the last."""

    def scores(self, step: Step) -> Tensor:
        """See `Order.scores`."""
        horizon = step.masked.shape[1]
        positions = torch.arange(horizon, device=step.masked.device, dtype=torch.float64)
        return (-positions).expand(step.masked.shape)


@gin.configurable(module="remdm")
class MaxProbOrder(Order):
    """By the probability of the likeliest class."""

    def scores(self, step: Step) -> Tensor:
        """See `Order.scores`."""
        return step.probs.amax(-1)


@gin.configurable(module="remdm")
class MarginOrder(Order):
    """By the gap between the two likeliest classes (Kim et al., arXiv 2502.06768)."""

    def scores(self, step: Step) -> Tensor:
        """See `Order.scores`."""
        best = step.probs.topk(2, -1).values
        return best[..., 0] - best[..., 1]


@gin.configurable(module="remdm")
class EntropyOrder(Order):
    """By certainty: the lowest entropy first."""

    def scores(self, step: Step) -> Tensor:
        """See `Order.scores`."""
        return -step.entropies()


@gin.configurable(module="remdm")
class SampledConfidenceOrder(Order):
    """By the confidence in the class that was drawn (MaskGIT, arXiv 2202.04200).

    Choosing positions by what was drawn there prefers likely tokens, so this samples a sharper
    distribution than the model's even at one token per step.
    """

    def scores(self, step: Step) -> Tensor:
        """See `Order.scores`."""
        return step.sampled_confidence


@gin.configurable(module="remdm")
class NoisyOrder(Order):
    """Another order with Gumbel noise, which above all decides between equal scores.

    An open plan often has equal scores everywhere. Taken in the order of positions, the tokens of
    one call are then neighbours, which constrain each other most.
    """

    def __init__(self, *, order: Order | None = None, scale: float = 1e-3) -> None:
        """Args:
            order: Gives the scores; `MarginOrder()` when None.
            scale: Of the noise, in units of the scores, at least 0.

        Raises:
            ValueError: If `scale` is negative.
        """
        if not scale >= 0:
            raise ValueError(f"NoisyOrder.scale must be at least 0, got {scale}")
        self.order = order or MarginOrder()
        self.scale = scale

    def scores(self, step: Step) -> Tensor:
        """See `Order.scores`."""
        gumbel = -(-step.uniform(draws.POSITION).log()).log()
        return self.order.scores(step) + self.scale * gumbel


def positions_in_order(step: Step, scores: Tensor, *, split: int) -> Tensor:
    """All positions of each row, the ones to decide first in front.

    Masked positions come before the rest, and among them those before `split` ahead of the others;
    doubted ones are last on their side of the split, and equal scores keep the order of positions.

    Args:
        step: The denoising step.
        scores: float64 [b, H].
        split: Positions before this one have precedence; 0 for none.

    Returns:
        int64 [b, H], a permutation of positions per row.
    """
    if step.doubted is not None:
        scores = scores.masked_fill(step.doubted, -torch.inf)
    positions = scores.argsort(dim=-1, descending=True, stable=True)
    group = torch.where(step.masked, 0, 2)
    group[:, split:] += step.masked[:, split:].long()
    return positions.gather(-1, group.gather(-1, positions).argsort(dim=-1, stable=True))
