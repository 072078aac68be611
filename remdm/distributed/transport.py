"""How a collector reaches the rest of a run: its shards go one way, weights come the other.

A collector writes every shard into `outbox` and hands it over by `deliver`; it reads weights from
`weights_folder`, after `fetch_weights`. With a shared folder there is nothing to carry: the outbox
is the dataset's folder, and the weights are where the learner published them.
"""

from abc import ABC, abstractmethod
from pathlib import Path

from remdm.data.folder import DatasetFolder, newest_shard
from remdm.data.shards import Shard
from remdm.distributed.ownership import TTL_SECONDS, Ownership, take_number
from remdm.distributed.standing import RunWatch, Standing
from remdm.training.run_folder import RunFolder


def collector_name(number: int) -> str:
    """What collector `number` is called in the names of its shards."""
    return f"c{number}"


class Transport(ABC):
    """One collector's connection to its run. Use it in a `with` block after `enlist`.

    Attributes:
        outbox: Folder that shards are written to.
        weights_folder: Folder that a `Subscriber` reads.
    """

    outbox: Path
    weights_folder: Path

    @abstractmethod
    def enlist(self, index: int | None) -> int:
        """Become one of the run's collectors; to be called first.

        Args:
            index: Which one; None for the lowest number that is free.

        Returns:
            Its number.

        Raises:
            LeaseHeld: If a living process is that collector.
        """

    @abstractmethod
    def check(self) -> None:
        """See that no other process has become this collector.

        Raises:
            LeaseLost: If one has.
        """

    @abstractmethod
    def newest_shard(self) -> Shard | None:
        """The last whole shard that this collector, or one before it, has handed over."""

    @abstractmethod
    def deliver(self, shard: Path) -> None:
        """Hand over a shard in the outbox. It is safe when this returns; it may be gone then.

        Raises:
            LeaseLost: If another process has become this collector.
            OSError: If it could not be stored.
        """

    @abstractmethod
    def fetch_weights(self) -> None:
        """Bring the newest published weights into `weights_folder`, if they are not there yet."""

    @abstractmethod
    def standing(self) -> Standing:
        """How far the run is."""

    @abstractmethod
    def close(self) -> None:
        """Leave; the number is free for others."""

    def __enter__(self) -> "Transport":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class FileTransport(Transport):
    """All processes see one folder."""

    def __init__(
        self, run: RunFolder, dataset: DatasetFolder, *, ttl_seconds: float = TTL_SECONDS
    ) -> None:
        """Args:
        run: Folder of the run.
        dataset: Where its shards are.
        ttl_seconds: After so long without a sign of life another process may be this collector.
        """
        self.run, self.dataset, self.ttl_seconds = run, dataset, ttl_seconds
        self.outbox, self.weights_folder = dataset.shards, run.latest
        self._watch = RunWatch(run, dataset)
        self._number = -1
        self._ownership: Ownership | None = None

    def enlist(self, index: int | None) -> int:
        """See `Transport.enlist`."""
        self._number, self._ownership = take_number(
            self.run.root, "collect", index, ttl_seconds=self.ttl_seconds
        )
        return self._number

    def check(self) -> None:
        """See `Transport.check`."""
        assert self._ownership is not None, "enlist comes first"
        self._ownership.check()

    def newest_shard(self) -> Shard | None:
        """See `Transport.newest_shard`."""
        return newest_shard(self.dataset, collector_name(self._number))

    def deliver(self, shard: Path) -> None:
        """See `Transport.deliver`: it was written to its place."""

    def fetch_weights(self) -> None:
        """See `Transport.fetch_weights`: they are there."""

    def standing(self) -> Standing:
        """See `Transport.standing`."""
        return self._watch.standing()

    def close(self) -> None:
        """See `Transport.close`."""
        if self._ownership is not None:
            self._ownership.release()
