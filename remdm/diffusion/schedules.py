"""Noise schedules: how much of a plan is still visible at diffusion time t.

`alpha(t)` is the probability that a token is visible: alpha(0) = 1, alpha(1) = 0, decreasing.
All functions take and return floating tensors of any shape and are written so that nothing is
computed as the difference of two nearly equal numbers: `1 - cos` at t = 3e-3 would be off by a
thousandth in float32.
"""

import math
from abc import ABC, abstractmethod

import gin
import torch
from torch import Tensor

from remdm.registry import Registry


class NoiseSchedule(ABC):
    """Probability of being visible as a function of time.

    The NELBO does not depend on the schedule; the sampler's steps and the times a net sees do.
    """

    @abstractmethod
    def alpha(self, time: Tensor) -> Tensor:
        """Probability that a token is visible at `time` in [0, 1]."""

    @abstractmethod
    def dalpha(self, time: Tensor) -> Tensor:
        """Derivative of `alpha` with respect to time; never positive."""

    @abstractmethod
    def mask_rate(self, time: Tensor) -> Tensor:
        """`1 - alpha(time)`, without cancellation."""

    @abstractmethod
    def inv_mask_rate(self, rate: Tensor) -> Tensor:
        """The time at which a share `rate` of the tokens is masked."""

    @abstractmethod
    def weight(self, time: Tensor) -> Tensor:
        """NELBO weight `-dalpha / (1 - alpha)` (MDLM, arXiv 2406.07524); inf at 0."""

    def inv_alpha(self, alpha: Tensor) -> Tensor:
        """The time at which a share `alpha` of the tokens is visible."""
        return self.inv_mask_rate(1.0 - alpha)


@gin.configurable(module="remdm")
class LinearSchedule(NoiseSchedule):
    """alpha = 1 - t. Also what the official ReMDM code calls log-linear noise."""

    def alpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.alpha`."""
        return 1.0 - time

    def dalpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.dalpha`."""
        return torch.full_like(time, -1.0)

    def mask_rate(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.mask_rate`."""
        return time

    def inv_mask_rate(self, rate: Tensor) -> Tensor:
        """See `NoiseSchedule.inv_mask_rate`."""
        return rate

    def weight(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.weight`: 1 / t."""
        return 1.0 / time


@gin.configurable(module="remdm")
class CosineSchedule(NoiseSchedule):
    """alpha = cos(pi t / 2)."""

    def alpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.alpha`; the sine form is exactly 0 at t = 1."""
        return torch.sin(math.pi / 2 * (1.0 - time))

    def dalpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.dalpha`."""
        return -math.pi / 2 * torch.sin(math.pi / 2 * time)

    def mask_rate(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.mask_rate`: 2 sin^2(pi t / 4)."""
        return 2.0 * torch.sin(math.pi / 4 * time).square()

    def inv_mask_rate(self, rate: Tensor) -> Tensor:
        """See `NoiseSchedule.inv_mask_rate`."""
        return 4 / math.pi * torch.asin((rate / 2).sqrt())

    def weight(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.weight`: (pi / 2) cot(pi t / 4)."""
        return math.pi / 2 / torch.tan(math.pi / 4 * time)


@gin.configurable(module="remdm")
class CosineSquaredSchedule(NoiseSchedule):
    """alpha = cos^2(pi t / 2): what the seed's text calls cosine."""

    def alpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.alpha`."""
        return torch.sin(math.pi / 2 * (1.0 - time)).square()

    def dalpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.dalpha`."""
        return -math.pi / 2 * torch.sin(math.pi * time)

    def mask_rate(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.mask_rate`: sin^2(pi t / 2)."""
        return torch.sin(math.pi / 2 * time).square()

    def inv_mask_rate(self, rate: Tensor) -> Tensor:
        """See `NoiseSchedule.inv_mask_rate`."""
        return 2 / math.pi * torch.asin(rate.sqrt())

    def weight(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.weight`: pi cot(pi t / 2)."""
        return math.pi / torch.tan(math.pi / 2 * time)


SCHEDULES = Registry("noise schedule")
SCHEDULES.register("linear", LinearSchedule)
SCHEDULES.register("cosine", CosineSchedule)
SCHEDULES.register("cosine_sq", CosineSquaredSchedule)


def make_schedule(name: str) -> NoiseSchedule:
    """The schedule called "linear", "cosine" or "cosine_sq".

    Raises:
        ValueError: If there is none of that name; shows the nearest.
    """
    schedule: NoiseSchedule = SCHEDULES.get(name)()
    return schedule
