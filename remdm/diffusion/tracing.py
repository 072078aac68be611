"""Records of what each denoising step did."""

import torch
from torch import Tensor

from remdm.diffusion.bars import Bars
from remdm.diffusion.canvas import Canvas
from remdm.diffusion.classes import classes_to_tokens
from remdm.diffusion.decode import Decoder
from remdm.diffusion.interface import TraceStep
from remdm.tokens import mask_token


class Tracer:
    """Compares the batch before and after each step."""

    def __init__(self, whole: Canvas, decoder: Decoder, num_actions: int) -> None:
        """Args:
        whole: The batch before its first step.
        decoder: Gives the probabilities that are written down.
        num_actions: Size of the action set.
        """
        self.steps: list[TraceStep] = []
        self._decoder = decoder
        self._num_actions = num_actions
        self._mask = mask_token(num_actions)
        self._masked = whole.tokens == self._mask

    def note(self, whole: Canvas, active: Canvas, logits: Tensor, bars: Bars) -> None:
        """Write a step down.

        Args:
            whole: The batch after the step, up to date.
            active: The rows that took part.
            logits: Floating [b, H, C]: what the net said of them.
            bars: What was forbidden.
        """
        masked = whole.tokens == self._mask
        best = self._decoder.distribution(bars.apply(logits)).max(-1)
        rows = slice(None) if active.rows is None else active.rows
        confidence = torch.zeros(masked.shape, device=masked.device)
        confidence[rows] = best.values.float()
        believed = torch.full_like(whole.tokens, self._mask)
        believed[rows] = classes_to_tokens(best.indices, self._num_actions)
        self.steps.append(
            TraceStep(
                tokens=whole.tokens.clone(),
                revealed=self._masked & ~masked,
                remasked=~self._masked & masked,
                confidence=confidence,
                believed=believed,
            )
        )
        self._masked = masked
