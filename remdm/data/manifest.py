"""Which files of a dataset are drawn from: numbered manifests, first in first out, quarantine.

One process scans the folder and writes a manifest generation; all processes of a run draw from
the generation they are told, so they agree on the data whatever their directory listings say.
"""

import json
import logging
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from remdm.data.labels import LabelIdentity
from remdm.data.opened import OpenFiles
from remdm.data.tensor_file import SUFFIX, DamagedFileError, atomic_file, sweep_temporary_files

logger = logging.getLogger(__name__)

MANIFEST_SCHEMA_VERSION = 1
MANIFESTS_KEPT = 5
_NOTE = ".reason.txt"
_MANIFEST_NAME = re.compile(r"manifest-(\d{6,})\.json")


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
            ValueError: If the values are of an unknown schema version.
        """
        if values.get("schema_version") != MANIFEST_SCHEMA_VERSION:
            raise ValueError(
                f"a manifest of schema version {MANIFEST_SCHEMA_VERSION} can be read, "
                f"got version {values.get('schema_version')}"
            )
        fields = {k: v for k, v in values.items() if k != "schema_version"}
        return cls(**{**fields, "shards": tuple(_entry(e) for e in values["shards"])})


def _entry(values: Mapping[str, Any]) -> ShardEntry:
    labels = values["labels"]
    if labels is not None:
        labels = LabelEntry(**{**labels, "identity": LabelIdentity(**labels["identity"])})
    return ShardEntry(**{**values, "labels": labels})


@dataclass(frozen=True, slots=True)
class Limits:
    """When files go.

    Attributes:
        max_steps: Largest number of steps outside `protected/`; None for no limit.
        max_bytes: Largest number of bytes outside `protected/`; None for no limit.
        unlink_after: Generations between leaving a shard out and deleting its file.
        stale_after_s: Age from which a temporary file counts as left by a killed writer.
    """

    max_steps: int | None = None
    max_bytes: int | None = None
    unlink_after: int = 1
    stale_after_s: float = 1800.0


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """Paths of a dataset.

    Attributes:
        root: The folder that holds all others.
    """

    root: Path

    @property
    def shards(self) -> Path:
        """Where collectors write."""
        return self.root / "shards"

    @property
    def labels(self) -> Path:
        """Label files; each has the name of its shard."""
        return self.root / "labels"

    @property
    def protected(self) -> Path:
        """Shards that are never evicted, e.g. demonstrations."""
        return self.root / "protected"

    @property
    def quarantine(self) -> Path:
        """Damaged files, each with its reason."""
        return self.root / "quarantine"

    @property
    def superseded(self) -> Path:
        """Shards that a resumed run collects again."""
        return self.root / "superseded"

    def make(self) -> None:
        """Make the folders that must exist."""
        for path in (self.shards, self.labels, self.protected):
            path.mkdir(parents=True, exist_ok=True)

    def shard_path(self, entry: ShardEntry) -> Path:
        """Where an entry's shard lies."""
        return (self.protected if entry.protected else self.shards) / entry.name

    def shard_paths(self) -> list[Path]:
        """All shards on disk: protected ones first, each group sorted by name."""
        protected = _listed(self.protected)
        names = {path.name for path in protected}
        return protected + [path for path in _listed(self.shards) if path.name not in names]

    def manifests(self) -> dict[int, Path]:
        """All manifests on disk by generation, oldest first."""
        found = {}
        for path in self.root.glob("manifest-*.json"):
            if match := _MANIFEST_NAME.fullmatch(path.name):
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    @property
    def num_quarantined(self) -> int:
        """Files that were set aside as damaged."""
        return sum(not p.name.endswith(_NOTE) for p in self.quarantine.glob("*"))

    def set_aside(self, error: DamagedFileError) -> None:
        """Move a damaged file to `quarantine/` and write down why."""
        self.quarantine.mkdir(parents=True, exist_ok=True)
        target, number = self.quarantine / error.path.name, 1
        while target.exists():
            number += 1
            target = self.quarantine / f"{error.path.name}.{number}"
        try:
            error.path.replace(target)
        except FileNotFoundError:
            return
        note = target.with_name(target.name + _NOTE)
        with atomic_file(note, "the reason of a quarantine") as file:
            file.write(f"{error.reason}\n(it was {error.path})\n".encode())
        logger.warning("%s; it was moved to %s and training goes on", error, target)

    def delete(self) -> None:
        """Delete everything but `protected/` and what does not belong to the dataset."""
        for path in (self.shards, self.labels, self.quarantine, self.superseded):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.manifests().values():
            path.unlink(missing_ok=True)


def _listed(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob(f"*{SUFFIX}") if not p.name.startswith("."))


