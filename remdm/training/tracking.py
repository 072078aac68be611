"""Metrics as lines of JSON, beside whatever trackers accelerate knows."""

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, gather_object

from remdm.data.plain_json import parsed_object
from remdm.registry import import_extra, unknown_name_message


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonlLog:
    """Appends one JSON object per call to a file; every call leaves a whole line on disk."""

    def __init__(self, path: Path) -> None:
        """Args:
        path: The file to append to; made on the first line.
        """
        self.path = path

    def write(self, values: dict[str, Any]) -> None:
        """Append one line.

        Raises:
            OSError: If it cannot be written, e.g. because the disk is full.
        """
        line = json.dumps({k: _finite(v) for k, v in values.items()})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            reason = f"a line of metrics could not be written ({error.strerror})"
            raise OSError(error.errno, reason, str(self.path)) from error

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; one that was torn or is no object is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                rows.append(parsed_object(line))
        return rows

    @property
    def size(self) -> int:
        """Bytes written so far; what `rewind` takes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def rewind(self, size: int) -> None:
        """Forget what was written after the file had `size` bytes: it will be written again."""
        if self.size > size:
            os.truncate(self.path, size)


# Trackers whose package is an extra of ours.
_EXTRAS = ("tensorboard", "wandb")


def check_trackers(names: Sequence[str]) -> None:
    """See that all trackers can be used; accelerate would leave out silently what is missing.

    Raises:
        ValueError: If accelerate knows no such tracker; names the nearest.
        ImportError: If its package is not installed; says what to type.
    """
    known = [str(tracker) for tracker in LoggerType.list() if str(tracker) != "all"]
    for name in names:
        if name not in known:
            raise ValueError(unknown_name_message("Experiment.trackers entry", name, known))
        if name in _EXTRAS:
            import_extra(name, name)
        elif name not in map(str, get_available_trackers()):
            raise ImportError(f"tracker {name} needs its package: pip install {name}")


def init_trackers(
    accelerator: Accelerator, project: str, settings: dict[str, Any], wandb: dict[str, Any]
) -> None:
    """Start the trackers that `accelerator` was made with.

    Args:
        accelerator: Made with `log_with`.
        project: Name that groups runs.
        settings: Configuration to record.
        wandb: Further arguments of `wandb.init`.
    """
    if accelerator.log_with:
        flat = {key: str(value) for key, value in settings.items()}
        accelerator.init_trackers(project, config=flat, init_kwargs={"wandb": wandb})


def reduce_metrics(accelerator: Accelerator, metrics: dict[str, Any], how: str) -> dict[str, float]:
    """Mean or sum of each metric over all processes that have it; the same in all of them."""
    if accelerator.num_processes == 1:
        return {k: float(v) for k, v in metrics.items()}
    gathered: list[dict[str, float]] = gather_object([metrics])
    keys = sorted({key for row in gathered for key in row})
    values = {key: [float(row[key]) for row in gathered if key in row] for key in keys}
    return {k: sum(v) if how == "sum" else sum(v) / len(v) for k, v in values.items()}


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` is set in any process; the same answer in all of them."""
    if accelerator.num_processes == 1:
        return flag
    flags = torch.tensor([int(flag)], device=accelerator.device)
    return bool(accelerator.reduce(flags, "sum").item())
