"""What a network was asked about a batch, and what it said: all that losses are made of."""

from dataclasses import dataclass

from torch import Tensor

from remdm.data.batch import Batch
from remdm.diffusion.corruption import Corrupted
from remdm.nets.denoiser import Context
from remdm.stretch import Stretch


@dataclass(frozen=True, slots=True)
class Outputs:
    """D questions about each of B plans, and their answers.

    A planner by diffusion is shown D partly masked copies of a plan; its autoregressive twin one
    copy, moved by one token; the single-step head one MASK (D = H = 1).

    Attributes:
        observations: What the network read, by name [B, ...], on its device.
        context: Its encoding of them.
        tokens: int64 [D, B, H]: what it was shown of the plans.
        time: Diffusion time, float32 [D, B] or one number; None where there is none.
        logits: Floating [D, B, H, C] of the actions, then END where that is an answer; any finite
            numbers where `real` is not.
        plans: int64 [B, H]: the right tokens.
        classes: int64 [B, H]: the right answers.
        real: bool [D, B, H]: where there was a question with an answer that is worth learning. END
            after the first END is none.
        corrupted: Of a planner by diffusion, how its plans were masked; None for others.
        stretch: How the B states follow one another; None where each stands on its own.
        memory: [R, memory_size]: what the network remembered before them; None for nothing.
    """

    observations: dict[str, Tensor]
    context: Context
    tokens: Tensor
    time: Tensor | float | None
    logits: Tensor
    plans: Tensor
    classes: Tensor
    real: Tensor
    corrupted: Corrupted | None = None
    stretch: Stretch | None = None
    memory: Tensor | None = None

    def weights(self, batch: Batch) -> Tensor:
        """What each answer counts, float32 [D, B, H]: the plan's weight where it is real."""
        return self.real * batch.weights.float()[:, None]
