"""What all ways to collect share: rows, plans for them, and the levels they play."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from remdm.base_agent import BaseAgent
from remdm.continuation import RunningPlans
from remdm.data.shards import RecordingBuffer
from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.oracles.contract import Oracle
from remdm.seeding import numpy_generator, torch_generator, training_level_seed
from remdm.tokens import end_token
from remdm.training.collect_stats import CollectStats
from remdm.training.curriculum import Curriculum
from remdm.training.plan_exploration import PlanExploration


class BaseCollector(ABC):
    """What all ways to collect share: the rows, who plans in them, and which levels they play.

    Attributes:
        keeps_all_steps: Whether all steps taken are recorded, so that files tell how many.
        episodes: int64 [rows]: number of each row's latest episode, from 0.
        chunks: Plans executed so far, which names the random streams.
        observations: What all rows see now.
        exploration: Alters the agent's plans; None leaves them.
        progress: Share of the run's epochs done, which `exploration` may follow.
        watcher: The planner, to whom an open episode may fall: where it has a memory, it is shown
            also what the oracle does alone. None where nobody is to remember that.
    """

    exploration: PlanExploration | None = None
    progress: float = 0.0
    watcher: BaseAgent | None = None
    keeps_all_steps: ClassVar[bool] = True

    def __init__(
        self,
        vec_env: PlanVecEnv,
        oracle: Oracle,
        buffer: RecordingBuffer,
        curriculum: Curriculum | None = None,
        *,
        seed: int,
        rank: int,
        plan_horizon: int,
        replan_every: int,
    ) -> None:
        """Args:
        vec_env: The actors, one row each.
        oracle: Acts with probability beta.
        buffer: Takes the steps.
        curriculum: Says which environment an episode is in; None leaves every row its own.
        seed: Seed of the run.
        rank: Number of this process; its actors draw other levels than those of other ranks.
        plan_horizon: Tokens per plan.
        replan_every: Actions executed before the next plan.
        """
        self.vec_env, self.oracle, self.buffer = vec_env, oracle, buffer
        self.curriculum = curriculum
        self.seed, self.rank = seed, rank
        self.plan_horizon, self.replan_every = plan_horizon, replan_every
        self.end = end_token(vec_env.num_actions)
        self.episodes = np.full(vec_env.num_envs, -1, np.int64)
        self.chunks = 0
        self.running = RunningPlans(vec_env.num_envs, plan_horizon, vec_env.num_actions)
        self.observations: dict[str, np.ndarray] = {}
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Make what is kept by row; called at the end of `__init__`."""

    @abstractmethod
    def advance(
        self, agent: BaseAgent | None, stats: CollectStats, *, beta: float, noise: float
    ) -> None:
        """One plan per row and what comes of it; see `collect`."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as named arrays; `episodes` [rows] is among them."""

    @abstractmethod
    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a state.

        Raises:
            ValueError: If it is of another configuration.
        """

    def share_done(self, stats: CollectStats, num_steps: int) -> float:
        """How much of a stretch of collecting is done, 1 or more when all is.

        Args:
            stats: Of the stretch so far.
            num_steps: Env steps that it is to have.
        """
        return stats.env_steps / num_steps if num_steps > 0 else 1.0

    def collect(
        self, agent: BaseAgent | None, num_steps: int, *, beta: float, noise: float
    ) -> CollectStats:
        """Run every row's plans until it all comes to `num_steps`, or a little more.

        Args:
            agent: Plans; None lets the oracle act alone.
            num_steps: Env steps over all rows.
            beta: Probability that a row's plan is the oracle's.
            noise: Probability that an oracle's plan is replaced by random actions.
        """
        stats = CollectStats()
        while self.share_done(stats, num_steps) < 1:
            self.advance(agent, stats, beta=beta, noise=noise)
        return stats

    def metrics(self) -> dict[str, float]:
        """What to log besides what a stretch of collecting did."""
        found = {} if self.curriculum is None else self.curriculum.metrics()
        if self.exploration is not None:
            found |= self.exploration.metrics(self.progress)
        return found

    def curriculum_state(self) -> dict[str, np.ndarray]:
        """The part of a state that is the curriculum's; nothing without one."""
        return {} if self.curriculum is None else {"curriculum": self.curriculum.state()}

    def restore_curriculum(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `curriculum_state` was.

        Raises:
            ValueError: If it is of another curriculum.
        """
        if self.curriculum is not None:
            self.curriculum.restore(state["curriculum"])

    def next_level(self, row: int) -> tuple[str | None, int]:
        """Count one more episode of a row.

        Returns:
            Its environment, None where the row keeps the one it has, and its level seed.
        """
        self.episodes[row] += 1
        actor, episode = self.rank * self.vec_env.num_envs + row, int(self.episodes[row])
        env = None
        if self.curriculum is not None:
            rng = numpy_generator(self.seed, "curriculum", actor, episode)
            env = self.curriculum.draw(rng)
        return env, training_level_seed(self.seed, actor, episode)

    def plans(
        self,
        agent: BaseAgent | None,
        stats: CollectStats,
        rows: np.ndarray,
        *,
        beta: float,
        noise: float,
    ) -> np.ndarray:
        """Tokens to execute: the oracle's, random ones, the agent's.

        Args:
            agent: See `collect`.
            stats: Counts plans and network calls.
            rows: int64 [n]: who needs a plan.
            beta: See `collect`.
            noise: See `collect`.

        Returns:
            int8 [rows of the set, plan_horizon], END for all other rows.
        """
        rng = numpy_generator(self.seed, "collect", self.rank, self.chunks)
        by_oracle = rng.random(len(rows)) < (1.0 if agent is None else beta)
        plans = np.full((self.vec_env.num_envs, self.plan_horizon), self.end, np.int8)
        chosen = rows[by_oracle]
        if len(chosen):
            made = self.oracle.plan(self.seen(chosen), self.plan_horizon, rng)
            noisy = rng.random(len(chosen)) < noise
            made[noisy] = rng.integers(self.vec_env.num_actions, size=made[noisy].shape)
            plans[chosen] = made
            self.running.forget_plans(chosen)
        rest = rows[~by_oracle]
        if agent is not None and len(rest):
            seen = self.seen(rest)
            generator = torch_generator(self.seed, "plan", self.rank, self.chunks)
            if self.exploration is not None:
                agent.collecting_heat = self.exploration.heat(self.progress)
            if agent.reads_continuation:
                carried = self.running.continuation(rest)
                sample = agent.plan(seen, generator, collecting=True, continuation=carried)
                log_probs = sample.token_log_probs.cpu().numpy()
                self.running.planned(rest, sample.tokens.cpu().numpy(), log_probs)
            else:
                sample = agent.plan(seen, generator, collecting=True)
            if sample.vectors is not None:
                self.vec_env.offer(sample.vectors.cpu().numpy(), rest)
            plans[rest] = self.explored(rest, sample.tokens.cpu().numpy())
            stats.plans += len(rest)
            stats.nfe += float(sample.nfe.sum())
        return plans

    def remember(self, agent: BaseAgent | None, chunk: Chunk) -> None:
        """Let what running episodes remember take in a chunk, whoever acted in it.

        Args:
            agent: See `collect`.
            chunk: What was executed.
        """
        agent = self.watcher if agent is None else agent
        if agent is not None and agent.memory_size:
            rows = np.flatnonzero(~chunk.done)
            seen = {key: chunk.observations[key][rows] for key in agent.observation_keys}
            self.running.remember(agent, rows, seen, chunk.valid[rows])

    def explored(self, rows: np.ndarray, plans: np.ndarray) -> np.ndarray:
        """The plans of the agent in `rows` as exploration has them executed, [n, plan_horizon]."""
        if self.exploration is None:
            return plans
        rng = numpy_generator(self.seed, "exploration", self.rank, self.chunks)
        altered = self.exploration(plans, self.progress, rng)
        self.running.forget_plans(rows[(altered != plans).any(1)])
        return altered

    def seen(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Copies of what some rows see now."""
        return {name: array[rows] for name, array in self.observations.items()}
