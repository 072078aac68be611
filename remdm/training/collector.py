"""Collecting: the current planner acts, now and then the oracle does, and all steps are kept.

Episodes go on from one call to the next. What an episode needs to be repeated (its level seed and
the actions of each chunk) is part of the state, so a resumed run replays its open episodes and
goes on exactly where it stopped.
"""

from itertools import pairwise

import numpy as np

from remdm.base_agent import BaseAgent
from remdm.envs.contract import Chunk
from remdm.oracles.recorded import TAKEN
from remdm.training.base_collector import BaseCollector
from remdm.training.collect_stats import CollectStats

_RUNNING = "running_"


class Collector(BaseCollector):
    """Records all that the actors of one process do, in the order in which they do it."""

    def prepare(self) -> None:
        """See `BaseCollector.prepare`."""
        rows = self.vec_env.num_envs
        self.level_seeds = np.zeros(rows, np.int64)
        self.returns = np.zeros(rows)
        self.history: list[list[np.ndarray]] = [[] for _ in range(rows)]
        # Where actions are vectors, those that were taken: one per chunk.
        self.vectors: list[list[np.ndarray]] = [[] for _ in range(rows)]

    def advance(
        self, agent: BaseAgent | None, stats: CollectStats, *, beta: float, noise: float
    ) -> None:
        """See `BaseCollector.advance`."""
        if not self.observations:
            self._start_episodes(np.arange(self.vec_env.num_envs))
        rows = np.arange(self.vec_env.num_envs)
        plans = self.plans(agent, stats, rows, beta=beta, noise=noise)
        chunk = self.vec_env.execute(plans, self.replan_every, stop_when_blocked=True)
        self.chunks += 1
        self.buffer.append(chunk, self.level_seeds, self.vec_env.env_names)
        lengths = chunk.lengths
        stats.env_steps += int(lengths.sum())
        self.returns += (chunk.rewards * chunk.valid).sum(1)
        self.running.ran(rows, chunk.actions, lengths)
        self.remember(agent, chunk)
        for row in rows:
            self.history[row].append(chunk.actions[row, : lengths[row]].astype(np.int8))
            if TAKEN in chunk.observations:
                self.vectors[row].append(chunk.observations[TAKEN][row, 0].copy())
        self.observations = chunk.final_observations
        self._finish_episodes(chunk, stats, alone=agent is None)

    def _finish_episodes(self, chunk: Chunk, stats: CollectStats, *, alone: bool) -> None:
        done = np.flatnonzero(chunk.done)
        for row in done:
            name, won = self.vec_env.env_names[row], bool(chunk.won[row])
            stats.episodes[name] += 1
            stats.wins[name] += won
            stats.returns[name] += float(self.returns[row])
            if self.curriculum is not None and not alone:  # the oracle's own say nothing
                self.curriculum.record(name, won)
        if len(done):
            self._start_episodes(done)

    def _start_episodes(self, rows: np.ndarray) -> None:
        self.returns[rows] = 0.0
        envs = []
        for row in rows.tolist():
            env, self.level_seeds[row] = self.next_level(row)
            envs.append(env or self.vec_env.env_names[row])
            self.history[row], self.vectors[row] = [], []
        self.running.reset(rows)
        if self.curriculum is not None:
            self.vec_env.assign(envs, rows.tolist())
        self.observations = self.vec_env.reset(self.level_seeds[rows].tolist(), rows.tolist())

    def state(self) -> dict[str, np.ndarray]:
        """See `BaseCollector.state`."""
        chunks = [chunk for row in self.history for chunk in row]
        return {
            **self.curriculum_state(),
            "episodes": self.episodes.copy(),
            "level_seeds": self.level_seeds.copy(),
            "chunks": np.array([self.chunks], np.int64),
            "history_actions": np.concatenate([np.zeros(0, np.int8), *chunks]),
            "history_lengths": np.array([len(c) for c in chunks], np.int64),
            "history_counts": np.array([len(row) for row in self.history], np.int64),
            **self._vector_state(),
            **{_RUNNING + name: array for name, array in self.running.state().items()},
        }

    def _vector_state(self) -> dict[str, np.ndarray]:
        """The vectors of all open episodes, row after row; nothing where actions are tokens."""
        size = self.vec_env.vector_size
        if not size:
            return {}
        taken = [np.zeros((0, size), np.float32), *(np.array(v) for v in self.vectors if v)]
        return {"history_vectors": np.concatenate(taken)}

    def curriculum_state(self) -> dict[str, np.ndarray]:
        """See `BaseCollector.curriculum_state`; with the environment of every row."""
        if self.curriculum is None:
            return {}
        playing = [self.curriculum.envs.index(env) for env in self.vec_env.env_names]
        return super().curriculum_state() | {"curriculum_envs": np.array(playing, np.int64)}

    def restore_curriculum(self, state: dict[str, np.ndarray]) -> None:
        """See `BaseCollector.restore_curriculum`."""
        super().restore_curriculum(state)
        if self.curriculum is not None:
            playing, count = state["curriculum_envs"], len(self.curriculum.envs)
            if (
                playing.shape != (self.vec_env.num_envs,)
                or not np.isin(playing, range(count)).all()
            ):
                raise ValueError(
                    f"the environments of {self.vec_env.num_envs} actors must be numbers below "
                    f"{count}, got {playing.tolist()}"
                )
            envs = [self.curriculum.envs[number] for number in playing]
            self.vec_env.assign(envs, range(len(envs)))

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Start the open episodes again and replay them to where they stood."""
        self.restore_curriculum(state)
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
        if self.vec_env.vector_size:
            ends = starts[1:-1]  # one vector per chunk
            self.vectors = [list(v) for v in np.split(state["history_vectors"], ends)]
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
                    if self.vectors[row]:
                        self.vec_env.offer(self.vectors[row][index][None], [row])
            chunk = self.vec_env.execute(plans, longest)
            self.returns += (chunk.rewards * chunk.valid).sum(1)
            self.observations = chunk.final_observations
