"""How far a run is, as any process that sees its folder can tell."""

from dataclasses import dataclass
from pathlib import Path

from remdm.data.folder import DatasetFolder
from remdm.data.ledger import Ledger
from remdm.distributed.generations import GenerationLog
from remdm.distributed.ownership import TTL_SECONDS, role_folder
from remdm.distributed.publication import PublicationError
from remdm.distributed.published_files import read_latest
from remdm.distributed.watching import Watch
from remdm.training.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a run is.

    Attributes:
        collected: Env steps collected so far, by all collectors.
        epoch: Epochs that the learner has finished; 0 before it has published anything.
        version: Newest version of the weights; None if there is none yet.
        finished: Whether the run is over.
        learner_alive: Whether a learner shows signs of life.
    """

    collected: int
    epoch: int
    version: int | None
    finished: bool
    learner_alive: bool


class RunWatch:
    """Watches a run from outside; writes nothing."""

    def __init__(self, run: RunFolder, dataset: DatasetFolder) -> None:
        """Args:
        run: Folder of the run.
        dataset: Where its shards are.
        """
        self.run = run
        self._ledger = Ledger(dataset)
        self._learner = Watch(GenerationLog(role_folder(run.root, "learn")), TTL_SECONDS)

    def standing(self) -> Standing:
        """How far the run is now."""
        finished = self.run.done.exists()  # asked first: all else is at least as new
        epoch, version = published_epoch(self.run.latest)
        sight = self._learner.look()
        alive = sight.entry is not None and not sight.ended
        return Standing(self._ledger.collected(), epoch, version, finished, alive)


def published_epoch(folder: Path) -> tuple[int, int | None]:
    """Epochs done by the learner that published into `folder`, and the version.

    Damage reads as if nothing were published: the next publication mends it.
    """
    try:
        latest = read_latest(folder)
    except PublicationError:
        latest = None
    if latest is None:
        return 0, None
    epoch = latest.facts.get("epoch")
    return (epoch if isinstance(epoch, int) and epoch >= 0 else 0), latest.version
