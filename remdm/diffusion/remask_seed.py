"""The remasking of the seeds, kept to reproduce them; both work after the reveal."""

import gin
import torch
from torch import Tensor

from remdm.diffusion.grids import GridStep
from remdm.diffusion.remask import IndependentRemask, check_eta
from remdm.diffusion.step import Step
from remdm.registry import unknown_name_message

SEED_STRATEGIES = ("rescale", "cap", "conf")


@gin.configurable(module="remdm")
class SeedRemask(IndependentRemask):
    """The MiniHack seed's remasking, after the reveal and never in the last step.

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
        check_eta("SeedRemask", eta)
        self.strategy = strategy
        self.eta = eta

    def sigma(self, step: Step) -> Tensor | float:
        """See `IndependentRemask.sigma`."""
        if step.is_last:
            return 0.0
        progress = torch.tensor((step.index + 1) / step.num_steps, dtype=torch.float64)
        bound = float(step.schedule.mask_rate(progress))
        if self.strategy == "cap":
            return min(self.eta, bound)
        if self.strategy == "rescale":
            return self.eta * bound
        return self.eta * bound * (1.0 - step.sampled_confidence)

    def can_act(self, grid_step: GridStep, index: int, num_steps: int) -> bool:
        """See `Remask.can_act`."""
        return self.eta > 0 and super().can_act(grid_step, index, num_steps)


@gin.configurable(module="remdm")
class FadingRemask(IndependentRemask):
    """The Craftax seed's remasking when it evaluates: p = eta * (1 - k / K) after step k of K."""

    after_reveal = True

    def __init__(self, *, eta: float = 0.15) -> None:
        """Args:
            eta: Strength, in [0, 1]; the seed had 0.15 built in.

        Raises:
            ValueError: If it is outside.
        """
        check_eta("FadingRemask", eta)
        self.eta = eta

    def sigma(self, step: Step) -> Tensor | float:
        """See `IndependentRemask.sigma`."""
        return self.eta * (1.0 - (step.index + 1) / step.num_steps)

    def can_act(self, grid_step: GridStep, index: int, num_steps: int) -> bool:
        """See `Remask.can_act`."""
        return self.eta > 0 and super().can_act(grid_step, index, num_steps)
