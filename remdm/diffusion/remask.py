"""Which committed tokens become MASK again (ReMDM, arXiv 2503.00307).

Here: the rules that mask each visible token again with a probability sigma of its own. To keep the
marginals of the forward process a masked position must then be revealed with
`unmask_probability`, which is a probability as long as sigma is at most `sigma_max`.
`remask_counted` holds rules that also settle how much is revealed, `remask_seed` the seeds' rules.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

import gin
import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.grids import GridStep
from remdm.diffusion.step import Step

# Rounding of alphas may carry a probability this far past 0 or 1.
PROBABILITY_TOLERANCE = 1e-9


def sigma_max(alpha_t: float, alpha_s: float) -> float:
    """Largest remasking probability from time t to s < t: min(1, (1 - alpha_s) / alpha_t)."""
    return min(1.0, (1.0 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0


def unmask_probability(alpha_t: float, alpha_s: float, sigma: float) -> float:
    """Probability to reveal a masked position: (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t).

    Raises:
        ValueError: If that is no probability, as when sigma is above `sigma_max`.
    """
    if alpha_t >= 1.0:
        return 1.0
    probability = (alpha_s - (1.0 - sigma) * alpha_t) / (1.0 - alpha_t)
    if not -PROBABILITY_TOLERANCE <= probability <= 1.0 + PROBABILITY_TOLERANCE:
        raise ValueError(
            f"a masked position would have to be revealed with probability {probability:.6g}: "
            f"sigma must be in [0, {sigma_max(alpha_t, alpha_s):.6g}] from alpha {alpha_t:.6g} to "
            f"{alpha_s:.6g}, got {sigma:.6g}. Limit it by "
            "remdm.diffusion.remask.sigma_max(alpha_t, alpha_s), or lower the rule's eta"
        )
    return probability


class Remasking(NamedTuple):
    """What a rule decides for one step.

    Attributes:
        tokens: bool [b, H]: visible tokens that become MASK again.
        unmask: Probability that a masked position is revealed, one number or [b, 1]; read by
            reveals that follow probabilities.
    """

    tokens: Tensor
    unmask: Tensor | float


class Remask(ABC):
    """Picks the visible tokens to mask again.

    Attributes:
        can_remask: False when no token is ever masked again.
        after_reveal: Whether tokens revealed in the same step may be masked again at once.
        needs_counts: Whether it relies on a reveal that counts, such as `CountReveal`.
    """

    can_remask: bool = True
    after_reveal: bool = False
    needs_counts: bool = False

    @abstractmethod
    def __call__(self, step: Step) -> Remasking:
        """Choose; the answer's tokens are a subset of `step.committed`."""

    def surplus(self, step: Step) -> Tensor | int:
        """How many tokens a reveal that counts is to decide too many, int64 [b] or one for all.

        Asked of rules that come after the reveal; they give as many back.
        """
        del step
        return 0

    def can_act(self, grid_step: GridStep, index: int, num_steps: int) -> bool:
        """Whether any token can be masked again in this step of a grid."""
        return self.can_remask and grid_step.remasks and index + 1 < num_steps

    def fitted(self, steps: Sequence[GridStep]) -> Self:
        """The rule for a grid; another object if something had to be solved for.

        Raises:
            ValueError: If what was asked for cannot be had on this grid.
        """
        del steps
        return self


class IndependentRemask(Remask):
    """Masks every visible token again with a probability of its own."""

    @abstractmethod
    def sigma(self, step: Step) -> Tensor | float:
        """Probability at visible positions, [b, H] or one for all."""

    def unmask(self, step: Step, sigma: Tensor | float) -> Tensor | float:
        """Probability to reveal a masked position; as without remasking unless overridden."""
        del sigma
        return unmask_probability(step.alpha_t, step.alpha_s, 0.0)

    def __call__(self, step: Step) -> Remasking:
        """See `Remask.__call__`."""
        sigma = self.sigma(step)
        chosen = step.committed & (step.uniform(draws.REMASK) < sigma)
        return Remasking(chosen, self.unmask(step, sigma))


@gin.configurable(module="remdm")
class NoRemask(Remask):
    """Committed tokens stay (MDLM)."""

    can_remask = False

    def __call__(self, step: Step) -> Remasking:
        """See `Remask.__call__`."""
        unmask = unmask_probability(step.alpha_t, step.alpha_s, 0.0)
        return Remasking(torch.zeros_like(step.masked), unmask)


