"""The contract of a dataset: what an experiment asks of the data it learns from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.batch import Window
from remdm.data.labels import Labeller


class RLDataset(ABC):
    """What an experiment asks of the data it learns from.

    Attributes:
        stretch_steps: Consecutive steps of an episode that a row of a batch shows; None where
            windows are drawn singly.
        val_share: Share of the levels that are kept back from training.
    """

    stretch_steps: int | None = None
    val_share: float = 0.0

    @property
    def walks(self) -> bool:
        """Whether a row goes on in the next batch where it was, so that memory can be carried."""
        return False

    @property
    def has_val_windows(self) -> bool:
        """Whether anything is kept back from training, for `val_window`."""
        return False

    @property
    def save_new_trajs_to(self) -> Path | None:
        """Folder for new shards; None drops what is collected."""
        return None

    @property
    @abstractmethod
    def ready_for_training(self) -> bool:
        """Whether there is enough to draw from."""

    @property
    @abstractmethod
    def env_names(self) -> tuple[str, ...]:
        """Environments that occur; `Window.env_ids` are places in it."""

    @abstractmethod
    def get_description(self) -> str:
        """One line for the summary of a run."""

    @abstractmethod
    def sample(
        self, batch_size: int, rng: np.random.Generator, rows: slice | None = None
    ) -> Window:
        """Draw windows; the arrays belong to the caller.

        The same generator state and the same generation of data give the same windows. No window
        is drawn twice in one call where there are enough. Safe to call from several threads.

        Args:
            batch_size: How many.
            rng: Source of randomness; its state is all there is to save for an exact resume.
            rows: Which of them to copy, in steps of 1; all when None. The processes of a run draw
                the same windows and take a part each.

        Raises:
            RuntimeError: If there is nothing to draw from.
        """

    def begin_walk(self, batch: int, windows: int, seed: int) -> None:
        """Say where a run is, before batches are asked for; called by all processes.

        Args:
            batch: The run's next batch. Where there is something else to learn from than before,
                all rows begin episodes with it.
            windows: Of a batch, over all processes.
            seed: Of the run.
        """
        return

    def walked(self, batch: int, rows: slice) -> Window:
        """What rows show in a batch of the run, if they walk. Safe to call from several threads.

        Args:
            batch: Of the run, at least the one that was said last.
            rows: Which windows of it to copy, in whole stretches.

        Raises:
            RuntimeError: If rows do not walk.
        """
        raise RuntimeError(f"rows of {type(self).__name__} do not walk; see `walks`")

    def val_window(self, batch: int, windows: int, seed: int, rows: slice) -> Window:
        """A batch of what is kept back from training, the same whenever it is asked for.

        Args:
            batch: Its number, from 0; where rows walk, they do so from batch to batch.
            windows: See `begin_walk`.
            seed: Of the run.
            rows: See `walked`.

        Raises:
            RuntimeError: If nothing is kept back.
        """
        raise RuntimeError(f"{type(self).__name__} keeps nothing back; see `has_val_windows`")

    def configure_from_experiment(self, experiment: Any) -> None:
        """Learn from the experiment what only it knows; called once, before anything else."""
        return

    def label_new(self, oracle: Labeller, plan_horizon: int) -> int:
        """Label what has no labels of this oracle and horizon yet; returns the number of steps."""
        return 0

    def on_end_of_collection(self, experiment: Any) -> dict[str, float]:
        """Take in what was collected and labelled; returns metrics. Called by all processes."""
        return {}

    def delete(self) -> None:
        """Delete what this dataset has written."""
        return

    def state(self) -> dict[str, Any]:
        """What a checkpoint must remember, as plain values."""
        return {}

    def restore(self, state: Mapping[str, Any], *, keep_newer: bool = False) -> None:
        """Draw from exactly what was drawn from when `state` was taken.

        Args:
            state: From `state`.
            keep_newer: Whether what was collected since stays, because it is not collected again:
                others collect.
        """
        return
