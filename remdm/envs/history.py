"""What was seen and done before, as part of what is seen now.

A world that shows only its surroundings asks for memory. The simplest one is a window over the
last steps. What it holds follows from the steps themselves, so recordings do not store it: the
data room makes it again when it draws a window (`DiskTrajDataset.configure`), equal to the last
bit.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.maps import HISTORY_PREFIX, history_spec
from remdm.tokens import mask_token

_ACTIONS = "actions"
Value = TypeVar("Value")


class HistoryVecEnv(PlanVecEnvWrapper):
    """Adds to every observation the last steps of the same episode, newest last.

    - `history/<name>` [history, ...]: observation array `name` as it was before each of the last
      `history` actions; the present observation is not among them.
    - `history/actions` int8 [history]: the action taken at each of these observations.

    Where the episode had not begun, observations are zeros and the action is MASK. An action that
    asks for a direction and the direction are two steps, as in a `Chunk`. Histories in a chunk are
    read-only views that overlap; like its other arrays they mean something where `valid`.
    """

    def __init__(
        self, vec_env: PlanVecEnv, history: int, *, keys: Sequence[str] | None = None
    ) -> None:
        """Args:
            vec_env: The set to wrap, which this one then owns.
            history: Steps to look back, at least 1.
            keys: Observation arrays to look back at; all when None, only actions when empty.

        Raises:
            ValueError: If `history` is below 1, an array is unknown or has a name of the history's
                own, or MASK does not fit into int8.
        """
        super().__init__(vec_env)
        spec = vec_env.observation_spec
        self.history, self.keys = history, tuple(spec if keys is None else keys)
        unknown = [key for key in self.keys if key not in spec]
        if history < 1 or unknown:
            raise ValueError(
                f"a history must have at least 1 step of some of the arrays {', '.join(spec)}; got "
                f"{history} steps, and unknown arrays {unknown}"
            )
        taken = [key for key in spec if key.startswith(HISTORY_PREFIX)]
        if taken or _ACTIONS in self.keys or mask_token(self.num_actions) > np.iinfo(np.int8).max:
            raise ValueError(
                f"a history calls its arrays {HISTORY_PREFIX}... and {HISTORY_PREFIX}{_ACTIONS}, "
                f"and keeps tokens as int8; got the arrays {', '.join(spec)} and "
                f"{self.num_actions} actions. Wrap a set only once, and leave arrays of such names "
                "out by keys"
            )
        past = history_spec({key: spec[key] for key in self.keys}, history)
        self.observation_spec = spec | past
        self._past = {
            name.removeprefix(HISTORY_PREFIX): np.zeros((self.num_envs, *s.shape), s.dtype)
            for name, s in past.items()
        }
        self._forget(np.arange(self.num_envs))

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`; an episode begins without a history."""
        seen = self.vec_env.reset(seeds, rows)
        self._forget(np.arange(self.num_envs) if rows is None else np.array(rows, np.int64))
        return self._shown(seen)

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`."""
        chunk = self.vec_env.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        steps = {key: chunk.observations[key] for key in self.keys}
        steps[_ACTIONS] = chunk.actions.astype(np.int8)
        # The past and the chunk in one row: what lies before slot s begins at s. Valid slots come
        # first, so the window before the first slot that did not run is the row's new past.
        joined = {key: np.concatenate([self._past[key], new], 1) for key, new in steps.items()}
        rows = np.arange(self.num_envs)[:, None]
        newest = chunk.lengths[:, None] + np.arange(self.history)
        self._past = {key: array[rows, newest] for key, array in joined.items()}
        before = {key: self._windows(array) for key, array in joined.items()}
        return replace(
            chunk,
            observations=chunk.observations | _prefixed(before),
            final_observations=self._shown(chunk.final_observations),
        )

    def _windows(self, joined: np.ndarray) -> np.ndarray:
        """The `history` entries before each slot, [N, K, history, ...], as a view."""
        windows = sliding_window_view(joined, self.history, axis=1)
        return np.moveaxis(windows, -1, 2)[:, :-1]

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return observations | _prefixed(self._past)

    def _forget(self, rows: np.ndarray) -> None:
        for key, array in self._past.items():
            array[rows] = mask_token(self.num_actions) if key == _ACTIONS else 0


def with_history(vec_env: PlanVecEnv, history: int, observation_keys: Sequence[str]) -> PlanVecEnv:
    """`vec_env` as whoever reads `observation_keys` needs it.

    Args:
        vec_env: A set without histories.
        history: Steps to look back; 0 leaves the set as it is.
        observation_keys: Names of arrays, `history/...` among them.
    """
    if not history:
        return vec_env
    names = [k.removeprefix(HISTORY_PREFIX) for k in observation_keys if HISTORY_PREFIX in k]
    return HistoryVecEnv(vec_env, history, keys=[n for n in names if n != _ACTIONS])


def _prefixed(values: dict[str, Value]) -> dict[str, Value]:
    return {HISTORY_PREFIX + key: value for key, value in values.items()}
