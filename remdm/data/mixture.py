"""Datasets made of other datasets, or of nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np

from remdm.data.batch import Window
from remdm.data.contract import RLDataset
from remdm.data.labels import Labeller


@gin.configurable(module="remdm", denylist=["dset_root", "dset_name"])
class DoNothingDataset(RLDataset):
    """No data: for runs that only evaluate. What is collected is dropped."""

    def __init__(self, dset_root: str | Path = "", dset_name: str = "") -> None:
        """Args:
        dset_root: Not used; there so that an experiment can make any dataset alike.
        dset_name: Not used.
        """

    @property
    def ready_for_training(self) -> bool:
        """Never."""
        return False

    @property
    def env_names(self) -> tuple[str, ...]:
        """None."""
        return ()

    def get_description(self) -> str:
        """One line for the summary of a run."""
        return "no data"

    def sample(
        self, batch_size: int, rng: np.random.Generator, rows: slice | None = None
    ) -> Window:
        """Raises: RuntimeError: Always."""
        raise RuntimeError(
            "DoNothingDataset has nothing to draw from; set Experiment.dataset_type to "
            "@DiskTrajDataset to train"
        )


@gin.configurable(module="remdm", denylist=["datasets"])
class MixtureOfDatasets(RLDataset):
    """Draws each window from one of several datasets, chosen by weight.

    New shards go to the first dataset that takes any.
    """

    def __init__(
        self, datasets: Sequence[RLDataset], *, sampling_weights: Sequence[float] | None = None
    ) -> None:
        """Args:
        datasets: What to draw from.
        sampling_weights: One weight per dataset, not all 0; equal ones when None.
        """
        weights = np.ones(len(datasets)) if sampling_weights is None else sampling_weights
        shares = np.asarray(weights, np.float64)
        valid = shares.shape == (len(datasets),) and np.isfinite(shares).all()
        if not valid or (shares < 0).any() or not shares.any():
            raise ValueError(
                "MixtureOfDatasets.sampling_weights must be one finite weight >= 0 for each of "
                f"the {len(datasets)} datasets, not all 0, got {sampling_weights}"
            )
        if any(d.stretch_steps is not None for d in datasets):
            raise ValueError(
                "MixtureOfDatasets draws windows singly, and a dataset of it gives stretches; set "
                "DiskTrajDataset.stretch_steps = None, or Experiment.dataset_type = "
                "@DiskTrajDataset."
            )
        self.datasets = tuple(datasets)
        self.shares = shares / shares.sum()

    @property
    def save_new_trajs_to(self) -> Path | None:
        """Folder for new shards: that of the first dataset that has one."""
        folders = (d.save_new_trajs_to for d in self.datasets)
        return next((f for f in folders if f is not None), None)

    @property
    def ready_for_training(self) -> bool:
        """Whether all datasets that are drawn from are ready."""
        return all(d.ready_for_training for d in self._drawn())

    @property
    def env_names(self) -> tuple[str, ...]:
        """Environments of all datasets."""
        return tuple(sorted({name for d in self.datasets for name in d.env_names}))

    def get_description(self) -> str:
        """One line for the summary of a run."""
        parts = zip(self.shares, self.datasets, strict=True)
        return "; ".join(f"{share:.0%} {d.get_description()}" for share, d in parts)

    def sample(
        self, batch_size: int, rng: np.random.Generator, rows: slice | None = None
    ) -> Window:
        """See `RLDataset`. The windows of one dataset lie together in the batch."""
        counts = rng.multinomial(batch_size, self.shares)
        stops = np.cumsum(counts)
        wanted = range(batch_size)[slice(None) if rows is None else rows]
        names = {name: i for i, name in enumerate(self.env_names)}
        windows = []
        for dataset, count, stop in zip(self.datasets, counts, stops, strict=True):
            if count:
                # Drawn also where no row of it is wanted, so that `rng` is alike in all processes.
                first = stop - count
                own = slice(max(0, wanted.start - first), max(0, wanted.stop - first))
                window = dataset.sample(int(count), rng, own)
                ids = np.array([names[name] for name in dataset.env_names], np.int16)
                windows.append((window, ids[window.env_ids]))
        keys = set(windows[0][0].observations)
        for window, _ in windows:
            if set(window.observations) != keys:
                raise ValueError(
                    f"all datasets must have the same observation arrays, got {sorted(keys)} and "
                    f"{sorted(window.observations)}"
                )
        pasts = [w.past for w, _ in windows if w.past is not None]
        return Window(
            {k: np.concatenate([w.observations[k] for w, _ in windows]) for k in sorted(keys)},
            np.concatenate([w.plans for w, _ in windows]),
            np.concatenate([w.weights for w, _ in windows]),
            np.concatenate([ids for _, ids in windows]),
            np.concatenate(pasts) if len(pasts) == len(windows) else None,
        )

    def configure_from_experiment(self, experiment: Any) -> None:
        """See `RLDataset`."""
        for dataset in self.datasets:
            dataset.configure_from_experiment(experiment)

    def label_new(self, oracle: Labeller, plan_horizon: int) -> int:
        """See `RLDataset`."""
        return sum(d.label_new(oracle, plan_horizon) for d in self.datasets)

    def on_end_of_collection(self, experiment: Any) -> dict[str, float]:
        """See `RLDataset`; the metrics of dataset i are called `i/...`."""
        metrics: dict[str, float] = {}
        for number, dataset in enumerate(self.datasets):
            own = dataset.on_end_of_collection(experiment)
            metrics |= {f"{number}/{key}": value for key, value in own.items()}
        return metrics

    def delete(self) -> None:
        """See `RLDataset`."""
        for dataset in self.datasets:
            dataset.delete()

    def state(self) -> dict[str, Any]:
        """See `RLDataset`."""
        return {"datasets": [d.state() for d in self.datasets]}

    def restore(self, state: Mapping[str, Any], *, keep_newer: bool = False) -> None:
        """See `RLDataset`."""
        for dataset, own in zip(self.datasets, state["datasets"], strict=True):
            dataset.restore(own, keep_newer=keep_newer)

    def _drawn(self) -> list[RLDataset]:
        return [d for d, share in zip(self.datasets, self.shares, strict=True) if share > 0]
