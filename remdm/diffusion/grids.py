"""The times at which a sampler with a fixed number of steps calls the net."""

from abc import ABC, abstractmethod

import gin
import torch
from torch import Tensor

from remdm.diffusion.schedules import NoiseSchedule


class TimeGrid(ABC):
    """A decreasing row of times from 1 (all MASK) down to the last step's end.

    Attributes:
        num_steps: Number of steps K.
    """

    num_steps: int

    @abstractmethod
    def times(self, schedule: NoiseSchedule) -> Tensor:
        """float64 [num_steps + 1], from 1 downwards."""


def _check_num_steps(grid: str, num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(
            f"{grid}.num_steps must be at least 1, got {num_steps}: without a step no token is "
            "ever decided"
        )


@gin.configurable(module="remdm")
class UniformTime(TimeGrid):
    """Steps of equal length in t."""

    def __init__(self, *, num_steps: int = 10, end_time: float = 0.0) -> None:
        """Args:
            num_steps: Number of steps.
            end_time: Where the last step ends. What is masked then is decided by one more call;
                the official ReMDM code ends at 1e-5.

        Raises:
            ValueError: If a value is out of range.
        """
        _check_num_steps("UniformTime", num_steps)
        if not 0 <= end_time < 1:
            raise ValueError(f"UniformTime.end_time must be in [0, 1), got {end_time}")
        self.num_steps = num_steps
        self.end_time = end_time

    def times(self, schedule: NoiseSchedule) -> Tensor:
        """See `TimeGrid.times`."""
        return torch.linspace(1.0, self.end_time, self.num_steps + 1, dtype=torch.float64)


@gin.configurable(module="remdm")
class UniformAlpha(TimeGrid):
    """Steps that decide equally many tokens, whatever the schedule."""

    def __init__(self, *, num_steps: int = 10) -> None:
        """Args:
            num_steps: Number of steps.

        Raises:
            ValueError: If it is less than 1.
        """
        _check_num_steps("UniformAlpha", num_steps)
        self.num_steps = num_steps

    def times(self, schedule: NoiseSchedule) -> Tensor:
        """See `TimeGrid.times`."""
        rates = torch.linspace(1.0, 0.0, self.num_steps + 1, dtype=torch.float64)
        return schedule.inv_mask_rate(rates)
