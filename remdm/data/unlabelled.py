"""Which shards still want labels: what labellers ask for over and over."""

import logging
from collections.abc import Callable, Set
from pathlib import Path

from remdm.data.folder import DatasetFolder
from remdm.data.following import ManifestFollower
from remdm.data.generation import Manifest
from remdm.data.labels import LabelIdentity, Labels
from remdm.data.shard_file import Shard
from remdm.data.shard_names import parsed_or_none
from remdm.data.tensor_file import SUFFIX, DamagedFileError, TensorFile

logger = logging.getLogger(__name__)

# Inode, size and time of the last change in nanoseconds.
_Signature = tuple[int, int, int]


def log_damage(error: DamagedFileError) -> None:
    """Tell of a damaged file, and leave it where it is."""
    logger.warning("%s", error)


class LabelQueue:
    """The shards of a dataset that have no right labels, for one of any number of labellers.

    To label one of `waiting()`: open it by `shard`, claim `claim_name(shard)`, see that nobody was
    faster, and call `label_shard`.

    Attributes:
        wanted: Which labels are right; None for any, which are not opened then.
    """

    def __init__(
        self,
        folder: DatasetFolder,
        wanted: LabelIdentity | None,
        on_damage: Callable[[DamagedFileError], None] | None = None,
    ) -> None:
        """Args:
        folder: The dataset.
        wanted: Which labels are right; None for any, which are not opened then.
        on_damage: Told of damaged files. When None they are set aside, as a learner does: nobody
            waits then for labels that they cannot get, and collectors make up for them.
        """
        self.folder, self.wanted = folder, wanted
        self.on_damage = folder.set_aside if on_damage is None else on_damage
        self._follower = ManifestFollower(folder)
        self._manifest: Manifest | None = None
        # By the name of the shard: inodes of right label files, and wrong ones as they were.
        self._right: dict[str, int] = {}
        self._wrong: dict[str, _Signature] = {}
        self._damaged: set[str] = set()

    def waiting(self) -> list[Path]:
        """Shards without labels, or with others than the wanted ones, oldest first.

        Three folders are listed. A label file is opened once, and again only if it is replaced;
        one that a manifest tells of need not be opened at all.

        Raises:
            OSError: If a folder cannot be read.
        """
        listing, manifest = self.folder.listing(), self._follower.newest()
        labels, protected = listing.labels, listing.protected.keys()
        if manifest is not self._manifest:
            self._believe(manifest, labels)
        self._forget(listing.shards.keys() | protected)
        asked = (listing.shards.keys() - manifest.tombstones.keys()) | protected
        asked -= self._damaged
        found = asked - labels.keys()
        if self.wanted is not None:
            unsure = {name for name, _ in labels.items() - self._right.items()} & asked
            found |= {name for name in unsure if not self._is_right(name, name in protected)}
        places = [
            (self.folder.protected if n in protected else self.folder.shards) / n for n in found
        ]
        return sorted(places, key=_age)

    def shard(self, path: Path) -> Shard | None:
        """One of `waiting()`, its contents compared with their checksum; None if it is not whole.

        A damaged one is not waiting any more.
        """
        try:
            return Shard.open(path, verify_data=True)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            self._damaged.add(path.name)
            self.on_damage(error)
            return None

    def _believe(self, manifest: Manifest, labels: dict[str, int]) -> None:
        """Take a manifest's word for label files that were not looked at here."""
        self._manifest = manifest
        for entry in manifest.shards:
            if entry.labels and entry.labels.identity == self.wanted:
                inode, name = labels.get(entry.name), entry.name
                if inode is not None and name not in self._wrong:
                    self._right.setdefault(name, inode)

    def _is_right(self, name: str, protected: bool) -> bool:
        """Open a label file, unless it is known to be wrong; whether it is a right one."""
        path = self.folder.labels / name
        shard = (self.folder.protected if protected else self.folder.shards) / name
        try:
            stat = path.stat()
            signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if self._wrong.get(name) == signature:
                return False
            labels = Labels.open(path)
            right = labels.identity == self.wanted
            right = right and labels.shard_checksum == TensorFile.open(shard).checksum
        except FileNotFoundError:
            return False
        except DamagedFileError as error:
            right = False
            # A damaged shard is told of when it is to be labelled.
            if error.path == path:
                self.on_damage(error)
        if right:
            self._right[name] = signature[0]
            self._wrong.pop(name, None)
        else:
            self._wrong[name] = signature
            self._right.pop(name, None)
        return right

    def _forget(self, names: Set[str]) -> None:
        """Keep only what is known of shards that are there."""
        for gone in self._right.keys() - names:
            del self._right[gone]
        for gone in self._wrong.keys() - names:
            del self._wrong[gone]
        self._damaged &= names


def claim_name(shard: Shard) -> str:
    """Name under which a shard's labelling is claimed: a replaced shard is work of its own."""
    stem = shard.path.name.removesuffix(SUFFIX)[:150]
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in stem)
    return f"{plain}-{shard.checksum}"


def _age(path: Path) -> tuple[int, int, str]:
    told = parsed_or_none(path.name)
    return (told.epoch, told.sequence, path.name) if told else (-1, -1, path.name)
