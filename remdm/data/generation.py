"""One generation of a dataset, and the JSON it is kept as.

A manifest decides which files are opened, and which are deleted, so one that was read is checked:
names in it must be those of files in the dataset's own folders. It is written as columns, one list
for each fact about all shards, as a dataset may have tens of thousands of them.
"""

import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import not_
from typing import Any

from remdm.data.labels import LabelIdentity, identity_of
from remdm.data.plain_json import counted, typed
from remdm.data.tensor_file import SUFFIX

MANIFEST_SCHEMA_VERSION = 2
# Bytes; what file systems allow.
LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """A label file of the manifest.

    Attributes:
        identity: Who labelled, and how far ahead.
        bytes: Size of the file.
        checksum: Stands for its contents.
        verified: Whether its contents were compared with it; whoever draws from it does so first,
            where they were not.
    """

    identity: LabelIdentity
    bytes: int
    checksum: str
    verified: bool = field(default=True, compare=False)


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """A shard of the manifest.

    Attributes:
        name: File name.
        protected: Whether it lies in `protected/` and is never evicted.
        steps: Steps in it.
        bytes: Size of the file.
        checksum: Stands for its contents.
        labels: Its label file; None if it has none that fits.
        verified: See `LabelEntry`.
    """

    name: str
    protected: bool
    steps: int
    bytes: int
    checksum: str
    labels: LabelEntry | None
    verified: bool = field(default=True, compare=False)

    @property
    def total_bytes(self) -> int:
        """Bytes of shard and labels."""
        return self.bytes + (self.labels.bytes if self.labels else 0)

    @property
    def all_verified(self) -> bool:
        """Whether the contents of shard and labels were compared with their checksums."""
        return self.verified and (self.labels is None or self.labels.verified)


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
        return {
            "schema_version": MANIFEST_SCHEMA_VERSION,
            "generation": self.generation,
            "shards": _columns(self.shards),
            "tombstones": self.tombstones,
            "evicted_steps": self.evicted_steps,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Manifest":
        """The inverse of `to_json`; reads version 1, too.

        Raises:
            ValueError: If the values are of an unknown schema version, or no manifest's.
        """
        version = values.get("schema_version")
        if type(version) is not int or version not in (1, MANIFEST_SCHEMA_VERSION):
            raise ValueError(
                f"a manifest of schema version 1 or {MANIFEST_SCHEMA_VERSION} can be read, "
                f"got version {reprlib.repr(version)}"
            )
        generation = counted(values, "generation")
        if version == 1:
            shards = tuple(map(_entry, typed(values, "shards", list, tuple)))
        else:
            shards = _entries(typed(values, "shards", dict))
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


# Columns


def _columns(shards: Sequence[ShardEntry]) -> dict[str, Any]:
    labels = [entry.labels for entry in shards]
    identities = {found.identity: 0 for found in labels if found is not None}
    for place, identity in enumerate(identities):
        identities[identity] = place
    return {
        "name": [entry.name for entry in shards],
        "protected": [place for place, entry in enumerate(shards) if entry.protected],
        "steps": [entry.steps for entry in shards],
        "bytes": [entry.bytes for entry in shards],
        "checksum": [entry.checksum for entry in shards],
        "unverified": [place for place, entry in enumerate(shards) if not entry.verified],
        "label_identities": [[i.oracle, i.version, i.plan_horizon] for i in identities],
        "label_identity": [-1 if found is None else identities[found.identity] for found in labels],
        "label_bytes": [0 if found is None else found.bytes for found in labels],
        "label_checksum": ["" if found is None else found.checksum for found in labels],
        "unverified_labels": [
            place for place, found in enumerate(labels) if found is not None and not found.verified
        ],
    }


def _entries(columns: Mapping[str, Any]) -> tuple[ShardEntry, ...]:
    names = _column(columns, "name", str)
    count = len(names)
    for name in names:
        _check_name(name)
    labels = _labels(columns, count)
    protected, unverified = (_flags(columns, name, count) for name in ("protected", "unverified"))
    return tuple(
        map(
            ShardEntry,
            names,
            protected,
            _column(columns, "steps", int, count),
            _column(columns, "bytes", int, count),
            _column(columns, "checksum", str, count),
            labels,
            map(not_, unverified),
        )
    )


def _labels(columns: Mapping[str, Any], count: int) -> list[LabelEntry | None]:
    identities = [_identity(values) for values in typed(columns, "label_identities", list)]
    numbers = _column(columns, "label_identity", int, count, least=-1)
    if numbers and max(numbers) >= len(identities):
        raise ValueError("label_identity must be places in label_identities")
    made = map(
        _label_or_none,
        numbers,
        repeat(identities),
        _column(columns, "label_bytes", int, count),
        _column(columns, "label_checksum", str, count),
        map(not_, _flags(columns, "unverified_labels", count)),
    )
    return list(made)


def _label_or_none(
    number: int, identities: list[LabelIdentity], size: int, checksum: str, verified: bool
) -> LabelEntry | None:
    return None if number < 0 else LabelEntry(identities[number], size, checksum, verified)


def _identity(values: Any) -> LabelIdentity:
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"label_identities must be lists of three, got {reprlib.repr(values)}")
    return identity_of(dict(zip(("oracle", "version", "plan_horizon"), values, strict=True)))


def _column(
    columns: Mapping[str, Any], name: str, kind: type, count: int | None = None, *, least: int = 0
) -> list[Any]:
    """A list of `count` values of exactly one type; numbers from `least` to what int64 holds."""
    values: list[Any] = typed(columns, name, list)
    if count is not None and len(values) != count:
        raise ValueError(f"{name} must have {count} values, got {len(values)}")
    if values and set(map(type, values)) != {kind}:
        wrong = next(value for value in values if type(value) is not kind)
        raise ValueError(f"{name} must hold {kind.__name__} only, got {reprlib.repr(wrong)}")
    if kind is int and values and not least <= min(values) <= max(values) < 2**63:
        raise ValueError(f"{name} must hold numbers in {least}..2**63 - 1")
    return values


def _flags(columns: Mapping[str, Any], name: str, count: int) -> list[bool]:
    """Of each shard whether a column names its place."""
    flags = [False] * count
    for place in _column(columns, name, int):
        if place >= count:
            raise ValueError(f"{name} must be places of shards, got {reprlib.repr(place)}")
        flags[place] = True
    return flags


# Version 1: a list of objects


def _entry(values: Any) -> ShardEntry:
    if not isinstance(values, dict):
        raise ValueError(f"a shard must be described by an object, got {reprlib.repr(values)}")
    name, labels = typed(values, "name", str), typed(values, "labels", dict, type(None))
    _check_name(name)
    _counts(values, "env_steps")
    return ShardEntry(
        name,
        typed(values, "protected", bool),
        counted(values, "steps"),
        counted(values, "bytes"),
        typed(values, "checksum", str),
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
    plain = name.endswith(SUFFIX) and not name.startswith(".") and "/" not in name
    if not plain or "\0" in name or not 0 < size <= LONGEST_NAME:
        raise ValueError(f"{reprlib.repr(name)} is no name of a shard")
