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
    def from_window(cls, window: Window, device: torch.device | str = "cpu") -> "Batch":
        """Move a window's arrays to `device`."""
        return cls(
            {k: torch.from_numpy(v).to(device) for k, v in window.observations.items()},
            torch.from_numpy(window.plans).to(device, torch.int64),
            torch.from_numpy(window.weights).to(device),
            torch.from_numpy(window.env_ids).to(device, torch.int64),
        )
