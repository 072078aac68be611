"""The steps at which a sampler with a fixed number of net calls calls the net."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import gin
import torch
from torch import Tensor

from remdm.diffusion.schedules import NoiseSchedule


@dataclass(frozen=True, slots=True)
class GridStep:
    """One step of a grid.

    Attributes:
        start: Time at which the net is called, in [0, 1]; what a net that is fed times is told.
        end: Time at which the step ends.
        alpha_t: Share of visible tokens before the step.
        alpha_s: Share of visible tokens after it, at least `alpha_t`.
        remasks: Whether committed tokens may become MASK again in it.
    """

    start: float
    end: float
    alpha_t: float
    alpha_s: float
    remasks: bool = True


class TimeGrid(ABC):
    """A row of steps from all MASK down to the last step's end.

    Attributes:
        num_steps: Number of steps K.
        needs_remask: Whether it makes sense only with a remasking rule.
    """

    num_steps: int
    needs_remask: bool = False

    @abstractmethod
    def steps(self, schedule: NoiseSchedule) -> list[GridStep]:
        """The steps, in the order in which they are taken."""


def steps_between(
    times: Tensor, schedule: NoiseSchedule, *, remasks: bool = True
) -> list[GridStep]:
    """Steps from each time to the next, with the schedule's shares.

    Args:
        times: float64 [K + 1], decreasing.
        schedule: Gives the share of visible tokens at each time.
        remasks: See `GridStep`.
    """
    alphas = schedule.alpha(times).tolist()
    instants = times.tolist()
    return [
        GridStep(instants[k], instants[k + 1], alphas[k], alphas[k + 1], remasks)
        for k in range(len(instants) - 1)
    ]


def first_step_at(steps: Sequence[GridStep], start_time: float | None) -> int:
    """Number of the first step that starts at `start_time` or below it, or of the last one.

    Args:
        steps: Of a grid; empty for a sampler without one, which begins at 0.
        start_time: In (0, 1]; None for the first step.

    Raises:
        ValueError: If `start_time` is outside.
    """
    if start_time is None:
        return 0
    if not 0 < start_time <= 1:
        raise ValueError(f"start_time must be in (0, 1] or None, got {start_time}")
    late = (k for k, step in enumerate(steps) if step.start <= start_time)
    return next(late, max(0, len(steps) - 1))


def _check_num_steps(grid: str, num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(
            f"{grid}.num_steps must be at least 1, got {num_steps}: without a step no token is "
            "ever decided"
        )


def _check_end_time(grid: str, end_time: float) -> None:
    if not 0 <= end_time < 1:
        raise ValueError(f"{grid}.end_time must be in [0, 1), got {end_time}")


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
        _check_end_time("UniformTime", end_time)
        self.num_steps = num_steps
        self.end_time = end_time

    def steps(self, schedule: NoiseSchedule) -> list[GridStep]:
        """See `TimeGrid.steps`."""
        times = torch.linspace(1.0, self.end_time, self.num_steps + 1, dtype=torch.float64)
        return steps_between(times, schedule)


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

    def steps(self, schedule: NoiseSchedule) -> list[GridStep]:
        """See `TimeGrid.steps`."""
        rates = torch.linspace(1.0, 0.0, self.num_steps + 1, dtype=torch.float64)
        return steps_between(schedule.inv_mask_rate(rates), schedule)


@gin.configurable(module="remdm")
class SwitchGrid(TimeGrid):
    """Uniform in t; remasking is off until t falls to `t_switch` (ReMDM-switch)."""

    needs_remask = True

    def __init__(
        self, *, num_steps: int = 10, t_switch: float = 0.55, end_time: float = 0.0
    ) -> None:
        """Args:
            num_steps: Number of steps.
            t_switch: A step may remask when it starts at this time or below, in (0, 1].
            end_time: See `UniformTime`.

        Raises:
            ValueError: If a value is out of range.
        """
        _check_num_steps("SwitchGrid", num_steps)
        _check_end_time("SwitchGrid", end_time)
        if not 0 < t_switch <= 1:
            raise ValueError(f"SwitchGrid.t_switch must be in (0, 1], got {t_switch}")
        self.num_steps = num_steps
        self.t_switch = t_switch
        self.end_time = end_time

    def steps(self, schedule: NoiseSchedule) -> list[GridStep]:
        """See `TimeGrid.steps`."""
        times = torch.linspace(1.0, self.end_time, self.num_steps + 1, dtype=torch.float64)
        steps = steps_between(times, schedule)
        return [replace(step, remasks=step.start <= self.t_switch) for step in steps]


@gin.configurable(module="remdm")
class LoopGrid(TimeGrid):
    """Three phases: decide up to a share, redraw at that share, decide the rest (ReMDM-loop).

    Only the second phase remasks; there alpha stands still, so as many tokens are decided as are
    remasked. Each phase has at least one step, so a loop has at least three, whatever
    `num_steps` says.
    """

    needs_remask = True

    def __init__(
        self,
        *,
        num_steps: int = 10,
        t_on: float = 0.55,
        t_off: float = 0.05,
        alpha_on: float | None = 0.9,
        continuous: bool = True,
    ) -> None:
        """Args:
            num_steps: Number of steps.
            t_on: Share of the steps after the first phase, in (0, 1).
            t_off: Share of the steps in the third phase, in (0, t_on].
            alpha_on: Share of visible tokens in the second phase, in (0, 1); the schedule's at
                `t_on` when None.
            continuous: The third phase starts from the share of the second, as in the official
                code. False goes on at the schedule's alpha(t_off) although fewer tokens are
                visible, as the Craftax seed did; its second phase is at alpha(t_on).

        Raises:
            ValueError: If a value is out of range.
        """
        _check_num_steps("LoopGrid", num_steps)
        if not 0 < t_off <= t_on < 1:
            raise ValueError(
                f"LoopGrid needs 0 < t_off <= t_on < 1, got t_off={t_off} and t_on={t_on}"
            )
        if alpha_on is not None and not 0 < alpha_on < 1:
            raise ValueError(f"LoopGrid.alpha_on must be in (0, 1) or None, got {alpha_on}")
        if alpha_on is not None and not continuous:
            raise ValueError(
                "LoopGrid.continuous = False takes every share from the schedule, so "
                f"LoopGrid.alpha_on must be None, got {alpha_on}"
            )
        self.t_on = t_on
        self.t_off = t_off
        self.alpha_on = alpha_on
        self.continuous = continuous
        first = max(1, round(num_steps * (1 - t_on)))
        last = max(1, round(num_steps * t_off))
        self.phases = (first, max(1, num_steps - first - last), last)
        self.num_steps = sum(self.phases)

    def steps(self, schedule: NoiseSchedule) -> list[GridStep]:
        """See `TimeGrid.steps`."""
        first, second, third = self.phases
        on = torch.tensor(self.t_on, dtype=torch.float64)
        share = float(schedule.alpha(on)) if self.alpha_on is None else self.alpha_on
        if self.continuous:
            time = float(schedule.inv_alpha(torch.tensor(share, dtype=torch.float64)))
            rising = schedule.inv_alpha(_line(0.0, share, first))
            falling = schedule.inv_alpha(_line(share, 1.0, third))
        else:
            time = self.t_on
            rising, falling = _line(1.0, self.t_on, first), _line(self.t_off, 0.0, third)
        loop = [GridStep(time, time, share, share)] * second
        return (
            steps_between(rising, schedule, remasks=False)
            + loop
            + steps_between(falling, schedule, remasks=False)
        )


def _line(start: float, end: float, num_steps: int) -> Tensor:
    return torch.linspace(start, end, num_steps + 1, dtype=torch.float64)
