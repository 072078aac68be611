"""Any Gymnasium environment with numbered or vector actions, as one of ours."""

from typing import Any

import gin
import gymnasium
import numpy as np

from remdm.envs.contract import PlannerEnv, StepResult
from remdm.envs.making import GYMNASIUM
from remdm.envs.spaces import actions_of, observation_arrays, write_observation


@gin.configurable(module="remdm", denylist=["name", "env"])
class GymnasiumEnv(PlannerEnv):
    """A `gymnasium.Env`; `Gymnasium:CartPole-v1` is `gymnasium.make("CartPole-v1")`.

    An episode is won where its last step says so, by `info["is_success"]`; most environments know
    no such thing, and are compared by their return.

    Attributes:
        env: The environment itself.
    """

    def __init__(
        self,
        name: str,
        env: gymnasium.Env[Any, Any] | None = None,
        *,
        max_episode_steps: int | None = None,
        default_episode_steps: int = 1000,
    ) -> None:
        """Args:
            name: Its id behind "Gymnasium:"; any name with `env`.
            env: One that exists already, which this object then owns.
            max_episode_steps: Steps after which an episode is cut; what is registered when None.
            default_episode_steps: The same where nothing is registered.

        Raises:
            ValueError: If there is no such environment, or its spaces are of other kinds.
        """
        self.name = name
        self.env = _made(name) if env is None else env
        registered = None if self.env.spec is None else self.env.spec.max_episode_steps
        self.max_episode_steps = max_episode_steps or registered or default_episode_steps
        actions = actions_of(self.env.action_space)
        self.action_names, self.num_actions = actions.names, len(actions.names)
        self.actions = actions if actions.vector_size else None
        self.observation_spec = observation_arrays(self.env.observation_space)
        self._seen: Any = None
        self._steps = 0
        self._running = False
        self._offered: np.ndarray | None = None

    def reset(self, seed: int) -> None:
        """See `PlannerEnv.reset`."""
        self._seen, _ = self.env.reset(seed=seed)
        self.env.action_space.seed(seed)
        self._steps, self._running, self._offered = 0, True, None

    def offer(self, vector: np.ndarray) -> None:
        """See `PlannerEnv.offer`; what lies outside the bounds is moved onto them.

        Raises:
            ValueError: If actions are tokens here.
        """
        if self.actions is None:
            super().offer(vector)
            return
        self._offered = np.clip(vector, self.actions.low, self.actions.high)

    def step(self, action: int) -> StepResult:
        """See `PlannerEnv.step`. Without an offer since the last step, a vector is drawn."""
        if not self._running:
            raise RuntimeError(f"{self.name} must be reset before it is stepped")
        self._seen, reward, terminated, truncated, info = self.env.step(self._native(action))
        self._steps += 1
        truncated = not terminated and (truncated or self._steps >= self.max_episode_steps)
        self._running = not (terminated or truncated)
        won = bool(terminated and info.get("is_success", False))
        return StepResult(float(reward), bool(terminated), bool(truncated), won, blocked=False)

    def _native(self, action: int) -> Any:
        if self.actions is None:
            return action
        vector, self._offered = self._offered, None
        if vector is None:
            return self.env.action_space.sample()
        return vector.astype(self.env.action_space.dtype).reshape(self.actions.shape)

    def observe(self, out: dict[str, np.ndarray]) -> None:
        """See `PlannerEnv.observe`."""
        write_observation(self._seen, out)

    def close(self) -> None:
        """See `PlannerEnv.close`."""
        self.env.close()


def _made(name: str) -> gymnasium.Env[Any, Any]:
    """The environment that is registered under a name.

    Raises:
        ValueError: If there is none, or it cannot be made.
    """
    env_id = name.removeprefix(GYMNASIUM)
    try:
        return gymnasium.make(env_id)
    except gymnasium.error.Error as error:
        raise ValueError(
            f"{name} must be {GYMNASIUM} and an id that gymnasium.make knows: {error}. Ids of "
            f"other packages are written with their module, as {GYMNASIUM}package:Name-v0."
        ) from error
