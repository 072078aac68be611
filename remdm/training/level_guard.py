"""Keeps levels that a run is measured on out of what it learns from.

Level seeds below `TRAINING_SEEDS` are those of validation and test. Two kinds of data have some:

- Episodes that were played to measure (`remdm eval --save_trajectories`). Their levels are known
  to be those, so a run that finds them in its own environments ends with an error.
- Imported data, whose seeds may mean something else in the place where it was made. A run that
  finds low ones says so, once for a file, and goes on.
"""

import logging
from collections.abc import Collection, Iterable

from remdm.data.contract import RLDataset
from remdm.data.datasets import DiskTrajDataset
from remdm.data.folder import listed
from remdm.data.mixture import MixtureOfDatasets
from remdm.data.shard_file import Shard
from remdm.data.shard_names import parsed_or_none
from remdm.data.tensor_file import DamagedFileError
from remdm.seeding import TRAINING_SEEDS

logger = logging.getLogger(__name__)

# How the names of collectors begin that played to measure.
MEASURED = "eval-"
# Of demonstrations, whose levels are drawn from the training seeds.
_DRAWN = "demo-"


def check_levels(shards: Iterable[Shard], envs: Collection[str]) -> None:
    """See that shards are not of levels that a run is measured on.

    Args:
        shards: What is to be learnt from.
        envs: Environments that the run is measured in.

    Raises:
        ValueError: If episodes were played to measure, on levels that others are measured on.
    """
    for shard in shards:
        low = [s for s in shard.segments if s.env in envs and s.seed < TRAINING_SEEDS.start]
        if not low:
            continue
        path, seeds = shard.file.path, sorted(s.seed for s in low)
        said = (
            f"{path} holds {len(low)} episodes or pieces on levels of validation or test (seeds "
            f"{seeds[0]} to {seeds[-1]})"
        )
        if any(s.collector.startswith(MEASURED) for s in low):
            raise ValueError(
                f"{said}, which were played to measure: a run that learns from them knows the "
                "levels that it is measured on. Take that file out of Experiment.buffer_dir; to "
                f"learn from such episodes, play levels from seed {TRAINING_SEEDS.start} on."
            )
        logger.warning("%s; if these seeds are of levels as here, the run learns its test", said)


class LevelGuard:
    """Looks at every file of a dataset once."""

    def __init__(self, envs: Collection[str]) -> None:
        """Args:
        envs: Environments that the run is measured in.
        """
        self.envs = frozenset(envs)
        self._seen: set[str] = set()

    def check(self, dataset: RLDataset) -> None:
        """`check_levels` for what a dataset has now.

        What this run's collectors write is of training levels, so among other shards only names
        are looked at.

        Raises:
            ValueError: See `check_levels`.
        """
        if isinstance(dataset, MixtureOfDatasets):
            for part in dataset.datasets:
                self.check(part)
        if not isinstance(dataset, DiskTrajDataset):
            return
        folder = dataset.folder
        for path in [*listed(folder.protected), *listed(folder.shards)]:
            name = parsed_or_none(path.name)
            collector = "" if name is None else name.collector
            known = path.parent == folder.shards and not collector.startswith(MEASURED)
            if path.name in self._seen or known or collector.startswith(_DRAWN):
                continue
            self._seen.add(path.name)
            try:
                check_levels([Shard.open(path)], self.envs)
            except (DamagedFileError, FileNotFoundError):
                continue  # the dataset sets it aside, or somebody has evicted it
