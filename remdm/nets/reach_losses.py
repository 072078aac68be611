"""What an encoder that sees ways learns beside the plans' tokens: where to, and which way first."""

import torch
from torch import Tensor

from remdm.maps import NUM_DIRECTIONS
from remdm.nets.plan_ends import plan_ends
from remdm.ranks import Ranks

# How much worse a step can be said to be, and how unlikely an end; what is farther off learns
# nothing more.
WORST = 30.0
# A direction that makes the way one step longer is this many nats less likely; costs of a step that
# had to grow for certainty would let the way to far places look dear.
WAY_SHARPNESS = 4.0
# A place that is one dearer, the way there included, is this many nats less likely to be the end.
END_SHARPNESS = 1.0


def way_loss(worse: Tensor, plans: Tensor, weights: Tensor, ranks: Ranks) -> Tensor:
    """Cross-entropy of the labels' first moves under the ways alone.

    A step is as likely as `exp(-WAY_SHARPNESS * worse)`; so does a value iteration network act
    (Tamar et al. 2016, arXiv:1602.02867). Without it, costs learn only through the plans' tokens,
    and take much longer. Each field has to be right by itself: mixed, one of them would know all
    about locked doors and another about corridors, and the decoder could not tell whom to follow.

    Args:
        worse: float32 [B, fields, 8]: how much longer each first step makes the way.
        plans: int64 [B, H], the labels.
        weights: float32 [B], of the labels.
        ranks: The processes that have the rest of the batch.

    Returns:
        float32 []: a mean over the plans that begin with a move, in nats.
    """
    first = plans[:, 0]
    chosen = first.clamp(max=NUM_DIRECTIONS - 1)
    log_probs = (-WAY_SHARPNESS * worse.clamp(max=WORST)).log_softmax(-1)
    weights = weights * (first < NUM_DIRECTIONS)
    return _mean(_nats(log_probs, chosen), weights, ranks)


def end_loss(
    costs: Tensor, observations: dict[str, Tensor], plans: Tensor, weights: Tensor, ranks: Ranks
) -> Tensor:
    """Cross-entropy of the places where the labels lead first, under what it costs to end there.

    A place is as likely as `exp(-END_SHARPNESS * cost)`. The gradient of a cheapest way knows only
    the one place where it ends; this one knows all that might have been meant.

    Args:
        costs: float32 [B, fields, height, width]: of the way to each cell and of ending there.
        observations: Arrays of B maps.
        plans: int64 [B, H], the labels.
        weights: float32 [B], of the labels.
        ranks: The processes that have the rest of the batch.

    Returns:
        float32 []: a mean over the plans that say where that is, in nats.
    """
    places, told = plan_ends(observations, plans)
    height, width = costs.shape[2:]
    size = torch.tensor([height, width], device=places.device)
    told = told & ((places >= 0) & (places < size)).all(1)
    chosen = (places[:, 0] * width + places[:, 1]) * told
    log_probs = (-END_SHARPNESS * costs.flatten(2)).log_softmax(-1)
    nats = _nats(log_probs, chosen).clamp(max=WORST)
    return _mean(nats, weights * told, ranks)


def _nats(log_probs: Tensor, chosen: Tensor) -> Tensor:
    """Of the classes [B] under log-probabilities [B, fields, classes], a mean over the fields."""
    fields = log_probs.shape[1]
    return -log_probs.gather(2, chosen[:, None, None].expand(-1, fields, 1)).mean((1, 2))


def _mean(values: Tensor, weights: Tensor, ranks: Ranks) -> Tensor:
    (total,) = ranks.means(weights.sum())
    return (values * weights).sum() / torch.where(total == 0, 1.0, total)
