"""Collecting: the current planner acts, now and then the oracle does, and all steps are kept.

Episodes go on from one call to the next. What an episode needs to be repeated (its level seed and
the actions of each chunk) is part of the state, so a resumed run replays its open episodes and
goes on exactly where it stopped.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from remdm.base_agent import BaseAgent
from remdm.continuation import RunningPlans
from remdm.data.shards import RecordingBuffer
from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.oracles.contract import Oracle
from remdm.seeding import numpy_generator, torch_generator, training_level_seed
from remdm.tokens import end_token

_RUNNING = "running_"


@dataclass(slots=True)
class CollectStats:
    """What one stretch of collecting did.

    Attributes:
        env_steps: Steps taken.
        episodes: Finished episodes, by environment.
        wins: Won episodes, by environment.
        returns: Sum of the returns of finished episodes, by environment.
        plans: Plans the agent made.
        nfe: Network calls of those plans.
    """

    env_steps: int = 0
    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wins: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    returns: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    plans: int = 0
    nfe: float = 0.0

    def counts(self) -> dict[str, float]:
        """What the log adds up over processes."""
        return {
            "collect/env_steps": self.env_steps,
            "collect/episodes": sum(self.episodes.values()),
        }

    def rates(self) -> dict[str, float]:
        """What the log averages; an environment without a finished episode has no rate."""
        rates = {f"collect/win_rate/{e}": self.wins[e] / n for e, n in self.episodes.items()}
        rates |= {f"collect/return/{e}": self.returns[e] / n for e, n in self.episodes.items()}
        if self.plans:
            rates["collect/nfe_per_plan"] = self.nfe / self.plans
        return rates

    def score(self, metric: str) -> tuple[str, float]:
        """A short name and the mean of "win_rate" or "return" over all finished episodes."""
        sums: dict[str, Any] = {"win_rate": self.wins, "return": self.returns}
        total = sum(sums[metric].values())
        return metric.removesuffix("_rate"), total / max(sum(self.episodes.values()), 1)


class Collector:
    """Runs the actors of one process and records what they do."""

    def __init__(
        self,
        vec_env: PlanVecEnv,
        oracle: Oracle,
        buffer: RecordingBuffer,
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
        seed: Seed of the run.
        rank: Number of this process; its actors draw other levels than those of other ranks.
        plan_horizon: Tokens per plan.
        replan_every: Actions executed before the next plan.
        """
        self.vec_env, self.oracle, self.buffer = vec_env, oracle, buffer
        self.seed, self.rank = seed, rank
        self.plan_horizon, self.replan_every = plan_horizon, replan_every
        self.end = end_token(vec_env.num_actions)
        rows = vec_env.num_envs
        self.episodes = np.full(rows, -1, np.int64)
        self.level_seeds = np.zeros(rows, np.int64)
        self.returns = np.zeros(rows)
        self.history: list[list[np.ndarray]] = [[] for _ in range(rows)]
        self.chunks = 0
        self.running = RunningPlans(rows, plan_horizon, vec_env.num_actions)
        self.observations: dict[str, np.ndarray] = {}

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
        while stats.env_steps < num_steps:
            self.advance(agent, stats, beta=beta, noise=noise)
        return stats

    def advance(
        self, agent: BaseAgent | None, stats: CollectStats, *, beta: float, noise: float
    ) -> None:
        """One plan per row and what comes of it; see `collect`."""
        if not self.observations:
            self._start_episodes(np.arange(self.vec_env.num_envs))
        rng = numpy_generator(self.seed, "collect", self.rank, self.chunks)
        plans = self._plans(agent, stats, rng, beta, noise)
        chunk = self.vec_env.execute(plans, self.replan_every, stop_when_blocked=True)
        self.chunks += 1
        self.buffer.append(chunk, self.level_seeds, self.vec_env.env_names)
        lengths = chunk.lengths
        stats.env_steps += int(lengths.sum())
        self.returns += (chunk.rewards * chunk.valid).sum(1)
        self.running.ran(np.arange(len(lengths)), chunk.actions, lengths)
        for row in range(self.vec_env.num_envs):
            self.history[row].append(chunk.actions[row, : lengths[row]].astype(np.int8))
        self.observations = chunk.final_observations
        self._finish_episodes(chunk, stats)

    def _plans(
        self,
        agent: BaseAgent | None,
        stats: CollectStats,
        rng: np.random.Generator,
        beta: float,
        noise: float,
    ) -> np.ndarray:
        """Tokens to execute, int8 [rows, plan_horizon]: the oracle's, random ones, the agent's."""
        count = self.vec_env.num_envs
        by_oracle = rng.random(count) < (1.0 if agent is None else beta)
        plans = np.full((count, self.plan_horizon), self.end, np.int8)
        chosen = np.flatnonzero(by_oracle)
        if len(chosen):
            seen = {k: v[chosen] for k, v in self.observations.items()}
            made = self.oracle.plan(seen, self.plan_horizon, rng)
            noisy = rng.random(len(chosen)) < noise
            made[noisy] = rng.integers(self.vec_env.num_actions, size=made[noisy].shape)
            plans[chosen] = made
            self.running.forget_plans(chosen)
        rest = np.flatnonzero(~by_oracle)
        if agent is not None and len(rest):
            seen = {k: v[rest] for k, v in self.observations.items()}
            generator = torch_generator(self.seed, "plan", self.rank, self.chunks)
            if agent.reads_continuation:
                carried = self.running.continuation(rest)
                sample = agent.plan(seen, generator, collecting=True, continuation=carried)
                log_probs = sample.token_log_probs.cpu().numpy()
                self.running.planned(rest, sample.tokens.cpu().numpy(), log_probs)
            else:
                sample = agent.plan(seen, generator, collecting=True)
            plans[rest] = sample.tokens.cpu().numpy()
            stats.plans += len(rest)
            stats.nfe += float(sample.nfe.sum())
        return plans

    def _finish_episodes(self, chunk: Chunk, stats: CollectStats) -> None:
        done = np.flatnonzero(chunk.done)
        for row in done:
            name = self.vec_env.env_names[row]
            stats.episodes[name] += 1
            stats.wins[name] += int(chunk.won[row])
            stats.returns[name] += float(self.returns[row])
        if len(done):
            self._start_episodes(done)

    def _start_episodes(self, rows: np.ndarray) -> None:
        self.episodes[rows] += 1
        self.returns[rows] = 0.0
        first_actor = self.rank * self.vec_env.num_envs
        for row in rows:
            self.level_seeds[row] = training_level_seed(
                self.seed, first_actor + int(row), int(self.episodes[row])
            )
            self.history[row] = []
        self.running.reset(rows)
        self.observations = self.vec_env.reset(self.level_seeds[rows].tolist(), rows.tolist())

    def state(self) -> dict[str, np.ndarray]:
        """All that `restore` needs, as named arrays."""
        chunks = [chunk for row in self.history for chunk in row]
        return {
            "episodes": self.episodes.copy(),
            "level_seeds": self.level_seeds.copy(),
            "chunks": np.array([self.chunks], np.int64),
            "history_actions": np.concatenate([np.zeros(0, np.int8), *chunks]),
            "history_lengths": np.array([len(c) for c in chunks], np.int64),
            "history_counts": np.array([len(row) for row in self.history], np.int64),
            **{_RUNNING + name: array for name, array in self.running.state().items()},
        }

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Start the open episodes again and replay them to where they stood."""
        self.episodes = state["episodes"].copy()
        self.level_seeds = state["level_seeds"].copy()
        self.chunks = int(state["chunks"][0])
        running = {k.removeprefix(_RUNNING): v for k, v in state.items() if k.startswith(_RUNNING)}
        if running:  # older checkpoints have none
            self.running.restore(running)
        if (self.episodes < 0).any():
            return  # stopped before anything was collected
        pieces = np.split(state["history_actions"], np.cumsum(state["history_lengths"])[:-1])
        starts = np.concatenate([[0], np.cumsum(state["history_counts"])])
        self.history = [list(pieces[a:b]) for a, b in pairwise(starts)]
        self.observations = self.vec_env.reset(self.level_seeds.tolist())
        self.returns[:] = 0.0
        self._replay()
        played = [sum(len(chunk) for chunk in row) for row in self.history]
        self.buffer.reopen(self.level_seeds, self.vec_env.env_names, np.array(played))

    def _replay(self) -> None:
        """Run the recorded chunks one by one: a chunk's end may have cancelled an action."""
        longest = max((1, *(len(c) for row in self.history for c in row)))
        for index in range(max(len(row) for row in self.history)):
            plans = np.full((self.vec_env.num_envs, longest + 1), self.end, np.int8)
            for row, chunks in enumerate(self.history):
                if index < len(chunks):
                    plans[row, : len(chunks[index])] = chunks[index]
            chunk = self.vec_env.execute(plans, longest)
            self.returns += (chunk.rewards * chunk.valid).sum(1)
            self.observations = chunk.final_observations
