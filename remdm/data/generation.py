"""One generation of a dataset, and the JSON it is kept as.

A manifest decides which files are opened, and which are deleted, so one that was read is checked:
names in it must be those of files in the dataset's own folders.
"""

import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from remdm.data.labels import LabelIdentity, identity_of
from remdm.data.plain_json import counted, typed
from remdm.data.tensor_file import SUFFIX

MANIFEST_SCHEMA_VERSION = 1
# Bytes; what file systems allow.
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """A label file of the manifest.

    Attributes:
        identity: Who labelled, and how far ahead.
        bytes: Size of the file.
        checksum: Stands for its contents.
    """

    identity: LabelIdentity
    bytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard of the manifest.

    Attributes:
        name: File name.
        protected: Whether it lies in `protected/` and is never evicted.
        steps: Steps in it.
        bytes: Size of the file.
        checksum: Stands for its contents.
        env_steps: Steps by environment.
        labels: Its label file; None if it has none that fits.
    """

    name: str
    protected: bool
    steps: int
    bytes: int
    checksum: str
    env_steps: dict[str, int]
    labels: LabelEntry | None

    @property
    def total_bytes(self) -> int:
        """Bytes of shard and labels."""
        return self.bytes + (self.labels.bytes if self.labels else 0)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One generation of a dataset.

    Attributes:
        generation: Number of this manifest; 0 is the empty one before the first scan.
        shards: Protected ones first, each group sorted by name, which is the order of making.
        tombstones: Evicted shards whose files still exist, with the generation that left them out.
        evicted_steps: Steps evicted so far.
    """

    generation: int = 0
    shards: tuple[ShardEntry, ...] = ()
    tombstones: dict[str, int] = field(default_factory=dict)
    evicted_steps: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"schema_version": MANIFEST_SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """The inverse of `to_json`.

        Raises:
            ValueError: If the values are of an unknown schema version, or no manifest's.
        """
        version = values.get("schema_version")
        if version != MANIFEST_SCHEMA_VERSION:
            raise ValueError(
                f"a manifest of schema version {MANIFEST_SCHEMA_VERSION} can be read, "
                f"got version {reprlib.repr(version)}"
            )
        generation = counted(values, "generation")
        shards = tuple(map(_entry, typed(values, "shards", list, tuple)))
        tombstones = _counts(values, "tombstones")
        for name, left_out in tombstones.items():
            _check_name(name)
            if left_out > generation:
                raise ValueError(f"{name} was left out by a manifest that is still to come")
        _check_distinct(shards, tombstones)
        return cls(generation, shards, tombstones, counted(values, "evicted_steps"))


def _check_distinct(shards: Sequence[ShardEntry], tombstones: Mapping[str, int]) -> None:
    names = {entry.name for entry in shards}
    if len(names) < len(shards):
        raise ValueError("it holds a shard twice")
    # A protected one may have been evicted before it was moved to its place.
    for entry in shards:
        if entry.name in tombstones and not entry.protected:
            raise ValueError(f"{entry.name} is both drawn from and left out")


def _entry(values: Any) -> ShardEntry:
    if not isinstance(values, dict):
        raise ValueError(f"a shard must be described by an object, got {reprlib.repr(values)}")
    name, labels = typed(values, "name", str), typed(values, "labels", dict, type(None))
    _check_name(name)
    return ShardEntry(
        name,
        typed(values, "protected", bool),
        counted(values, "steps"),
        counted(values, "bytes"),
        typed(values, "checksum", str),
        _counts(values, "env_steps"),
        None if labels is None else _label_entry(labels),
    )


def _label_entry(values: Mapping[str, Any]) -> LabelEntry:
    identity = identity_of(typed(values, "identity", dict))
    return LabelEntry(identity, counted(values, "bytes"), typed(values, "checksum", str))


def _counts(values: Mapping[str, Any], name: str) -> dict[str, int]:
    table: dict[str, Any] = typed(values, name, dict)
    return {key: counted(table, key) for key in table}


def _check_name(name: str) -> None:
    """See that a name is one that a scan can have found, and no way out of the folder."""
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:
        size = 0
    plain = name.endswith(SUFFIX) and not name.startswith(".") and not {"/", "\0"} & set(name)
    if not plain or not 0 < size <= LONGEST_NAME:
        raise ValueError(f"{reprlib.repr(name)} is no name of a shard")
