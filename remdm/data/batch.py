"""What the learner reads: windows stacked into a batch."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Window:
    """B training samples as arrays: an observation at time t and the plan wanted there.

    Attributes:
        observations: By name [B, ...].
        plans: int8 [B, plan_horizon] tokens: actions, then END to the last position.
        weights: float32 [B]; 0 means "no plan here".
        env_ids: int16 [B]: index into the dataset's `env_names`.
    """

    observations: dict[str, np.ndarray]
    plans: np.ndarray
    weights: np.ndarray
    env_ids: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """A `Window` as tensors; dtypes are kept (int8 plans become int64).

    Attributes:
        observations: By name [B, ...].
        plans: int64 [B, plan_horizon].
        weights: float32 [B].
        env_ids: int64 [B].
    """

    observations: dict[str, torch.Tensor]
    plans: torch.Tensor
    weights: torch.Tensor
    env_ids: torch.Tensor

    @classmethod
    def from_window(cls, window: Window) -> "Batch":
        """A window's arrays as tensors; no data is copied where the dtype stays."""
        return cls(
            {k: torch.from_numpy(v) for k, v in window.observations.items()},
            torch.from_numpy(window.plans).to(torch.int64),
            torch.from_numpy(window.weights),
            torch.from_numpy(window.env_ids).to(torch.int64),
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        observations = {k: v.to(device, non_blocking=True) for k, v in self.observations.items()}
        rest = (t.to(device, non_blocking=True) for t in (self.plans, self.weights, self.env_ids))
        return Batch(observations, *rest)
