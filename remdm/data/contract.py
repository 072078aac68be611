"""The contract of a dataset: what an experiment asks of the data it learns from."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from remdm.data.batch import Window
from remdm.data.labels import Labeller


class RLDataset(ABC):
    """What an experiment asks of the data it learns from."""

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
