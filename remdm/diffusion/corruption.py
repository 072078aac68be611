"""The forward process: which tokens of a plan are hidden before the denoiser sees it.

A corruption makes D draws of each of B plans, so that one encoding of an observation can serve
several masks. `CountMasking` hides an exact number of tokens, `BernoulliMasking` each with the
same probability; given the number, both hide every set of that size equally often, so they train
the same conditionals and differ in the variance of the loss.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from remdm.diffusion.schedules import NoiseSchedule
from remdm.ranks import ALONE, Ranks
from remdm.registry import unknown_name_message
from remdm.tokens import end_token, mask_token

PAD_MODES = ("predict", "visible", "always_mask")


@dataclass(frozen=True, slots=True)
class Corrupted:
    """D masked draws of B plans of horizon H.

    Attributes:
        tokens: int64 [D, B, H]: the plans with some tokens replaced by MASK; the net's input.
        masked: bool [D, B, H]: hidden tokens that the net is asked for; the loss lives here.
        time: float32 [D, B]: the schedule's t, to be fed to a net that wants it.
        rate: float32 [D, B]: the mask rate at `time`: the share that `CountMasking` hid, the
            probability with which `BernoulliMasking` hid each.
        counts: int64 [D, B]: number of `masked` positions.
        free: int64 [B]: number of positions that could have been masked.
        elbo_weight: float32 [D, B]: factor that makes the mean over draws of
            `elbo_weight * sum of cross-entropies over masked` an unbiased NELBO in nats.
        time_weight: float32 [D, B]: `-dalpha / (1 - alpha)` at `time`.
        full_draws: The first draws that have every free position masked.
    """

    tokens: Tensor
    masked: Tensor
    time: Tensor
    rate: Tensor
    counts: Tensor
    free: Tensor
    elbo_weight: Tensor
    time_weight: Tensor
    full_draws: int


def count_mask(
    counts: Tensor, free: Tensor, generator: torch.Generator, ranks: Ranks = ALONE
) -> Tensor:
    """A uniformly random set of exactly `counts` free positions per row.

    Args:
        counts: int64 [..., B, 1], at most the row's number of free positions.
        free: bool [..., B, H].
        generator: Source of randomness.
        ranks: The processes that have the rest of the batch's rows.

    Returns:
        bool [..., B, H].
    """
    scores = _uniform(free.shape, generator, free.device, ranks).masked_fill_(~free, 2.0)
    places = scores.argsort(-1).argsort(-1)
    return places < counts


def bernoulli_mask(
    rate: Tensor, free: Tensor, generator: torch.Generator, ranks: Ranks = ALONE
) -> Tensor:
    """Every free position with probability `rate`, independently.

    Args:
        rate: Floating [..., B, 1].
        free: bool [..., B, H].
        generator: Source of randomness.
        ranks: The processes that have the rest of the batch's rows.

    Returns:
        bool [..., B, H].
    """
    return (_uniform(free.shape, generator, free.device, ranks) < rate) & free


def stratified_uniform(
    shape: tuple[int, int], generator: torch.Generator, ranks: Ranks = ALONE
) -> Tensor:
    """Numbers that are uniform on [0, 1) one by one and evenly spread together.

    The interval is cut into as many parts as there are numbers; each number falls into a part of
    its own, in random order, so position in the batch says nothing.

    Args:
        shape: Draws and rows.
        generator: Source of randomness.
        ranks: The processes that have the rest of the rows, over which they spread, too.

    Returns:
        float64 of `shape`, on the generator's device.
    """
    draws, rows = shape[0], ranks.whole(shape[1])
    total = draws * rows
    part = torch.randperm(total, generator=generator, device=generator.device)
    jitter = torch.rand(total, generator=generator, device=generator.device, dtype=torch.float64)
    return ranks.own(((part + jitter) / total).view(draws, rows), 1)


class Corruption(ABC):
    """Hides tokens of plans. See `Corrupted` for what comes out."""

    def __init__(self, num_actions: int, *, pad_mode: str = "predict") -> None:
        """Args:
            num_actions: Size of the action set.
            pad_mode: What happens to END. "predict": masked and predicted like an action.
                "visible": never masked, the seed's PAD, which shows the net how long the answer
                is. "always_mask": shown as MASK in every draw and never asked for. Only
                "predict" teaches when to stop; the others learn actions alone.

        Raises:
            ValueError: If `pad_mode` is unknown.
        """
        if pad_mode not in PAD_MODES:
            raise ValueError(
                unknown_name_message(f"{type(self).__name__}.pad_mode", pad_mode, PAD_MODES)
            )
        self.num_actions = num_actions
        self.pad_mode = pad_mode

    @abstractmethod
    def __call__(
        self,
        plans: Tensor,
        schedule: NoiseSchedule,
        generator: torch.Generator,
        frozen: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Corrupted:
        """Mask each plan D times.

        Args:
            plans: int64 [B, H], no MASK.
            schedule: Turns mask rates into times.
            generator: Source of randomness; may live on another device than the plans.
            frozen: bool [B, H]: positions that stay visible and bear no loss (a locked prefix).
            ranks: The processes that have the rest of the batch. All draw alike for all rows and
                keep those of their own, so that one process with all of them draws the same.

        Returns:
            D draws, on the plans' device.
        """

    def free_positions(self, plans: Tensor, frozen: Tensor | None) -> Tensor:
        """The positions that may be masked and scored, bool [B, H]."""
        free = torch.ones_like(plans, dtype=torch.bool) if frozen is None else ~frozen
        if self.pad_mode != "predict":
            free = free & (plans != end_token(self.num_actions))
        return free

    def hide(self, plans: Tensor, masked: Tensor, frozen: Tensor | None) -> Tensor:
        """The plans with `masked`, and what `pad_mode` adds, as MASK; int64 [D, B, H]."""
        if self.pad_mode == "always_mask":
            ends = plans == end_token(self.num_actions)
            masked = masked | (ends if frozen is None else ends & ~frozen)
        return plans.expand_as(masked).masked_fill(masked, mask_token(self.num_actions))


@gin.configurable(module="remdm", denylist=["num_actions"])
class CountMasking(Corruption):
    """Hides exactly n positions, n uniform on 1..free and spread evenly over the batch.

    The any-order form of the NELBO, free * E[mean of CE over the n hidden], needs no clip and has
    no empty draws. Where all tokens cost the same it has no variance; Bernoulli masks have 0.09.

    Some draws can be fully masked on purpose: a planner always starts there, and a plan that
    is decided in few steps is mostly decided there. `elbo_weight` accounts for them.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        draws: int = 2,
        full_draws: int = 1,
        low_discrepancy: bool = True,
        pad_mode: str = "predict",
    ) -> None:
        """Args:
            num_actions: Size of the action set.
            draws: Masks per plan.
            full_draws: How many of them hide everything; they come first.
            low_discrepancy: Spread the counts evenly over the batch instead of independently.
            pad_mode: See `Corruption`.

        Raises:
            ValueError: Unless 0 <= full_draws < draws.
        """
        super().__init__(num_actions, pad_mode=pad_mode)
        if not 0 <= full_draws < draws:
            raise ValueError(
                f"CountMasking needs 0 <= full_draws < draws, got full_draws={full_draws} and "
                f"draws={draws}; set CountMasking.draws to at least {max(full_draws, 0) + 1}"
            )
        self.draws = draws
        self.full_draws = full_draws
        self.low_discrepancy = low_discrepancy

    def __call__(
        self,
        plans: Tensor,
        schedule: NoiseSchedule,
        generator: torch.Generator,
        frozen: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Corrupted:
        """See `Corruption.__call__`; rows with nothing free come out unmasked with weight 0."""
        free = self.free_positions(plans, frozen)
        num_free = free.sum(-1)
        random_draws = self.draws - self.full_draws
        shape = (random_draws, plans.shape[0])
        uniform = _draw_uniform(shape, generator, plans.device, self.low_discrepancy, ranks)
        random_counts = ((uniform * num_free).long() + 1).minimum(num_free)
        counts = torch.cat([num_free.expand(self.full_draws, -1), random_counts])
        masked = count_mask(counts[..., None], free.expand(self.draws, -1, -1), generator, ranks)
        safe = num_free.clamp_min(1)
        rate = (counts / safe).double()
        time = schedule.inv_mask_rate(rate)
        return Corrupted(
            tokens=self.hide(plans, masked, frozen),
            masked=masked,
            time=time.float(),
            rate=rate.float(),
            counts=counts,
            free=num_free,
            elbo_weight=self._elbo_weight(counts, num_free),
            time_weight=schedule.weight(time).float(),
            full_draws=self.full_draws,
        )

    def _elbo_weight(self, counts: Tensor, num_free: Tensor) -> Tensor:
        """Is free / n times p(n) / q(n): p uniform on 1..free, q the mixture of the draws."""
        random_draws = self.draws - self.full_draws
        partial = torch.full_like(num_free, self.draws / random_draws, dtype=torch.float64)
        full = self.draws / (self.full_draws * num_free + random_draws)
        ratio = torch.where(counts == num_free, full, partial)
        return (ratio * num_free / counts.clamp_min(1)).float()


def nelbo_masking(num_actions: int, draws: int, pad_mode: str) -> CountMasking:
    """The masks that a NELBO is measured with, whatever a config trains with.

    Args:
        num_actions: Size of the action set.
        draws: Masks per plan, their counts spread evenly over the batch.
        pad_mode: See `Corruption`; must be that of training.
    """
    return CountMasking(
        num_actions, draws=draws, full_draws=0, low_discrepancy=True, pad_mode=pad_mode
    )


@gin.configurable(module="remdm", denylist=["num_actions"])
class BernoulliMasking(Corruption):
    """Draws one time per plan and hides each token with that time's mask rate.

    With `uniform_in="time"`, `low_discrepancy=False`, `clamped=True` and `weight_floor=1e-5` it is
    the MiniHack seed's process; without `clamped` the Craftax seed's.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        draws: int = 1,
        uniform_in: str = "mask_rate",
        low_discrepancy: bool = True,
        min_rate: float = 1e-5,
        clamped: bool = False,
        weight_floor: float = 0.0,
        pad_mode: str = "predict",
    ) -> None:
        """Args:
            num_actions: Size of the action set.
            draws: Masks per plan.
            uniform_in: "mask_rate", which has the lower variance, or "time".
            low_discrepancy: Spread the draws evenly over the batch instead of independently.
            min_rate: Smallest mask rate (or time); the NELBO weight grows as its inverse.
            clamped: Draw from all of [0, 1) and clamp to [min_rate, 1 - min_rate] instead of
                drawing from [min_rate, 1).
            weight_floor: Least 1 - alpha that the weight at a time is divided by; see
                `NoiseSchedule.floored_weight`. 0 leaves the weight as it is.
            pad_mode: See `Corruption`.

        Raises:
            ValueError: If a value is out of range or unknown.
        """
        super().__init__(num_actions, pad_mode=pad_mode)
        if uniform_in not in ("mask_rate", "time"):
            raise ValueError(
                unknown_name_message(
                    "BernoulliMasking.uniform_in", uniform_in, ("mask_rate", "time")
                )
            )
        if draws < 1 or not 0 <= min_rate < 1 or weight_floor < 0:
            raise ValueError(
                "BernoulliMasking needs draws >= 1, 0 <= min_rate < 1 and weight_floor >= 0, got "
                f"draws={draws}, min_rate={min_rate} and weight_floor={weight_floor}"
            )
        if clamped and min_rate > 0.5:
            raise ValueError(
                "BernoulliMasking.min_rate must be at most 0.5 with clamped=True, which keeps to "
                f"[min_rate, 1 - min_rate], got {min_rate}"
            )
        self.draws = draws
        self.uniform_in = uniform_in
        self.low_discrepancy = low_discrepancy
        self.min_rate = min_rate
        self.clamped = clamped
        self.weight_floor = weight_floor

    def __call__(
        self,
        plans: Tensor,
        schedule: NoiseSchedule,
        generator: torch.Generator,
        frozen: Tensor | None = None,
        ranks: Ranks = ALONE,
    ) -> Corrupted:
        """See `Corruption.__call__`."""
        free = self.free_positions(plans, frozen)
        rate, time = self._rates(plans.shape[0], schedule, generator, plans.device, ranks)
        masked = bernoulli_mask(rate[..., None], free.expand(self.draws, -1, -1), generator, ranks)
        time_weight = schedule.weight(time)
        if self.weight_floor:
            time_weight = schedule.floored_weight(time, self.weight_floor)
        elbo_weight = 1.0 / rate if self.uniform_in == "mask_rate" else time_weight
        # Draws from [min_rate, 1) are denser than those from [0, 1); clamped ones are not.
        share = 1.0 if self.clamped else 1.0 - self.min_rate
        return Corrupted(
            tokens=self.hide(plans, masked, frozen),
            masked=masked,
            time=time.float(),
            rate=rate.float(),
            counts=masked.sum(-1),
            free=free.sum(-1),
            elbo_weight=(elbo_weight * share).float(),
            time_weight=time_weight.float(),
            full_draws=0,
        )

    def _rates(
        self,
        batch_size: int,
        schedule: NoiseSchedule,
        generator: torch.Generator,
        device: torch.device,
        ranks: Ranks,
    ) -> tuple[Tensor, Tensor]:
        shape = (self.draws, batch_size)
        uniform = _draw_uniform(shape, generator, device, self.low_discrepancy, ranks)
        if self.clamped:
            uniform = uniform.clamp(self.min_rate, 1.0 - self.min_rate)
        else:
            uniform = self.min_rate + (1.0 - self.min_rate) * uniform
        if self.uniform_in == "mask_rate":
            return uniform, schedule.inv_mask_rate(uniform)
        return schedule.mask_rate(uniform), uniform


def _draw_uniform(
    shape: tuple[int, int],
    generator: torch.Generator,
    device: torch.device,
    even: bool,
    ranks: Ranks,
) -> Tensor:
    """float64 on [0, 1), spread evenly over the batch or independent."""
    if even:
        return stratified_uniform(shape, generator, ranks).to(device)
    return _uniform((*shape, 1), generator, device, ranks)[..., 0]


def _uniform(
    shape: tuple[int, ...] | torch.Size,
    generator: torch.Generator,
    device: torch.device,
    ranks: Ranks,
) -> Tensor:
    """float64 on [0, 1); the rows of the batch are the last axis but one."""
    whole = (*shape[:-2], ranks.whole(shape[-2]), shape[-1])
    draws = torch.rand(whole, generator=generator, device=generator.device, dtype=torch.float64)
    return ranks.own(draws, -2).to(device)
