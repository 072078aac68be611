"""The folder of a run: what lies where, and whether it belongs to the present configuration."""

import fcntl
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from remdm import config
from remdm.training.checkpoint import STATE_FILE, CheckpointError, list_checkpoints


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths below one run's folder.

    Attributes:
        root: The folder itself.
    """

    root: Path

    @property
    def config(self) -> Path:
        """The configuration that repeats the run."""
        return self.root / "config.gin"

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints to resume from."""
        return self.root / "ckpts"

    @property
    def best(self) -> Path:
        """Folder of the checkpoint that validation chose."""
        return self.root / "best"

    @property
    def latest(self) -> Path:
        """Folder of the weights published for other processes."""
        return self.root / "latest"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.root / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """Tables, curves and pictures."""
        return self.root / "report"

    def check(self, *, resume: str, may_change: Collection[str] = ()) -> None:
        """See that a run may start, or go on, in this folder. Changes nothing.

        Args:
            resume: "auto" goes on with an existing run, "must" insists on one, "never" refuses.
            may_change: Bindings (`Class.argument`) that may differ from those of an existing run.

        Raises:
            ValueError: If there is a run and `resume` forbids it, there is none and it must be, or
                the run was made with another configuration.
        """
        exists = self.config.exists()
        if exists and resume == "never":
            raise ValueError(
                f"{self.root} holds a run already; choose another --run_name, or set "
                "Experiment.resume = 'auto' to go on with it."
            )
        if not exists and resume == "must":
            raise ValueError(
                f"{self.root} holds no run to go on with; check --run_name and "
                "Experiment.ckpt_base_dir, or set Experiment.resume = 'auto' to begin one."
            )
        differences = config.config_differences(self.config, may_change) if exists else []
        if differences:
            listed = "\n  ".join(differences)
            raise ValueError(
                f"{self.root} holds a run with another configuration:\n  {listed}\n"
                "choose another --run_name, or go back to the old values; nothing was changed."
            )

    def claim(self) -> IO[str]:
        """Make the folder this process's own; to be called after `check`, by one process.

        Returns:
            An open file: as long as it stays open, no other process can claim the folder.

        Raises:
            ValueError: If another process has claimed it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        lock = (self.root / ".lock").open("w")
        try:
            # Given back by the system however this process ends.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ValueError(
                f"another process is training in {self.root}; wait for it, or choose another "
                "--run_name."
            ) from None
        for folder in (self.root, self.checkpoints):
            _tidy(folder)
        if not self.config.exists():
            config.save_config(self.config)
        return lock


def _tidy(folder: Path) -> None:
    """Clear away what `write_checkpoint` leaves when its process is killed."""
    for replaced in folder.glob(".replaced-.partial-*"):
        place = folder / replaced.name.split("-", 3)[3]
        if not place.exists():  # killed between two renames: the old one is the only whole one
            replaced.rename(place)
    for rest in (*folder.glob(".partial-*"), *folder.glob(".replaced-*")):
        shutil.rmtree(rest)


def find_checkpoint(path: Path) -> tuple[RunFolder, Path]:
    """The run folder and the checkpoint that `path` means.

    Args:
        path: A checkpoint folder, or a run folder: then its best checkpoint, else its newest. One
            that was taken out of its run, as an artifact is, has its `config.gin` inside.

    Raises:
        CheckpointError: If there is no checkpoint.
    """
    path = path.resolve()
    if (path / STATE_FILE).is_file():
        for parent in (path, *path.parents):
            if RunFolder(parent).config.is_file():
                return RunFolder(parent), path
        raise CheckpointError(f"{path} lies in no run folder: no config.gin in it or above it")
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise CheckpointError(f"{path} is neither a run folder nor a checkpoint: no config.gin")
    if (folder.best / STATE_FILE).is_file():
        return folder, folder.best
    found = list_checkpoints(folder.checkpoints)
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint yet; train it for an epoch first")
    return folder, found[-1]
