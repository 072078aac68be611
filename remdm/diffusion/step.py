"""What the parts of a sampler see of one denoising step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.schedules import NoiseSchedule


@dataclass(slots=True)
class Step:
    """One denoising step of b rows, after the net was called and before anything changed.

    For rules that come after the reveal, `masked` and `committed_confidence` are what it left.

    Attributes:
        index: Number of this step, from 0.
        num_steps: Steps in all; 0 when the sampler decides as it goes.
        alpha_t: Share of visible tokens that the schedule has now.
        alpha_s: Share that it has after this step.
        schedule: The noise schedule.
        masked: bool [b, H]: positions that are MASK.
        free: bool [b, H]: positions that are not locked.
        probs: float64 [b, H, C]: what tokens are drawn from.
        classes: int64 [b, H]: a class chosen for every position, masked or not.
        sampled_confidence: float64 [b, H]: confidence in `classes`.
        committed_confidence: float64 [b, H]: confidence in the visible tokens when they were
            committed; meaningless at masked positions.
        keys: int64 [b]: keys of the rows' random streams.
        remasked: bool [b, H]: visible tokens that this step masks again; None for none.
        surplus: Tokens to decide too many because the remasking rule gives them back.
        revealed: bool [b, H]: what this step committed; None before that.
        doubted: bool [b, H]: positions whose token is implausible; None for no opinion.
    """

    index: int
    num_steps: int
    alpha_t: float
    alpha_s: float
    schedule: NoiseSchedule
    masked: Tensor
    free: Tensor
    probs: Tensor
    classes: Tensor
    sampled_confidence: Tensor
    committed_confidence: Tensor
    keys: Tensor
    remasked: Tensor | None = None
    surplus: Tensor | int = 0
    revealed: Tensor | None = None
    doubted: Tensor | None = None

    @property
    def is_last(self) -> bool:
        """Whether the grid ends here."""
        return self.index + 1 == self.num_steps

    @property
    def committed(self) -> Tensor:
        """Visible tokens that may be masked again, bool [b, H]."""
        return self.free & ~self.masked

    @property
    def target(self) -> Tensor:
        """Free positions that are visible after the step if counts follow the schedule, int64 [b].

        The share alpha_s of the free positions, rounded half up.
        """
        return torch.floor(self.free.sum(-1) * self.alpha_s + 0.5).long()

    def uniform(self, purpose: int) -> Tensor:
        """Numbers for one of the purposes of `remdm.diffusion.draws`, float64 [b, H]."""
        return draws.uniform(self.keys, self.index, purpose, self.masked.shape[1])

    def entropies(self) -> Tensor:
        """Entropies of `probs` in nats, float64 [b, H]."""
        return torch.special.entr(self.probs).sum(-1)
