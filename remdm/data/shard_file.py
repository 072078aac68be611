"""A shard: an immutable file that holds the steps of many episodes.

A shard lays the steps of its segments one after another. A segment is an episode or a piece of
one: an episode that is still going on when the buffer is written continues in a later shard with
`first_step > 0`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remdm.data.records import OBSERVATION_PREFIX, STEP_DTYPES, Segment, StepArrays
from remdm.data.segment_table import SegmentTable
from remdm.data.shard_checks import (
    action_names_of,
    check_steps,
    names_of,
    segments_of,
)
from remdm.data.tensor_file import DamagedFileError, StoredArrays, TensorFile, write_tensor_file

SHARD_SCHEMA_VERSION = 2
# Version 1 has an object for every segment in its metadata.
READABLE_SHARDS = (1, SHARD_SCHEMA_VERSION)
STATE_PREFIX = "state/"


def write_shard(
    path: Path,
    segments: Sequence[Segment],
    arrays: Sequence[StepArrays],
    action_names: Sequence[str],
    *,
    state: Mapping[str, np.ndarray] | None = None,
    confirm: Callable[[], None] | None = None,
) -> None:
    """Write a shard atomically; never over a file that exists.

    Args:
        path: Final place; its folder must exist.
        segments: What the steps belong to, in order.
        arrays: The steps, in any number of pieces that are laid one after another.
        action_names: One name per action.
        state: All of its collector that is needed to go on after these steps: arrays of at least
            one axis, which may be empty.
        confirm: See `atomic_file`.

    Raises:
        ValueError: If segments and steps do not fit together, or a state has no axis.
        FileExistsError: If there is such a file: another process writes under the same name.
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
    for name, array in (state or {}).items():
        if not array.ndim:
            raise ValueError(f"state {name} must have at least one axis, got a single number")
        tensors[STATE_PREFIX + name] = [array]
    table = SegmentTable.of(segments)
    metadata = {
        "kind": "shard",
        "schema_version": SHARD_SCHEMA_VERSION,
        "action_names": list(action_names),
        "envs": list(table.envs),
        "collectors": list(table.collectors),
    }
    tensors |= {"offsets": [table.offsets], "segments": [table.rows]}
    what = f"a shard of {steps} steps ({len(segments)} segments)"
    write_tensor_file(path, tensors, metadata, what, exclusive=True, confirm=confirm)


@dataclass(slots=True, eq=False)
class Shard(StoredArrays):
    """A shard on disk as read-only views of the mapped file.

    Attributes:
        file: The mapped file, without its metadata.
        action_names: One name per action.
        envs: Environments of its segments.
        collectors: Who recorded them.
    """

    # What can be made of these is made when it is asked for; see `TensorFile`.
    file: TensorFile
    action_names: tuple[str, ...]
    envs: tuple[str, ...]
    collectors: tuple[str, ...]

    @classmethod
    def open(cls, path: str | Path, *, verify_data: bool = False) -> "Shard":
        """Map a shard and check that its parts fit together.

        Args:
            path: The file.
            verify_data: Also read everything and compare checksums; see `verify`.

        Raises:
            DamagedFileError: If the file is torn, altered, or no shard of a readable version.
            FileNotFoundError: If there is none.
        """
        file = TensorFile.open(path, verify_data=verify_data)
        version = check_kind(file, "shard", READABLE_SHARDS)
        try:
            names = action_names_of(file.metadata)
            envs, collectors = _add_table(file, version)
            for name in ("offsets", "segments", *STEP_DTYPES):
                file.array(name)
            file.drop_metadata()
            shard = cls(file, names, envs, collectors)
            check_steps(shard.table, file.tensors, len(names))
        except ValueError as error:
            raise DamagedFileError(file.path, str(error)) from error
        return shard

    def verify(self) -> None:
        """Read everything and compare it with its checksum.

        Raises:
            DamagedFileError: If it is not what was written.
        """
        self.file.verify()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What the steps belong to, as objects that are made anew with each call."""
        return self.table.segments()

    @property
    def table(self) -> SegmentTable:
        """What the steps belong to."""
        tensors = self.file.tensors
        return SegmentTable(self.envs, self.collectors, tensors["segments"], tensors["offsets"])

    @property
    def steps(self) -> StepArrays:
        """All T steps."""
        tensors = self.file.tensors
        return StepArrays(
            {
                name[len(OBSERVATION_PREFIX) :]: array
                for name, array in sorted(tensors.items())
                if name.startswith(OBSERVATION_PREFIX)
            },
            *[tensors[name] for name in STEP_DTYPES],
        )

    @property
    def offsets(self) -> np.ndarray:
        """int64 [S + 1]: segment s has the steps offsets[s] to offsets[s + 1]."""
        return self.file.tensors["offsets"]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """What its collector needs to go on after it, by name; empty if it kept none."""
        return {
            name.removeprefix(STATE_PREFIX): array
            for name, array in self.file.tensors.items()
            if name.startswith(STATE_PREFIX)
        }

    @property
    def num_steps(self) -> int:
        """Steps in the shard."""
        return len(self.file.tensors["actions"])

    @property
    def env_steps(self) -> dict[str, int]:
        """Steps by environment."""
        table = self.table
        return {n: int(table.lengths[table.env == i].sum()) for i, n in enumerate(self.envs)}


def _add_table(file: TensorFile, version: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """See that the columns of the segments are among the arrays; returns their names."""
    if version == 1:
        table = SegmentTable.of(segments_of(file.metadata))
        offsets = file.array("offsets")
        # Of another shape, they are refused with all else that has a wrong form.
        if offsets.shape == table.offsets.shape and (offsets != table.offsets).any():
            raise ValueError("its offsets do not match its segments")
        file.tensors["segments"] = table.rows
        return table.envs, table.collectors
    return names_of(file.metadata, "envs"), names_of(file.metadata, "collectors")


def check_kind(file: TensorFile, kind: str, versions: Sequence[int]) -> int:
    """Refuse a file of another kind or version; returns the version.

    Raises:
        DamagedFileError: If it is one.
    """
    found, version = file.metadata.get("kind"), file.metadata.get("schema_version")
    if found != kind or type(version) is not int or version not in versions:
        raise DamagedFileError(
            file.path,
            f"it holds a {found} of schema version {version}; a {kind} of schema version "
            f"{' or '.join(map(str, versions))} can be read",
        )
    return version
