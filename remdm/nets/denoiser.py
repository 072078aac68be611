"""The contract between a denoising network and the agent that trains and samples it."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from remdm.ranks import ALONE, Ranks
from remdm.stretch import Stretch

Context = tuple[Tensor, ...]
OFFSET_KEY = "offset"
"""Observation int64 [B]: number of executed actions at the front of the plan, for nets that are
told; no environment gives it."""


def select_rows(context: Context, rows: Tensor) -> Context:
    """The context of some states only, for dropping finished plans or repeating candidates.

    Args:
        context: From `Denoiser.encode`; every tensor has the state on axis 0.
        rows: int64 or bool index of states.
    """
    return tuple(part[rows] for part in context)


class Denoiser(nn.Module, ABC):
    """A network for p(x0 | zt, observation) over plan tokens.

    The observation is encoded once per plan: what `encode` returns does not depend on the plan,
    and `denoise` reads nothing else of the observation.

    Attributes:
        observation_keys: Names of the observation arrays that `encode` reads.
        num_actions: Size of the action set.
        plan_horizon: Tokens per plan.
        uses_time: Whether `denoise` wants the diffusion time.
        predicts_end: Whether END is among the classes it has learnt.
        memory_size: Numbers that it remembers of the steps before; 0 for a net without memory.
    """

    observation_keys: tuple[str, ...]
    num_actions: int
    plan_horizon: int
    uses_time: bool = False
    predicts_end: bool = True
    memory_size: int = 0

    @abstractmethod
    def encode(self, observations: dict[str, Tensor]) -> Context:
        """All the network needs to know of B observations; axis 0 of each tensor is the state."""

    def encode_stretch(
        self, observations: dict[str, Tensor], stretch: Stretch, memory: Tensor | None
    ) -> tuple[Context, Tensor | None]:
        """`encode` of steps that follow one another, with the memory of those before.

        Args:
            observations: By name [R * S, ...].
            stretch: How they follow one another.
            memory: [R, memory_size], of the moment before the first step; None for nothing.

        Returns:
            The context of all R * S states, and the memory after each row's last step; None of a
            net without.
        """
        return self.encode(observations), None

    def remember(
        self, observations: dict[str, Tensor], stretch: Stretch, memory: Tensor | None
    ) -> Tensor | None:
        """The memory that `encode_stretch` gives, for steps that nobody plans at."""
        return self.encode_stretch(observations, stretch, memory)[1]

    @abstractmethod
    def denoise(self, context: Context, zt: Tensor, t: Tensor | float | None = None) -> Tensor:
        """Predict the clean plan.

        Args:
            context: From `encode`, B states.
            zt: int64 tokens [B, plan_horizon], or [draws, B, plan_horizon] for several
                corrupted plans of the same states.
            t: Diffusion time in [0, 1], a number or one per plan, [B] or [draws, B]; ignored by
                nets without time.

        Returns:
            float32 logits with one more axis of num_actions + 1 classes: the actions, then END.
        """

    def denoise_hidden(
        self, context: Context, zt: Tensor, t: Tensor | float | None, hidden: Tensor
    ) -> Tensor:
        """`denoise` where only the hidden tokens are asked for, as a loss does.

        A net that can leave work out for it overrides this.

        Args:
            context: See `denoise`.
            zt: See `denoise`.
            t: See `denoise`.
            hidden: bool, as `zt`.

        Returns:
            See `denoise`; where not `hidden`, any finite numbers.
        """
        return self.denoise(context, zt, t)

    def auxiliary_loss(
        self,
        context: Context,
        observations: dict[str, Tensor],
        plans: Tensor,
        weights: Tensor,
        ranks: Ranks = ALONE,
    ) -> dict[str, Tensor]:
        """Named extra losses, already weighted; none by default.

        Args:
            context: From `encode`, B states.
            observations: What it was made of.
            plans: int64 [B, H], their labels: actions, then END.
            weights: float32 [B], of the labels.
            ranks: The processes that have the rest of the batch: the mean over them should be the
                loss of the whole batch.
        """
        return {}

    def forward(
        self, observations: dict[str, Tensor], zt: Tensor, t: Tensor | float | None = None
    ) -> Tensor:
        """`denoise` after `encode`."""
        return self.denoise(self.encode(observations), zt, t)


def num_parameters(module: nn.Module) -> int:
    """Number of trainable numbers."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
