"""What is common to sets of environments that alter what another set shows."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from remdm.envs.contract import PlanVecEnv


class PlanVecEnvWrapper(PlanVecEnv):
    """A `PlanVecEnv` around another one; what it does not define is the inner one's.

    Attributes:
        vec_env: The inner set, which this one closes.
    """

    def __init__(self, vec_env: PlanVecEnv) -> None:
        """Args:
        vec_env: The set to wrap.
        """
        self.vec_env = vec_env
        self.env_names, self.num_envs = vec_env.env_names, vec_env.num_envs
        self.num_actions, self.action_names = vec_env.num_actions, vec_env.action_names
        self.observation_spec = vec_env.observation_spec
        self.max_episode_steps = vec_env.max_episode_steps
        self.achievement_names, self.max_return = vec_env.achievement_names, vec_env.max_return
        self.vector_size = vec_env.vector_size

    @abstractmethod
    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What this set shows where the inner one shows `observations` now, [num_envs, ...]."""

    @property
    def achievements(self) -> np.ndarray:
        """See `PlanVecEnv.achievements`."""
        return self.vec_env.achievements

    @property
    def observations(self) -> dict[str, np.ndarray]:
        """What every row sees now, where the inner set can tell."""
        inner: Any = self.vec_env
        return self._shown(inner.observations)

    @property
    def worlds(self) -> Any:
        """The inner set's worlds. They cannot be set here: a wrapper may remember other moments."""
        inner: Any = self.vec_env
        return inner.worlds

    def __getattr__(self, name: str) -> Any:
        if name == "vec_env":  # not there yet, as when a copy is being made
            raise AttributeError(name)
        return getattr(self.vec_env, name)

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`."""
        return self._shown(self.vec_env.reset(seeds, rows))

    def assign(self, names: Sequence[str], rows: Sequence[int]) -> None:
        """See `PlanVecEnv.assign`."""
        self.vec_env.assign(names, rows)
        self.env_names = self.vec_env.env_names
        self.max_episode_steps = self.vec_env.max_episode_steps

    def offer(self, vectors: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
        """See `PlanVecEnv.offer`."""
        self.vec_env.offer(vectors, rows)

    def close(self) -> None:
        """Close the inner set."""
        self.vec_env.close()
