"""The folder of a run: what lies where, and whether it belongs to the present configuration."""

import contextlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remdm import config
from remdm.data.atomic_file import atomic_file, sweep_temporary_files
from remdm.training.checkpoint import STATE_FILE, CheckpointError, list_checkpoints
from remdm.training.rewinding import checkpoint_after
from remdm.training.roles import Role

# A temporary file of this age, whose writer is not seen here, has none.
_ABANDONED_SECONDS = 1800.0


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
    def last(self) -> Path:
        """Folder of the averaged weights that a finished run ended with."""
        return self.root / "last"

    @property
    def latest(self) -> Path:
        """Folder of the weights published for other processes."""
        return self.root / "latest"

    @property
    def done(self) -> Path:
        """There when the learner of separate processes has used up the budget."""
        return self.root / "DONE"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.root / "metrics.jsonl"

    def metrics_of(self, role: Role, number: int) -> Path:
        """The metrics of a process; separate ones have files of their own."""
        if role.learns:
            return self.metrics
        return self.root / f"metrics-{role.name}-{number}.jsonl"

    def trackers_of(self, role: Role, number: int) -> Path:
        """What the trackers know a process by."""
        process = "" if role.learns else f"-{role.name}-{number}"
        return self.root / f"trackers{process}.json"

    @property
    def report(self) -> Path:
        """Tables, curves and pictures."""
        return self.root / "report"

    def check(self, *, resume: str | int, may_change: Collection[str] = ()) -> None:
        """See that a run may start, or go on, in this folder. Changes nothing.

        Args:
            resume: "auto" goes on with an existing run, "must" insists on one, "never" refuses; a
                number needs the checkpoint after so many epochs.
            may_change: Bindings (`Class.argument`) that may differ from those of an existing run.

        Raises:
            ValueError: If there is a run and `resume` forbids it, there is none and it must be, or
                the run was made with another configuration, or holds links in place of files.
            CheckpointError: If there is no checkpoint after `resume` epochs. It is a ValueError.
        """
        exists = self.config.exists()
        if exists and resume == "never":
            raise ValueError(
                f"{self.root} holds a run already; choose another --run_name, or set "
                "Experiment.resume = 'auto' to go on with it."
            )
        if not exists and (resume == "must" or isinstance(resume, int)):
            raise ValueError(
                f"{self.root} holds no run to go on with; check --run_name and "
                "Experiment.ckpt_base_dir, or set Experiment.resume = 'auto' to begin one."
            )
        if exists:
            self._check_links()
        differences = config.config_differences(self.config, may_change) if exists else []
        if differences:
            listed = "\n  ".join(differences)
            raise ValueError(
                f"{self.root} holds a run with another configuration:\n  {listed}\n"
                "choose another --run_name, or go back to the old values; nothing was changed."
            )
        if isinstance(resume, int):
            checkpoint_after(self.checkpoints, resume)

    def _check_links(self) -> None:
        """See that what is appended to, or drawn anew, is in the folder.

        A run that came from elsewhere could have links to files that are dear to somebody.

        Raises:
            ValueError: If there is a link to a file, or to nothing.
        """
        for folder in (self.root, self.root / "logs", self.report, self.report / "gifs"):
            for path in sorted(folder.glob("*")):
                if path.is_symlink() and not path.is_dir():
                    raise ValueError(
                        f"{path} must be a file of the run and is a link: what it leads to would "
                        "be written to. Put the file there, or remove the link."
                    )

    def keep_config(self, may_change: Collection[str] = ()) -> None:
        """Save the configuration, unless there is one; that one must be the same.

        Several processes may do so at once: one of them is first.

        Raises:
            ValueError: If another process was first, with another configuration.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        while not self.config.exists():
            own = self.root / f".config-{os.getpid()}.gin"
            # Gone is what the owner took for a rest of a killed process: made again.
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                config.save_config(own)
                os.link(own, self.config)
            own.unlink(missing_ok=True)
        self.check(resume="auto", may_change=may_change)

    def mark_done(self, facts: Mapping[str, Any]) -> None:
        """Say that the budget is used up, to all processes of the run."""
        with atomic_file(self.done, "the end of the run") as file:
            file.write(json.dumps(dict(facts)).encode("ascii"))

    def tidy(self, role: Role) -> None:
        """Clear away what killed processes left; only what nobody but this role writes."""
        if role.learns:
            for rest in self.root.glob(".config-*"):
                rest.unlink(missing_ok=True)
            sweep_temporary_files(self.root, _ABANDONED_SECONDS)
            _tidy(self.checkpoints, "*")
            _tidy(self.root, self.last.name)
            _tidy(self.root, self.latest.name)  # older versions wrote it as they do checkpoints
        if role.validates:
            _tidy(self.root, self.best.name)


def _tidy(folder: Path, name: str) -> None:
    """Clear away what `write_checkpoint` leaves when its process is killed."""
    for replaced in folder.glob(f".replaced-.partial-*-{name}"):
        place = folder / replaced.name.split("-", 3)[3]
        if not place.exists():  # killed between two renames: the old one is the only whole one
            replaced.rename(place)
    for rest in (*folder.glob(f".partial-*-{name}"), *folder.glob(f".replaced-*-{name}")):
        if rest.is_symlink():
            rest.unlink()
        else:
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
