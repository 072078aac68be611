"""Which committed tokens become MASK again (ReMDM, arXiv 2503.00307).

A visible token is masked again with probability sigma. To keep the marginals of the forward
process a masked position must then be revealed with `unmask_probability`, which is a probability
as long as sigma is at most `sigma_max`.
"""

from abc import ABC, abstractmethod

import gin
import torch
from torch import Tensor

from remdm.diffusion.step import Step
from remdm.registry import unknown_name_message


def sigma_max(alpha_t: float, alpha_s: float) -> float:
    """Largest remasking probability from time t to s < t: min(1, (1 - alpha_s) / alpha_t)."""
    return min(1.0, (1.0 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0


def unmask_probability(alpha_t: float, alpha_s: float, sigma: Tensor | float) -> Tensor | float:
    """Probability to reveal a masked position: (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)."""
    if alpha_t >= 1.0:
        return 1.0
    return (alpha_s - (1.0 - sigma) * alpha_t) / (1.0 - alpha_t)


class Remask(ABC):
    """Gives every position its remasking probability.

    Attributes:
        can_remask: False when no token is ever masked again, so a sampler may stop early.
        after_reveal: Whether tokens revealed in the same step may be masked again at once.
    """

    can_remask: bool = True
    after_reveal: bool = False

    @abstractmethod
    def sigma(self, step: Step) -> tuple[Tensor | float, float]:
        """Remasking probabilities of a step.

        Returns:
            The probability at visible positions, [b, H] or one for all; and the sigma to be put
            into `unmask_probability` at masked positions.
        """


def _check_eta(owner: str, eta: float) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"{owner}.eta must be in [0, 1], got {eta}")


@gin.configurable(module="remdm")
class NoRemask(Remask):
    """Committed tokens stay (MDLM)."""

    can_remask = False

    def sigma(self, step: Step) -> tuple[Tensor | float, float]:
        """See `Remask.sigma`."""
        return 0.0, 0.0


@gin.configurable(module="remdm")
class CapRemask(Remask):
    """sigma = min(eta, sigma_max)."""

    def __init__(self, *, eta: float = 0.15) -> None:
        """Args:
            eta: Upper limit of the probability per step, in [0, 1].

        Raises:
            ValueError: If it is outside.
        """
        _check_eta("CapRemask", eta)
        self.eta = eta

    def sigma(self, step: Step) -> tuple[Tensor | float, float]:
        """See `Remask.sigma`."""
        sigma = min(self.eta, sigma_max(step.alpha_t, step.alpha_s))
        return sigma, sigma


@gin.configurable(module="remdm")
class RescaleRemask(Remask):
    """sigma = eta * sigma_max."""

    def __init__(self, *, eta: float = 0.15) -> None:
        """Args:
            eta: Share of the largest valid probability, in [0, 1].

        Raises:
            ValueError: If it is outside.
        """
        _check_eta("RescaleRemask", eta)
        self.eta = eta

    def sigma(self, step: Step) -> tuple[Tensor | float, float]:
        """See `Remask.sigma`."""
        sigma = self.eta * sigma_max(step.alpha_t, step.alpha_s)
        return sigma, sigma


@gin.configurable(module="remdm")
class ConfRemask(Remask):
    """sigma_l = eta * sigma_max * softmax over committed positions of -confidence.

    The confidence is the one a token had when it was committed. The probabilities of a row sum to
    at most eta, so at most about one token a step is masked again; masked positions are revealed
    as without remasking, so the marginals of the forward process are not kept. Both as published.
    """

    def __init__(self, *, eta: float = 1.0) -> None:
        """Args:
            eta: Share of the largest valid total, in [0, 1]; the ReMDM code has none, i.e. 1.

        Raises:
            ValueError: If it is outside.
        """
        _check_eta("ConfRemask", eta)
        self.eta = eta

    def sigma(self, step: Step) -> tuple[Tensor | float, float]:
        """See `Remask.sigma`."""
        scores = (-step.committed_confidence).masked_fill(~step.committed, -torch.inf)
        # A row without committed tokens is a softmax over nothing: 0 / 0.
        share = scores.softmax(-1).nan_to_num(0.0)
        return self.eta * sigma_max(step.alpha_t, step.alpha_s) * share, 0.0


SEED_STRATEGIES = ("rescale", "cap", "conf")


@gin.configurable(module="remdm")
class SeedRemask(Remask):
    """The seed's remasking, after the reveal and never in the last step.

    Its bound is `1 - alpha(k / K)` after step k of K, which grows towards the end; "conf" uses the
    probability of a token drawn afresh, not of the committed one: p = eta * bound * (1 - p).
    """

    after_reveal = True

    def __init__(self, *, strategy: str = "conf", eta: float = 0.15) -> None:
        """Args:
            strategy: "rescale" (eta * bound), "cap" (min(eta, bound)) or "conf".
            eta: Strength, in [0, 1].

        Raises:
            ValueError: If a value is out of range or unknown.
        """
        if strategy not in SEED_STRATEGIES:
            raise ValueError(unknown_name_message("SeedRemask.strategy", strategy, SEED_STRATEGIES))
        _check_eta("SeedRemask", eta)
        self.strategy = strategy
        self.eta = eta

    def sigma(self, step: Step) -> tuple[Tensor | float, float]:
        """See `Remask.sigma`."""
        if step.is_last:
            return 0.0, 0.0
        progress = torch.tensor((step.index + 1) / step.num_steps, dtype=torch.float64)
        bound = float(step.schedule.mask_rate(progress))
        if self.strategy == "cap":
            return min(self.eta, bound), 0.0
        if self.strategy == "rescale":
            return self.eta * bound, 0.0
        return self.eta * bound * (1.0 - step.sampled_confidence), 0.0
