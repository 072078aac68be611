"""What the sync and the async making share: the arrays of a chunk, and how one row runs a plan.

A row is one environment of a `PlanVecEnv`. All arrays of a chunk lie in one piece of memory, so
that the async making can put them where worker processes write them directly.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from remdm.envs.contract import Chunk, EnvError, PlannerEnv, StepResult
from remdm.maps import ArraySpec

# Every array starts at a multiple of this, a cache line: two workers never share one array start.
_ALIGNMENT = 64
_STEP_FIELDS: dict[str, np.dtype[Any]] = {
    "plans": np.dtype(np.int64),
    "actions": np.dtype(np.int64),
    "rewards": np.dtype(np.float32),
    "terminated": np.dtype(np.bool_),
    "truncated": np.dtype(np.bool_),
    "valid": np.dtype(np.bool_),
}
_ROW_FIELDS = ("won", "blocked")
_OBSERVATION = "observations/"
_NOTHING = StepResult(0.0, terminated=False, truncated=False, won=False, blocked=False)

Layout = dict[str, ArraySpec]
EnvOffer = tuple[str, Callable[[], PlannerEnv]]
"""Name of an environment, and what makes one."""


def layout_bytes(layout: Layout, num_envs: int) -> int:
    """Bytes that `place_arrays` needs for `layout` with `num_envs` rows."""
    return sum(_padded_bytes(spec, num_envs) for spec in layout.values())


def _padded_bytes(spec: ArraySpec, num_envs: int) -> int:
    size = num_envs * int(np.prod(spec.shape, dtype=np.int64)) * spec.dtype.itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def place_arrays(
    layout: Layout, num_envs: int, memory: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Arrays [num_envs, ...] by name, one after another in `memory`.

    Args:
        layout: Shape (without the row axis) and dtype by name.
        num_envs: Rows.
        memory: uint8 [layout_bytes]; fresh zeros when None.
    """
    if memory is None:
        memory = np.zeros(layout_bytes(layout, num_envs), np.uint8)
    arrays, start = {}, 0
    for name, spec in layout.items():
        shape = (num_envs, *spec.shape)
        size = int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize
        arrays[name] = memory[start : start + size].view(spec.dtype).reshape(shape)
        start += _padded_bytes(spec, num_envs)
    return arrays


def chunk_layout(observation_spec: dict[str, ArraySpec], num_steps: int) -> Layout:
    """The arrays of a chunk of `num_steps` steps, plans included; one slot more than steps."""
    slots = num_steps + 1
    layout = {name: ArraySpec((slots,), dtype) for name, dtype in _STEP_FIELDS.items()}
    layout |= {name: ArraySpec((), np.dtype(np.bool_)) for name in _ROW_FIELDS}
    for name, spec in observation_spec.items():
        layout[_OBSERVATION + name] = ArraySpec((slots, *spec.shape), spec.dtype)
    return layout


def chunk_of(arrays: dict[str, np.ndarray], current: dict[str, np.ndarray]) -> Chunk:
    """The `Chunk` over arrays of `chunk_layout` and the rows' current observations."""
    return Chunk(
        observations={name: arrays[_OBSERVATION + name] for name in current},
        final_observations=current,
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        terminated=arrays["terminated"],
        truncated=arrays["truncated"],
        valid=arrays["valid"],
        won=arrays["won"],
        blocked=arrays["blocked"],
    )


@dataclass(frozen=True, slots=True)
class RowArrays:
    """One row's part of a chunk; `slots[k]` holds the observation arrays of step `k`."""

    plan: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    won: np.ndarray  # [1], a view that can be written
    blocked: np.ndarray
    slots: tuple[dict[str, np.ndarray], ...]

    @staticmethod
    def of(arrays: dict[str, np.ndarray], row: int) -> "RowArrays":
        """Views of row `row` of arrays of `chunk_layout`."""
        observations = {
            name.removeprefix(_OBSERVATION): array[row]
            for name, array in arrays.items()
            if name.startswith(_OBSERVATION)
        }
        num_slots = arrays["plans"].shape[1]
        slots = tuple(
            # `[slot, ...]` keeps scalars (the step counter) as arrays that can be written.
            {name: array[slot, ...] for name, array in observations.items()}
            for slot in range(num_slots)
        )
        return RowArrays(
            plan=arrays["plans"][row],
            actions=arrays["actions"][row],
            rewards=arrays["rewards"][row],
            terminated=arrays["terminated"][row],
            truncated=arrays["truncated"][row],
            valid=arrays["valid"][row],
            won=arrays["won"][row : row + 1],
            blocked=arrays["blocked"][row : row + 1],
            slots=slots,
        )

    def clear(self) -> None:
        """Mark all slots as not run. Observations keep what was there before."""
        self.actions.fill(0)
        self.rewards.fill(0.0)
        for flags in (self.terminated, self.truncated, self.valid, self.won, self.blocked):
            flags.fill(False)


