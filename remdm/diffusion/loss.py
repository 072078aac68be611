"""The training objective: cross-entropy on hidden tokens, in the weightings of the literature.

All weightings share the same minimiser for a net of unlimited capacity; they differ in which
mask rates they care about. With every token free and n of L hidden,

- "flat" averages over all hidden tokens of the batch (BERT, MaskGIT, the seed's default):
  weight proportional to n, so heavily masked inputs count most, where a planner decides most;
- "elbo" is an unbiased estimate of the negative ELBO, `L / n * sum of CE` (MDLM, arXiv
  2406.07524, in its any-order form), an upper bound of -log p(plan) that is tight for an exact
  denoiser;
- "subs" is the seed's importance weighting, clipped `-dalpha / (1 - alpha)` times the *mean* CE of
  the plan. It divides by the count twice, so half of its weight lies on nearly clean inputs; kept
  to reproduce old checkpoints.
"""

import gin
import torch
from torch import Tensor
from torch.nn import functional

from remdm.diffusion.classes import end_class, tokens_to_classes
from remdm.diffusion.corruption import Corrupted
from remdm.registry import unknown_name_message

WEIGHTINGS = ("flat", "elbo", "subs")


@gin.configurable(module="remdm", denylist=["num_actions"])
class MaskedLoss:
    """Scores a denoiser's logits on the tokens that a `Corruption` hid."""

    def __init__(
        self,
        num_actions: int,
        *,
        weighting: str = "flat",
        tail_weight: float = 0.1,
        label_smoothing: float = 0.0,
        weight_clip: float = 1000.0,
    ) -> None:
        """Args:
            num_actions: Size of the action set.
            weighting: "flat", "elbo" or "subs"; see the module.
            tail_weight: Weight of the END tokens after the first one, which is itself a decision
                and counts fully; the rest repeats it.
            label_smoothing: Share of the target spread over all classes; 0 when evaluating.
            weight_clip: Upper limit of the weights of "elbo" and "subs".

        Raises:
            ValueError: If a value is out of range or unknown.
        """
        if weighting not in WEIGHTINGS:
            raise ValueError(unknown_name_message("MaskedLoss.weighting", weighting, WEIGHTINGS))
        if tail_weight < 0 or not 0 <= label_smoothing < 1 or weight_clip <= 0:
            raise ValueError(
                "MaskedLoss needs tail_weight >= 0, 0 <= label_smoothing < 1 and weight_clip > 0,"
                f" got {tail_weight}, {label_smoothing} and {weight_clip}"
            )
        self.num_actions = num_actions
        self.weighting = weighting
        self.tail_weight = tail_weight
        self.label_smoothing = label_smoothing
        self.weight_clip = weight_clip

    def __call__(
        self,
        logits: Tensor,
        plans: Tensor,
        corrupted: Corrupted,
        weights: Tensor | None = None,
        *,
        evaluating: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Args:
            logits: Floating [D, B, H, num_actions + 1] or [D * B, H, num_actions + 1].
            plans: int64 [B, H], what was corrupted.
            corrupted: D draws of the plans.
            weights: Floating [B], one per plan; 0 takes a plan out. All 1 when None.
            evaluating: Leave label smoothing out.

        Returns:
            A scalar that is 0, with zero gradients, when nothing is hidden; and detached scalars:
            `nelbo` (nats per plan, every token at full weight), `token_accuracy` (hidden tokens
            up to and including the first END), `first_token_accuracy` (position 0 in the fully
            masked draws, or wherever it is hidden if there are none).
        """
        draws, batch_size, horizon = corrupted.masked.shape
        # Autocast nets answer in bfloat16, too coarse for a loss; float64 stays.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.reshape(draws, batch_size, horizon, -1).to(dtype)
        plan_weights = logits.new_ones(batch_size) if weights is None else weights.to(dtype)
        classes = tokens_to_classes(plans, self.num_actions)
        ends = classes == end_class(self.num_actions)
        tail = ends.cumsum(-1) > 1

        log_probs = functional.log_softmax(logits, -1)
        index = classes.expand(draws, -1, -1)[..., None]
        cross_entropy = -log_probs.gather(-1, index)[..., 0]
        target_loss = cross_entropy
        if self.label_smoothing and not evaluating:
            smooth = -log_probs.mean(-1)
            target_loss = cross_entropy.lerp(smooth, self.label_smoothing)

        position_weights = torch.where(tail, self.tail_weight, 1.0)
        hidden = corrupted.masked * position_weights
        loss = self._reduce(target_loss, hidden, corrupted, plan_weights)
        with torch.no_grad():
            real = corrupted.masked & ~tail
            metrics = _metrics(logits, classes, cross_entropy, corrupted, plan_weights, real)
        return loss, metrics

    def _reduce(
        self, token_loss: Tensor, hidden: Tensor, corrupted: Corrupted, plan_weights: Tensor
    ) -> Tensor:
        """Weigh [D, B, H] token losses by position, draw and plan, and average."""
        sums = (token_loss * hidden).sum(-1)
        if self.weighting == "flat":
            return _ratio((sums * plan_weights).sum(), (hidden.sum(-1) * plan_weights).sum())
        if self.weighting == "elbo":
            factor = corrupted.elbo_weight.clamp(max=self.weight_clip)
            total = ((sums * factor).mean(0) * plan_weights).sum()
            return _ratio(total, (corrupted.free * plan_weights).sum())
        factor = corrupted.time_weight.clamp(max=self.weight_clip)
        means = sums / hidden.sum(-1).clamp_min(1e-8)
        return _ratio(((means * factor).mean(0) * plan_weights).sum(), plan_weights.sum())


def _metrics(
    logits: Tensor,
    classes: Tensor,
    cross_entropy: Tensor,
    corrupted: Corrupted,
    plan_weights: Tensor,
    real: Tensor,
) -> dict[str, Tensor]:
    """Detached scalars; plans of weight 0 are left out, the others count alike."""
    used = (plan_weights > 0).to(plan_weights.dtype)
    correct = (logits.argmax(-1) == classes).to(plan_weights.dtype)
    scored = real * used[:, None]
    draws = corrupted.full_draws or len(corrupted.masked)
    first = corrupted.masked[:draws, :, 0] * used
    nelbo = (cross_entropy * corrupted.masked).sum(-1) * corrupted.elbo_weight
    return {
        "nelbo": _ratio((nelbo.mean(0) * used).sum(), used.sum()),
        "token_accuracy": _ratio((correct * scored).sum(), scored.sum()),
        "first_token_accuracy": _ratio((correct[:draws, :, 0] * first).sum(), first.sum()),
    }


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient; an exact 0 that stays in the graph when the denominator is 0."""
    return numerator / torch.where(denominator == 0, 1.0, denominator)
