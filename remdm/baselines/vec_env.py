"""Our environments as Stable-Baselines3 wants them: one action at a time, begun anew at the end.

An action that waits for a direction (OPEN, KICK) is a step that shows the same observation again,
and the next action answers it: NetHack's own steps. `execute` runs the two together, since a state
that waits is never observed.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from remdm.envs.contract import PlanVecEnv
from remdm.envs.making import EnvMaker, env_target, make_vec_env
from remdm.envs.sync import SyncPlanVecEnv
from remdm.maps import Action, ArraySpec
from remdm.seeding import training_level_seed
from remdm.tokens import end_token

ASKING = (Action.OPEN.name, Action.KICK.name)
REWARDS = ("shaped", "sparse")
_KNOWS_SHAPING = "remdm.envs.minihack:MiniHackEnv"
_NOTHING_HELD = -1


def observation_space(spec: dict[str, ArraySpec], keys: Iterable[str]) -> gymnasium.spaces.Dict:
    """The arrays `keys` of an observation as a gymnasium space, in their own dtypes.

    Single numbers become arrays of one: SB3's replay buffers want an axis.

    Raises:
        ValueError: If the environment has no such array.
    """
    missing = [key for key in keys if key not in spec]
    if missing:
        raise ValueError(
            f"the encoder reads the arrays {', '.join(keys)}; these environments lack "
            f"{', '.join(missing)}. Choose another Baseline.encoder or other "
            "Experiment.train_envs."
        )
    spaces = {}
    for key in keys:
        shape, dtype = spec[key].shape or (1,), spec[key].dtype
        limits = np.iinfo(dtype)
        spaces[key] = gymnasium.spaces.Box(limits.min, limits.max, shape, dtype.type)
    return gymnasium.spaces.Dict(spaces)  # type: ignore[arg-type]


def asking_actions(action_names: Sequence[str]) -> np.ndarray:
    """Which actions wait for a direction, bool [num_actions]."""
    return np.array([name in ASKING for name in action_names], np.bool_)


def training_vec_env(names: Sequence[str], reward: str) -> PlanVecEnv:
    """Rows to learn in, in this process.

    Args:
        names: One environment per row.
        reward: "shaped", where the environment has such a reward (MiniHack), or "sparse".

    Raises:
        ValueError: If `reward` is neither.
    """
    if reward not in REWARDS:
        raise ValueError(
            f"reward must be 'shaped' or 'sparse', got {reward!r}; set "
            "ReinforcementLearning.reward."
        )
    targets = {env_target(name) for name in names}
    if targets != {_KNOWS_SHAPING}:
        return make_vec_env(names)
    return SyncPlanVecEnv([EnvMaker(name, {"reward": reward}) for name in names])


class TrainingVecEnv(VecEnv):
    """`PlanVecEnv` behind SB3's interface. Levels are drawn from the training seeds."""

    def __init__(self, vec_env: PlanVecEnv, keys: Sequence[str], seed: int) -> None:
        """Args:
        vec_env: The rows; closed with this.
        keys: Arrays of an observation that are shown.
        seed: All levels follow from it.
        """
        self.vec_env, self.keys, self.level_seed = vec_env, tuple(keys), seed
        count = vec_env.num_envs
        super().__init__(
            count,
            observation_space(vec_env.observation_spec, self.keys),
            gymnasium.spaces.Discrete(vec_env.num_actions),
        )
        self.observation_space: gymnasium.spaces.Dict
        self._asks = asking_actions(vec_env.action_names)
        self._end = end_token(vec_env.num_actions)
        self._episodes = np.zeros(count, np.int64)  # begun so far, by row
        self._held = np.full(count, _NOTHING_HELD)  # what waits for a direction, by row
        self._actions = np.zeros(count, np.int64)
        self._returns = np.zeros(count)
        self._lengths = np.zeros(count, np.int64)
        self._began = time.monotonic()

    def _next_seeds(self, rows: Sequence[int]) -> list[int]:
        seeds = [training_level_seed(self.level_seed, r, int(self._episodes[r])) for r in rows]
        self._episodes[rows] += 1
        return seeds

    def _seen(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        spaces = self.observation_space.spaces
        return {k: observations[k].reshape(-1, *(spaces[k].shape or ())).copy() for k in self.keys}

    def reset(self) -> dict[str, np.ndarray]:
        """Begin an episode in every row."""
        rows = list(range(self.num_envs))
        self._held[:] = _NOTHING_HELD
        self._returns[:] = self._lengths[:] = 0
        return self._seen(self.vec_env.reset(self._next_seeds(rows)))

    def step_async(self, actions: np.ndarray) -> None:
        """Take note of an action per row."""
        self._actions = np.asarray(actions, np.int64)

    def step_wait(
        self,
    ) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Do it; what has ended begins anew, its last observation is in the infos."""
        actions, held = self._actions, self._held
        answers = held != _NOTHING_HELD
        waits = self._asks[actions] & ~answers
        plans = np.full((self.num_envs, 2), self._end, np.int64)
        plans[:, 0] = np.where(answers, held, np.where(waits, self._end, actions))
        plans[answers, 1] = actions[answers]
        self._held = np.where(waits, actions, _NOTHING_HELD)
        chunk = self.vec_env.execute(plans, 1)
        rewards = (chunk.rewards * chunk.valid).sum(1)
        self._returns += rewards
        self._lengths += 1
        done = chunk.done
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        seen = self._seen(chunk.final_observations)
        over = np.flatnonzero(done).tolist()
        for row in over:
            infos[row] = {
                "terminal_observation": {key: seen[key][row] for key in self.keys},
                "TimeLimit.truncated": bool(chunk.truncated[row].any()),
                "is_success": bool(chunk.won[row]),
                "env": self.vec_env.env_names[row],
                "episode": {
                    "r": float(self._returns[row]),
                    "l": int(self._lengths[row]),
                    "t": time.monotonic() - self._began,
                },
            }
        if over:
            self._held[over] = _NOTHING_HELD
            self._returns[over] = self._lengths[over] = 0
            seen = self._seen(self.vec_env.reset(self._next_seeds(over), over))
        return seen, rewards.astype(np.float32), done.copy(), infos

    def close(self) -> None:
        """Close the rows."""
        self.vec_env.close()

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Nothing: levels follow from the seed that this was made with."""
        return [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """What SB3 asks for of every row: the mode of rendering, which there is none of."""
        if attr_name != "render_mode":
            raise AttributeError(f"rows of a TrainingVecEnv have no attribute {attr_name!r}")
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not supported.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"rows of a TrainingVecEnv have no attribute {attr_name!r}")

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **arguments: Any
    ) -> list[Any]:
        """Not supported.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(f"rows of a TrainingVecEnv have no method {method_name!r}")

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No row is wrapped."""
        return [False] * self.num_envs
