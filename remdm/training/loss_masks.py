"""What of a batch is learnt from: states by their weight, tokens of a label by a mask.

    Experiment.loss_mask_type = @FirstTokens
    FirstTokens.count = 4

or, in a subclass of `Experiment`, the step that asks the mask:

    def edit_loss_mask(self, batch):
        return masked(batch, states=batch.env_ids == 0)

Every loss divides by the weights that are left, over the batch of all processes, so a mask changes
what counts and not how large a step is. All agents of a run learn from the same.
"""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import gin
import torch
from torch import Tensor

from remdm.base_agent import BaseAgent
from remdm.data.batch import Batch
from remdm.training.live_numbers import AT_LEAST_0


class LossMask(ABC):
    """Chooses what of a batch is learnt from. It looks, and remembers nothing."""

    @abstractmethod
    def __call__(self, batch: Batch, agent: BaseAgent, generator: torch.Generator) -> Batch:
        """The same batch with other weights or another token mask; see `masked`.

        Args:
            batch: On the training device.
            agent: The planner, with the weights that are trained.
            generator: Source of randomness, another one for every batch and process.
        """


def masked(batch: Batch, *, states: Tensor | None = None, tokens: Tensor | None = None) -> Batch:
    """A batch of which less counts.

    Args:
        batch: What is learnt from so far.
        states: Bool or floating [B], at least 0: factors of the weights.
        tokens: bool [B, plan_horizon]: the tokens of the labels that count.
    """
    weights, mask = batch.weights, batch.token_mask
    if states is not None:
        weights = weights * states.to(weights)
    if tokens is not None:
        mask = tokens if mask is None else mask & tokens
    return replace(batch, weights=weights, token_mask=mask)


def checked(edited: Batch, given: Batch) -> Batch:
    """What a mask made of a batch; states without any token that counts do not count either.

    Args:
        edited: What the mask returned.
        given: What it was given.

    Raises:
        ValueError: If weights or tokens are not of the shape of the batch, or a weight is below 0
            or not finite.
    """
    if edited is given:
        return given
    weights, tokens = edited.weights, edited.token_mask
    if weights.shape != given.weights.shape or not weights.dtype.is_floating_point:
        raise ValueError(
            f"the weights of a batch must be floating {tuple(given.weights.shape)}, got "
            f"{weights.dtype} {tuple(weights.shape)}; look at Experiment.loss_mask_type."
        )
    if not bool((torch.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError(
            "the weights of a batch must be finite and at least 0, got "
            f"{weights.min().item()} to {weights.max().item()}; look at "
            "Experiment.loss_mask_type."
        )
    if tokens is not None:
        if tokens.shape != given.plans.shape or tokens.dtype != torch.bool:
            raise ValueError(
                f"a token mask must be bool {tuple(given.plans.shape)}, got {tokens.dtype} "
                f"{tuple(tokens.shape)}; look at Experiment.loss_mask_type."
            )
        weights = weights * tokens.any(1)
    return replace(given, weights=weights.float(), token_mask=tokens)


@gin.configurable(module="remdm")
class FirstTokens(LossMask):
    """Only the first tokens of every label: those that are executed before the next plan."""

    def __init__(self, *, count: int = 4) -> None:
        """Args:
        count: How many.

        Raises:
            ValueError: If it is below 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}; set FirstTokens.count.")
        self.count = count

    def __call__(self, batch: Batch, agent: BaseAgent, generator: torch.Generator) -> Batch:
        """See `LossMask.__call__`."""
        places = torch.arange(batch.plans.shape[1], device=batch.plans.device)
        return masked(batch, tokens=(places < self.count).expand(batch.plans.shape))


@gin.configurable(module="remdm")
class WherePlannerErrs(LossMask):
    """The states where the planner's likeliest plan begins unlike the label.

    Costs a plan for every state of every batch. What it does right already it could forget:
    `right` keeps a part of those states' weight.
    """

    live_numbers: ClassVar = {"right": AT_LEAST_0}

    def __init__(self, *, tokens: int = 1, right: float = 0.1) -> None:
        """Args:
        tokens: How many first tokens have to agree.
        right: Factor of the weight of states where they do.

        Raises:
            ValueError: If a value makes no sense.
        """
        if tokens < 1 or not right >= 0:
            raise ValueError(
                f"WherePlannerErrs needs tokens >= 1 and right >= 0, got {tokens} and {right}; "
                "set WherePlannerErrs.tokens and WherePlannerErrs.right."
            )
        self.tokens, self.right = tokens, right

    def __call__(self, batch: Batch, agent: BaseAgent, generator: torch.Generator) -> Batch:
        """See `LossMask.__call__`."""
        training = agent.training
        agent.eval()  # what is drawn to train better, as dropout, is no part of what it believes
        try:
            made = agent.plan(batch.observations, generator, greedy=True).tokens[:, : self.tokens]
        finally:
            agent.train(training)
        agree = (made.to(batch.plans.device) == batch.plans[:, : self.tokens]).all(1)
        return masked(batch, states=torch.where(agree, self.right, 1.0))
