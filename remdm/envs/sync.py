"""Many environments in this process, one after another: the making for tests and debugging."""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from remdm.envs.contract import Chunk, PlannerEnv, PlanVecEnv
from remdm.envs.rows import (
    Row,
    RowArrays,
    SpareEnvs,
    chunk_layout,
    chunk_of,
    place_arrays,
    plan_tokens,
)
from remdm.maps import ArraySpec


def check_rows(seeds: Sequence[int], rows: Sequence[int] | None, num_envs: int) -> list[int]:
    """The rows that a `reset` call means.

    Raises:
        ValueError: If rows are unknown or named twice, or there is not one seed for each.
    """
    chosen = list(range(num_envs)) if rows is None else [int(row) for row in rows]
    if len(set(chosen)) != len(chosen) or any(not 0 <= row < num_envs for row in chosen):
        raise ValueError(f"rows must be distinct numbers in 0..{num_envs - 1}, got {chosen}")
    if len(seeds) != len(chosen):
        raise ValueError(f"reset needs one seed per row: {len(chosen)} rows, {len(seeds)} seeds")
    return chosen


def rows_to_change(
    names: Sequence[str], rows: Sequence[int], now: Sequence[str], known: Collection[str]
) -> dict[int, str]:
    """What an `assign` call changes: the next environment of every row that has another one now.

    Args:
        names: Environments asked for.
        rows: For these rows.
        now: Environment of every row.
        known: Environments that can be asked for.

    Raises:
        ValueError: If rows are unknown or named twice, there is not one name for each, or an
            environment is not among `known`.
    """
    chosen = [int(row) for row in rows]
    if len(set(chosen)) != len(chosen) or any(not 0 <= row < len(now) for row in chosen):
        raise ValueError(f"rows must be distinct numbers in 0..{len(now) - 1}, got {chosen}")
    if len(names) != len(chosen):
        raise ValueError(f"assign needs one name per row: {len(chosen)} rows, {len(names)} names")
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(
            f"rows can only get environments that their set was made with, {sorted(known)}; "
            f"got {unknown}"
        )
    return {row: name for row, name in zip(chosen, names, strict=True) if now[row] != name}


def check_same_kind(
    names: Sequence[str],
    action_names: Sequence[tuple[str, ...]],
    specs: Sequence[dict[str, ArraySpec]],
) -> None:
    """See that all rows speak the same language, since their arrays are stacked.

    Raises:
        ValueError: If two rows differ in action names or observation arrays.
    """
    if not names:
        raise ValueError("at least one environment is needed, got none")
    for name, actions, spec in zip(names, action_names, specs, strict=True):
        if actions != action_names[0]:
            raise ValueError(
                f"all rows must have the same actions: {names[0]!r} has {action_names[0]}, "
                f"{name!r} has {actions}"
            )
        if spec != specs[0]:
            raise ValueError(
                f"all rows must have the same observation arrays: {names[0]!r} has {specs[0]}, "
                f"{name!r} has {spec}; put environments of other sizes in a set of their own"
            )


class SyncPlanVecEnv(PlanVecEnv):
    """`PlanVecEnv` without processes. Errors come with the environment's own traceback."""

    def __init__(self, envs: Sequence[PlannerEnv | Callable[[], PlannerEnv]]) -> None:
        """Args:
        envs: Environments, which this object then owns and closes, or functions that make them.

        Raises:
            ValueError: If there are none, or they differ in actions or observation arrays.
        """
        made = [env if isinstance(env, PlannerEnv) else env() for env in envs]
        check_same_kind(
            [env.name for env in made],
            [tuple(env.action_names) for env in made],
            [env.observation_spec for env in made],
        )
        self.env_names = tuple(env.name for env in made)
        # Of each name the first function that makes one; what came ready-made cannot be made again.
        self._makers: dict[str, Callable[[], PlannerEnv]] = {}
        for env, given in zip(made, envs, strict=True):
            if not isinstance(given, PlannerEnv):
                self._makers.setdefault(env.name, given)
        self._spare = SpareEnvs()
        self.num_envs = len(made)
        self.num_actions = made[0].num_actions
        self.action_names = tuple(made[0].action_names)
        self.observation_spec = made[0].observation_spec
        self.max_episode_steps = tuple(env.max_episode_steps for env in made)
        self.vector_size = made[0].vector_size
        self._current = place_arrays(self.observation_spec, self.num_envs)
        self._rows = [
            Row(env, {name: array[row, ...] for name, array in self._current.items()})
            for row, env in enumerate(made)
        ]
        self._chunks: dict[int, tuple[Chunk, np.ndarray, list[RowArrays]]] = {}

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`; rows that were never started hold zeros and run nothing."""
        for row, seed in zip(check_rows(seeds, rows, self.num_envs), seeds, strict=True):
            self._rows[row].reset(seed)
        return self._current

    def assign(self, names: Sequence[str], rows: Sequence[int]) -> None:
        """See `PlanVecEnv.assign`; only what was given as a function can be asked for."""
        changed = rows_to_change(names, rows, self.env_names, self._makers)
        wanted = {row: (name, self._makers[name]) for row, name in changed.items()}
        self._spare.exchange(wanted, dict(enumerate(self._rows)))
        self.env_names = tuple(row.env.name for row in self._rows)
        self.max_episode_steps = tuple(row.env.max_episode_steps for row in self._rows)

    def offer(self, vectors: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
        """See `PlanVecEnv.offer`."""
        for row, vector in zip(rows, vectors, strict=True):
            self._rows[row].env.offer(vector)

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`."""
        tokens = plan_tokens(plans, self.num_envs, num_steps)
        if num_steps not in self._chunks:
            arrays = place_arrays(chunk_layout(self.observation_spec, num_steps), self.num_envs)
            views = [RowArrays.of(arrays, row) for row in range(self.num_envs)]
            self._chunks[num_steps] = (chunk_of(arrays, self._current), arrays["plans"], views)
        chunk, shared_plans, views = self._chunks[num_steps]
        shared_plans[...] = tokens
        for row, view in zip(self._rows, views, strict=True):
            row.run(num_steps, stop_when_blocked, view)
        return chunk

    def close(self) -> None:
        """Close all environments."""
        for row in self._rows:
            row.env.close()
        self._spare.close()
