"""One episode, kept step by step with the plan that was being followed."""

from dataclasses import dataclass

import numpy as np

from remdm.envs.contract import PlanVecEnv
from remdm.evaluation.policies import Policy
from remdm.maps import NUM_DIRECTIONS, Action
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
    """

    observation: dict[str, np.ndarray]
    plan: np.ndarray
    committed: int
    plan_index: int


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
    """

    env: str
    policy: str
    seed: int
    moments: list[Moment]
    won: bool
    over: bool
    max_episode_steps: int

    @property
    def num_steps(self) -> int:
        """Actions taken."""
        return len(self.moments) - 1


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
    rows = np.zeros(1, np.int64)
    cap = vec_env.max_episode_steps[0] if max_steps is None else max_steps
    observations = vec_env.reset([seed], [0])
    policy.begin(rows, [vec_env.env_names[0]], [seed])
    moments: list[Moment] = []
    won = over = False
    plan_index = 0
    while not over and len(moments) < cap and plan_index < cap:
        tokens = policy.plan({k: v.copy() for k, v in observations.items()}, rows).tokens
        tokens = np.asarray(tokens, np.int64)
        chunk = vec_env.execute(tokens, policy.replan_every, stop_when_blocked=True)
        policy.ran(rows, chunk.actions, chunk.lengths)
        length = int(chunk.lengths[0])
        for step in range(length):
            seen = {k: v[0, step].copy() for k, v in chunk.observations.items()}
            first = step - 1 if _is_answer(tokens[0], step) else step
            committed = max(length, policy.replan_every) - first
            moments.append(Moment(seen, tokens[0, first:].copy(), committed, plan_index))
        observations = chunk.final_observations
        won, over = bool(chunk.won[0]), bool(chunk.done[0])
        plan_index += 1
    last = {k: v[0].copy() for k, v in observations.items()}
    nothing = np.full(1, end_token(vec_env.num_actions), np.int64)
    moments.append(Moment(last, nothing, 0, max(plan_index - 1, 0)))
    return Recording(
        env=vec_env.env_names[0],
        policy=policy.name,
        seed=seed,
        moments=moments,
        won=won,
        over=over,
        max_episode_steps=vec_env.max_episode_steps[0],
    )


def _is_answer(tokens: np.ndarray, step: int) -> bool:
    """Whether token `step` gives the direction of the action before it."""
    asks = step > 0 and int(tokens[step - 1]) in (Action.KICK, Action.OPEN)
    return asks and int(tokens[step]) < NUM_DIRECTIONS
