"""One episode, kept step by step with the plan that was being followed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.evaluation.policies import Policy
from remdm.maps import ACTION_NAMES, NUM_DIRECTIONS, Action
from remdm.tokens import end_token


@dataclass(frozen=True, slots=True)
class Moment:
    """What was seen before a step, and what was left of the plan.

    Attributes:
        observation: By name, arrays without batch axis.
        plan: int64 [m]: tokens of the plan not executed yet, the next one first; while an action
            waits for its direction, from that action on.
        committed: Tokens of `plan` that run before the next plan is made, as far as nothing fails.
        plan_index: Number of the plan in the episode, from 0.
        earned: Return of all actions before.
        unlocked: Names of what the action before has achieved.
    """

    observation: dict[str, np.ndarray]
    plan: np.ndarray
    committed: int
    plan_index: int
    earned: float = 0.0
    unlocked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """An episode.

    Attributes:
        env: Environment id.
        policy: Name of the policy.
        seed: Level seed.
        moments: One per action, and a last one without a plan that shows the end.
        won: Whether the task succeeded.
        over: Whether the episode ended by itself; false if it was cut off.
        max_episode_steps: The environment's cap.
        truncated: Whether it ended because its time was up.
        action_names: One per action.
    """

    env: str
    policy: str
    seed: int
    moments: list[Moment]
    won: bool
    over: bool
    max_episode_steps: int
    truncated: bool = False
    action_names: tuple[str, ...] = ACTION_NAMES

    @property
    def num_steps(self) -> int:
        """Actions taken."""
        return len(self.moments) - 1

    def thinned(self, max_moments: int | None) -> tuple[int, list[int]]:
        """Moments to show when there are too many: every n-th, and the last.

        Args:
            max_moments: Most to show, at least 2; all when None.

        Returns:
            n, and the numbers of the moments.
        """
        count = len(self.moments)
        stride = 1 if max_moments is None else -(-count // max(max_moments, 2))
        shown = list(range(0, count, stride))
        shown[-1] = count - 1
        return stride, shown


def record_episode(
    policy: Policy, vec_env: PlanVecEnv, seed: int, *, max_steps: int | None = None
) -> Recording:
    """Play one level in a vector environment of one row.

    Args:
        policy: Who plays.
        vec_env: One row; stays open.
        seed: Level seed.
        max_steps: Make no more plans after so many actions.

    Raises:
        ValueError: If `vec_env` has more than one row.
    """
    if vec_env.num_envs != 1:
        raise ValueError(
            f"an episode is recorded in a vector environment of one row, got {vec_env.num_envs}; "
            "make one with make_vec_env([name])."
        )
    vec_env = policy.accompany(vec_env)
    rows = np.zeros(1, np.int64)
    cap = vec_env.max_episode_steps[0] if max_steps is None else max_steps
    observations = vec_env.reset([seed], [0])
    policy.begin(rows, [vec_env.env_names[0]], [seed])
    diary = _Diary(vec_env)
    plan_index = 0
    while not diary.over and len(diary.moments) < cap and plan_index < cap:
        tokens = policy.plan({k: v.copy() for k, v in observations.items()}, rows).tokens
        tokens = np.asarray(tokens, np.int64)
        ran: list[int] = []
        for chunk in _chunks(vec_env, tokens, policy.replan_every):
            diary.note(chunk, tokens[0], len(ran), policy.replan_every, plan_index)
            ran += chunk.actions[0, : chunk.lengths[0]].tolist()
            observations = chunk.final_observations
        policy.ran(rows, np.array([ran], np.int64), np.array([len(ran)], np.int64))
        plan_index += 1
    diary.close(observations, max(plan_index - 1, 0))
    return Recording(
        env=vec_env.env_names[0],
        policy=policy.name,
        seed=seed,
        moments=diary.moments,
        won=diary.won,
        over=diary.over,
        max_episode_steps=vec_env.max_episode_steps[0],
        truncated=diary.truncated,
        action_names=tuple(vec_env.action_names),
    )


def _chunks(vec_env: PlanVecEnv, tokens: np.ndarray, num_steps: int) -> Iterator[Chunk]:
    """Run the start of a plan: at once, or step by step where each step may achieve something.

    Steps of a set with achievements never ask for a direction and are never blocked.
    """
    if not vec_env.achievement_names:
        yield vec_env.execute(tokens, num_steps, stop_when_blocked=True)
        return
    for step in range(num_steps):
        chunk = vec_env.execute(tokens[:, step : step + 1], 1)
        yield chunk
        if chunk.done[0] or not chunk.lengths[0]:
            return


class _Diary:
    """Collects the moments of one episode.

    Attributes:
        moments: So far.
        won: See `Recording`.
        over: See `Recording`.
        truncated: See `Recording`.
    """

    def __init__(self, vec_env: PlanVecEnv) -> None:
        """Args:
        vec_env: One row, just reset.
        """
        self.moments: list[Moment] = []
        self.won = self.over = self.truncated = False
        self._vec_env = vec_env
        self._asks = vec_env.action_names == ACTION_NAMES
        self._earned = 0.0
        self._had = vec_env.achievements[0]
        self._unlocked: tuple[str, ...] = ()

    def note(
        self, chunk: Chunk, plan: np.ndarray, done: int, replan_every: int, plan_index: int
    ) -> None:
        """Write down a chunk.

        Args:
            chunk: What was run.
            plan: int64 [plan_horizon]: the whole plan that it belongs to.
            done: Tokens of the plan that ran before the chunk.
            replan_every: Actions before the next plan.
            plan_index: Number of the plan.
        """
        length = int(chunk.lengths[0])
        for step in range(length):
            seen = {k: v[0, step].copy() for k, v in chunk.observations.items()}
            token = done + step
            first = token - 1 if self._asks and _is_answer(plan, token) else token
            committed = max(length, replan_every) - first
            self._add(seen, plan[first:].copy(), committed, plan_index)
            self._earned += float(chunk.rewards[0, step])
        has = self._vec_env.achievements[0]
        names = zip(self._vec_env.achievement_names, has & ~self._had, strict=True)
        self._unlocked += tuple(name for name, new in names if new)
        self._had = has
        self.won, self.over = bool(chunk.won[0]), bool(chunk.done[0])
        self.truncated = bool(chunk.truncated[0].any())

    def close(self, observation: dict[str, np.ndarray], plan_index: int) -> None:
        """Write down the end, `observation` by name [1, ...]."""
        nothing = np.full(1, end_token(self._vec_env.num_actions), np.int64)
        self._add({k: v[0].copy() for k, v in observation.items()}, nothing, 0, plan_index)

    def _add(
        self, seen: dict[str, np.ndarray], plan: np.ndarray, committed: int, plan_index: int
    ) -> None:
        moment = Moment(seen, plan, committed, plan_index, self._earned, self._unlocked)
        self.moments.append(moment)
        self._unlocked = ()


def _is_answer(plan: np.ndarray, token: int) -> bool:
    """Whether token number `token` gives the direction of the action before it."""
    asks = token > 0 and int(plan[token - 1]) in (Action.KICK, Action.OPEN)
    return asks and int(plan[token]) < NUM_DIRECTIONS
