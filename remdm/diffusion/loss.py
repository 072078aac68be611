"""The training objective: cross-entropy on hidden tokens, in the weightings of the literature.

All weightings share the same minimiser for a net of unlimited capacity; they differ in which
mask rates they care about. With n of L free tokens hidden,

- "flat" averages over all hidden tokens of the batch (BERT, MaskGIT, the seed's default):
  weight proportional to n, so heavily masked inputs count most, where a planner decides most;
- "elbo" is an unbiased estimate of the negative ELBO, `L / n * sum of CE` (MDLM, arXiv
  2406.07524, in its any-order form), an upper bound of -log p(plan) that is tight for an exact
  denoiser;
- "subs" is the seed's importance weighting, clipped `-dalpha / (1 - alpha)` times the *mean* CE of
  the plan. It divides by the count twice, so half of its weight lies on nearly clean inputs; kept
  to reproduce old checkpoints;
- "mgdm" (arXiv 2410.14157, its released code) averages `T - t` times a focal CE over all hidden
  tokens: `scale * (1 - p)^power * CE` turns to the tokens that the net finds hard, and `T - t`,
  which falls from T - 1 + 1 / n to 1 as the mask rate rises, to nearly clean inputs.

Sums over the batch are divided by sums over the batch, so every real token has the same share in
the result however long its plan is; `normaliser="horizon"` divides plan by plan instead.
"""

import gin
import torch
from torch import Tensor
from torch.nn import functional

from remdm.diffusion.classes import NEVER_LOGIT, end_class, tokens_to_classes
from remdm.diffusion.corruption import Corrupted
from remdm.ranks import ALONE, Ranks
from remdm.registry import unknown_name_message

WEIGHTINGS = ("flat", "elbo", "subs", "mgdm")
NORMALISERS = ("tokens", "horizon")


def token_cross_entropy(log_probs: Tensor, classes: Tensor, wanted: Tensor) -> Tensor:
    """Nats that each wanted token costs.

    Args:
        log_probs: Floating [D, B, H, C].
        classes: int64 [B, H], the right answers.
        wanted: bool [D, B, H].

    Returns:
        Floating [D, B, H]; an exact 0 without gradient elsewhere, even where the answer is
        impossible.
    """
    index = classes.expand(wanted.shape)[..., None]
    return -log_probs.gather(-1, index)[..., 0].masked_fill(~wanted, 0.0)


def plan_nelbo(logits: Tensor, plans: Tensor, corrupted: Corrupted, num_actions: int) -> Tensor:
    """The negative ELBO of each plan, an upper bound of -log p(plan) in nats.

    `free * E[mean of CE over the n hidden]`, n uniform on 1..free: the any-order form of equation
    10 of MDLM (arXiv 2406.07524), unbiased in the masks that were drawn; every token has full
    weight and nothing is smoothed.

    Args:
        logits: Floating [D, B, H, num_actions + 1] or [D * B, H, num_actions + 1].
        plans: int64 [B, H], what was corrupted.
        corrupted: D draws of the plans.
        num_actions: Size of the action set.

    Returns:
        [B], the mean over draws; 0 where nothing could be hidden.
    """
    shape = corrupted.masked.shape
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probs = functional.log_softmax(logits.reshape(*shape, -1).to(dtype), -1)
    classes = tokens_to_classes(plans, num_actions)
    return _nelbo(token_cross_entropy(log_probs, classes, corrupted.masked), corrupted)


