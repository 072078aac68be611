"""Demonstrations: whole episodes of an oracle, kept for good in the folder of a dataset.

Episode i of an environment is the same whoever plays it: its level seed is a counter-based draw
from the training seeds, and an oracle that acts by chance draws from a generator of that episode.
Shards go to `protected/`, from where nothing is ever evicted, so a learner with the same
`Experiment.buffer_dir` draws from them, beside what it may collect itself.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remdm import config
from remdm.data.eviction import Limits
from remdm.data.folder import DatasetFolder
from remdm.data.labels import LabelIdentity, label_shard
from remdm.data.opened import OpenFiles
from remdm.data.records import Segment
from remdm.data.scan import Scanner
from remdm.data.shard_file import Shard, write_shard
from remdm.data.shard_names import shard_name
from remdm.data.unlabelled import LabelQueue
from remdm.distributed.lease import LeaseHeld
from remdm.distributed.ownership import Ownership, role_folder
from remdm.envs.contract import PlanVecEnv
from remdm.evaluation.policies import OraclePolicy
from remdm.oracles.contract import Oracle
from remdm.seeding import TRAINING_SEEDS, numpy_generator
from remdm.training.demonstration_records import (
    MOST_EPISODES,
    DemonstrationRecords,
    Piece,
    Record,
)
from remdm.training.whole_episodes import EpisodePlay, WholeEpisode, joined

ROLE = "demonstrate"
POLICY_VERSION = 0  # of an oracle; what a planner plays has the number of its updates


def demonstration_seed(seed: int, env: str, episode: int) -> int:
    """Level seed of an episode: a counter-based draw from `TRAINING_SEEDS`."""
    draw = numpy_generator(seed, "demonstration", env, episode)
    return int(draw.integers(TRAINING_SEEDS.start, TRAINING_SEEDS.stop))


@dataclass(frozen=True, slots=True)
class Manner:
    """How demonstrations are played and kept.

    Attributes:
        plan_horizon: Tokens of the oracle's plans.
        replan_every: Actions of a plan before the next one. With 1, every action is what the
            oracle would do at what it sees then.
        max_steps: Cap of an episode; the environment's own when None.
        keep_lost: Keep episodes that were not won as well.
    """

    plan_horizon: int = 64
    replan_every: int = 1
    max_steps: int | None = None
    keep_lost: bool = False


class Demonstrations:
    """Collects an oracle's episodes into a folder. Use it in a `with` block."""

    def __init__(self, root: Path, oracle: Oracle, seed: int, manner: Manner) -> None:
        """Claim the folder, and see what is there.

        Args:
            root: Folder of the dataset, made if missing.
            oracle: Who plays.
            seed: All levels follow from it.
            manner: How to play, and what to keep.

        Raises:
            ValueError: If the folder was collected with other settings.
            LeaseHeld: If another process collects into it.
        """
        self.folder, self.oracle = DatasetFolder(root), oracle
        self.seed, self.manner = seed, manner
        self.policy = OraclePolicy(
            oracle, plan_horizon=manner.plan_horizon, replan_every=manner.replan_every, seed=seed
        )
        self._owned = Ownership([role_folder(root, ROLE)], ROLE)
        try:
            self.records = DemonstrationRecords(self.folder, self._settings())
        except BaseException:
            self._owned.release()
            raise

    def __enter__(self) -> "Demonstrations":
        return self

    def __exit__(self, *error: object) -> None:
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
        make_vec_env: Callable[[int], PlanVecEnv],
        progress: Callable[[Sequence[WholeEpisode]], bool],
    ) -> bool:
        """Play what is missing of an environment's first `episodes` episodes.

        Args:
            env: Environment id.
            episodes: Levels to play; the lost ones count, too.
            make_vec_env: Makes the rows, at most as many as asked for; closed here.
            progress: Told of episodes as they end; says whether to stop.

        Returns:
            Whether all are played.

        Raises:
            ValueError: If `episodes` makes no sense.
            LeaseLost: If another process has taken over the folder.
        """
        if not 1 <= episodes <= MOST_EPISODES:
            raise ValueError(f"episodes must be in 1..{MOST_EPISODES}, got {episodes}.")
        pieces = self.records.missing(env, self.seed, episodes)
        if not pieces:
            return True
        self.records.clear(pieces[0].collector)
        vec_env = make_vec_env(sum(piece.stop - piece.first for piece in pieces))
        try:
            return self._play(pieces, vec_env, progress)
        finally:
            vec_env.close()

    def _play(
        self,
        pieces: Sequence[Piece],
        vec_env: PlanVecEnv,
        progress: Callable[[Sequence[WholeEpisode]], bool],
    ) -> bool:
        began = time.monotonic()
        piece_of = {number: p for p in pieces for number in range(p.first, p.stop)}
        finished: dict[Piece, list[WholeEpisode]] = {piece: [] for piece in pieces}
        play = EpisodePlay(
            self.policy,
            vec_env,
            piece_of,
            lambda number: demonstration_seed(self.seed, pieces[0].env, number),
        )
        for episodes in play.rounds():
            for episode in episodes:
                piece = piece_of[episode.number]
                finished[piece].append(episode)
                if len(finished[piece]) == piece.stop - piece.first:
                    now = time.monotonic()
                    self._keep(piece, finished.pop(piece), vec_env.action_names, now - began)
                    began = now
            if progress(episodes) and finished:
                return False
        return True

    def _keep(
        self,
        piece: Piece,
        episodes: Sequence[WholeEpisode],
        action_names: Sequence[str],
        seconds: float,
    ) -> None:
        """Write a piece's shard, and then its record."""
        self._owned.check()
        kept = sorted(
            (e for e in episodes if e.parts and (e.won or self.manner.keep_lost)),
            key=lambda e: e.number,
        )
        name = checksum = None
        if kept:
            steps = sum(e.num_steps for e in kept)
            name = shard_name(0, piece.collector, piece.first, steps)
            path = self.folder.protected / name
            segments = [_segment(piece, episode) for episode in kept]
            whole = joined([part for episode in kept for part in episode.parts])
            write_shard(path, segments, [whole], action_names)
            checksum = Shard.open(path).checksum
        won = [e.num_steps for e in episodes if e.won]
        self.records.add(
            Record(
                piece,
                won=len(won),
                steps=sum(e.num_steps for e in episodes),
                steps_won=sum(won),
                kept=len(kept),
                seconds=seconds,
                shard=name,
                checksum=checksum,
            )
        )

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
        """Write a manifest of the folder, for runs that only read it.

        A run that may change the folder scans it itself; while one does, nothing is written.
        """
        with (
            contextlib.suppress(LeaseHeld),
            Ownership([role_folder(self.folder.root, "learn")], ROLE),
        ):
            Scanner(self.folder, OpenFiles(self.folder.set_aside)).refresh(Limits())


def _segment(piece: Piece, episode: WholeEpisode) -> Segment:
    return Segment(
        env=piece.env,
        seed=episode.level_seed,
        first_step=0,
        length=episode.num_steps,
        won=episode.won if episode.ended else None,
        final=episode.ended,
        policy_version=POLICY_VERSION,
        collector=piece.collector,
    )


def total(records: Iterable[Record], name: str) -> float:
    """The sum of a column of records."""
    return sum(getattr(record, name) for record in records)
