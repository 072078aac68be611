"""What turns features into one action: a law over numbered actions, or over vectors.

Each head has a `loss` to learn somebody's actions by, and a `draw` to act by.
"""

import math
from abc import ABC, abstractmethod

import gin
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remdm.ranks import Ranks, weighted_mean

LOG_TWO_PI = math.log(2.0 * math.pi)


def raced(log_probs: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one class per row by an exponential race: one number per class.

    Args:
        log_probs: float64 [B, C].
        generator: Source of randomness; numbers are drawn where it lives.

    Returns:
        int64 [B].
    """
    race = torch.empty(log_probs.shape, dtype=torch.float64, device=generator.device)
    race.exponential_(generator=generator)
    return (log_probs.exp() / race.to(log_probs.device)).argmax(-1)


class Head(nn.Module, ABC):
    """A law over actions, given features."""

    @abstractmethod
    def loss(
        self, features: Tensor, wanted: Tensor, weights: Tensor, ranks: Ranks
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What it costs not to do what was wanted.

        Args:
            features: Floating [B, width].
            wanted: The right actions, of the form that `draw` returns.
            weights: float32 [B].
            ranks: The processes that have the rest of the batch.

        Returns:
            A scalar, and detached scalars to log.
        """

    @abstractmethod
    def draw(
        self, features: Tensor, generator: torch.Generator, *, greedy: bool
    ) -> tuple[Tensor, Tensor]:
        """An action for each of B features, and float32 [B]: the log of its likelihood."""


@gin.configurable(module="remdm", denylist=["width", "num_actions"])
class CategoricalHead(Head):
    """One of some actions; learns by cross-entropy."""

    def __init__(
        self,
        width: int,
        num_actions: int,
        *,
        temperature: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        """Args:
            width: Channels of the features.
            num_actions: Size of the action set.
            temperature: Divides the logits when an action is drawn; above 0.
            label_smoothing: Share of the target spread over all actions; for a noisy expert.

        Raises:
            ValueError: If `temperature` is not above 0.
        """
        super().__init__()
        if not temperature > 0:
            raise ValueError(
                f"temperature must be above 0, got {temperature}; set CategoricalHead.temperature, "
                "or act with deterministic=True."
            )
        self.logits = nn.Linear(width, num_actions)
        self.temperature, self.label_smoothing = temperature, label_smoothing

    def loss(
        self, features: Tensor, wanted: Tensor, weights: Tensor, ranks: Ranks
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head.loss`; `wanted` is int64 [B]."""
        logits = self.logits(features).float()
        nats = F.cross_entropy(
            logits, wanted, reduction="none", label_smoothing=self.label_smoothing
        )
        right = (logits.detach().argmax(-1) == wanted).float()
        loss = weighted_mean(nats, weights, ranks)
        return loss, {"first_token_accuracy": weighted_mean(right, weights, ranks)}

    def draw(
        self, features: Tensor, generator: torch.Generator, *, greedy: bool
    ) -> tuple[Tensor, Tensor]:
        """See `Head.draw`; int64 [B]."""
        log_probs = (self.logits(features).double() / self.temperature).log_softmax(-1)
        actions = log_probs.argmax(-1) if greedy else raced(log_probs, generator)
        return actions, log_probs.gather(1, actions[:, None])[:, 0].float()


@gin.configurable(module="remdm", denylist=["width", "low", "high"])
class GaussianHead(Head):
    """Vectors with independent normal entries; what is drawn is not cut to the bounds here.

    The mean learns by squared error and the spread by its likelihood around that mean. By
    likelihood alone the mean of an expert that never errs would learn ever faster as the spread
    shrinks, and that of a wide spread hardly at all (Seitzer et al. 2022, arXiv:2203.09168).

    Numbers inside are relative to the bounds, -1 at the lower and 1 at the upper one, where these
    are finite.
    """

    def __init__(
        self,
        width: int,
        low: np.ndarray,
        high: np.ndarray,
        *,
        least_spread: float = 0.01,
        most_spread: float = 1.0,
    ) -> None:
        """Args:
            width: Channels of the features.
            low: float32 [D]: lower bounds.
            high: float32 [D]: upper bounds.
            least_spread: Smallest standard deviation, relative to the bounds.
            most_spread: Largest.

        Raises:
            ValueError: Unless 0 < least_spread <= most_spread.
        """
        super().__init__()
        if not 0 < least_spread <= most_spread:
            raise ValueError(
                f"spreads must be 0 < least <= most, got {least_spread} and {most_spread}; set "
                "GaussianHead.least_spread and GaussianHead.most_spread."
            )
        bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
        low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        middle, half = low / 2 + high / 2, high / 2 - low / 2
        self.register_buffer("middle", torch.as_tensor(middle, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(half, dtype=torch.float32))
        self.law = nn.Linear(width, 2 * len(low))
        self.limits = math.log(least_spread), math.log(most_spread)

    middle: Tensor
    scale: Tensor

    def _mean_and_log_spread(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self.law(features).float().chunk(2, -1)
        low, high = self.limits
        return mean, low + (high - low) * torch.sigmoid(spread)

    def loss(
        self, features: Tensor, wanted: Tensor, weights: Tensor, ranks: Ranks
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Head.loss`; `wanted` is float32 [B, D]."""
        mean, log_spread = self._mean_and_log_spread(features)
        error = (wanted - self.middle) / self.scale - mean
        squared = weighted_mean(error.square().mean(-1), weights, ranks)
        gone = (error.detach() / log_spread.exp()).square()
        nats = (0.5 * gone + log_spread + 0.5 * LOG_TWO_PI).mean(-1)
        spread = weighted_mean(log_spread.detach().exp().mean(-1), weights, ranks)
        loss = squared + weighted_mean(nats, weights, ranks)
        return loss, {"squared_error": squared.detach(), "spread": spread}

    def draw(
        self, features: Tensor, generator: torch.Generator, *, greedy: bool
    ) -> tuple[Tensor, Tensor]:
        """See `Head.draw`; float32 [B, D]."""
        mean, log_spread = self._mean_and_log_spread(features)
        noise = torch.zeros_like(mean)
        if not greedy:
            noise = torch.randn(mean.shape, generator=generator, device=generator.device)
            noise = noise.to(mean.device)
        nats = 0.5 * noise.square() + log_spread + self.scale.log() + 0.5 * LOG_TWO_PI
        return self.middle + self.scale * (mean + log_spread.exp() * noise), -nats.sum(-1)