def check_eta(owner: str, eta: float) -> None:
    """Refuse an `eta` outside [0, 1].

    Raises:
        ValueError: If it is.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"{owner}.eta must be in [0, 1], got {eta}")


class EvenRemask(IndependentRemask):
    """One sigma for all visible tokens, from an eta or from a number of redraws.

    A token that survives to the end is drawn `1 + sum over steps of sigma * alpha_t` times in
    expectation, because a share alpha_t of the positions is visible before a step. What an eta
    means in redraws depends on the grid; `redraws` says it directly.
    """

    def __init__(self, eta: float, redraws: float | None) -> None:
        """Args:
            eta: Strength, in [0, 1].
            redraws: Extra draws per token in expectation; `eta` is solved for when it is given.

        Raises:
            ValueError: If a value is out of range.
        """
        check_eta(type(self).__name__, eta)
        if redraws is not None and not redraws >= 0:
            raise ValueError(
                f"{type(self).__name__}.redraws must be at least 0 or None, got {redraws}"
            )
        self.eta = eta
        self.redraws = redraws

    @abstractmethod
    def sigma_at(self, eta: float, alpha_t: float, alpha_s: float) -> float:
        """sigma from alpha_t to alpha_s; must not fall with eta."""

    def sigma(self, step: Step) -> Tensor | float:
        """See `IndependentRemask.sigma`."""
        return self.sigma_at(self.eta, step.alpha_t, step.alpha_s)

    def unmask(self, step: Step, sigma: Tensor | float) -> Tensor | float:
        """See `IndependentRemask.unmask`; keeps the marginals of the forward process."""
        return unmask_probability(step.alpha_t, step.alpha_s, float(sigma))

    def can_act(self, grid_step: GridStep, index: int, num_steps: int) -> bool:
        """See `Remask.can_act`."""
        del index, num_steps
        sigma = self.sigma_at(self.eta, grid_step.alpha_t, grid_step.alpha_s)
        return grid_step.remasks and sigma > 0

    def expected_redraws(self, eta: float, steps: Sequence[GridStep]) -> float:
        """Extra draws per token over a grid: the sum of sigma * alpha_t over its steps."""
        return sum(
            self.sigma_at(eta, step.alpha_t, step.alpha_s) * step.alpha_t
            for step in steps
            if step.remasks
        )

    def fitted(self, steps: Sequence[GridStep]) -> Self:
        """See `Remask.fitted`; solves `redraws` for eta by bisection."""
        if self.redraws is None:
            return self
        most = self.expected_redraws(1.0, steps)
        if self.redraws > most:
            name = type(self).__name__
            raise ValueError(
                f"{name}.redraws must be at most {most:.4g} on this grid of {len(steps)} steps "
                f"(its {name}.eta would then be 1), got {self.redraws}; more steps allow more"
            )
        low, high = 0.0, 1.0 if self.redraws > 0 else 0.0
        for _ in range(60):
            middle = (low + high) / 2
            if self.expected_redraws(middle, steps) < self.redraws:
                low = middle
            else:
                high = middle
        solved = copy.copy(self)
        solved.eta, solved.redraws = high, None
        return solved


@gin.configurable(module="remdm")
class CapRemask(EvenRemask):
    """sigma = min(eta, sigma_max)."""

    def __init__(self, *, eta: float = 0.15, redraws: float | None = None) -> None:
        """Args:
            eta: Upper limit of the probability per step, in [0, 1].
            redraws: Extra draws per token to solve `eta` for, see `EvenRemask`; None to use it.

        Raises:
            ValueError: If a value is out of range.
        """
        super().__init__(eta, redraws)

    def sigma_at(self, eta: float, alpha_t: float, alpha_s: float) -> float:
        """See `EvenRemask.sigma_at`."""
        return min(eta, sigma_max(alpha_t, alpha_s))


@gin.configurable(module="remdm")
class RescaleRemask(EvenRemask):
    """sigma = eta * sigma_max."""

    def __init__(self, *, eta: float = 0.15, redraws: float | None = None) -> None:
        """Args:
            eta: Share of the largest valid probability, in [0, 1].
            redraws: Extra draws per token to solve `eta` for, see `EvenRemask`; None to use it.

        Raises:
            ValueError: If a value is out of range.
        """
        super().__init__(eta, redraws)

    def sigma_at(self, eta: float, alpha_t: float, alpha_s: float) -> float:
        """See `EvenRemask.sigma_at`."""
        return eta * sigma_max(alpha_t, alpha_s)


@gin.configurable(module="remdm")
class ConfRemask(IndependentRemask):
    """sigma_l = eta * sigma_max * softmax over committed positions of -confidence.

    The confidence is the one a token had when it was committed. The probabilities of a row sum to
    at most eta, so at most about one token a step is masked again; masked positions are revealed
    as without remasking, so the marginals of the forward process are not kept. Both as published.
    `BudgetedConfRemask` mends both.
    """

    def __init__(self, *, eta: float = 1.0) -> None:
        """Args:
            eta: Share of the largest valid total, in [0, 1]; the ReMDM code has none, i.e. 1.

        Raises:
            ValueError: If it is outside.
        """
        check_eta("ConfRemask", eta)
        self.eta = eta

    def sigma(self, step: Step) -> Tensor | float:
        """See `IndependentRemask.sigma`."""
        share = doubt_shares(step, 1.0)
        return self.eta * sigma_max(step.alpha_t, step.alpha_s) * share

    def can_act(self, grid_step: GridStep, index: int, num_steps: int) -> bool:
        """See `Remask.can_act`."""
        del index, num_steps
        bound = sigma_max(grid_step.alpha_t, grid_step.alpha_s)
        return grid_step.remasks and self.eta * bound > 0


def doubt_shares(step: Step, temperature: float) -> Tensor:
    """softmax of -confidence / temperature over a row's committed positions, float64 [b, H]."""
    scores = (-step.committed_confidence / temperature).masked_fill(~step.committed, -torch.inf)
    # A row without committed tokens is a softmax over nothing: 0 / 0.
    return scores.softmax(-1).nan_to_num(0.0)
