"""One Craftax world as a `PlannerEnv`, for code that steps by hand."""

import gin
import numpy as np

from remdm.envs.contract import PlannerEnv, StepResult
from remdm.envs.craftax.vec_env import CraftaxVecEnv


@gin.configurable(module="remdm", denylist=["name", "max_episode_steps"])
class CraftaxEnv(PlannerEnv):
    """A `CraftaxVecEnv` of one row. A set of many costs little more than this."""

    def __init__(self, name: str, *, max_episode_steps: int | None = None) -> None:
        """Args:
            name: Of the game.
            max_episode_steps: Steps after which a life is cut; left to
                `CraftaxVecEnv.max_episode_steps` when None.

        Raises:
            ValueError: If the name is unknown.
            ImportError: If jax or craftax is missing.
        """
        given = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        self._row = CraftaxVecEnv([name], **given)
        self.name = name
        self.num_actions = self._row.num_actions
        self.action_names = self._row.action_names
        self.observation_spec = self._row.observation_spec
        (self.max_episode_steps,) = self._row.max_episode_steps
        self._running = False

    def reset(self, seed: int) -> None:
        """See `PlannerEnv.reset`."""
        self._row.reset([seed])
        self._running = True

    def step(self, action: int) -> StepResult:
        """See `PlannerEnv.step`."""
        if not self._running:
            raise RuntimeError("the life is over or was never started; call reset(seed) first")
        chunk = self._row.execute(np.array([[action]]), 1)
        self._running = not bool(chunk.done[0])
        return StepResult(
            reward=float(chunk.rewards[0, 0]),
            terminated=bool(chunk.terminated[0, 0]),
            truncated=bool(chunk.truncated[0, 0]),
            won=bool(chunk.won[0]),
            blocked=False,
        )

    def observe(self, out: dict[str, np.ndarray]) -> None:
        """See `PlannerEnv.observe`."""
        for name, array in self._row.observations.items():
            out[name][...] = array[0]

    def close(self) -> None:
        """See `PlannerEnv.close`."""
        self._row.close()
