"""Collecting in pairs: planner and oracle play the same levels, and few of these are kept.

As many pairs as there are actors make a round: first the planner plays all levels of it, then the
oracle does, then it is decided what to keep. Nothing is counted or recorded before a round ends,
and all that happens in it follows from its number and the weights. So the state of this collector
is what it was when the present round began: a resumed run plays that round again.
"""

from collections.abc import Sequence

import numpy as np

from remdm.base_agent import BaseAgent
from remdm.data.records import StepArrays, valid_steps
from remdm.data.shards import RecordingBuffer
from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.oracles.contract import Oracle
from remdm.seeding import numpy_generator
from remdm.training.base_collector import BaseCollector
from remdm.training.collect_stats import CollectStats
from remdm.training.curriculum import Curriculum
from remdm.training.pairing import ORACLE, PLANNER, Pair, Pairing
from remdm.training.whole_episodes import joined


class _Attempt:
    """One episode in each of some rows, played from beginning to end.

    Attributes:
        running: bool [rows of the set]: whose episode is not over.
        won: bool [rows of the set].
        ended: bool [rows of the set]: it came to an end, not only to its cap.
        steps: int64 [rows of the set].
        returns: float64 [rows of the set].
    """

    def __init__(self, rows: np.ndarray, caps: np.ndarray, *, recorded: bool) -> None:
        """Args:
        rows: int64 [n]: who plays.
        caps: int64 [rows of the set]: steps after which an episode is over.
        recorded: Whether to keep the steps.
        """
        self.running = np.zeros(len(caps), np.bool_)
        self.running[rows] = True
        self.won, self.ended = np.zeros((2, len(caps)), np.bool_)
        self.steps = np.zeros(len(caps), np.int64)
        self.returns = np.zeros(len(caps))
        self._caps, self._spent = caps, np.zeros(len(caps), np.int64)
        self._parts: dict[int, list[StepArrays]] | None = None
        if recorded:
            self._parts = {row: [] for row in rows.tolist()}

    def take(self, chunk: Chunk) -> None:
        """Take in what the running rows did."""
        lengths = chunk.lengths
        self.steps += lengths
        self.returns += (chunk.rewards * chunk.valid).sum(1)
        self.won |= chunk.won
        self.ended |= chunk.done
        if self._parts is not None:
            steps, stops = valid_steps(chunk), np.cumsum(lengths)
            for row in np.flatnonzero(lengths).tolist():
                self._parts[row].append(steps[int(stops[row] - lengths[row]) : int(stops[row])])
        # A plan that runs nothing costs a step, or it could be made for ever.
        self._spent += np.where(self.running, np.maximum(lengths, 1), 0)
        self.running &= ~chunk.done & (self._spent < self._caps)

    def recorded(self, row: int) -> StepArrays | None:
        """All steps of a row; None if there are none."""
        parts = self._parts[row] if self._parts is not None else []
        return joined(parts) if parts else None


class _Round:
    """Levels that are played by planner and oracle at once.

    Attributes:
        rows: int64 [n]: where they are played.
        envs: Their environments.
        seeds: Their level seeds.
        planner: The planner's attempt; None where only the oracle plays.
        oracle: The oracle's; None before it begins.
        counts: Whether they make an epoch longer; a warm start does not.
        recorded: Whose steps are recorded, to be kept or not.
        stats: Plans of the planner so far.
    """

    def __init__(
        self,
        rows: np.ndarray,
        envs: Sequence[str],
        seeds: Sequence[int],
        *,
        counts: bool,
        recorded: str,
    ) -> None:
        """See the attributes."""
        self.rows, self.envs, self.seeds = rows, envs, seeds
        self.counts, self.recorded = counts, recorded
        self.planner: _Attempt | None = None
        self.oracle: _Attempt | None = None
        self.stats = CollectStats()


