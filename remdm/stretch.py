"""Consecutive steps of episodes, side by side in a batch: what a memory learns and acts from.

The samples of a batch, or the observations of a call, are then R rows of S steps each, row after
row: sample `r * S + s` is step s of row r. A row shows some steps of one episode in their order.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Stretch:
    """How the samples of a batch follow one another.

    Attributes:
        first: bool [R, S]: an episode begins here, and what was before it is forgotten.
        real: bool [R, S]: a step; the others only fill a row, before its steps or behind them, and
            neither count nor are remembered.
    """

    first: Tensor
    real: Tensor

    @property
    def rows(self) -> int:
        """Rows R."""
        return int(self.first.shape[0])

    @property
    def steps(self) -> int:
        """Steps S of a row."""
        return int(self.first.shape[1])

    def to(self, device: torch.device | str) -> "Stretch":
        """The same on `device`."""
        return replace(self, first=self.first.to(device), real=self.real.to(device))


@dataclass(slots=True)
class CarriedMemory:
    """What the rows of a batch remember of the batches before; whoever reads it writes it anew.

    Attributes:
        state: Floating [R, memory_size], of the moment before the next batch, without a gradient;
            None where nothing is remembered yet.
    """

    state: Tensor | None = field(default=None)