def _nelbo(cross_entropy: Tensor, corrupted: Corrupted) -> Tensor:
    """`plan_nelbo` from [D, B, H] cross-entropies, 0 where nothing is hidden."""
    return (cross_entropy.sum(-1) * corrupted.elbo_weight).mean(0)


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
        normaliser: str = "tokens",
        focal_scale: float = 0.25,
        focal_power: float = 1.0,
        focal_steps: int = 20,
    ) -> None:
        """Args:
            num_actions: Size of the action set.
            weighting: "flat", "elbo", "subs" or "mgdm"; see the module.
            tail_weight: Weight of the END tokens after the first one, which is itself a decision
                and counts fully; the rest repeats it.
            label_smoothing: Share of the target spread over all classes that the net can answer;
                0 when evaluating.
            weight_clip: Upper limit of the weights of "elbo" and "subs".
            normaliser: "tokens" divides sums over the batch: by the hidden tokens ("flat",
                "mgdm"), by the free ones ("elbo"), by the plans, whose means are summed ("subs").
                "horizon" divides each plan's sum by the horizon and takes the mean, as the seeds'
                later versions do, so that short plans count less.
            focal_scale: Factor of the focal cross-entropy of "mgdm".
            focal_power: Its exponent, 0 or at least 1; the paper's Sudoku has 1, countdown 2.
            focal_steps: T of "mgdm".

        Raises:
            ValueError: If a value is out of range or unknown, or two do not fit together.
        """
        if weighting not in WEIGHTINGS:
            raise ValueError(unknown_name_message("MaskedLoss.weighting", weighting, WEIGHTINGS))
        if normaliser not in NORMALISERS:
            raise ValueError(unknown_name_message("MaskedLoss.normaliser", normaliser, NORMALISERS))
        if weighting == "subs" and normaliser == "horizon":
            raise ValueError(
                "MaskedLoss.weighting 'subs' averages over the hidden tokens of each plan; set "
                "MaskedLoss.normaliser = 'tokens', or weighting 'elbo' for sums over the horizon"
            )
        if tail_weight < 0 or not 0 <= label_smoothing < 1 or weight_clip <= 0:
            raise ValueError(
                "MaskedLoss needs tail_weight >= 0, 0 <= label_smoothing < 1 and weight_clip > 0,"
                f" got {tail_weight}, {label_smoothing} and {weight_clip}"
            )
        if focal_scale <= 0 or focal_steps < 1 or not (focal_power == 0 or focal_power >= 1):
            # Between 0 and 1 the gradient at a sure and right answer is infinite.
            raise ValueError(
                "MaskedLoss needs focal_scale > 0, focal_steps >= 1 and a focal_power of 0 or at "
                f"least 1, got {focal_scale}, {focal_steps} and {focal_power}"
            )
        self.num_actions = num_actions
        self.weighting = weighting
        self.tail_weight = tail_weight
        self.label_smoothing = label_smoothing
        self.weight_clip = weight_clip
        self.normaliser = normaliser
        self.focal_scale = focal_scale
        self.focal_power = focal_power
        self.focal_steps = focal_steps

    def __call__(
        self,
        logits: Tensor,
        plans: Tensor,
        corrupted: Corrupted,
        weights: Tensor | None = None,
        ranks: Ranks = ALONE,
        *,
        evaluating: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, or of the part of it that this process has.

        Args:
            logits: Floating [D, B, H, num_actions + 1] or [D * B, H, num_actions + 1].
            plans: int64 [B, H], what was corrupted.
            corrupted: D draws of the plans.
            weights: Floating [B], one per plan, at least 0; multiplies its loss before all sums,
                and 0 takes a plan out. All 1 when None.
            ranks: The processes that have the rest of the batch. The mean of what they return,
                loss and scalars alike, is that of the whole batch.
            evaluating: Leave label smoothing out.

        Returns:
            A scalar that is 0, with zero gradients, when nothing is hidden or the batch is empty;
            and detached scalars:
            `nelbo` (nats per plan, every token at full weight), `token_accuracy` (hidden tokens
            up to and including the first END), `first_token_accuracy` (position 0 in the fully
            masked draws, or wherever it is hidden if there are none).
        """
        draws, batch_size, horizon = corrupted.masked.shape
        # Autocast nets answer in bfloat16, too coarse for a loss; float64 stays.
        dtype = torch.promote_types(logits.dtype, torch.float32)
        logits = logits.reshape(draws, batch_size, horizon, logits.shape[-1]).to(dtype)
        plan_weights = logits.new_ones(batch_size) if weights is None else weights.to(dtype)
        classes = tokens_to_classes(plans, self.num_actions)
        ends = classes == end_class(self.num_actions)
        tail = ends.cumsum(-1) > 1

        log_probs = functional.log_softmax(logits, -1)
        scored = corrupted.masked & (plan_weights > 0)[:, None]
        cross_entropy = token_cross_entropy(log_probs, classes, scored)
        token_loss = cross_entropy
        if self.label_smoothing and not evaluating:
            smooth = _mean_cross_entropy(log_probs, logits, scored)
            token_loss = cross_entropy.lerp(smooth, self.label_smoothing)
        if self.weighting == "mgdm":
            doubt = -torch.expm1(-cross_entropy)
            token_loss = self.focal_scale * doubt**self.focal_power * token_loss

        position_weights = torch.where(tail, self.tail_weight, 1.0)
        hidden = corrupted.masked * position_weights
        total, tokens = self._reduce(token_loss, hidden, corrupted, plan_weights)
        with torch.no_grad():
            real = scored & ~tail
            sums = _metrics(logits, classes, cross_entropy, corrupted, plan_weights, real)
        tokens, *counts = ranks.means(tokens, *(count for _, count in sums.values()))
        pairs = zip(sums.items(), counts, strict=True)
        return _ratio(total, tokens), {name: _ratio(s[0], count) for (name, s), count in pairs}

    def _reduce(
        self, token_loss: Tensor, hidden: Tensor, corrupted: Corrupted, plan_weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The sum of [D, B, H] token losses by position, draw and plan, and what it is over."""
        sums = (token_loss * hidden).sum(-1) * self._draw_weights(hidden, corrupted)
        if self.normaliser == "horizon":
            tokens = plan_weights.sum() * hidden.shape[-1]
        elif self.weighting in ("flat", "mgdm"):
            return (sums * plan_weights).sum(), (hidden.sum(-1) * plan_weights).sum()
        elif self.weighting == "elbo":
            tokens = (corrupted.free * plan_weights).sum()
        else:
            tokens = plan_weights.sum()
        return (sums.mean(0) * plan_weights).sum(), tokens

    def _draw_weights(self, hidden: Tensor, corrupted: Corrupted) -> Tensor | float:
        """Factor on the summed loss of each draw, [D, B]."""
        if self.weighting == "flat":
            return 1.0
        if self.weighting == "elbo":
            return corrupted.elbo_weight.clamp(max=self.weight_clip)
        if self.weighting == "subs":
            tokens = hidden.sum(-1)
            means = corrupted.time_weight.clamp(max=self.weight_clip) / tokens.clamp_min(1e-8)
            return means.masked_fill(tokens == 0, 0.0)
        # The code's t counts from 0 and hides a share (t + 1) / T: T - t = T (1 - rate) + 1.
        return self.focal_steps * (1.0 - corrupted.rate) + 1.0


def _mean_cross_entropy(log_probs: Tensor, logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean of -log p over the classes that the net can answer, [D, B, H]; 0 where not wanted."""
    possible = logits > NEVER_LOGIT
    total = log_probs.masked_fill(~possible, 0.0).sum(-1)
    return -(total / possible.sum(-1)).masked_fill(~wanted, 0.0)


def _metrics(
    logits: Tensor,
    classes: Tensor,
    cross_entropy: Tensor,
    corrupted: Corrupted,
    plan_weights: Tensor,
    real: Tensor,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Sums and what they are over; plans of weight 0 are left out, the others count alike."""
    used = (plan_weights > 0).to(plan_weights.dtype)
    correct = (logits.argmax(-1) == classes).to(plan_weights.dtype)
    draws = corrupted.full_draws or len(corrupted.masked)
    first = corrupted.masked[:draws, :, 0] * used
    return {
        "nelbo": (_nelbo(cross_entropy, corrupted).sum(), used.sum()),
        "token_accuracy": ((correct * real).sum(), real.sum()),
        "first_token_accuracy": ((correct[:draws, :, 0] * first).sum(), first.sum()),
    }


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Their quotient; an exact 0 that stays in the graph when the denominator is 0."""
    return numerator / torch.where(denominator == 0, 1.0, denominator)
