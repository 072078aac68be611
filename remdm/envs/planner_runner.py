"""One action at a time from plans that are renewed now and then, each row at its own moment."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.tokens import end_token

# (observations of n rows by name [n, ...], the rows, int64 [n]) -> tokens [n, plan_horizon]
Planner = Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]


class RunnerStep(NamedTuple):
    """What one step did in N rows.

    Attributes:
        observations: By name [N, ...]: what is seen after it.
        actions: int64 [N]: the action taken; -1 where the row ran nothing. A direction that the
            action asked for is in `chunk`.
        rewards: float32 [N].
        done: bool [N]: the episode ended with this step.
        chunk: All there is to know, in K = 2 slots: the action, and its direction.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    done: np.ndarray
    chunk: Chunk


class PlannerRunner:
    """Plays a `PlanVecEnv` step by step: plan, act `replan_every` times, plan again.

    A row gets a new plan when it has taken `replan_every` actions of its plan, when its plan has
    ended (END or MASK), and when its episode has. It takes the same actions as with
    `vec_env.execute(plans, replan_every)`; only there rows wait for one another.
    Rows whose episode is over run nothing until they are reset.

    Attributes:
        plans: int64 [N, plan_horizon]: each row's latest plan.
        positions: int64 [N]: how many of its tokens were used.
        running: bool [N]: the row's episode is under way.
    """

    def __init__(
        self, vec_env: PlanVecEnv, planner: Planner, *, plan_horizon: int, replan_every: int
    ) -> None:
        """Args:
            vec_env: The rows; reset them through this object only.
            planner: Called with the observations and the numbers of the rows that need a plan.
            plan_horizon: Tokens per plan.
            replan_every: Actions taken before the next plan; a direction counts as one, and comes
                along where the last action asks for it.

        Raises:
            ValueError: Unless 1 <= replan_every <= plan_horizon.
        """
        if not 1 <= replan_every <= plan_horizon:
            raise ValueError(
                f"replan_every must be in 1..plan_horizon = {plan_horizon}, got {replan_every}"
            )
        self.vec_env, self.planner = vec_env, planner
        self.plan_horizon, self.replan_every = plan_horizon, replan_every
        self._end = end_token(vec_env.num_actions)
        self.plans = np.full((vec_env.num_envs, plan_horizon), self._end, np.int64)
        self.positions = np.zeros(vec_env.num_envs, np.int64)
        self.running = np.zeros(vec_env.num_envs, np.bool_)
        self._observations: dict[str, np.ndarray] = {}

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`; what is left of the rows' plans is dropped."""
        self._observations = self.vec_env.reset(seeds, rows)
        chosen = np.arange(self.vec_env.num_envs) if rows is None else np.array(rows, np.int64)
        self.plans[chosen], self.positions[chosen] = self._end, 0
        self.running[chosen] = True
        return self._observations

    def step(self) -> RunnerStep:
        """Plan where it is time to, and take one action in every running row.

        A plan that begins with END runs nothing, and the row plans again in the next step.

        Raises:
            RuntimeError: If nothing was ever reset.
            ValueError: If the planner's answer is no plan for each row.
        """
        if not self._observations:
            raise RuntimeError("there is nothing to plan for before the first reset(seeds)")
        self._replan()
        chunk = self.vec_env.execute(self._next_tokens(), 1)
        self._observations = chunk.final_observations
        self.positions += chunk.lengths
        self.running &= ~chunk.done
        return RunnerStep(
            observations=chunk.final_observations,
            actions=np.where(chunk.valid[:, 0], chunk.actions[:, 0], -1),
            rewards=np.where(chunk.valid, chunk.rewards, np.float32(0)).sum(1),
            done=chunk.done,
            chunk=chunk,
        )

    def _next_tokens(self) -> np.ndarray:
        """int64 [N, 2]: the next token of each row and the one after it, END past the plan."""
        places = self.positions[:, None] + np.arange(2)
        inside = np.minimum(places, self.plan_horizon - 1)
        tokens = np.take_along_axis(self.plans, inside, 1)
        return np.where(places < self.plan_horizon, tokens, self._end)

    def _replan(self) -> None:
        following = self._next_tokens()[:, 0]
        ended = (following < 0) | (following >= self.vec_env.num_actions)
        rows = np.flatnonzero(self.running & (ended | (self.positions >= self.replan_every)))
        if not len(rows):
            return
        seen = {name: array[rows] for name, array in self._observations.items()}
        plans = np.asarray(self.planner(seen, rows))
        if plans.shape != (len(rows), self.plan_horizon) or plans.dtype.kind not in "iu":
            raise ValueError(
                f"a planner must give integers of shape [{len(rows)}, {self.plan_horizon}], one "
                f"plan per row; got {plans.dtype} {list(plans.shape)}"
            )
        self.plans[rows], self.positions[rows] = plans, 0
