"""How long planning takes: calls of a policy, timed while it plays.

Every call plans for the same number of episodes, on states that the policy itself comes to: an
episode that ends is followed by the next one at once. The first calls are left out, since they pay
for what later ones find ready. `plan` hands its tokens over as arrays, so whatever an accelerator
still computes is waited for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.evaluation.policies import Policy
from remdm.tokens import end_token


@dataclass(frozen=True, slots=True)
class Timing:
    """Timed calls of one policy.

    Attributes:
        policy: Its name.
        rows: Plans made by every call.
        plan_ms: Milliseconds of every call.
        game_ms: Milliseconds that the environments took for all that was planned.
        steps: Actions taken, over all rows.
        nfe: Network evaluations, over all plans.
    """

    policy: str
    rows: int
    plan_ms: tuple[float, ...]
    game_ms: float
    steps: int
    nfe: float

    @property
    def plans(self) -> int:
        """Plans made."""
        return self.rows * len(self.plan_ms)

    @property
    def median_ms(self) -> float:
        """Median of a call."""
        return float(np.median(self.plan_ms))

    @property
    def p95_ms(self) -> float:
        """What 95 % of the calls stay below."""
        return float(np.percentile(self.plan_ms, 95))

    @property
    def ms_per_step(self) -> float:
        """Planning alone, per action taken."""
        return sum(self.plan_ms) / max(self.steps, 1)

    @property
    def plans_per_second(self) -> float:
        """Plans per second of planning alone."""
        return 1000.0 * self.plans / sum(self.plan_ms)

    @property
    def steps_per_second(self) -> float:
        """Actions per second of planning and playing."""
        return 1000.0 * self.steps / (sum(self.plan_ms) + self.game_ms)

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON types."""
        return {
            "policy": self.policy,
            "rows": self.rows,
            "calls": len(self.plan_ms),
            "plan_ms_median": self.median_ms,
            "plan_ms_p95": self.p95_ms,
            "plan_ms_per_step": self.ms_per_step,
            "plans_per_second": self.plans_per_second,
            "steps_per_second": self.steps_per_second,
            "nfe_per_plan": self.nfe / self.plans,
            "nfe_per_step": self.nfe / max(self.steps, 1),
        }


def pooled(timings: Sequence[Timing]) -> Timing:
    """Calls of one policy and batch in several environments, as one.

    Raises:
        ValueError: If there are none, or they are of several kinds.
    """
    if len(kinds := {(t.policy, t.rows) for t in timings}) != 1:
        raise ValueError(f"timings of one policy and batch can be pooled, got {sorted(kinds)}.")
    return Timing(
        timings[0].policy,
        timings[0].rows,
        tuple(ms for timing in timings for ms in timing.plan_ms),
        sum(timing.game_ms for timing in timings),
        sum(timing.steps for timing in timings),
        sum(timing.nfe for timing in timings),
    )


def time_policy(
    policy: Policy,
    env: str,
    *,
    rows: int,
    calls: int,
    warmup: int,
    first_seed: int,
    make_vec_env: Callable[[Sequence[str]], PlanVecEnv],
    max_episode_steps: int | None = None,
) -> Timing:
    """Let a policy play, and time its calls.

    Args:
        policy: Who plans.
        env: Environment id.
        rows: Episodes side by side.
        calls: Calls to time, at least 1.
        warmup: Calls before these.
        first_seed: Level seed of the first episode; later ones count up from it.
        make_vec_env: Makes the rows, given one name per row; closed here.
        max_episode_steps: Cap below the environment's own.

    Raises:
        ValueError: If a number makes no sense.
    """
    if rows < 1 or calls < 1 or warmup < 0:
        raise ValueError(
            f"timing needs rows and calls of at least 1 and a warmup of at least 0, got {rows}, "
            f"{calls} and {warmup}."
        )
    vec_env = policy.accompany(make_vec_env([env] * rows))
    try:
        play = _TimedPlay(policy, vec_env, first_seed, max_episode_steps)
        for _ in range(warmup):
            play.advance()
        plan_ms: list[float] = []
        game_ms, steps, nfe = 0.0, 0, 0.0
        for _ in range(calls):
            planning, playing, ran, evaluations = play.advance()
            plan_ms.append(planning)
            game_ms, steps, nfe = game_ms + playing, steps + ran, nfe + evaluations
        return Timing(policy.name, rows, tuple(plan_ms), game_ms, steps, nfe)
    finally:
        vec_env.close()


class _TimedPlay:
    """Episodes that never run out."""

    def __init__(
        self, policy: Policy, vec_env: PlanVecEnv, first_seed: int, max_episode_steps: int | None
    ) -> None:
        self.policy, self.vec_env, self.next_seed = policy, vec_env, first_seed
        own = np.asarray(vec_env.max_episode_steps, np.int64)
        self.caps = own if max_episode_steps is None else np.minimum(own, max_episode_steps)
        self.rows = np.arange(vec_env.num_envs)
        self.end = end_token(vec_env.num_actions)
        self.spent = np.zeros(vec_env.num_envs, np.int64)
        self._begin(self.rows)

    def advance(self) -> tuple[float, float, int, float]:
        """One call: its milliseconds, those of the game, actions taken, network evaluations."""
        began = perf_counter()
        planned = self.policy.plan(self.observations, self.rows)
        made = perf_counter()
        tokens = planned.tokens.astype(np.int64)
        left = self.caps - self.spent
        tokens[np.arange(tokens.shape[1]) >= left[:, None]] = self.end
        chunk = self.vec_env.execute(tokens, self.policy.replan_every, stop_when_blocked=True)
        ran = int(chunk.valid.sum())
        self._settle(chunk)
        played = perf_counter()
        return 1e3 * (made - began), 1e3 * (played - made), ran, float(planned.nfe.sum())

    def _settle(self, chunk: Chunk) -> None:
        self.observations = chunk.final_observations
        self.policy.ran(self.rows, chunk.actions, chunk.lengths)
        # A plan that runs nothing counts as a step, or its episode would never end.
        self.spent += np.maximum(chunk.lengths, 1)
        over = np.flatnonzero(chunk.done | (self.spent >= self.caps))
        if len(over):
            self._begin(over)

    def _begin(self, rows: np.ndarray) -> None:
        seeds = list(range(self.next_seed, self.next_seed + len(rows)))
        self.next_seed += len(rows)
        names = [self.vec_env.env_names[row] for row in rows]
        self.observations = self.vec_env.reset(seeds, rows.tolist())
        self.policy.begin(rows, names, seeds)
        self.spent[rows] = 0
