"""What the learner reads: windows stacked into a batch."""

from dataclasses import dataclass

import numpy as np
import torch

from remdm.ranks import ALONE, Ranks
from remdm.stretch import CarriedMemory, Stretch


@dataclass(frozen=True, slots=True)
class Window:
    """B training samples as arrays: an observation at time t and the plan wanted there.

    Attributes:
        observations: By name [B, ...].
        plans: int8 [B, plan_horizon] tokens: actions, then END to the last position.
        weights: float32 [B]; 0 means "no plan here".
        env_ids: int16 [B]: index into the dataset's `env_names`.
        past: int8 [B, m]: the actions executed one step before, two steps before, ...; MASK from
            where the recording had not begun. None unless the dataset was asked for them.
        stretch: How samples follow one another; None where each is drawn on its own.
    """

    observations: dict[str, np.ndarray]
    plans: np.ndarray
    weights: np.ndarray
    env_ids: np.ndarray
    past: np.ndarray | None = None
    stretch: Stretch | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A `Window` as tensors; dtypes are kept (int8 plans become int64).

    Attributes:
        observations: By name [B, ...].
        plans: int64 [B, plan_horizon].
        weights: float32 [B].
        env_ids: int64 [B].
        past: int64 [B, m], or None.
        ranks: The processes that have the rest of the step's batch.
        stretch: See `Window`.
        memory: With a stretch, what its rows remember of earlier batches. None for nothing, and
            then nothing is carried on either.
        token_mask: bool [B, plan_horizon]: which tokens of the plans are learnt from, where not
            all are; see `remdm.token_masks`.
    """

    observations: dict[str, torch.Tensor]
    plans: torch.Tensor
    weights: torch.Tensor
    env_ids: torch.Tensor
    past: torch.Tensor | None = None
    ranks: Ranks = ALONE
    stretch: Stretch | None = None
    memory: CarriedMemory | None = None
    token_mask: torch.Tensor | None = None

    @classmethod
    def from_window(cls, window: Window, ranks: Ranks = ALONE) -> "Batch":
        """A window's arrays as tensors; no data is copied where the dtype stays."""
        return cls(
            {k: torch.from_numpy(v) for k, v in window.observations.items()},
            torch.from_numpy(window.plans).to(torch.int64),
            torch.from_numpy(window.weights),
            torch.from_numpy(window.env_ids).to(torch.int64),
            None if window.past is None else torch.from_numpy(window.past).to(torch.int64),
            ranks,
            window.stretch,
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""

        def moved(array: torch.Tensor) -> torch.Tensor:
            return array.to(device, non_blocking=True)

        return Batch(
            {k: moved(v) for k, v in self.observations.items()},
            moved(self.plans),
            moved(self.weights),
            moved(self.env_ids),
            None if self.past is None else moved(self.past),
            self.ranks,
            None if self.stretch is None else self.stretch.to(device),
            self.memory,
            None if self.token_mask is None else moved(self.token_mask),
        )
