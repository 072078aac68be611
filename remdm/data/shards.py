"""Shards: immutable files that hold the steps of many episodes, and the buffer that fills them.

A shard lays the steps of its segments one after another. A segment is an episode or a piece of
one: an episode that is still going on when the buffer is written continues in a later shard with
`first_step > 0`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from remdm.data.records import (
    OBSERVATION_PREFIX,
    STEP_DTYPES,
    Segment,
    StepArrays,
    StepChunk,
)
from remdm.data.shard_checks import MOST_ACTIONS, action_names_of, check_steps, segments_of
from remdm.data.tensor_file import (
    SUFFIX,
    DamagedFileError,
    TensorFile,
    damage_if_wrong,
    write_tensor_file,
)
from remdm.maps import HISTORY_PREFIX

SHARD_SCHEMA_VERSION = 1


def shard_name(epoch: int, collector: str, sequence: int, num_steps: int) -> str:
    """File name of a shard; names sort in the order in which shards were made.

    Args:
        epoch: Epoch of collection, at most 999999.
        collector: Who recorded it: letters, digits, dots, underscores and hyphens.
        sequence: Number of the shard within epoch and collector, at most 999999.
        num_steps: Steps in it.

    Raises:
        ValueError: If a part does not fit.
    """
    if not all(c.isascii() and (c.isalnum() or c in "._-") for c in collector) or not collector:
        raise ValueError(
            f"a collector's name must consist of letters, digits, '.', '_' and '-', "
            f"got {collector!r}"
        )
    if not (0 <= epoch <= 999_999 and 0 <= sequence <= 999_999):
        raise ValueError(f"epoch and sequence must be in 0..999999, got {epoch} and {sequence}")
    return f"e{epoch:06d}-{collector}-{sequence:06d}-{num_steps}{SUFFIX}"


def write_shard(
    path: Path,
    segments: Sequence[Segment],
    arrays: Sequence[StepArrays],
    action_names: Sequence[str],
) -> None:
    """Write a shard atomically.

    Args:
        path: Final place; its folder must exist.
        segments: What the steps belong to, in order.
        arrays: The steps, in any number of pieces that are laid one after another.
        action_names: One name per action.

    Raises:
        ValueError: If segments and steps do not fit together.
        OSError: If it cannot be written, e.g. because the disk is full; then nothing has changed.
    """
    lengths = np.array([s.length for s in segments], np.int64)
    steps = sum(len(a) for a in arrays)
    if not len(segments) or lengths.sum() != steps:
        raise ValueError(
            f"segments must cover all steps, got {len(segments)} segments of together "
            f"{lengths.sum()} steps for {steps} steps"
        )
    named = [a.named() for a in arrays]
    tensors = {name: [n[name] for n in named] for name in named[0]}
    for name, dtype in STEP_DTYPES.items():
        if any(part.dtype != dtype for part in tensors[name]):
            raise ValueError(f"{name} must be {dtype}, got {tensors[name][0].dtype}")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    metadata = {
        "kind": "shard",
        "schema_version": SHARD_SCHEMA_VERSION,
        "action_names": list(action_names),
        "segments": [asdict(s) for s in segments],
    }
    what = f"a shard of {steps} steps ({len(segments)} segments)"
    write_tensor_file(path, {"offsets": [offsets], **tensors}, metadata, what)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard on disk as read-only views of the mapped file.

    Attributes:
        path: The file.
        action_names: One name per action.
        segments: What the steps belong to.
        offsets: int64 [S + 1]: segment s has the steps offsets[s] to offsets[s + 1].
        steps: All T steps.
        checksum: Stands for the contents.
        nbytes: Size of the file.
    """

    path: Path
    action_names: tuple[str, ...]
    segments: tuple[Segment, ...]
    offsets: np.ndarray
    steps: StepArrays
    checksum: str
    nbytes: int

    @classmethod
    def open(cls, path: Path, *, verify_data: bool = False) -> "Shard":
        """Map a shard and check that its parts fit together.

        Args:
            path: The file.
            verify_data: Also read everything and compare checksums.

        Raises:
            DamagedFileError: If the file is torn, altered, or no shard of a readable version.
            FileNotFoundError: If there is none.
        """
        file = TensorFile.open(path, verify_data=verify_data)
        check_kind(file, "shard", SHARD_SCHEMA_VERSION)
        with damage_if_wrong(path):
            names, segments = action_names_of(file.metadata), segments_of(file.metadata)
            offsets = file.array("offsets")
            steps = StepArrays(
                {
                    k.removeprefix(OBSERVATION_PREFIX): file.tensors[k]
                    for k in sorted(file.tensors)
                    if k.startswith(OBSERVATION_PREFIX)
                },
                *map(file.array, STEP_DTYPES),
            )
            check_steps(segments, offsets, steps, len(names))
        return cls(path, names, segments, offsets, steps, file.checksum, file.nbytes)

    @property
    def num_steps(self) -> int:
        """Steps in the shard."""
        return len(self.steps)

    @property
    def env_steps(self) -> dict[str, int]:
        """Steps by environment."""
        counts: dict[str, int] = {}
        for segment in self.segments:
            counts[segment.env] = counts.get(segment.env, 0) + segment.length
        return counts