def load_manifest(folder: DatasetFolder, generation: int | None = None) -> Manifest:
    """Read a manifest.

    Args:
        folder: The dataset.
        generation: Which one; the newest readable one when None, or the empty one if none is.

    Raises:
        FileNotFoundError: If there is no such generation.
        ValueError: If the generation asked for cannot be read.
    """
    paths = folder.manifests()
    if generation is not None and generation not in paths:
        raise FileNotFoundError(
            f"{folder.root} has no manifest of generation {generation}; it has {list(paths)}"
        )
    if generation is not None:
        return _read_manifest(paths[generation])
    for path in reversed(paths.values()):
        try:
            return _read_manifest(path)
        except ValueError as error:
            logger.warning("%s; an older manifest, or a new scan, takes its place", error)
    return Manifest()


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.from_json(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no readable manifest: {error}") from error


def save_manifest(folder: DatasetFolder, manifest: Manifest) -> None:
    """Write a manifest atomically and delete all but the last few."""
    path = folder.root / f"manifest-{manifest.generation:06d}.json"
    with atomic_file(path, "a manifest") as file:
        file.write(json.dumps(manifest.to_json(), indent=1).encode())
    for old in list(folder.manifests().values())[:-MANIFESTS_KEPT]:
        old.unlink(missing_ok=True)


def refresh_manifest(folder: DatasetFolder, limits: Limits, files: OpenFiles) -> Manifest:
    """Scan the folder and write the next generation, if anything changed.

    To be called by one process only.

    New files are read once and compared with their checksums; damaged ones are left out.
    The oldest shards beyond the limits are left out of the new manifest, and their files are
    deleted `unlink_after` generations later, so that no reader loses a file it was told of.
    The newest shard always stays.

    Args:
        folder: The dataset.
        limits: When files go.
        files: What is open already; it is told of damaged files.

    Raises:
        OSError: If the manifest cannot be written, e.g. because the disk is full.
    """
    folder.make()
    for place in (folder.root, folder.shards, folder.labels, folder.protected):
        sweep_temporary_files(place, limits.stale_after_s)
    previous = load_manifest(folder)
    kept, evicted = _within_limits(_survey(folder, previous, files), limits)
    if kept == previous.shards and not evicted:
        return previous
    generation = previous.generation + 1
    tombstones = _bury(folder, previous.tombstones, generation - limits.unlink_after)
    manifest = Manifest(
        generation,
        kept,
        tombstones | dict.fromkeys((e.name for e in evicted), generation),
        previous.evicted_steps + sum(e.steps for e in evicted),
    )
    save_manifest(folder, manifest)
    return manifest


def _bury(folder: DatasetFolder, tombstones: Mapping[str, int], newest: int) -> dict[str, int]:
    """Delete files left out in generation `newest` or before; returns the other tombstones."""
    for name, left_out in tombstones.items():
        if left_out <= newest:
            # Moved to protected/ meanwhile, the shard lives on, and so do its labels.
            (folder.shards / name).unlink(missing_ok=True)
            if not (folder.protected / name).exists():
                (folder.labels / name).unlink(missing_ok=True)
    return {name: left_out for name, left_out in tombstones.items() if left_out > newest}


def _survey(folder: DatasetFolder, previous: Manifest, files: OpenFiles) -> list[ShardEntry]:
    """Entries of all whole shards."""
    known = {e.checksum for e in previous.shards}
    known |= {e.labels.checksum for e in previous.shards if e.labels}
    entries = []
    for path in folder.shard_paths():
        protected = path.parent == folder.protected
        if path.name in previous.tombstones and not protected:
            continue
        shard = files.shard(path, known)
        if shard is None:
            continue
        labels = files.labels(folder.labels / path.name, known)
        entry = None
        if labels is not None and labels.belongs_to(shard):
            entry = LabelEntry(labels.identity, labels.nbytes, labels.checksum)
        entries.append(
            ShardEntry(
                path.name,
                protected,
                shard.num_steps,
                shard.nbytes,
                shard.checksum,
                shard.env_steps,
                entry,
            )
        )
    return entries


def _within_limits(
    entries: list[ShardEntry], limits: Limits
) -> tuple[tuple[ShardEntry, ...], list[ShardEntry]]:
    """Entries that stay, and the oldest unprotected ones that go."""
    queue = [e for e in entries if not e.protected]
    steps, size = sum(e.steps for e in queue), sum(e.total_bytes for e in queue)
    evicted: list[ShardEntry] = []
    for entry in queue[:-1]:
        too_many = limits.max_steps is not None and steps > limits.max_steps
        too_large = limits.max_bytes is not None and size > limits.max_bytes
        if not (too_many or too_large):
            break
        evicted.append(entry)
        steps, size = steps - entry.steps, size - entry.total_bytes
    gone = {e.name for e in evicted}
    return tuple(e for e in entries if e.protected or e.name not in gone), evicted


def rewind_manifest(folder: DatasetFolder, manifest: Manifest, known: Collection[str]) -> None:
    """Make a manifest that a checkpoint remembers the newest one again.

    Args:
        folder: The dataset.
        manifest: What was drawn from when the checkpoint was made.
        known: Names of the shards that existed then. All others move to `superseded/`: the
            resumed run collects them again.
    """
    folder.make()
    for path in _listed(folder.shards):
        if path.name not in known:
            folder.superseded.mkdir(parents=True, exist_ok=True)
            path.replace(folder.superseded / path.name)
            (folder.labels / path.name).unlink(missing_ok=True)
            logger.info("%s is collected again; it was moved to superseded/", path.name)
    for generation, path in folder.manifests().items():
        if generation > manifest.generation:
            path.unlink(missing_ok=True)
    if manifest.generation:
        save_manifest(folder, manifest)
