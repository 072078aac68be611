"""Learning an expert's law of its next action beside the action it drew.

A drawn action says little about how sure the expert was. Where its logits are recorded with the
observations, the first token of a plan can learn all of them: cross-entropy against the expert's
law, as in distillation (Hinton et al. 2015, arXiv:1503.02531, section 2).
"""

import torch
from torch import Tensor

from remdm.data.batch import Batch

LOGITS_KEY = "expert/logits"
"""Observation float16 [B, num_actions], recorded where an expert looked on."""


def check_soft_targets(owner: str, weight: float) -> None:
    """Refuse a negative weight.

    Raises:
        ValueError: If it is.
    """
    if not weight >= 0:
        raise ValueError(
            f"soft_target_weight must be at least 0, got {weight}; set {owner}.soft_target_weight."
        )


def soft_target_loss(logits: Tensor, batch: Batch, counted: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of first actions against the expert's law.

    Args:
        logits: Floating [..., B, C] of the first token; the first num_actions classes are actions.
        batch: With the expert's logits among its observations.
        counted: Bool [..., B]: which answers count; all when None.

    Returns:
        A scalar, weighted by the batch's weights; an exact 0 where nothing counts. Its mean over
        the processes that share the batch is that of the whole batch.

    Raises:
        ValueError: If the batch lacks the expert's logits.
    """
    if LOGITS_KEY not in batch.observations:
        raise ValueError(
            f"soft targets learn from the observation array {LOGITS_KEY!r}, and the data has none; "
            "collect with Experiment.oracle_type = @ExpertOracle, or set "
            "DiffusionPlannerAgent.soft_target_weight = 0."
        )
    law = batch.observations[LOGITS_KEY].to(logits.device).float().softmax(-1)
    answers = logits.float().log_softmax(-1)[..., : law.shape[-1]]
    # An answer that is ruled out has no logarithm; an expert's probability of it would be 0 too.
    surprise = -(law * answers.clamp_min(-1e4)).sum(-1)
    weights = batch.weights.to(surprise) * (1.0 if counted is None else counted)
    weights = weights.expand_as(surprise)
    (total,) = batch.ranks.means(weights.sum())
    return (surprise * weights).sum() / torch.where(total == 0, 1.0, total)
