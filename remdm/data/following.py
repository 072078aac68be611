"""The newest manifest, for processes that look at it over and over."""

import contextlib

from remdm.data.folder import DatasetFolder
from remdm.data.generation import Manifest
from remdm.data.manifest import load_manifest

# Generation, inode, size and time of the last change in nanoseconds of each manifest on disk.
Marks = tuple[tuple[int, int, int, int], ...]


class ManifestFollower:
    """The newest manifest of a folder, read again only where there is a newer one."""

    def __init__(self, folder: DatasetFolder) -> None:
        """Args:
        folder: The dataset; nothing in it is changed.
        """
        self.folder = folder
        self._marks: Marks | None = None
        self._manifest = Manifest()
        self.names: frozenset[str] = frozenset()

    def marks(self) -> Marks:
        """What tells whether any manifest was made, replaced or deleted."""
        found = []
        for generation, path in self.folder.manifests().items():
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((generation, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        return tuple(found)

    def newest(self) -> Manifest:
        """The newest manifest that can be read; the empty one if there is none.

        Its shards and tombstones are in `names`.
        """
        # Looked at before it is read: what is made meanwhile is read with the next call.
        marks = self.marks()
        if marks != self._marks:
            self._take(load_manifest(self.folder), marks)
        return self._manifest

    def adopt(self, manifest: Manifest) -> None:
        """Take the newest manifest from its writer, who need not read it."""
        self._take(manifest, self.marks())

    def _take(self, manifest: Manifest, marks: Marks) -> None:
        self._manifest, self._marks = manifest, marks
        self.names = frozenset([e.name for e in manifest.shards]) | manifest.tombstones.keys()
