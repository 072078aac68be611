"""What goes into a sampler and what comes out of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

# implausible(tokens int64 [b, H], rows int64 [b] | None) -> bool [b, H]: positions to doubt.
Implausible = Callable[[Tensor, Tensor | None], Tensor]

# Confidence in a token that is implausible. It was 0.001 in the seed's physics penalty, too.
IMPLAUSIBLE_CONFIDENCE = 1e-3


class Denoise(Protocol):
    """A net that sees b partly masked plans of observations it has encoded before."""

    def __call__(self, tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        """Logits of every position.

        Args:
            tokens: int64 [b, H] with MASK = A and END = A + 1; not to be changed or kept.
            time: float32 [b]: the schedule's t, 1 for all MASK; a time-free net ignores it.
            rows: Which rows of the encoded batch these are, int64 [b]; None for all in order.
                The same object as in the call before while the set is unchanged.

        Returns:
            Floating [b, H, A + 1]; class A stands for END.
        """


class NonFiniteLogitsError(ValueError):
    """A net returned NaN, or no class with a finite logit.

    Attributes:
        row: The first such row of the whole batch.
        call: Number of the net call, from 0.
        tokens: int64 [1, H]: what the net was shown of that row.
        time: float32 [1]: the time it was told.
    """

    def __init__(self, row: int, call: int, tokens: Tensor, time: Tensor) -> None:
        """See the attributes."""
        super().__init__(
            f"denoise returned logits that are not finite: row {row} of the batch, net call "
            f"{call}. Look at the net's weights and at that row's observation"
        )
        self.row = row
        self.call = call
        self.tokens = tokens
        self.time = time


@dataclass(frozen=True, slots=True)
class TraceStep:
    """What one denoising step did to the whole batch; rows that were done show their plan.

    Attributes:
        tokens: int64 [B, H] after the step.
        revealed: bool [B, H]: MASK before, a token after.
        remasked: bool [B, H]: a token before, MASK after.
        confidence: float32 [B, H]: probability of the likeliest class; 0 in rows that had left
            the batch.
        believed: int64 [B, H]: the likeliest token; MASK in rows that had left the batch.
    """

    tokens: Tensor
    revealed: Tensor
    remasked: Tensor
    confidence: Tensor
    believed: Tensor


@dataclass(frozen=True, slots=True)
class PlanSample:
    """B finished plans.

    Attributes:
        tokens: int64 [B, H]: actions, then END from the first END on; never MASK.
        lengths: int64 [B]: actions before the first END.
        log_prob: float32 [B]: sum of `token_log_probs`; the model's log-probability of the plan
            when one token was decided per call without tempering.
        nfe: int64 [B]: net calls until the row was done.
        token_log_probs: float32 [B, H]: log-probability each token was drawn with; 0 where a
            token was given, follows an END or lies open beyond the window.
        trace: One entry per net call if asked for, else None.
        vectors: float32 [B, D]: where actions are vectors, what the one token means; else None.
    """

    tokens: Tensor
    lengths: Tensor
    log_prob: Tensor
    nfe: Tensor
    token_log_probs: Tensor
    trace: list[TraceStep] | None = None
    vectors: Tensor | None = None
