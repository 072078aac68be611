"""The end of Ray's transport that has the run folder: an actor on the learner's machine.

It takes in shards and hands out weights for collectors that do not see the folder. For each of
them it holds the lease that a collector with the folder would hold itself, so that both kinds can
work for one run and no two have one number.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from remdm.data.folder import DatasetFolder, listed, newest_shard
from remdm.data.shard_names import parse_shard_name, parsed_or_none, shard_name
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError
from remdm.distributed.generations import GenerationLog
from remdm.distributed.lease import LeaseHeld, LeaseLost
from remdm.distributed.ownership import Ownership, role_folder, take_number
from remdm.distributed.parcels import Parcel, ParcelError, file_sum, packed, unpack
from remdm.distributed.publication import PublicationError
from remdm.distributed.published_files import Latest, read_latest
from remdm.distributed.standing import RunWatch, Standing
from remdm.distributed.transport import collector_name
from remdm.distributed.watching import clock
from remdm.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

# Collectors ask far more often than anything changes.
STANDING_SECONDS = 0.5


class NotEnlisted(Exception):
    """This hub does not know the collector: it was started again since."""


@dataclass(slots=True)
class _Member:
    """A collector that has a number.

    Attributes:
        holder: What it calls itself; another start of the same one takes its place.
        ownership: Its lease.
        generation: Of that lease when it was given.
        seen: When it last gave a sign of life.
        signs: How many it gave.
    """

    holder: str
    ownership: Ownership
    generation: int
    seen: float
    signs: int = 0


@dataclass(frozen=True, slots=True)
class Enlisted:
    """An answer to who wants to be a collector: it is.

    Attributes:
        number: Which one.
        generation: Grows with every process that becomes this collector.
        used_name: The last name of a shard, readable or not, that this collector has used here.
    """

    number: int
    generation: int
    used_name: str | None


@dataclass(frozen=True, slots=True)
class Taken:
    """The other answer: somebody else is, or was until a moment ago.

    Attributes:
        holder: Who.
        signs: Signs of life from it so far.
    """

    holder: str
    signs: int


class Hub:
    """Connects collectors with a run folder. Its methods may be called by many threads."""

    def __init__(self, run: str, dataset: str, ttl_seconds: float) -> None:
        """Args:
        run: Folder of the run, on this machine.
        dataset: Folder of its shards, on this machine.
        ttl_seconds: After so long without a sign of life a collector has gone.
        """
        self._run, self._dataset = RunFolder(Path(run)), DatasetFolder(Path(dataset))
        self._ttl_seconds = ttl_seconds
        self._watch = RunWatch(self._run, self._dataset)
        self._members: dict[int, _Member] = {}
        self._standing: tuple[float, Standing] | None = None
        self._weights: tuple[Latest, Parcel] | None = None
        self._enlisting, self._looking = threading.Lock(), threading.Lock()

    # Who is who

    def enlist(self, index: int | None, holder: str) -> Enlisted | Taken:
        """Give a number to a collector.

        Args:
            index: Which one; None for the lowest that is free.
            holder: What it calls itself. A living member of this name is taken to have died: only
                its own next start has the same.

        Raises:
            LeaseHeld: If a collector that sees the folder has the number.
        """
        with self._enlisting:
            taken = None
            for number in _numbers(index):
                member = self._members.get(number)
                if member is not None and not self._may_follow(member, holder):
                    taken = Taken(member.holder, member.signs)
                    if index is not None:
                        return taken
                    continue
                try:
                    return self._give(number, holder)
                except LeaseHeld:
                    if index is not None:
                        raise
            raise AssertionError("there is always a higher number")

    def enlist_again(self, number: int, generation: int, holder: str) -> Enlisted:
        """Know a collector again after this hub was started again.

        Raises:
            LeaseLost: If another process has been that collector meanwhile.
        """
        with self._enlisting:
            log = GenerationLog(role_folder(self._run.root, f"collect-{number}"))
            newest = log.newest()
            if number in self._members or newest is None or newest.generation != generation:
                raise LeaseLost(_taken_over(number))
            return self._give(number, holder)

    def _may_follow(self, member: _Member, holder: str) -> bool:
        return member.holder == holder or clock() - member.seen >= self._ttl_seconds

    def _give(self, number: int, holder: str) -> Enlisted:
        former = self._members.pop(number, None)
        if former is not None:
            former.ownership.release()
        _, ownership = take_number(self._run.root, "collect", number)
        generation = ownership.generation
        self._members[number] = _Member(holder, ownership, generation, clock())
        return Enlisted(number, generation, self._used_name(number))

    def _used_name(self, number: int) -> str | None:
        told = [parsed_or_none(path.name) for path in listed(self._dataset.shards)]
        own = [name for name in told if name and name.collector == collector_name(number)]
        newest = max(own, default=None)
        return shard_name(*newest) if newest else None

    def check(self, number: int, generation: int) -> None:
        """See that a caller is a collector still; a sign of life of it.

        Raises:
            LeaseLost: If another process has become that collector.
            NotEnlisted: If nobody is.
        """
        member = self._members.get(number)
        if member is None:
            raise NotEnlisted(number)
        if member.generation != generation:
            raise LeaseLost(_taken_over(number))
        member.seen = clock()
        member.signs += 1
        member.ownership.check()

    def leave(self, number: int, generation: int) -> None:
        """Free a number, if it is the caller's."""
        with self._enlisting:
            member = self._members.get(number)
            if member is not None and member.generation == generation:
                del self._members[number]
                member.ownership.release()

    # What travels

    def deliver(self, number: int, generation: int, parcel: Parcel) -> None:
        """Take in a shard. Nothing happens if it is here already.

        Raises:
            LeaseLost: If another process has become that collector.
            NotEnlisted: If nobody is.
            ValueError: If it is no shard of that collector, damaged, or another one has its name.
            OSError: If it cannot be stored.
        """
        self.check(number, generation)
        if parse_shard_name(parcel.name).collector != collector_name(number):
            raise ValueError(f"collector {number} must not deliver {parcel.name}: not its name")
        self._dataset.make()
        path = self._dataset.shards / parcel.name

        def check(arrived: Path) -> None:
            try:
                Shard.open(arrived, verify_data=True)
            except DamagedFileError as error:
                raise ParcelError(f"{parcel.name} must not be taken in: {error.reason}") from None
            self.check(number, generation)  # it may have taken long

        # What was sent before an answer got lost is sent again.
        with contextlib.suppress(FileExistsError):
            if not path.exists():
                unpack(parcel, path, f"the shard {parcel.name}", check)
        if file_sum(path) != parcel.sha256:
            raise ValueError(f"{path} exists, and is another shard than the one delivered")

    def newest_shard(self, number: int, generation: int) -> Parcel | None:
        """The shard that a collector goes on from.

        Raises:
            LeaseLost: If another process has become that collector.
            NotEnlisted: If nobody is.
        """
        self.check(number, generation)
        shard = newest_shard(self._dataset, collector_name(number))
        return None if shard is None else packed(shard.path)

    def weights(self, version: int | None) -> tuple[Latest, Parcel] | None:
        """The newest published weights; None if there are none but `version`."""
        with self._looking:
            try:
                latest = read_latest(self._run.latest)
                if latest is None or latest.version == version:
                    return None
                if self._weights is None or self._weights[0] != latest:
                    parcel = packed(self._run.latest / latest.file)
                    if (parcel.num_bytes, parcel.sha256) != (latest.num_bytes, latest.sha256):
                        raise PublicationError(f"{latest.file} is not as it was published")
                    # Kept: all collectors of a machine then share one copy.
                    self._weights = latest, parcel
            except (PublicationError, FileNotFoundError) as error:
                logger.warning("%s; the next publication mends it", error)
                return None
            return self._weights

    def standing(self) -> Standing:
        """How far the run is."""
        with self._looking:
            if self._standing is None or clock() - self._standing[0] >= STANDING_SECONDS:
                self._standing = clock(), self._watch.standing()
            return self._standing[1]


def _numbers(index: int | None) -> Iterator[int]:
    return iter([index]) if index is not None else count()


def _taken_over(number: int) -> str:
    return (
        f"collector {number} is another process now, which took its place because this one gave no "
        "sign of life or was started again; nothing more is taken from this one"
    )
