"""Classifier-free guidance: two denoisers, of which one knows more, made into one.

The guided law of each position is the tilt p(x | condition)^s * p(x)^(1 - s), normalised, of the
two nets' laws (Schiff et al., arXiv 2412.10193; Ho and Salimans, arXiv 2207.12598). A scale s of 1
is the conditional net, 0 the unconditional one; above 1 plans lean towards what the condition makes
likelier. Tilting position by position is not tilting whole plans: even with exact nets and one
token per call, a scale other than 0 and 1 samples the product of the tilted steps.
"""

from dataclasses import dataclass

import gin
import torch
from torch import Tensor

from remdm.diffusion.interface import Denoise
from remdm.registry import unknown_name_message

RAMPS = ("constant", "rising")
# Stands for minus infinity, of which no differences can be formed; exp of it is exactly 0.
LEAST_LOGIT = -1e30


@gin.configurable(module="remdm")
class Guidance:
    """Joins a conditional and an unconditional denoiser.

    A guided call costs two net calls, one of each, though a sampler counts it once. At a constant
    scale of 0 or 1 only one net is called, and its logits come back untouched.
    """

    def __init__(self, *, scale: float = 1.0, ramp: str = "constant") -> None:
        """Args:
            scale: Exponent s of the conditional law, at least 0.
            ramp: "constant", or "rising" from 1 at time 1 (all MASK) linearly to `scale` at time 0:
                strong guidance of the first tokens narrows plans most (arXiv 2507.08965).

        Raises:
            ValueError: If `scale` is below 0 or not finite, or `ramp` is unknown.
        """
        if not 0.0 <= scale < float("inf"):
            raise ValueError(
                f"Guidance.scale must be at least 0 and finite, got {scale}; 1 is the conditional "
                "net alone"
            )
        if ramp not in RAMPS:
            raise ValueError(unknown_name_message("Guidance.ramp", ramp, RAMPS))
        self.scale = scale
        self.ramp = ramp

    def __call__(self, conditional: Denoise, unconditional: Denoise) -> Denoise:
        """The guided denoiser, for the same rows in the same order as both.

        Args:
            conditional: Bound to the observations with the condition.
            unconditional: Bound to the same observations without it.

        Returns:
            A `Denoise`; give it to `Sampler.sample`.
        """
        if self.scale == 1.0:
            return conditional
        if self.scale == 0.0 and self.ramp == "constant":
            return unconditional
        return _Guided(conditional, unconditional, self)

    def scales(self, time: Tensor) -> Tensor:
        """The scale at each time, of the shape and dtype of `time`."""
        if self.ramp == "constant":
            return torch.full_like(time, self.scale)
        return self.scale + (1.0 - self.scale) * time


@dataclass(slots=True)
class _Guided:
    """What `Guidance.__call__` returns."""

    conditional: Denoise
    unconditional: Denoise
    guidance: Guidance

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        """See `Denoise`."""
        scale = self.guidance.scales(time)[:, None, None]
        return tilted(
            self.conditional(tokens, time, rows), self.unconditional(tokens, time, rows), scale
        )


def tilted(conditional: Tensor, unconditional: Tensor, scale: Tensor | float) -> Tensor:
    """Logits of the tilted law.

    A constant added to all logits of a position drops out, so they need not be normalised. A class
    that is impossible under the condition stays impossible at any scale above 0; one that is
    impossible without the condition only is certain above 1, the limit of the formula.

    Args:
        conditional: Floating [..., C].
        unconditional: The same.
        scale: Exponent of the conditional law, broadcast over the logits.

    Returns:
        Floating [..., C], finite wherever both are or are minus infinity; NaN and plus infinity
        stay what they are, for the sampler to refuse.
    """
    bounded = conditional.clamp(min=LEAST_LOGIT)
    without = unconditional.clamp(min=LEAST_LOGIT)
    return scale * bounded + (1.0 - scale) * without
