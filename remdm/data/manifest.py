"""Which files of a dataset are drawn from: numbered manifests, first in first out, quarantine.

One process scans the folder and writes a manifest generation; all processes of a run draw from
the generation they are told, so they agree on the data whatever their directory listings say.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from remdm.data.generation import LONGEST_NAME, LabelEntry, Manifest, ShardEntry
from remdm.data.opened import OpenFiles
from remdm.data.plain_json import one_line, parsed_object
from remdm.data.tensor_file import SUFFIX, DamagedFileError, atomic_file, sweep_temporary_files

logger = logging.getLogger(__name__)

MANIFESTS_KEPT = 5
_NOTE = ".reason.txt"
_MANIFEST_NAME = re.compile(r"manifest-(\d{6,})\.json")


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
            match = _MANIFEST_NAME.fullmatch(path.name)
            if match and path.is_file():
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    @property
    def num_quarantined(self) -> int:
        """Files that were set aside as damaged."""
        return sum(not p.name.endswith(_NOTE) for p in self.quarantine.glob("*"))

    def set_aside(self, error: DamagedFileError) -> None:
        """Move a damaged file to `quarantine/` and write down why."""
        self.quarantine.mkdir(parents=True, exist_ok=True)
        # Room for a number and for the name of the note.
        kept = os.fsdecode(os.fsencode(error.path.name)[: LONGEST_NAME - 30])
        target, number = self.quarantine / kept, 1
        while target.exists():
            number += 1
            target = self.quarantine / f"{kept}.{number}"
        try:
            error.path.replace(target)
        except FileNotFoundError:
            return
        note = target.with_name(target.name + _NOTE)
        with atomic_file(note, "the reason of a quarantine") as file:
            # A file's name may be bytes that are no text.
            words = f"{error.reason}\n(it was {error.path})\n"
            file.write(words.encode(errors="backslashreplace"))
        place = one_line(str(target))
        logger.warning("%s; it was moved to %s and training goes on", error, place)

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
        return _read_manifest(paths[generation], generation)
    for number, path in reversed(paths.items()):
        try:
            return _read_manifest(path, number)
        except ValueError as error:
            logger.warning("%s; an older manifest, or a new scan, takes its place", error)
    return Manifest()


def _read_manifest(path: Path, generation: int) -> Manifest:
    try:
        manifest = Manifest.from_json(parsed_object(path.read_bytes()))
        if manifest.generation != generation:
            raise ValueError(f"it says of itself that it is of generation {manifest.generation}")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no readable manifest: {one_line(str(error), 300)}") from error
    return manifest


def save_manifest(folder: DatasetFolder, manifest: Manifest) -> None:
    """Write a manifest atomically and delete all but the last few."""
    path = folder.root / f"manifest-{manifest.generation:06d}.json"
    with atomic_file(path, "a manifest") as file:
        file.write(json.dumps(manifest.to_json(), indent=1).encode())
    # Damaged ones may bear higher numbers; the new one must not go in their place.
    done = [old for number, old in folder.manifests().items() if number <= manifest.generation]
    for old in done[:-MANIFESTS_KEPT]:
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
