"""Anchors: how the next plan hangs on the actions that were executed before it.

- "none": every plan begins at the present state.
- "legacy": the plan window is kept until it is full. Its executed actions are locked, the
  observation is the present one, and the next action stands behind the prefix. Training knows
  nothing of it: it pairs an observation with position 0 only.
- "aligned": the same window, and training shows it: in a share of the samples the past actions
  stand before the label as a visible prefix that bears no loss, and the net is told where in the
  window the observation belongs.

The functions here move plans between the two views: the *canvas* with its prefix, and the plan
that begins with the next action.
"""

from dataclasses import replace

import torch
from torch import Tensor

from remdm.diffusion import PlanSample
from remdm.ranks import ALONE, Ranks
from remdm.tokens import end_token, mask_token

ANCHORS = ("none", "legacy", "aligned")


def behind_prefix(values: Tensor, offsets: Tensor, fill: float) -> Tensor:
    """What stands behind the prefix, moved to position 0.

    Args:
        values: [N, H].
        offsets: int64 [N], in 0..H-1.
        fill: What follows it.

    Returns:
        [N, H] of the same dtype.
    """
    return _moved(values, offsets, fill)


def after_prefix(values: Tensor, offsets: Tensor, fill: float) -> Tensor:
    """The inverse of `behind_prefix`: room for the prefix, filled with `fill`."""
    return _moved(values, -offsets, fill)


def _moved(values: Tensor, by: Tensor, fill: float) -> Tensor:
    horizon = values.shape[1]
    source = torch.arange(horizon, device=values.device) + by[:, None]
    inside = (source >= 0) & (source < horizon)
    moved = values.gather(1, source.clamp(0, horizon - 1))
    return torch.where(inside, moved, torch.full_like(moved, fill))


def without_prefix(sample: PlanSample, offsets: Tensor, num_actions: int) -> PlanSample:
    """Plans that begin with the next action; where a canvas ends, END closes the plan.

    Args:
        sample: Plans with a locked prefix; a trace keeps it.
        offsets: int64 [N]: length of each prefix.
        num_actions: Size of the action set.
    """
    end = end_token(num_actions)
    tokens = behind_prefix(sample.tokens, offsets, end)
    return replace(
        sample,
        tokens=tokens,
        lengths=(tokens != end).long().cumprod(1).sum(1),
        token_log_probs=behind_prefix(sample.token_log_probs, offsets, 0.0),
    )


def token_mask_behind(
    first: Tensor | None, offsets: Tensor, horizon: int, num_actions: int
) -> Tensor:
    """Classes allowed at each position when the first decision stands behind a prefix.

    Args:
        first: bool [N, num_actions + 1]: classes allowed for the next action; None for all.
        offsets: int64 [N].
        horizon: Tokens per plan H.
        num_actions: Size of the action set.

    Returns:
        bool [N, H, num_actions + 1]; END is barred where the next action stands.
    """
    rows = torch.arange(len(offsets), device=offsets.device)
    allowed = torch.ones(
        (len(offsets), horizon, num_actions + 1), dtype=torch.bool, device=offsets.device
    )
    if first is not None:
        allowed[rows, offsets] = first
    allowed[rows, offsets, num_actions] = False
    return allowed


def with_past(
    plans: Tensor,
    past: Tensor,
    share: float,
    generator: torch.Generator,
    num_actions: int,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor]:
    """Move some labels behind actions that were executed before them.

    Args:
        plans: int64 [B, H]: labels that begin at the observation.
        past: int64 [B, m]: the action executed one step before, two steps before, ...; MASK from
            where the episode had not begun.
        share: Probability that a plan gets a prefix, where there is a past.
        generator: Source of randomness; the length is uniform on what is possible.
        num_actions: Size of the action set.
        ranks: The processes that have the rest of the batch; see `Corruption.__call__`.

    Returns:
        The canvases, int64 [B, H], and the lengths of their prefixes, int64 [B].
    """
    count, horizon = plans.shape
    known = (past != mask_token(num_actions)).long().cumprod(1).sum(1).clamp(max=horizon - 1)
    whole = (2, ranks.whole(count))
    drawn = torch.rand(whole, generator=generator, device=generator.device, dtype=torch.float64)
    draws = ranks.own(drawn, 1).to(plans.device)
    offsets = ((draws[1] * known).long() + 1).minimum(known) * (draws[0] < share)
    positions = torch.arange(horizon, device=plans.device)
    steps_ago = (offsets[:, None] - 1 - positions).clamp(0, past.shape[1] - 1)
    prefix = past.gather(1, steps_ago)
    moved = after_prefix(plans, offsets, end_token(num_actions))
    return torch.where(positions < offsets[:, None], prefix, moved), offsets