class PairedCollector(BaseCollector):
    """Plays levels twice and keeps those that the planner can learn from; see `Pairing`."""

    def __init__(
        self,
        vec_env: PlanVecEnv,
        oracle: Oracle,
        buffer: RecordingBuffer,
        curriculum: Curriculum | None,
        pairing: Pairing,
        *,
        seed: int,
        rank: int,
        plan_horizon: int,
        replan_every: int,
    ) -> None:
        """Args:
        vec_env: See `BaseCollector`.
        oracle: See `BaseCollector`; also plays the second episode of each pair.
        buffer: See `BaseCollector`.
        curriculum: See `BaseCollector`.
        pairing: What is played and kept.
        seed: See `BaseCollector`.
        rank: See `BaseCollector`.
        plan_horizon: See `BaseCollector`.
        replan_every: See `BaseCollector`; of the planner.
        """
        self.pairing = pairing
        super().__init__(
            vec_env, oracle, buffer, curriculum,
            seed=seed, rank=rank, plan_horizon=plan_horizon, replan_every=replan_every,
        )  # fmt: skip

    def prepare(self) -> None:
        """See `BaseCollector.prepare`."""
        self.home = self.vec_env.env_names
        self.envs = tuple(dict.fromkeys(self.home))
        self.warm_played = 0
        self._round: _Round | None = None
        self._at_begin = self._snapshot()

    @property
    def levels(self) -> list[tuple[str, int]]:
        """Environments and level seeds of the present round; none between two."""
        now = self._round
        return [] if now is None else list(zip(now.envs, now.seeds, strict=True))

    @property
    def per_epoch(self) -> int:
        """Pairs of an epoch in this process."""
        return self.pairing.episodes_per_epoch or self.vec_env.num_envs

    def share_done(self, stats: CollectStats, num_steps: int) -> float:
        """See `BaseCollector.share_done`; a stretch is as long as an epoch has pairs."""
        return stats.levels / self.per_epoch

    def advance(
        self, agent: BaseAgent | None, stats: CollectStats, *, beta: float, noise: float
    ) -> None:
        """See `BaseCollector.advance`; the oracle takes as many actions as a plan has."""
        if self._round is None:
            self._begin_round(agent, stats)
        now = self._round
        assert now is not None
        if now.planner is not None and now.planner.running.any():
            rows = np.flatnonzero(now.planner.running)
            plans = self.plans(agent, now.stats, rows, beta=beta, noise=noise)
            blocked = self.pairing.replan_when_blocked
            chunk = self._execute(now.planner, plans, self.replan_every, blocked)
            self.running.ran(rows, chunk.actions[rows], chunk.lengths[rows])
            self.remember(agent, chunk)
        elif now.oracle is None:
            now.oracle = self._attempt(now, ORACLE)
        for _ in range(self.replan_every):
            if now.oracle is None or not now.oracle.running.any():
                break
            plans = self._oracle_plans(np.flatnonzero(now.oracle.running))
            self._execute(now.oracle, plans, self.pairing.oracle_replan_every, True)
        if now.oracle is not None and not now.oracle.running.any():
            self._end_round(now, now.oracle, stats)
            self._round = None

    def _execute(self, attempt: _Attempt, plans: np.ndarray, steps: int, blocked: bool) -> Chunk:
        chunk = self.vec_env.execute(plans, steps, stop_when_blocked=blocked)
        self.chunks += 1
        self.observations = chunk.final_observations
        attempt.take(chunk)
        return chunk

    def _oracle_plans(self, rows: np.ndarray) -> np.ndarray:
        rng = numpy_generator(self.seed, "oracle", self.rank, self.chunks)
        plans = np.full((self.vec_env.num_envs, self.plan_horizon), self.end, np.int8)
        plans[rows] = self.oracle.plan(self.seen(rows), self.plan_horizon, rng)
        return plans

    def _begin_round(self, agent: BaseAgent | None, stats: CollectStats) -> None:
        self._at_begin = self._snapshot()
        warm = self.pairing.warm_start_episodes * len(self.envs) - self.warm_played
        left = warm if warm > 0 else max(1, self.per_epoch - stats.levels)
        # Where some rows rest, it is those that played most.
        longest_idle = np.argsort(self.episodes, kind="stable")
        rows = np.sort(longest_idle[: min(left, len(longest_idle))])
        envs, seeds = [], []
        for index, row in enumerate(rows.tolist()):
            env, level_seed = self.next_level(row)
            if warm > 0:
                env = self.envs[(self.warm_played + index) % len(self.envs)]
            envs.append(env or self.home[row])
            seeds.append(level_seed)
        self.vec_env.assign(envs, rows.tolist())
        alone = warm > 0 or agent is None
        recorded = ORACLE if alone else self.pairing.keep
        now = self._round = _Round(rows, envs, seeds, counts=warm <= 0, recorded=recorded)
        if warm > 0:
            self.warm_played += len(rows)
        if not alone:
            now.planner = self._attempt(now, PLANNER)

    def _attempt(self, now: _Round, who: str) -> _Attempt:
        """Begin the levels of a round."""
        self.running.reset(now.rows)
        self.observations = self.vec_env.reset(now.seeds, now.rows.tolist())
        caps = np.array(self.vec_env.max_episode_steps)
        return _Attempt(now.rows, caps, recorded=who == now.recorded)

    def _end_round(self, now: _Round, oracle: _Attempt, stats: CollectStats) -> None:
        """Keep what is worth it, and count."""
        stats.plans += now.stats.plans
        stats.nfe += now.stats.nfe
        for row, env, level_seed in zip(now.rows.tolist(), now.envs, now.seeds, strict=True):
            oracle_won, oracle_steps = bool(oracle.won[row]), int(oracle.steps[row])
            kept, played, steps = self.pairing.keeps_oracle(oracle_won), oracle, 0
            if now.planner is not None:
                played, steps = now.planner, int(now.planner.steps[row])
                won = bool(played.won[row])
                pair = Pair(won, steps, oracle_won, oracle_steps)
                kept = self.pairing.keeps(pair)
                stats.pairs += 1
                ratio = steps / max(oracle_steps, 1)
                stats.add({}, {"model_won": won, "efficiency_ratio": ratio})
                if self.curriculum is not None:
                    self.curriculum.record(env, won)
            if now.counts:
                stats.levels += 1
                stats.episodes[env] += 1
                stats.wins[env] += int(played.won[row])
                stats.returns[env] += float(played.returns[row])
            recorded = oracle if now.recorded == ORACLE else played
            steps_kept = recorded.recorded(row) if kept else None
            if steps_kept is not None:
                ended, result = bool(recorded.ended[row]), bool(recorded.won[row])
                self.buffer.add(env, level_seed, steps_kept, won=result if ended else None)
            stats.env_steps += steps + oracle_steps
            counts = {
                "added_to_buffer": steps_kept is not None,
                "model_steps": steps,
                "oracle_steps": oracle_steps,
                "oracle_lost": not oracle_won,
            }
            stats.add(counts, {})

    def _snapshot(self) -> dict[str, np.ndarray]:
        return {
            **self.curriculum_state(),
            "episodes": self.episodes.copy(),
            "chunks": np.array([self.chunks], np.int64),
            "warm_played": np.array([self.warm_played], np.int64),
        }

    def state(self) -> dict[str, np.ndarray]:
        """See `BaseCollector.state`; as of the beginning of the present round."""
        return self._snapshot() if self._round is None else self._at_begin

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """See `BaseCollector.restore`; a round that had begun begins anew."""
        self.restore_curriculum(state)
        self.episodes = state["episodes"].copy()
        self.chunks, self.warm_played = int(state["chunks"][0]), int(state["warm_played"][0])
        self._round = None
