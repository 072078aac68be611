"""Looks at a run folder from outside, all the time: nothing in it may ever be half, or go away."""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path

from remdm.data.folder import DatasetFolder, listed
from remdm.data.generation import Manifest
from remdm.data.labels import Labels
from remdm.data.manifest import load_manifest
from remdm.data.records import Segment
from remdm.data.shard_names import parse_shard_name
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError
from remdm.distributed.published_files import read_latest
from remdm.training.checkpoint import STATE_FILE, CheckpointError, check_whole
from remdm.training.run_folder import RunFolder

POLL_S = 0.1
Signature = tuple[int, int, int]


@dataclass(frozen=True)
class SeenShard:
    """A shard as it was when it was first seen."""

    name: str
    checksum: str
    num_steps: int
    segments: tuple[Segment, ...]


class FolderWatch(threading.Thread):
    """Opens every file that bears a final name, once, as soon as it is there.

    Attributes:
        shards: All that were ever seen, by name.
        manifests: All generations that were ever seen.
        faults: What must not be, in words.
    """

    def __init__(self, run: Path, expected_damage: bool = False) -> None:
        super().__init__(daemon=True)
        self.run_folder, self.folder = RunFolder(run), DatasetFolder(run)
        self.expected_damage = expected_damage
        self.shards: dict[str, SeenShard] = {}
        self.manifests: dict[int, Manifest] = {}
        self.versions: list[int] = []
        self.faults: list[str] = []
        self._looked: set[tuple[str, Signature]] = set()
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(POLL_S):
            self.look()

    def stop(self) -> None:
        """Look once more, and end."""
        self._end.set()
        self.join()
        self.look()

    def __enter__(self) -> "FolderWatch":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def look(self) -> None:
        """One look at everything."""
        try:
            self._look_at_shards()
            self._look_at_labels()
            self._look_at_manifests()
            self._look_at_weights()
            self._look_at_checkpoints()
        except Exception as error:
            self.faults.append(f"the watch itself failed: {error!r}")
            raise

    def _is_new(self, path: Path) -> bool:
        try:
            stat = path.stat()
        except FileNotFoundError:
            return False
        key = str(path), (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if key in self._looked:
            return False
        self._looked.add(key)
        return True

    def _look_at_shards(self) -> None:
        for path in filter(self._is_new, listed(self.folder.shards)):
            try:
                shard = Shard.open(path, verify_data=True)
            except FileNotFoundError:
                continue
            except DamagedFileError as error:
                self._damaged(error)
                continue
            name = parse_shard_name(path.name)
            seen = SeenShard(path.name, shard.checksum, shard.num_steps, shard.segments)
            if name.num_steps != shard.num_steps:
                self.faults.append(f"{path.name} holds {shard.num_steps} steps")
            if self.shards.setdefault(path.name, seen) != seen:
                self.faults.append(f"{path.name} was replaced by another shard")

    def _look_at_labels(self) -> None:
        for path in filter(self._is_new, listed(self.folder.labels)):
            try:
                Labels.open(path, verify_data=True)
            except FileNotFoundError:
                continue
            except DamagedFileError as error:
                self._damaged(error)

    def _damaged(self, error: DamagedFileError) -> None:
        if not self.expected_damage:
            self.faults.append(f"half a file: {error}")

    def _look_at_manifests(self) -> None:
        for generation, path in self.folder.manifests().items():
            if not self._is_new(path):
                continue
            try:
                manifest = load_manifest(self.folder, generation)
            except FileNotFoundError:
                continue
            except ValueError as error:
                if path.exists():
                    self.faults.append(f"half a manifest: {error}")
                continue
            if self.manifests.setdefault(generation, manifest) != manifest:
                self.faults.append(f"manifest {generation} was replaced by another one")

    def _look_at_weights(self) -> None:
        if not self._is_new(self.run_folder.latest / "LATEST.json"):
            return
        latest = read_latest(self.run_folder.latest)
        if latest is None:
            return
        try:
            raw = (self.run_folder.latest / latest.file).read_bytes()
        except FileNotFoundError:
            raw = None
        newer = read_latest(self.run_folder.latest)
        if raw is None:
            if newer is None or newer.version == latest.version:
                self.faults.append(f"there are no weights of version {latest.version}")
            return
        if hashlib.sha256(raw).hexdigest() != latest.sha256:
            self.faults.append(f"half a file of weights: version {latest.version}")
        if self.versions and latest.version <= self.versions[-1]:
            self.faults.append(f"version {latest.version} came after {self.versions[-1]}")
        self.versions.append(latest.version)

    def _look_at_checkpoints(self) -> None:
        folders = [*self.run_folder.checkpoints.glob("epoch_*/"), self.run_folder.best]
        for folder in folders:
            if not self._is_new(folder):
                continue
            try:
                check_whole(folder)
            except (CheckpointError, FileNotFoundError) as error:
                # Replaced or removed meanwhile; half of one would be there still.
                if (folder / STATE_FILE).exists() and folder.exists():
                    self.faults.append(f"half a checkpoint: {error}")
