"""When a denoising step can run in the one-pass CPU kernel, and how it is called."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from remdm.diffusion.bars import Bars
from remdm.diffusion.canvas import Canvas
from remdm.diffusion.decode import Decoder
from remdm.diffusion.order import (
    EntropyOrder,
    MarginOrder,
    MaxProbOrder,
    Order,
    PositionOrder,
    RandomOrder,
)
from remdm.diffusion.remask import NoRemask, Remask
from remdm.diffusion.reveal import ENTROPY_TOLERANCE, CountReveal, EntropyBoundReveal, Reveal

# Codes of `remdm.diffusion.fused`, which is imported on first use because numba is slow to load.
_ORDER_CODES: dict[type, int] = {
    RandomOrder: 0,
    PositionOrder: 1,
    MaxProbOrder: 2,
    MarginOrder: 3,
    EntropyOrder: 4,
}


@dataclass(frozen=True, slots=True)
class FusedStep:
    """The settings of a sampler that the kernel understands.

    Attributes:
        order: Code of the order.
        gamma: Entropy bound, or a negative number to reveal by count.
        inverse_temperature: 1 / temperature.
        top_p: Probability of the nucleus; 1 for all classes.
        greedy: Whether tokens are the likeliest ones.
        close_after_end: Whether END closes a plan at once.
    """

    order: int
    gamma: float
    inverse_temperature: float
    top_p: float
    greedy: bool
    close_after_end: bool

    @classmethod
    def build(
        cls,
        reveal: Reveal,
        order: Order | None,
        remask: Remask,
        decoder: Decoder,
        close_after_end: bool,
    ) -> "FusedStep | None":
        """The kernel's settings, or None if these parts (or subclasses of them) need torch."""
        known = type(reveal) in (EntropyBoundReveal, CountReveal) and type(order) in _ORDER_CODES
        plain = type(decoder) is Decoder and not decoder.raw_confidence and decoder.top_k is None
        plain = plain and (decoder.top_p is None or decoder.nucleus_rule == "holtzman")
        if not (known and plain and type(remask) is NoRemask):
            return None
        gamma = -1.0
        if isinstance(reveal, EntropyBoundReveal):
            gamma = reveal.gamma + ENTROPY_TOLERANCE
        return cls(
            order=_ORDER_CODES[type(order)],
            gamma=gamma,
            inverse_temperature=1.0 / decoder.temperature,
            top_p=1.0 if decoder.top_p is None else decoder.top_p,
            greedy=decoder.greedy,
            close_after_end=close_after_end,
        )

    @staticmethod
    def applies(logits: Tensor) -> bool:
        """Whether logits are where the kernel can read them, in a precision it keeps."""
        return logits.device.type == "cpu" and logits.dtype != torch.float64

    def __call__(
        self,
        canvas: Canvas,
        logits: Tensor,
        bars: Bars,
        index: int,
        alpha_s: float,
        split: int,
        exit_window: int | None,
    ) -> tuple[int, int, Tensor]:
        """Advance a canvas in place.

        Args:
            canvas: Rows on the CPU.
            logits: Floating [b, H, C].
            bars: What is forbidden.
            index: Number of the step.
            alpha_s: Share of visible tokens after the step; read when revealing by count.
            split: Positions before this one are decided first.
            exit_window: A row is done when positions before this one are decided; None to go on.

        Returns:
            Rows not done; a row whose logits are not finite or -1; float32 [b] share of masked.
        """
        from remdm.diffusion import fused

        if bars.by_position is not None:
            logits = bars.apply(logits)
        share = np.empty(len(logits), np.float32)
        active, bad_row = fused.step(
            logits.float().contiguous().numpy(),
            canvas.tokens.numpy(),
            canvas.free.numpy(),
            canvas.log_probs.numpy(),
            canvas.keys.numpy().view(np.uint64),
            canvas.done.numpy(),
            canvas.nfe.numpy(),
            share,
            bars.first.numpy(),
            bars.everywhere.numpy(),
            index,
            self.inverse_temperature,
            self.top_p,
            self.greedy,
            self.order,
            self.gamma if not math.isinf(self.gamma) else 1e300,
            alpha_s,
            split,
            exit_window or logits.shape[1],
            exit_window is not None,
            self.close_after_end,
        )
        return active, bad_row, torch.from_numpy(share)


def finish_on_cpu(canvas: Canvas, num_actions: int) -> tuple[Tensor, Tensor]:
    """Close plans after their END; lengths int64 [B] and log-probabilities float64 [B]."""
    from remdm.diffusion import fused

    lengths = torch.empty_like(canvas.nfe)
    totals = torch.empty(len(lengths), dtype=torch.float64)
    fused.finish(
        canvas.tokens.numpy(),
        canvas.free.numpy(),
        canvas.log_probs.numpy(),
        num_actions + 1,
        lengths.numpy(),
        totals.numpy(),
    )
    return lengths, totals
