"""Whether the roles of a run get anywhere, as far as its folder shows."""

import os
from pathlib import Path

from remdm.data.folder import DatasetFolder
from remdm.distributed.launch import Part
from remdm.training.run_folder import RunFolder


class RoleProgress:
    """What a part has achieved, as a value that differs when there is more of it."""

    def __init__(self, run: RunFolder, dataset: DatasetFolder) -> None:
        """Args:
        run: Folder of the run.
        dataset: Where its shards and labels are.
        """
        self._run, self._dataset = run, dataset

    def __call__(self, part: Part) -> object:
        """The value; equal ones mean that nothing has come since."""
        if part.role == "collect":
            mine = f"-c{part.index}-"
            return max((name for name in _names(self._dataset.shards) if mine in name), default="")
        if part.role == "label":
            return len(_names(self._dataset.labels))
        if part.role == "learn":
            return _names(self._run.checkpoints), _names(self._run.latest), self._run.done.exists()
        lines = self._run.root.glob("metrics-validate-*.jsonl")
        return [_changed(path) for path in (self._run.best, self._run.report, *sorted(lines))]


def _names(folder: Path) -> list[str]:
    """Names of the files of a folder that are whole, sorted."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except FileNotFoundError:
        return []


def _changed(path: Path) -> int:
    """When a file or folder was last changed, in nanoseconds; 0 if there is none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
