"""Episodes that are played to measure, kept as demonstrations: whole ones, all their steps.

The folder is a dataset like one of `remdm collect`, with a shard and a record for every policy in
every environment. Their levels are those that others are measured on, so nothing else may lie in
that folder, and runs refuse to learn from them (see `remdm.training.level_guard`). Play levels of
the training seeds to learn from.
"""

import re
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from remdm.data.folder import DatasetFolder, listed
from remdm.data.shard_file import Shard
from remdm.data.shard_names import parsed_or_none
from remdm.data.shards import RecordingBuffer
from remdm.envs.contract import Chunk, PlanVecEnv
from remdm.evaluation.policies import Policy
from remdm.training.demonstration_records import DemonstrationRecords, Piece, Record
from remdm.training.level_guard import MEASURED

# What two evaluations into one folder must have in common.
_SETTINGS = {"played_by": "remdm eval"}


class KeptEpisodes:
    """A folder that takes what is played to measure."""

    def __init__(self, root: Path, seed: int) -> None:
        """Args:
        root: The folder, made if missing.
        seed: Of the evaluation, for the records.

        Raises:
            ValueError: If anything else lies in it.
        """
        self.folder, self.seed = DatasetFolder(root), seed
        self._own: set[str] = set()
        _check_alone(self.folder)
        self.records = DemonstrationRecords(self.folder, _SETTINGS)

    def of(self, policy: Policy) -> "PolicyEpisodes":
        """What takes the episodes of one policy.

        Raises:
            ValueError: If it does not see what there is, or its episodes are there already.
        """
        if getattr(policy, "near", None) is not None:
            raise ValueError(
                f"{policy.name} sees less than there is, and so would whoever learns from it; "
                "leave --blind and near= out, or do not save what is played."
            )
        name = collector_of(policy.name)
        told = (parsed_or_none(path.name) for path in listed(self.folder.protected))
        there = any(shard is not None and shard.collector == name for shard in told)
        if there and name not in self._own:  # own ones are of environments of another shape
            raise ValueError(
                f"{self.folder.root} holds episodes of {policy.name} already; save to another "
                "folder."
            )
        self._own.add(name)
        return PolicyEpisodes(self, name)

    def announce(self) -> None:
        """Write a manifest, for runs that only read the folder."""
        from remdm.training.demonstrations import announce

        announce(self.folder)


class PolicyEpisodes:
    """Takes what one policy plays, step by step, and writes it when all of it is there."""

    def __init__(self, kept: KeptEpisodes, collector: str) -> None:
        """Args:
        kept: The folder.
        collector: Names the shards.
        """
        self.kept, self.collector = kept, collector
        self._buffers: dict[str, RecordingBuffer] = {}
        self._rows: dict[str, list[int]] = {}
        self._began = time.monotonic()

    def begin(self, vec_env: PlanVecEnv) -> None:
        """Get to know the rows that will play; each stays in its environment."""
        protected = self.kept.folder.protected
        for row, env in enumerate(vec_env.env_names):
            self._rows.setdefault(env, []).append(row)
        for env in self._rows:
            self._buffers[env] = RecordingBuffer(protected, vec_env.action_names, self.collector)

    def append(self, chunk: Chunk, seeds: np.ndarray) -> None:
        """Take what one `execute` call ran.

        Args:
            chunk: Of all rows.
            seeds: int64 [rows]: level seeds.
        """
        for env, rows in self._rows.items():
            self._buffers[env].append(chunk.part(rows), seeds[rows], [env] * len(rows))

    def cut(self, rows: Sequence[int]) -> None:
        """Say that a cap ends the episodes of `rows`, which are lost."""
        for env, own in self._rows.items():
            self._buffers[env].cut([own.index(row) for row in rows if row in own])

    def write(self, won_and_steps: Mapping[str, Sequence[tuple[bool, int]]]) -> None:
        """Write a shard and a record for every environment.

        Args:
            won_and_steps: By environment, how each episode ended and how long it was.
        """
        seconds = (time.monotonic() - self._began) / max(len(self._buffers), 1)
        for env, buffer in self._buffers.items():
            ends = won_and_steps[env]
            kept = buffer.finished_episodes
            path = buffer.flush(0)
            piece = Piece(env, self.kept.seed, 0, len(ends))
            record = Record(
                piece,
                won=sum(won for won, _ in ends),
                steps=sum(steps for _, steps in ends),
                steps_won=sum(steps for won, steps in ends if won),
                kept=kept,
                seconds=seconds,
                shard=None if path is None else path.name,
                checksum=None if path is None else Shard.open(path).checksum,
            )
            self.kept.records.add(record, f"{self.collector}-{piece.record_name}")
        self._buffers.clear()
        self._rows.clear()


def collector_of(policy: str) -> str:
    """Names the shards of a policy."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", policy)
    if plain != policy or len(plain) > 80:
        plain = f"{plain[:80]}-{zlib.crc32(policy.encode()):08x}"
    return MEASURED + plain


def _check_alone(folder: DatasetFolder) -> None:
    """See that a folder holds nothing but episodes that were played to measure.

    Raises:
        ValueError: If it does.
    """
    told = [parsed_or_none(path.name) for path in listed(folder.protected)]
    others = any(name is None or not name.collector.startswith(MEASURED) for name in told)
    if others or listed(folder.shards) or (folder.root / "config.gin").exists():
        raise ValueError(
            f"{folder.root} is a run, or holds data to learn from, and what is played to measure "
            "does not belong there; save to a folder of its own."
        )
