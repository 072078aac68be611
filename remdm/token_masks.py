"""Which tokens of labels are learnt from, where not all are.

`Batch.token_mask` says it for the tokens of `Batch.plans`. Tokens that do not count are shown and
hidden like all others; they are only not asked for, and no mean is over them.
"""

from dataclasses import replace

import torch
from torch import Tensor

from remdm.diffusion.corruption import Corrupted, Corruption


def counted(
    corrupted: Corrupted,
    token_mask: Tensor | None,
    corruption: Corruption,
    plans: Tensor,
    frozen: Tensor | None,
) -> Corrupted:
    """Draws of plans in which only tokens that count are asked for.

    Args:
        corrupted: What `corruption` made of the plans.
        token_mask: bool [B, H]: the tokens of the labels that count; all when None.
        corruption: What hid them.
        plans: int64 [B, H]: the canvases, which may begin with actions before the label.
        frozen: bool [B, H]: those actions, see `Corruption`; None where there are none.
    """
    if token_mask is None:
        return corrupted
    if frozen is not None:  # a label moves behind what comes before it, and so does its mask
        offsets = frozen.sum(1, keepdim=True)
        places = torch.arange(plans.shape[1], device=plans.device) - offsets
        token_mask = token_mask.gather(1, places.clamp_min(0)) & (places >= 0)
    masked = corrupted.masked & token_mask
    free = corruption.free_positions(plans, frozen) & token_mask
    return replace(corrupted, masked=masked, counts=masked.sum(-1), free=free.sum(-1))


def counting(real: Tensor, token_mask: Tensor | None) -> Tensor:
    """The questions whose answers are learnt from.

    Args:
        real: bool [D, B, h]: those that have an answer, about the first h tokens of the labels.
        token_mask: bool [B, H], see `counted`.
    """
    return real if token_mask is None else real & token_mask[:, : real.shape[-1]]
