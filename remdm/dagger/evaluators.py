"""What is told of a validation: functions of the returns played, now and before."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Validation:
    """What one validation has played.

    Attributes:
        env_steps: Env steps of the training so far.
        returns: float64 [episodes]: sums of rewards.
        lengths: int64 [episodes]: steps.
        earlier: (env steps, mean return) of the validations before, oldest first.
    """

    env_steps: int
    returns: np.ndarray
    lengths: np.ndarray
    earlier: Sequence[tuple[int, float]] = ()

    @property
    def scores(self) -> list[tuple[int, float]]:
        """(env steps, mean return) of all validations up to and with this one."""
        return [*self.earlier, (self.env_steps, float(self.returns.mean()))]


class Evaluator(ABC):
    """Tells something of every validation. Remembers nothing, so a resumed run needs nothing.

    Attributes:
        interval: Env steps between validations.
        episodes: Episodes of each.
    """

    def __init__(self, interval: int = 2_000, episodes: int = 20) -> None:
        """Args:
        interval: Env steps between validations.
        episodes: Episodes of each; validation levels, which nobody learns from.

        Raises:
            ValueError: If a number is below 1.
        """
        if interval < 1 or episodes < 1:
            raise ValueError(
                f"interval and episodes must be at least 1, got {interval} and {episodes}; change "
                f"the arguments of {type(self).__name__}."
            )
        self.interval, self.episodes = interval, episodes

    @abstractmethod
    def __call__(self, played: Validation) -> dict[str, float]:
        """Scalars to log, by name."""


class ReturnEvaluator(Evaluator):
    """Mean and spread of the return, its extremes, and the best mean so far.

    The weights with the best mean are kept, and act when the training is over.
    """

    def __call__(self, played: Validation) -> dict[str, float]:
        """See `Evaluator.__call__`."""
        returns = played.returns
        return {
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "return_best": max(score for _, score in played.scores),
        }


class StepsToThreshold(Evaluator):
    """Env steps after which the mean return first reached a threshold; absent until then."""

    def __init__(self, threshold: float, interval: int = 2_000, episodes: int = 20) -> None:
        """Args:
        threshold: Mean return to reach.
        interval: See `Evaluator`; also how finely the answer is known.
        episodes: See `Evaluator`.
        """
        super().__init__(interval, episodes)
        self.threshold = threshold

    def __call__(self, played: Validation) -> dict[str, float]:
        """See `Evaluator.__call__`."""
        reached = [steps for steps, score in played.scores if score >= self.threshold]
        return {"steps_to_threshold": float(reached[0])} if reached else {}
