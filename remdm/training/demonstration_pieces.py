"""Pieces of demonstrations: how one is played, written and labelled, whatever the process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from remdm.data.folder import DatasetFolder
from remdm.data.labels import label_shard
from remdm.data.records import Segment, StepArrays
from remdm.data.shard_file import Shard, write_shard
from remdm.data.shard_names import shard_name
from remdm.envs.making import make_env
from remdm.oracles.contract import Oracle
from remdm.seeding import TRAINING_SEEDS, numpy_generator
from remdm.training.demonstration_records import PIECE_EPISODES, Piece, Record
from remdm.training.solo_play import SoloEpisode, SoloPlay, Tape
from remdm.training.whole_episodes import WholeEpisode

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


@dataclass(frozen=True, slots=True)
class Task:
    """All that playing depends on besides the environment; it can be sent to another process.

    Attributes:
        root: Folder of the dataset.
        oracle: Who plays and labels.
        seed: All levels follow from it.
        manner: How to play, and what to keep.
        label_horizon: Tokens of the labels that are made at once; none when None.
    """

    root: Path
    oracle: Oracle
    seed: int
    manner: Manner
    label_horizon: int | None


def write_piece(
    task: Task,
    piece: Piece,
    episodes: Sequence[SoloEpisode | WholeEpisode],
    kept: Sequence[SoloEpisode | WholeEpisode],
    steps: StepArrays | None,
    action_names: Sequence[str],
) -> Record:
    """Write a piece's shard, and its labels where they are wanted.

    Args:
        task: What is being done.
        piece: Which episodes.
        episodes: All of them.
        kept: Those that are kept, in order.
        steps: The steps of the kept ones; None if there are none.
        action_names: One name per action.

    Returns:
        What became of the piece, its time not yet known.
    """
    name = checksum = None
    if steps is not None:
        folder = DatasetFolder(task.root)
        name = shard_name(0, piece.collector, piece.first, len(steps))
        path = folder.protected / name
        write_shard(path, [_segment(piece, e) for e in kept], [steps], action_names)
        shard = Shard.open(path)
        checksum = shard.checksum
        if task.label_horizon is not None:
            label_shard(shard, task.oracle, task.label_horizon, folder.labels)
    won = [e.num_steps for e in episodes if e.won]
    return Record(
        piece,
        won=len(won),
        steps=sum(e.num_steps for e in episodes),
        steps_won=sum(won),
        kept=len(kept),
        seconds=0.0,
        shard=name,
        checksum=checksum,
    )


def _segment(piece: Piece, episode: SoloEpisode | WholeEpisode) -> Segment:
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


class PiecePlayer:
    """Plays pieces of one environment, one episode at a time.

    Of two tapes one is played onto while the other is written to disk.
    """

    def __init__(self, task: Task, env: str, max_episode_steps: int | None) -> None:
        """Args:
        task: What is being done.
        env: Environment id.
        max_episode_steps: Cap of an episode; the environment's own when None.
        """
        self.task, self.name = task, env
        limit = {} if max_episode_steps is None else {"max_episode_steps": max_episode_steps}
        self.env = make_env(env, **limit)
        manner = task.manner
        self._play = SoloPlay(
            task.oracle,
            self.env,
            lambda number: demonstration_seed(task.seed, env, number),
            seed=task.seed,
            plan_horizon=manner.plan_horizon,
            replan_every=manner.replan_every,
            keep_lost=manner.keep_lost,
        )
        self.tapes = [self._play.tape(PIECE_EPISODES) for _ in range(2)]

    def play(self, piece: Piece, tape: Tape) -> Iterator[SoloEpisode]:
        """The piece's episodes as they end; their steps lie on the tape."""
        return self._play.episodes(range(piece.first, piece.stop), tape)

    def write(self, piece: Piece, episodes: Sequence[SoloEpisode], tape: Tape) -> Record:
        """Write a piece that was played onto a tape."""
        kept = [episode for episode in episodes if episode.kept]
        steps = tape.steps(sum(e.num_steps for e in kept)) if kept else None
        return write_piece(self.task, piece, episodes, kept, steps, self.env.action_names)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
