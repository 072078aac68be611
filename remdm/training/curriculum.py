"""Which environment the next training episode is in, by how well the planner does in each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import gin
import numpy as np

_EMPTY = -1


class Curriculum(ABC):
    """Draws environments, and learns from the episodes that end. Every process has its own.

    Attributes:
        envs: The environments to draw from.
        shares: float64 [envs]: factors of their weights.
    """

    def __init__(self, envs: Sequence[str], shares: Sequence[float] | None = None) -> None:
        """Args:
        envs: Different names, at least one.
        shares: Positive factors of their weights; equal when None.
        """
        self.envs = tuple(envs)
        self.shares = np.ones(len(self.envs)) if shares is None else np.asarray(shares, float)

    def draw(self, rng: np.random.Generator) -> str:
        """The environment of an episode that begins."""
        chances = self.weights() * self.shares
        return self.envs[int(rng.choice(len(self.envs), p=chances / chances.sum()))]

    @abstractmethod
    def weights(self) -> np.ndarray:
        """How much each environment is wanted, float64 [envs]: none below 0, not all 0."""

    @abstractmethod
    def record(self, env: str, won: bool) -> None:
        """Note how an episode of the planner ended."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """What to log, under `curriculum/`."""

    @abstractmethod
    def state(self) -> np.ndarray:
        """All that `restore` needs, as one array of at least one axis."""

    @abstractmethod
    def restore(self, state: np.ndarray) -> None:
        """Go on from a state.

        Raises:
            ValueError: If it is of another curriculum.
        """


@gin.configurable(module="remdm", denylist=["envs", "shares"])
class WinRateCurriculum(Curriculum):
    """Few episodes where nearly all are lost or won, many in between.

    The win rate of an environment is that of its last `queue_size` episodes. Its weight is
    `low_weight` below `low`, `high_weight` from `high` on, and `middle_weight` in between.
    """

    def __init__(
        self,
        envs: Sequence[str],
        shares: Sequence[float] | None = None,
        *,
        queue_size: int = 100,
        low: float = 0.15,
        high: float = 0.85,
        low_weight: float = 0.2,
        middle_weight: float = 1.0,
        high_weight: float = 0.1,
        preseed: bool = True,
    ) -> None:
        """Args:
        envs: Environments to draw from.
        shares: Factors of their weights; equal when None.
        queue_size: Episodes of an environment that count.
        low: Win rate that ends the lower band.
        high: Win rate that begins the upper band.
        low_weight: Weight below `low`.
        middle_weight: Weight from `low` to below `high`.
        high_weight: Weight from `high` on.
        preseed: Begin as if half of the last `queue_size` episodes had been won, first the won
            ones, so that these are forgotten first. Otherwise the rate is 0.5 until one has ended.

        Raises:
            ValueError: If a value makes no sense.
        """
        super().__init__(envs, shares)
        if queue_size < 1:
            raise ValueError(
                f"queue_size must be at least 1, got {queue_size}; set "
                "WinRateCurriculum.queue_size."
            )
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(
                f"the bands need 0 <= low <= high <= 1, got low={low} and high={high}; set "
                "WinRateCurriculum.low and WinRateCurriculum.high."
            )
        for name, weight in (
            ("low_weight", low_weight),
            ("middle_weight", middle_weight),
            ("high_weight", high_weight),
        ):
            # With none at 0, no environment is given up for good.
            if not 0.0 < weight < np.inf:
                raise ValueError(
                    f"{name} must be above 0 and finite, got {weight}; set "
                    f"WinRateCurriculum.{name}."
                )
        self.low, self.high = low, high
        self.low_weight, self.middle_weight, self.high_weight = (
            low_weight, middle_weight, high_weight,
        )  # fmt: skip
        # Results of each environment, the oldest first; places that are free come last.
        self._results = np.full((len(self.envs), queue_size), _EMPTY, np.int8)
        if preseed:
            self._results[:] = np.arange(queue_size) < (queue_size + 1) // 2

    def win_rates(self) -> np.ndarray:
        """Share of won episodes, float64 [envs]; 0.5 where there are none."""
        counts = (self._results != _EMPTY).sum(1)
        return np.where(counts, (self._results == 1).sum(1) / np.maximum(counts, 1), 0.5)

    def weights(self) -> np.ndarray:
        """See `Curriculum.weights`."""
        rates = self.win_rates()
        above = np.where(rates < self.high, self.middle_weight, self.high_weight)
        return np.where(rates < self.low, self.low_weight, above)

    def record(self, env: str, won: bool) -> None:
        """See `Curriculum.record`."""
        results = self._results[self.envs.index(env)]
        free = np.flatnonzero(results == _EMPTY)
        if len(free):
            results[free[0]] = won
        else:
            results[:-1] = results[1:].copy()
            results[-1] = won

    def metrics(self) -> dict[str, float]:
        """The win rate of each environment."""
        rates = zip(self.envs, self.win_rates().tolist(), strict=True)
        return {f"curriculum/{env}/win_rate": rate for env, rate in rates}

    def state(self) -> np.ndarray:
        """Results, int8 [envs, queue_size]: the oldest first; -1 where there is none yet."""
        return self._results.copy()

    def restore(self, state: np.ndarray) -> None:
        """See `Curriculum.restore`."""
        known = np.isin(state, (_EMPTY, 0, 1)).all()
        if state.shape != self._results.shape or state.dtype != np.int8 or not known:
            raise ValueError(
                f"a state of this curriculum must be int8 {list(self._results.shape)} of -1, 0 "
                f"and 1, got {state.dtype} {list(state.shape)}; set WinRateCurriculum.queue_size "
                "and Experiment.train_envs as they were"
            )
        self._results[:] = state
