"""The one process that owns a dataset scans it, and writes manifests of what it finds."""

import os
from collections.abc import Sequence
from dataclasses import replace

from remdm.data.atomic_file import sweep_files
from remdm.data.burial import Burial
from remdm.data.eviction import Limits, within_limits
from remdm.data.folder import DatasetFolder, Listing
from remdm.data.following import ManifestFollower
from remdm.data.generation import LabelEntry, Manifest, ShardEntry
from remdm.data.manifest import save_manifest
from remdm.data.opened import OpenFiles

# Bytes that one scan compares with their checksums; the rest follows with later scans, or when it
# is first drawn from.
VERIFIED_BYTES = 4 << 20
# Known files that one scan looks at again, in turns, beyond what a listing tells.
LOOKED_AT_AGAIN = 256


class Scanner:
    """Takes in what collectors and labellers have written, and evicts what is too much.

    A scan costs little more than a listing of the folders: known files are not touched, and of a
    new one only the header is read. To be used by one process only.
    """

    def __init__(self, folder: DatasetFolder, files: OpenFiles) -> None:
        """Args:
        folder: The dataset.
        files: What is open already; it is told of damaged files.
        """
        self.folder, self.files = folder, files
        self._follower, self._burial = ManifestFollower(folder), Burial(folder)
        # Texts are joined much faster than paths.
        self._shards, self._protected, self._labels = (
            f"{place}{os.sep}" for place in (folder.shards, folder.protected, folder.labels)
        )
        # By name: inodes of shard and labels (0 for none), and what was found there.
        self._seen: dict[str, tuple[int, int]] = {}
        self._entries: dict[str, ShardEntry] = {}
        self._turn = 0

    def refresh(self, limits: Limits) -> Manifest:
        """Scan the folder and write the next generation, if anything changed.

        New files are opened; damaged ones are left out. The contents of some are compared with
        their checksums here, those of the others before they are first drawn from.
        The oldest shards beyond the limits are left out of the new manifest, and their files are
        deleted `unlink_after` generations later, so that no reader loses a file it was told of;
        see `bury`.
        The newest shard always stays, and so does the newest one of every collector: a collector
        that is started again goes on from it.

        Args:
            limits: When files go.

        Raises:
            OSError: If the manifest cannot be written, e.g. because the disk is full.
        """
        self.folder.make()
        listing, previous = self.folder.listing(), self._follower.newest()
        sweep_files(listing.temporary, limits.stale_after_s)
        entries = self._verified(self._survey(listing, previous))
        kept, evicted = within_limits(entries, limits)
        if kept == previous.shards and not evicted:
            return previous
        generation, deleted = previous.generation + 1, self._burial.done
        tombstones = {n: g for n, g in previous.tombstones.items() if n not in deleted}
        manifest = Manifest(
            generation,
            kept,
            tombstones | dict.fromkeys([e.name for e in evicted], generation),
            previous.evicted_steps + sum(e.steps for e in evicted),
        )
        for entry in evicted:
            self.files.drop(self._shards + entry.name, self._labels + entry.name)
        save_manifest(self.folder, manifest)
        self._follower.adopt(manifest)
        return manifest

    def bury(self, limits: Limits) -> None:
        """Delete the files of shards that were evicted long enough ago; may go on after the return.

        They are tombstones of the newest manifest, and the one after their deletion forgets them.

        Args:
            limits: Says how long.

        Raises:
            OSError: If a file cannot be deleted.
        """
        manifest = self._follower.newest()
        newest = manifest.generation - limits.unlink_after
        self._burial.bury(n for n, left_out in manifest.tombstones.items() if left_out <= newest)

    def wait(self) -> None:
        """Wait until all that was to be deleted is."""
        self._burial.wait()

    def _survey(self, listing: Listing, previous: Manifest) -> list[ShardEntry]:
        """Entries of all shards whose header is right."""
        seen, known, labels = self._seen, self._entries, listing.labels
        trusted = _verified_checksums(previous) if not known else frozenset[str]()
        self._seen, self._entries, again = {}, {}, self._due(list(known))
        for protected, inodes in ((True, listing.protected), (False, listing.shards)):
            gone = () if protected else previous.tombstones
            for name in sorted(inodes):
                if name in gone:
                    continue
                entry, now = known.get(name), (inodes[name], labels.get(name, 0))
                if (
                    entry is None
                    or seen[name] != now
                    or entry.protected is not protected
                    or name in again
                ):
                    found = self._look(name, protected, name in labels, trusted)
                    if found is None:
                        continue
                    # The same object where nothing has changed: it is fast to compare.
                    entry = entry if entry == found else found
                self._seen[name], self._entries[name] = now, entry
        return list(self._entries.values())

    def _due(self, names: Sequence[str]) -> frozenset[str]:
        """Names whose turn it is to be looked at closely, in case of what a listing cannot tell."""
        start = self._turn if self._turn < len(names) else 0
        self._turn = start + LOOKED_AT_AGAIN
        return frozenset(names[start : self._turn])

    def _look(
        self, name: str, protected: bool, labelled: bool, trusted: frozenset[str]
    ) -> ShardEntry | None:
        """What lies under a name; None if there is no shard, or a damaged one."""
        place = self._protected if protected else self._shards
        shard = self.files.shard(place + name, trusted)
        if shard is None:
            return None
        labels = self.files.labels(self._labels + name, trusted) if labelled else None
        entry = None
        if labels is not None and labels.belongs_to(shard):
            whole = self.files.is_whole(labels)
            entry = LabelEntry(labels.identity, labels.nbytes, labels.checksum, whole)
        return ShardEntry(
            name,
            protected,
            shard.num_steps,
            shard.nbytes,
            shard.checksum,
            entry,
            self.files.is_whole(shard),
        )

    def _verified(self, entries: list[ShardEntry]) -> list[ShardEntry]:
        """Compare some contents with their checksums; without the shards that are damaged."""
        left = VERIFIED_BYTES
        for entry in [entry for entry in entries if not entry.all_verified]:
            if left <= 0:
                break
            compared = self._compared(entry)
            left -= entry.total_bytes
            if compared is None:
                del self._seen[entry.name], self._entries[entry.name]
            else:
                self._entries[entry.name] = compared
        return list(self._entries.values())

    def _compared(self, entry: ShardEntry) -> ShardEntry | None:
        """An entry without what turns out damaged."""
        place = self._protected if entry.protected else self._shards
        shard = self.files.shard(place + entry.name, (), entry.checksum)
        if shard is None or not self.files.verify(shard):
            return None
        labels = entry.labels
        if labels is not None:
            file = self.files.labels(self._labels + entry.name, (), labels.checksum)
            whole = file is not None and self.files.verify(file)
            labels = replace(labels, verified=True) if whole else None
        return replace(entry, labels=labels, verified=True)


def _verified_checksums(manifest: Manifest) -> frozenset[str]:
    shards = [entry.checksum for entry in manifest.shards if entry.verified]
    labels = [e.labels.checksum for e in manifest.shards if e.labels and e.labels.verified]
    return frozenset(shards + labels)
