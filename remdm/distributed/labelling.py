"""Several labellers share the unlabelled shards of a dataset."""

import contextlib
import time
from pathlib import Path

from remdm.data.folder import DatasetFolder
from remdm.data.labels import LabelIdentity, Labeller, Labels, label_shard
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError
from remdm.data.unlabelled import LabelQueue, claim_name
from remdm.distributed.claims import ClaimBoard
from remdm.distributed.lease import LeaseHeld
from remdm.distributed.ownership import MOST_PROCESSES

LABELLING_FOLDER = "labelling"
# After so long a labeller looks up from its work: somebody may have asked it to stop.
_STRETCH_SECONDS = 1.0


class SharedLabelling:
    """One of the labellers of a dataset. Use it in a `with` block.

    Attributes:
        number: Which one.
    """

    def __init__(self, dataset: DatasetFolder, index: int | None = None) -> None:
        """Join the others.

        Args:
            dataset: What is to be labelled.
            index: Which labeller to be; None for the lowest number that is free.

        Raises:
            LeaseHeld: If a living process is that labeller.
        """
        self.dataset = dataset
        self.number, self._board = _join(dataset.root / LABELLING_FOLDER, index)
        self._queue: LabelQueue | None = None

    def label_new(self, oracle: Labeller, plan_horizon: int) -> int:
        """Label some of the shards that nobody else is at; returns the number of steps.

        Raises:
            LeaseLost: If this process gave no sign of life for so long that it counts as dead.
        """
        wanted, steps = LabelIdentity(oracle.name, oracle.version, plan_horizon), 0
        if self._queue is None or self._queue.wanted != wanted:
            self._queue = LabelQueue(self.dataset, wanted)
        until = time.monotonic() + _STRETCH_SECONDS
        for path in self._queue.waiting():
            shard = self._queue.shard(path)
            if shard is None or not self._board.claim(name := claim_name(shard)):
                continue
            # The label file says what is done; a claim only who is at it. So labels that turn out
            # damaged, or that another oracle should replace, can be made again.
            if not self._is_labelled(shard, wanted):
                label_shard(shard, oracle, plan_horizon, self.dataset.labels)
                steps += shard.num_steps
            self._board.release(name)
            if time.monotonic() > until:
                break
        return steps

    def _is_labelled(self, shard: Shard, wanted: LabelIdentity) -> bool:
        """Whether somebody was faster, between the look at the folder and the claim."""
        try:
            labels = Labels.open(self.dataset.labels / shard.path.name)
        except (FileNotFoundError, DamagedFileError):
            return False
        return labels.identity == wanted and labels.belongs_to(shard)

    def __enter__(self) -> "SharedLabelling":
        return self

    def __exit__(self, *error: object) -> None:
        self._board.close()


def _join(folder: Path, index: int | None) -> tuple[int, ClaimBoard]:
    if index is not None:
        return index, ClaimBoard(folder, f"label-{index}")
    for number in range(MOST_PROCESSES):
        with contextlib.suppress(LeaseHeld):
            return number, ClaimBoard(folder, f"label-{number}")
    raise LeaseHeld(f"{MOST_PROCESSES} labellers work in {folder}; name one by --index")