def check_kind(file: TensorFile, kind: str, version: int) -> None:
    """Refuse a file of another kind or version.

    Raises:
        DamagedFileError: If it is one.
    """
    found = file.metadata.get("kind"), file.metadata.get("schema_version")
    if found != (kind, version):
        raise DamagedFileError(
            file.path,
            f"it holds a {found[0]} of schema version {found[1]}; "
            f"a {kind} of schema version {version} can be read",
        )


@dataclass(slots=True)
class _OpenSegment:
    """A segment that grows; `parts` are (block, start, stop) of the steps it has so far."""

    env: str
    seed: int
    first_step: int
    policy_version: int
    length: int
    parts: list[tuple[int, int, int]]


class RecordingBuffer:
    """Takes the chunks of a `PlanVecEnv` and writes them as shards.

    Each chunk is copied once, when it comes. Writing streams those copies to the file.

    Attributes:
        policy_version: Version of the policy that acts; set it when new weights are taken.
    """

    def __init__(
        self,
        folder: Path | None,
        action_names: Sequence[str],
        collector: str = "main",
        *,
        policy_version: int = 0,
    ) -> None:
        """Args:
        folder: Where shards go, made if missing; None drops all steps.
        action_names: One name per action.
        collector: Name of this collector, part of the file names; no two may share one.
        policy_version: Version of the policy that acts.
        """
        shard_name(0, collector, 0, 0)
        if len(action_names) > MOST_ACTIONS:
            raise ValueError(
                f"at most {MOST_ACTIONS} actions fit into int8 plans, got {len(action_names)}"
            )
        self.folder, self.collector = folder, collector
        self.action_names = tuple(action_names)
        self.policy_version = policy_version
        self._epoch, self._sequence = -1, 0
        self._blocks: list[StepArrays] = []
        self._closed: list[tuple[Segment, list[tuple[int, int, int]]]] = []
        self._open: dict[int, _OpenSegment] = {}
        # What a row's next step continues: (env, seed, steps taken).
        self._position: dict[int, tuple[str, int, int]] = {}

    @property
    def num_steps(self) -> int:
        """Steps recorded and not yet written."""
        return sum(len(b) for b in self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes recorded and not yet written."""
        return sum(b.nbytes for b in self._blocks)

    def append(
        self, chunk: StepChunk, seeds: Sequence[int] | np.ndarray, env_names: Sequence[str]
    ) -> None:
        """Record all valid steps of a chunk, without arrays `history/...`: see `HISTORY_PREFIX`.

        Args:
            chunk: What one `execute` call ran.
            seeds: Level seed of each row's episode.
            env_names: Environment of each row.
        """
        lengths = chunk.valid.sum(1)
        if self.folder is None or not lengths.any():
            return
        block = _valid_steps(chunk)
        stops = np.cumsum(lengths)
        done = (chunk.terminated | chunk.truncated).any(1)
        index = len(self._blocks)
        self._blocks.append(block)
        for row in np.flatnonzero(lengths).tolist():
            stop, length = int(stops[row]), int(lengths[row])
            segment = self._continue(row, env_names[row], int(seeds[row]))
            segment.parts.append((index, stop - length, stop))
            segment.length += length
            if done[row]:
                self._close(row, won=bool(chunk.won[row]))

    def reopen(
        self,
        seeds: Sequence[int] | np.ndarray,
        env_names: Sequence[str],
        first_steps: Sequence[int] | np.ndarray,
    ) -> None:
        """Go on with episodes that were begun before this buffer was made.

        Args:
            seeds: Level seed of each row's episode.
            env_names: Environment of each row.
            first_steps: Steps each episode has taken.
        """
        for row, first in enumerate(first_steps):
            self._position[row] = (env_names[row], int(seeds[row]), int(first))

    def abandon(self, rows: Sequence[int]) -> None:
        """Say that `rows` are reset although their episodes have not ended."""
        for row in rows:
            if row in self._open:
                self._close(row, won=None)
            self._position.pop(row, None)

    def flush(self, epoch: int) -> Path | None:
        """Write everything recorded so far as one shard, unfinished episodes as pieces.

        If writing fails, the steps stay here and a later call can write them.

        Args:
            epoch: Epoch of collection, part of the name.

        Returns:
            The file; None if there was nothing to write.

        Raises:
            OSError: If it cannot be written, e.g. because the disk is full.
        """
        for row in sorted(self._open):
            self._close(row, won=None)
        if self.folder is None or not self._closed:
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._new_path(self.folder, epoch)
        parts = [part for _, parts in self._closed for part in parts]
        arrays = [self._blocks[block][start:stop] for block, start, stop in parts]
        write_shard(path, [s for s, _ in self._closed], arrays, self.action_names)
        self._sequence += 1
        self._blocks.clear()
        self._closed.clear()
        return path

    def _new_path(self, folder: Path, epoch: int) -> Path:
        if epoch != self._epoch:
            self._epoch, self._sequence = epoch, 0
        # A name that was used before an interruption is never written over.
        while any(folder.glob(f"e{epoch:06d}-{self.collector}-{self._sequence:06d}-*{SUFFIX}")):
            self._sequence += 1
        return folder / shard_name(epoch, self.collector, self._sequence, self.num_steps)

    def _continue(self, row: int, env: str, seed: int) -> _OpenSegment:
        open_segment = self._open.get(row)
        if open_segment is not None:
            same = (open_segment.env, open_segment.seed) == (env, seed)
            if same and open_segment.policy_version == self.policy_version:
                return open_segment
            self._close(row, won=None)
        known = self._position.get(row)
        first = known[2] if known is not None and known[:2] == (env, seed) else 0
        self._open[row] = _OpenSegment(env, seed, first, self.policy_version, 0, [])
        return self._open[row]

    def _close(self, row: int, *, won: bool | None) -> None:
        s = self._open.pop(row)
        segment = Segment(
            s.env, s.seed, s.first_step, s.length, won, won is not None,
            s.policy_version, self.collector,
        )  # fmt: skip
        self._closed.append((segment, s.parts))
        if won is None:
            self._position[row] = (s.env, s.seed, s.first_step + s.length)
        else:
            self._position.pop(row, None)


def _valid_steps(chunk: StepChunk) -> StepArrays:
    """The valid steps of a chunk, row after row, as copies."""
    cells = np.flatnonzero(chunk.valid)

    def pick(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, *array.shape[2:]).take(cells, 0)

    return StepArrays(
        {
            name: pick(array)
            for name, array in chunk.observations.items()
            if not name.startswith(HISTORY_PREFIX)
        },
        pick(chunk.actions).astype(np.int8),
        pick(chunk.rewards).astype(np.float32, copy=False),
        pick(chunk.terminated),
        pick(chunk.truncated),
    )
