"""The folders of a dataset, what lies in them, and the newest shard of a collector."""

import contextlib
import logging
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from remdm.data.atomic_file import TEMPORARY_PREFIX, atomic_file
from remdm.data.generation import LONGEST_NAME, ShardEntry
from remdm.data.plain_json import one_line
from remdm.data.shard_file import Shard
from remdm.data.shard_names import parsed_or_none
from remdm.data.tensor_file import SUFFIX, DamagedFileError

logger = logging.getLogger(__name__)

_NOTE = ".reason.txt"
_MANIFEST_NAME = re.compile(r"manifest-(\d{6,})\.json")


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a dataset's folders, by name the inode.

    A file that takes the place of another has another inode. That costs nothing to know, while
    to ask for more is a call to the system for each file.

    Attributes:
        protected: Shards that are never evicted.
        shards: All other shards, apart from those whose name is among the protected ones.
        labels: Label files.
        temporary: Files that somebody writes, or left behind.
    """

    protected: dict[str, int]
    shards: dict[str, int]
    labels: dict[str, int]
    temporary: list[Path]


@dataclass(frozen=True, slots=True)
class DatasetFolder:
    """Paths of a dataset.

    Attributes:
        root: The folder that holds all others.
        shards: Where collectors write.
        labels: Label files; each has the name of its shard.
        protected: Shards that are never evicted, e.g. demonstrations.
        quarantine: Damaged files, each with its reason.
        superseded: Shards that a resumed run collects again.
    """

    root: Path
    shards: Path = field(init=False, repr=False)
    labels: Path = field(init=False, repr=False)
    protected: Path = field(init=False, repr=False)
    quarantine: Path = field(init=False, repr=False)
    superseded: Path = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Name the folders."""
        for name in ("shards", "labels", "protected", "quarantine", "superseded"):
            object.__setattr__(self, name, self.root / name)

    def make(self) -> None:
        """Make the folders that must exist."""
        for path in (self.shards, self.labels, self.protected):
            path.mkdir(parents=True, exist_ok=True)

    def shard_path(self, entry: ShardEntry) -> Path:
        """Where an entry's shard lies."""
        return (self.protected if entry.protected else self.shards) / entry.name

    def shard_paths(self) -> list[Path]:
        """All shards on disk: protected ones first, each group sorted by name."""
        protected = listed(self.protected)
        names = {path.name for path in protected}
        return protected + [path for path in listed(self.shards) if path.name not in names]

    def listing(self) -> Listing:
        """What lies in the folders now; one that is missing is empty."""
        temporary: list[Path] = []
        labels = _inodes(self.labels, temporary)
        shards = _inodes(self.shards, temporary)
        # Last: what was moved there meanwhile is then found in one of both places.
        protected = _inodes(self.protected, temporary)
        _inodes(self.root, temporary)
        for name in protected.keys() & shards.keys():
            del shards[name]
        return Listing(protected, shards, labels, temporary)

    def manifests(self) -> dict[int, Path]:
        """All manifests on disk by generation, oldest first."""
        found = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            for entry in entries:
                match = _MANIFEST_NAME.fullmatch(entry.name)
                if match and entry.is_file():
                    found[int(match[1])] = self.root / entry.name
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


def _inodes(folder: Path, temporary: list[Path]) -> dict[str, int]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        found = {entry.name: entry.inode() for entry in entries}
        # There are tens of thousands of the one kind and few others.
        for name in [n for n in found if n[0] == "." or not n.endswith(SUFFIX)]:
            del found[name]
            if name.startswith(TEMPORARY_PREFIX):
                temporary.append(folder / name)
        return found
    return {}


def listed(folder: Path) -> list[Path]:
    """The shards or label files in a folder, sorted by name."""
    return sorted(p for p in folder.glob(f"*{SUFFIX}") if not p.name.startswith("."))


def newest_shard(folder: DatasetFolder, collector: str) -> Shard | None:
    """The newest shard of a collector that can be read: it goes on from its state.

    Args:
        folder: The dataset; only `shards/` is looked at.
        collector: Name of the collector.

    Returns:
        The shard of the highest epoch and sequence whose contents match their checksum; None if
        there is none. Damaged ones are set aside: what was in them is collected again, and must
        not be learnt from twice.

    Raises:
        OSError: If a damaged one cannot be set aside.
    """
    try:
        names = os.listdir(folder.shards)
    except FileNotFoundError:
        return None
    told = [(parsed_or_none(name), name) for name in names]
    own = [(n.epoch, n.sequence, name) for n, name in told if n and n.collector == collector]
    for *_, name in sorted(own, reverse=True):
        try:
            return Shard.open(folder.shards / name, verify_data=True)
        except FileNotFoundError:
            continue  # set aside since the look at the folder
        except DamagedFileError as error:
            folder.set_aside(error)
    return None
