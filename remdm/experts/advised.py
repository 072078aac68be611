"""Craftax worlds with an expert beside them that says at every moment what it would do.

What an expert would do hangs on its memory of the whole life and on what the world hides, and can
be asked only while the life is led. So its advice is written into the observations, is recorded
with them, and whoever labels later finds it there.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from remdm.envs.contract import Chunk
from remdm.envs.craftax.vec_env import CraftaxVecEnv
from remdm.envs.craftax.worlds import RESET_BATCH, Worlds
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.experts.labels import Tutor
from remdm.maps import ArraySpec
from remdm.oracles.recorded import PLAN, WEIGHT
from remdm.soft_targets import LOGITS_KEY
from remdm.tokens import end_token

BRANCHED, ACTIONS = "branched", "actions"
KINDS = (BRANCHED, ACTIONS)


class AdvisedVecEnv(PlanVecEnvWrapper):
    """A `CraftaxVecEnv` whose observations hold an expert's advice.

    - `expert/plan` int8 [plan_horizon]: what the expert would do; see `kind`.
    - `expert/weight` float32: 0 where it was not asked.
    - `expert/logits` float16 [num_actions]: their softmax is the law that its next action is drawn
      from (its own law, where it always takes the likeliest); zeros in what is seen now.

    What is seen *now* always holds a branched plan, ready to be carried out.
    """

    def __init__(
        self,
        vec_env: CraftaxVecEnv,
        tutor: Tutor,
        plan_horizon: int,
        *,
        kind: str = BRANCHED,
        label_every: int | None = None,
    ) -> None:
        """Args:
        vec_env: The worlds.
        tutor: The expert, of the same game.
        plan_horizon: Tokens per plan.
        kind: What a recorded step holds: "branched" plans, or "actions", the expert's next action
            and then END, at every step.
        label_every: Steps between branched plans within a chunk; None makes one at its start.
        """
        super().__init__(vec_env)
        self.tutor, self.plan_horizon = tutor, plan_horizon
        self.kind, self.label_every = kind, label_every
        self.observation_spec = vec_env.observation_spec | {
            PLAN: ArraySpec((plan_horizon,), np.dtype(np.int8)),
            WEIGHT: ArraySpec((), np.dtype(np.float32)),
            LOGITS_KEY: ArraySpec((self.num_actions,), np.dtype(np.float16)),
        }
        self._memory = tutor.memory(self.num_envs)
        self._plans = np.full((self.num_envs, plan_horizon), end_token(self.num_actions), np.int8)

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        """See `PlanVecEnv.reset`. The expert forgets: it sees that a life is at step 0."""
        seen = self.vec_env.reset(seeds, rows)
        self._advise(np.arange(self.num_envs) if rows is None else np.array(rows, np.int64))
        return self._shown(seen)

    def execute(
        self, plans: np.ndarray, num_steps: int, *, stop_when_blocked: bool = False
    ) -> Chunk:
        """See `PlanVecEnv.execute`; runs in pieces where plans are wanted on the way."""
        piece = num_steps if self.kind == ACTIONS else self.label_every or num_steps
        chunks: list[Chunk] = []
        for start in range(0, num_steps, piece):
            count = min(piece, num_steps - start)
            rest = plans[:, start:]
            if chunks:  # whoever stopped before the piece's end has stopped for good
                stopped = chunks[-1].lengths < piece
                rest = np.where(stopped[:, None], end_token(self.num_actions), rest)
            chunks.append(self._execute_piece(rest, count))
        return chunks[0] if len(chunks) == 1 else _joined(chunks)

    def _execute_piece(self, plans: np.ndarray, num_steps: int) -> Chunk:
        before, known = self.worlds, self._plans.copy()
        chunk = self.vec_env.execute(plans, num_steps)
        actions, logits = self._follow(before, chunk)
        advice = np.full((*actions.shape, self.plan_horizon), end_token(self.num_actions), np.int8)
        weights = np.zeros(actions.shape, np.float32)
        if self.kind == ACTIONS:
            advice[..., 0], weights[:] = actions, 1.0
        else:
            advice[:, 0], weights[:, 0] = known, 1.0
        self._advise(np.arange(self.num_envs))
        logits = (logits / (self.tutor.temperature or 1.0)).astype(np.float16)
        told = {PLAN: advice, WEIGHT: weights, LOGITS_KEY: logits}
        return replace(
            chunk,
            observations=chunk.observations | told,
            final_observations=self._shown(chunk.final_observations),
        )

    def _follow(self, before: Worlds, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Let the expert see a chunk; its actions [N, K] and logits [N, K, actions]."""
        self._memory, actions, logits = self.tutor.follow(
            self._memory, before, chunk.observations, chunk.valid
        )
        return np.asarray(actions), np.asarray(logits)

    def _advise(self, rows: np.ndarray) -> None:
        """Plans of the expert for what `rows` see now, in calls of two compiled sizes."""
        worlds, count = self.worlds, len(rows)
        if count == self.num_envs:
            self._plans = np.asarray(
                self.tutor.plans(worlds, self._memory, self.plan_horizon)
            ).astype(np.int8)
            return
        for start in range(0, count, RESET_BATCH):
            some = rows[start : start + RESET_BATCH]
            padded = np.concatenate([some, np.repeat(some[:1], RESET_BATCH - len(some))])
            made = self.tutor.plans(
                worlds.take(padded), self._memory[jnp.asarray(padded)], self.plan_horizon
            )
            self._plans[some] = np.asarray(made)[: len(some)]

    def _shown(self, observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `PlanVecEnvWrapper`: what is seen now, with the plans for it."""
        logits = np.zeros((self.num_envs, self.num_actions), np.float16)
        weights = np.ones(self.num_envs, np.float32)
        return observations | {PLAN: self._plans, WEIGHT: weights, LOGITS_KEY: logits}


def _joined(chunks: Sequence[Chunk]) -> Chunk:
    """Chunks that follow one another as one."""

    def along(name: str) -> np.ndarray:
        return np.concatenate([getattr(chunk, name) for chunk in chunks], 1)

    seen = [chunk.observations for chunk in chunks]
    return Chunk(
        observations={k: np.concatenate([s[k] for s in seen], 1) for k in seen[0]},
        final_observations=chunks[-1].final_observations,
        actions=along("actions"),
        rewards=along("rewards"),
        terminated=along("terminated"),
        truncated=along("truncated"),
        valid=along("valid"),
        won=np.logical_or.reduce([chunk.won for chunk in chunks]),
        blocked=chunks[-1].blocked,
    )
