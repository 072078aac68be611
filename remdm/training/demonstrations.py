"""Demonstrations: whole episodes of an oracle, kept for good in the folder of a dataset.

Episode i of an environment is the same whoever plays it: its level seed is a counter-based draw
from the training seeds, and an oracle that acts by chance draws from a generator of that episode.
Shards go to `protected/`, from where nothing is ever evicted, so a learner with the same
`Experiment.buffer_dir` draws from them, beside what it may collect itself.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from remdm import config
from remdm.data.eviction import Limits
from remdm.data.folder import DatasetFolder
from remdm.data.labels import LabelIdentity, label_shard
from remdm.data.opened import OpenFiles
from remdm.data.scan import Scanner
from remdm.data.unlabelled import LabelQueue
from remdm.distributed.lease import LeaseHeld
from remdm.distributed.ownership import Ownership, role_folder
from remdm.envs.contract import EnvError
from remdm.envs.making import make_vec_env
from remdm.envs.sync import SyncPlanVecEnv
from remdm.evaluation.policies import OraclePolicy
from remdm.oracles.contract import Oracle
from remdm.training.demonstration_crew import Crew
from remdm.training.demonstration_pieces import (
    Manner,
    PiecePlayer,
    Task,
    demonstration_seed,
    write_piece,
)
from remdm.training.demonstration_records import (
    MOST_EPISODES,
    DemonstrationRecords,
    Piece,
    Record,
)
from remdm.training.whole_episodes import EpisodePlay, WholeEpisode, joined

ROLE = "demonstrate"
# Told how many episodes have ended and how many of them were won; says whether to stop.
Progress = Callable[[int, int], bool]


class Demonstrations:
    """Collects an oracle's episodes into a folder. Use it in a `with` block.

    An oracle that reads its plans off an observation plays one episode at a time in each process,
    from beginning to end. One that goes along with its environments (`Oracle.accompany`), and a
    game that is one compiled set, play in rows.
    """

    def __init__(
        self,
        root: Path,
        oracle: Oracle,
        seed: int,
        manner: Manner,
        *,
        label_horizon: int | None = None,
        processes: int = 1,
        rows: int = 32,
    ) -> None:
        """Claim the folder, and see what is there.

        Args:
            root: Folder of the dataset, made if missing.
            oracle: Who plays.
            seed: All levels follow from it.
            manner: How to play, and what to keep.
            label_horizon: Tokens of labels that are made as soon as a piece is written.
            processes: Processes that play. They change nothing in what is played.
            rows: Episodes side by side, where they are played in rows; likewise.

        Raises:
            ValueError: If the folder was collected with other settings.
            LeaseHeld: If another process collects into it.
        """
        self.folder, self.oracle = DatasetFolder(root), oracle
        self.seed, self.manner = seed, manner
        self.processes, self.rows = processes, rows
        self.task = Task(root, oracle, seed, manner, label_horizon)
        self.policy = OraclePolicy(
            oracle, plan_horizon=manner.plan_horizon, replan_every=manner.replan_every, seed=seed
        )
        self._crew: Crew | None = None
        self._owned = Ownership([role_folder(root, ROLE)], ROLE)
        try:
            self.records = DemonstrationRecords(self.folder, self._settings())
        except BaseException:
            self._owned.release()
            raise

    def __enter__(self) -> "Demonstrations":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._crew is not None:
                self._crew.close()
        finally:
            self._owned.release()

    def _settings(self) -> dict[str, Any]:
        manner = self.manner
        return {
            "oracle": self.oracle.name,
            "oracle_version": self.oracle.version,
            "plan_horizon": manner.plan_horizon,
            "replan_every": manner.replan_every,
            "max_steps": manner.max_steps,
            "keep_lost": manner.keep_lost,
            "bindings": {b.name: b.text for b in config.current_bindings()},
        }

    def collect(
        self,
        env: str,
        episodes: int,
        progress: Progress,
        *,
        max_episode_steps: int | None = None,
    ) -> bool:
        """Play what is missing of an environment's first `episodes` episodes.

        Args:
            env: Environment id.
            episodes: Levels to play; the lost ones count, too.
            progress: Told of episodes as they end; says whether to stop.
            max_episode_steps: Cap of an episode; the environment's own when None.

        Returns:
            Whether all are played.

        Raises:
            ValueError: If `episodes` makes no sense.
            EnvError: If an environment fails.
            LeaseLost: If another process has taken over the folder.
        """
        if not 1 <= episodes <= MOST_EPISODES:
            raise ValueError(f"episodes must be in 1..{MOST_EPISODES}, got {episodes}.")
        pieces = self.records.missing(env, self.seed, episodes)
        if not pieces:
            return True
        self.records.clear(pieces[0].collector)
        play = self._play_in_rows
        if self._plays_alone(env, max_episode_steps):
            play = self._play_in_turn if self.processes == 1 else self._play_in_crew
        return play(env, pieces, progress, max_episode_steps)

    def _plays_alone(self, env: str, max_episode_steps: int | None) -> bool:
        probe = make_vec_env([env], max_episode_steps=max_episode_steps)
        try:
            return isinstance(probe, SyncPlanVecEnv) and self.policy.accompany(probe) is probe
        finally:
            probe.close()

    def _play_in_turn(
        self, env: str, pieces: Sequence[Piece], progress: Progress, max_episode_steps: int | None
    ) -> bool:
        """One episode after the other; a thread writes a piece while the next is played."""
        with (
            contextlib.closing(PiecePlayer(self.task, env, max_episode_steps)) as player,
            ThreadPoolExecutor(1, "write-demonstrations") as writer,
        ):
            began = time.monotonic()
            writing: Future[Record] | None = None
            for number, piece in enumerate(pieces):
                tape = player.tapes[number % 2]
                episodes = []
                for episode in player.play(piece, tape):
                    episodes.append(episode)
                    last = number + 1 == len(pieces) and episode.number + 1 == piece.stop
                    if progress(1, int(episode.won)) and not last:
                        self._add(writing, began)
                        return False
                began = self._add(writing, began)
                self._owned.check()
                writing = writer.submit(player.write, piece, episodes, tape)
            self._add(writing, began)
        return True

    def _add(self, writing: "Future[Record] | None", began: float) -> float:
        """Write down what a thread has written; returns the time of that."""
        if writing is None:
            return began
        record = writing.result()
        self._owned.check()
        now = time.monotonic()
        self.records.add(dataclasses.replace(record, seconds=now - began))
        return now

    def _play_in_crew(
        self, env: str, pieces: Sequence[Piece], progress: Progress, max_episode_steps: int | None
    ) -> bool:
        """Each process plays and writes whole pieces."""
        if self._crew is None:
            self._crew = Crew(self.task, self.processes)
        began, left = time.monotonic(), len(pieces)
        try:
            for record in self._crew.play(env, max_episode_steps, pieces):
                self._owned.check()
                now = time.monotonic()
                self.records.add(dataclasses.replace(record, seconds=now - began))
                began, left = now, left - 1
                if progress(record.piece.stop - record.piece.first, record.won):
                    break
        except EnvError:
            # Ctrl-C reaches processes that have only begun to start, and ends them.
            if not progress(0, 0):
                raise
        return left == 0

    def _play_in_rows(
        self, env: str, pieces: Sequence[Piece], progress: Progress, max_episode_steps: int | None
    ) -> bool:
        most = sum(piece.stop - piece.first for piece in pieces)
        vec_env = make_vec_env(
            [env] * min(self.rows, most),
            env_mode="async" if self.processes > 1 else "sync",
            num_workers=self.processes,
            max_episode_steps=max_episode_steps,
        )
        with contextlib.closing(vec_env):
            began = time.monotonic()
            piece_of = {number: p for p in pieces for number in range(p.first, p.stop)}
            finished: dict[Piece, list[WholeEpisode]] = {piece: [] for piece in pieces}
            play = EpisodePlay(
                self.policy,
                vec_env,
                piece_of,
                lambda number: demonstration_seed(self.seed, env, number),
            )
            for episodes in play.rounds():
                for episode in episodes:
                    piece = piece_of[episode.number]
                    finished[piece].append(episode)
                    if len(finished[piece]) == piece.stop - piece.first:
                        self._owned.check()
                        record = self._written(piece, finished.pop(piece), vec_env.action_names)
                        now = time.monotonic()
                        self.records.add(dataclasses.replace(record, seconds=now - began))
                        began = now
                if progress(len(episodes), sum(e.won for e in episodes)) and finished:
                    return False
        return True

    def _written(
        self, piece: Piece, episodes: Sequence[WholeEpisode], action_names: Sequence[str]
    ) -> Record:
        kept = sorted(
            (e for e in episodes if e.parts and (e.won or self.manner.keep_lost)),
            key=lambda e: e.number,
        )
        steps = joined([part for e in kept for part in e.parts]) if kept else None
        return write_piece(self.task, piece, episodes, kept, steps, action_names)

    def label(self, plan_horizon: int, progress: Callable[[int], bool]) -> bool:
        """Label all demonstrations that have no such labels of this oracle yet.

        Args:
            plan_horizon: Tokens per plan.
            progress: Told of the steps of each labelled shard; says whether to stop.

        Returns:
            Whether all are labelled.
        """
        wanted = LabelIdentity(self.oracle.name, self.oracle.version, plan_horizon)
        queue = LabelQueue(self.folder, wanted)
        own = [path for path in queue.waiting() if path.parent == self.folder.protected]
        for path in own:
            shard = queue.shard(path)
            if shard is not None:
                label_shard(shard, self.oracle, plan_horizon, self.folder.labels)
                if progress(shard.num_steps) and path != own[-1]:
                    return False
        return True

    def announce(self) -> None:
        """See `announce`."""
        announce(self.folder)


def announce(folder: DatasetFolder) -> None:
    """Write a manifest of a folder of demonstrations, for runs that only read it.

    A run that may change the folder scans it itself; while one does, nothing is written.
    """
    with (
        contextlib.suppress(LeaseHeld),
        Ownership([role_folder(folder.root, "learn")], ROLE),
    ):
        Scanner(folder, OpenFiles(folder.set_aside)).refresh(Limits())


def total(records: Iterable[Record], name: str) -> float:
    """The sum of a column of records."""
    return sum(getattr(record, name) for record in records)
