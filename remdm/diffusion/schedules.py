"""Noise schedules: how much of a plan is still visible at diffusion time t.

`alpha(t)` is the probability that a token is visible: alpha(0) = 1, alpha(1) = 0, decreasing.
All functions take and return floating tensors of any shape and are written so that nothing is
computed as the difference of two nearly equal numbers, at either end: `1 - cos` at t = 3e-3 would
be off by a thousandth in float32, and `sin(pi t)` at t = 1 has the wrong sign.

| name         | alpha               | weight, -dalpha / (1 - alpha) |
|--------------|---------------------|-------------------------------|
| `linear`     | 1 - t               | 1 / t                         |
| `cosine`     | cos(pi t / 2)       | (pi / 2) cot(pi t / 4)        |
| `cosine_sq`  | cos^2(pi t / 2)     | pi cot(pi t / 2)              |
| `polynomial` | 1 - t^power         | power / t                     |
| `log_linear` | 1 - (1 - eps) t     | 1 / t                         |
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
        """The time at which a share `alpha` of the tokens is visible.

        As precise as `alpha` allows; near 1 that is less than `inv_mask_rate` of the small rest.
        """
        return self.inv_mask_rate(1.0 - alpha)

    def floored_weight(self, time: Tensor, floor: float) -> Tensor:
        """`-dalpha / max(1 - alpha, floor)`: `weight` as the seeds compute it, with 1e-5.

        The cosine schedule's weight then peaks at 702.5, where the mask rate is the floor
        (method table, test 35), so that a clip of 1000 never bites.
        """
        return -self.dalpha(time) / self.mask_rate(time).clamp_min(floor)


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
        """See `NoiseSchedule.dalpha`: two factors of `sin(pi t)`, of which one is 0 at t = 1."""
        return -math.pi * torch.sin(math.pi / 2 * time) * torch.sin(math.pi / 2 * (1.0 - time))

    def mask_rate(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.mask_rate`: sin^2(pi t / 2)."""
        return torch.sin(math.pi / 2 * time).square()

    def inv_mask_rate(self, rate: Tensor) -> Tensor:
        """See `NoiseSchedule.inv_mask_rate`; an arc sine would be blunt near a rate of 1."""
        return 2 / math.pi * torch.atan2(rate.sqrt(), (1.0 - rate).sqrt())

    def inv_alpha(self, alpha: Tensor) -> Tensor:
        """See `NoiseSchedule.inv_alpha`; `1 - (1 - alpha)` would lose a small alpha."""
        return 2 / math.pi * torch.atan2((1.0 - alpha).sqrt(), alpha.sqrt())

    def weight(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.weight`: pi cot(pi t / 2), inf at 0 and 0 at 1."""
        visible = torch.sin(math.pi / 2 * (1.0 - time))
        return math.pi * visible / torch.sin(math.pi / 2 * time)


@gin.configurable(module="remdm")
class PolynomialSchedule(NoiseSchedule):
    """alpha = 1 - t^power (MD4, arXiv 2406.04329); `power` 1 is linear.

    A power above 1 keeps the plan nearly clean for longer; its weight is power / t.
    """

    def __init__(self, *, power: float = 2.0) -> None:
        """Args:
            power: Exponent of the mask rate, above 0.

        Raises:
            ValueError: If `power` is not a finite number above 0.
        """
        if not (power > 0 and math.isfinite(power)):
            raise ValueError(f"PolynomialSchedule.power must be finite and above 0, got {power}")
        self.power = power

    def alpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.alpha`; exact near t = 1, where `1 - t^power` cancels."""
        return -torch.expm1(self.power * time.log())

    def dalpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.dalpha`."""
        return -self.power * time ** (self.power - 1)

    def mask_rate(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.mask_rate`."""
        return time**self.power

    def inv_mask_rate(self, rate: Tensor) -> Tensor:
        """See `NoiseSchedule.inv_mask_rate`."""
        return rate ** (1.0 / self.power)

    def weight(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.weight`: power / t."""
        return self.power / time


@gin.configurable(module="remdm")
class LogLinearSchedule(NoiseSchedule):
    """alpha = 1 - (1 - eps) t: total noise -log(alpha) of SEDD (arXiv 2310.16834) and MDLM.

    The official code has eps = 1e-3 to keep that logarithm finite at t = 1. Nothing here takes
    it, and a plan starts with no token visible, so the default is 0, which is `LinearSchedule`.
    With eps > 0 a share eps of the tokens is visible at t = 1, and a NELBO over t in [0, 1]
    leaves out the mask rates above 1 - eps, a share eps of the integral.
    """

    def __init__(self, *, eps: float = 0.0) -> None:
        """Args:
            eps: Share of the tokens that is visible at t = 1, in [0, 1).

        Raises:
            ValueError: If `eps` is out of range.
        """
        if not 0 <= eps < 1:
            raise ValueError(f"LogLinearSchedule.eps must be in [0, 1), got {eps}")
        self.eps = eps

    def alpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.alpha`."""
        return (1.0 - time) + self.eps * time

    def dalpha(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.dalpha`."""
        return torch.full_like(time, -(1.0 - self.eps))

    def mask_rate(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.mask_rate`."""
        return (1.0 - self.eps) * time

    def inv_mask_rate(self, rate: Tensor) -> Tensor:
        """See `NoiseSchedule.inv_mask_rate`; 1 for rates that are never reached."""
        return (rate / (1.0 - self.eps)).clamp(max=1.0)

    def weight(self, time: Tensor) -> Tensor:
        """See `NoiseSchedule.weight`: 1 / t whatever `eps` is."""
        return 1.0 / time


SCHEDULES = Registry("noise schedule")
SCHEDULES.register("linear", LinearSchedule)
SCHEDULES.register("cosine", CosineSchedule)
SCHEDULES.register("cosine_sq", CosineSquaredSchedule)
SCHEDULES.register("polynomial", PolynomialSchedule)
SCHEDULES.register("log_linear", LogLinearSchedule)


def make_schedule(name: str) -> NoiseSchedule:
    """The schedule of that name; see the module's table. Its knobs come from gin.

    Raises:
        ValueError: If there is none of that name; shows the nearest.
    """
    schedule: NoiseSchedule = SCHEDULES.get(name)()
    return schedule