def plan_tokens(plans: np.ndarray, num_envs: int, num_steps: int) -> np.ndarray:
    """The tokens a chunk can need, int64 [num_envs, num_steps + 1]; -1 past the horizon.

    Raises:
        ValueError: If the plans do not fit the rows or the number of steps.
    """
    plans = np.asarray(plans)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if plans.ndim != 2 or plans.shape[0] != num_envs or plans.dtype.kind not in "iu":
        raise ValueError(
            f"plans must be integers of shape [{num_envs}, horizon], one row per environment; "
            f"got {plans.dtype} {list(plans.shape)}"
        )
    if plans.shape[1] < num_steps:
        raise ValueError(
            f"plans must hold at least num_steps = {num_steps} tokens, got {plans.shape[1]}; "
            "lower replan_every or raise plan_horizon"
        )
    tokens = np.full((num_envs, num_steps + 1), -1, np.int64)
    width = min(num_steps + 1, plans.shape[1])
    tokens[:, :width] = plans[:, :width]
    return tokens


def run_plan(
    env: PlannerEnv, num_steps: int, stop_when_blocked: bool, out: RowArrays
) -> tuple[int, bool]:
    """Run the plan in `out` in a started environment and write its steps into `out`.

    The rules are those of `PlanVecEnv.execute`. The slot of a direction repeats the observation
    before the action that asked for it: a state that waits for an answer is never observed.

    Args:
        env: Environment whose episode is under way.
        num_steps: Actions to run, the direction of the last one not counted.
        stop_when_blocked: Stop after a move that failed.
        out: The row's arrays; its plan is read, the rest is written.

    Returns:
        Steps run, and whether the episode is over.
    """
    out.clear()
    tokens, num_actions, slots = out.plan.tolist(), env.num_actions, out.slots
    rewards: list[float] = []
    pending, over, result = False, False, _NOTHING
    try:
        for slot in range(num_steps + 1):
            token = tokens[slot]
            if not 0 <= token < num_actions or (slot == num_steps and not pending):
                break
            if pending:
                for name, array in slots[slot].items():
                    array[...] = slots[slot - 1][name]
            else:
                env.observe(slots[slot])
            result = env.step(token)
            rewards.append(result.reward)
            pending = env.pending
            over = result.terminated or result.truncated
            if over or (stop_when_blocked and result.blocked):
                break
        if pending:
            env.cancel()
    finally:  # also when the environment fails: the row counts its steps by `valid`
        out.valid[: len(rewards)] = True
    if rewards:
        count = len(rewards)
        out.actions[:count] = out.plan[:count]
        out.rewards[:count] = rewards
        out.terminated[count - 1] = result.terminated
        out.truncated[count - 1] = result.truncated
        out.won[0] = result.won
        out.blocked[0] = result.blocked
    return len(rewards), over


class Row:
    """One environment of many: where its episode stands, and errors that say so."""

    def __init__(self, env: PlannerEnv, current: dict[str, np.ndarray]) -> None:
        """Args:
        env: The environment; the row owns it from now on.
        current: The row's arrays for its current observation, one per name of the spec.
        """
        self.env = env
        self._current = current
        self._seed: int | None = None
        self._env_step = 0
        self._running = False

    def reset(self, seed: int) -> None:
        """Start the episode of level `seed` and write what is seen."""
        self._seed, self._env_step, self._running = int(seed), 0, False
        try:
            self.env.reset(self._seed)
            self.env.observe(self._current)
        except Exception as error:
            raise self._failure(error, "reset") from error
        self._running = True

    def run(self, num_steps: int, stop_when_blocked: bool, out: RowArrays) -> None:
        """Run the plan in `out`, if the episode is under way, and write what is seen after it."""
        if not self._running:
            out.clear()
            return
        try:
            count, over = run_plan(self.env, num_steps, stop_when_blocked, out)
            if count:
                self.env.observe(self._current)
        except Exception as error:
            self._env_step += int(out.valid.sum())  # steps that did not fail
            self._running = False
            raise self._failure(error, "step") from error
        self._env_step += count
        self._running = not over

    def take(self, env: PlannerEnv) -> None:
        """Play in `env` from the next reset on; the one until now is somebody else's then."""
        self.env, self._running = env, False

    def _failure(self, error: Exception, what: str) -> EnvError:
        return EnvError(
            f"environment {self.env.name!r} failed in {what}: {type(error).__name__}: {error} "
            f"(seed {self._seed}, env_step {self._env_step})"
        )


class SpareEnvs:
    """Environments that no row plays in at present, kept for rows that will.

    There are never more than rows have ever needed at once, by name.
    """

    def __init__(self) -> None:
        """With none."""
        self._idle: dict[str, list[PlannerEnv]] = {}

    def exchange(self, wanted: Mapping[int, EnvOffer], rows: Mapping[int, Row]) -> None:
        """Give rows other environments.

        Args:
            wanted: By row, the name of its next environment and what makes one.
            rows: The rows, by number.
        """
        # What is missing is made first: if that fails, nothing has changed.
        there = Counter(rows[row].env.name for row in wanted)
        there.update({name: len(envs) for name, envs in self._idle.items()})
        missing = Counter(name for name, _ in wanted.values()) - there
        for name, make in dict(wanted.values()).items():
            self._idle.setdefault(name, []).extend(make() for _ in range(missing[name]))
        for row in wanted:
            self._idle.setdefault(rows[row].env.name, []).append(rows[row].env)
        for row, (name, _) in wanted.items():
            rows[row].take(self._idle[name].pop())

    def close(self) -> None:
        """Close all of them."""
        for envs in self._idle.values():
            for env in envs:
                env.close()
        self._idle.clear()
