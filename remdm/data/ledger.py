"""How many env steps a dataset has ever taken in, seen by processes that may only look at it."""

import os

from remdm.data.folder import DatasetFolder
from remdm.data.following import ManifestFollower
from remdm.data.generation import Manifest
from remdm.data.labels import LabelIdentity
from remdm.data.shard_names import parsed_or_none
from remdm.data.unlabelled import LabelQueue, log_damage

_ATTEMPTS = 20


class Ledger:
    """Counts the steps of a dataset that others write: collectors and one learner.

    Cheap enough to be asked every second: `shards/` is listed once, and a manifest is read only
    if it is a new one. Nothing is written, so the folder may be read-only.
    """

    def __init__(self, folder: DatasetFolder) -> None:
        """Args:
        folder: The dataset; it need not exist yet.
        """
        self.folder = folder
        self._follower = ManifestFollower(folder)
        self._queue: LabelQueue | None = None

    def collected(self) -> int:
        """Env steps ever collected into `shards/`, whether they are still there or evicted.

        Every shard that was there when the call began is counted once, and none that came after
        its end; of those that came in between, any may be counted. Shards that were moved away by
        hand, set aside as damaged, or superseded by a restored run are not.

        The sum: the evicted steps of manifest M, the steps of its unprotected shards, and, by
        their names, those of listed files that are none of M's shards and tombstones. Why it is
        right: let M be the newest manifest before the folder is listed, and M' the newest one
        after. The learner deletes a file only if it is a tombstone of the manifest that is then
        the newest, and does so before it writes the one that no longer names it. Hence

        *   nothing is counted twice: a listed file that was evicted by M or before is a tombstone
            of M, since all others had been deleted before M was written;
        *   nothing is missed if M' is M: only tombstones of M can have been deleted before the
            folder was listed, and those are among the evicted steps of M. If M' is the one after
            M, the same sum is made of M', and tombstones of M count as evicted. If it is a later
            one, a shard may have come, been evicted and been deleted: all begins anew.

        Raises:
            RuntimeError: If manifests are written faster than the folder can be listed.
            OSError: If the folder cannot be read.
        """
        for _ in range(_ATTEMPTS):
            before, buried = self._follower.newest(), self._follower.names
            names = self._listed()
            after = self._follower.newest()
            if after == before or after.generation == before.generation + 1:
                known = self._follower.names | (buried & before.tombstones.keys())
                new = map(parsed_or_none, set(names) - known)
                return _taken_in(after) + sum(name.num_steps for name in new if name)
        raise RuntimeError(
            f"{self.folder.root} must not get new manifests faster than its files can be listed; "
            f"it did in {_ATTEMPTS} attempts. Let the learner take in data less often."
        )

    def without_labels(self, wanted: LabelIdentity | None = None) -> int:
        """Env steps in `shards/` that wait for labels.

        To know how many are labelled, ask for `collected` first: what comes in between is then
        not counted as labelled.

        Args:
            wanted: Which labels are right; None for any, which are not opened then.

        Raises:
            OSError: If a folder cannot be read.
        """
        if self._queue is None or self._queue.wanted != wanted:
            self._queue = LabelQueue(self.folder, wanted, log_damage)
        waiting = [p.name for p in self._queue.waiting() if p.parent == self.folder.shards]
        return sum(name.num_steps for name in map(parsed_or_none, waiting) if name)

    def _listed(self) -> list[str]:
        try:
            return os.listdir(self.folder.shards)
        except FileNotFoundError:
            return []


def _taken_in(manifest: Manifest) -> int:
    return manifest.evicted_steps + sum(e.steps for e in manifest.shards if not e.protected)
