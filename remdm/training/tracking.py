"""Metrics as lines of JSON, beside whatever trackers accelerate knows."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from remdm.registry import import_extra

METRICS_FILE = "metrics.jsonl"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class JsonlLog:
    """Appends one JSON object per call to `metrics.jsonl`; every line is whole on disk."""

    def __init__(self, path: Path) -> None:
        """Args:
        path: The file to append to; made on the first line.
        """
        self.path = path

    def write(self, values: dict[str, Any]) -> None:
        """Append one line."""
        with self.path.open("a") as file:
            file.write(json.dumps({k: _finite(v) for k, v in values.items()}) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a last line torn by a crash is left out."""
        if not self.path.exists():
            return []
        rows = []
        for line in self.path.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def rewind(self, epoch: int) -> None:
        """Forget lines of `epoch` and later, which a resumed run will write again."""
        kept = [row for row in self.read() if row.get("epoch", -1) < epoch]
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        partial.replace(self.path)


# What to install for a tracker of accelerate, where it is an extra of ours.
_TRACKER_EXTRAS = {"wandb": "wandb", "tensorboard": "tensorboard"}


def init_trackers(
    accelerator: Accelerator,
    names: Sequence[str],
    run_name: str,
    settings: dict[str, Any],
    wandb: dict[str, Any],
) -> None:
    """Start the trackers that were asked for.

    Args:
        accelerator: Made with `log_with=names`.
        names: Trackers of accelerate.
        run_name: Name of the run in them.
        settings: Configuration to record.
        wandb: `project` and `entity` of the wandb tracker.

    Raises:
        ImportError: If a tracker's package is missing; says what to type.
    """
    for name in names:
        if name in _TRACKER_EXTRAS:
            import_extra(name, _TRACKER_EXTRAS[name])
    if not names:
        return
    flat = {key: str(value) for key, value in settings.items()}
    options = {"wandb": {"entity": wandb["entity"], "name": run_name}} if "wandb" in names else {}
    accelerator.init_trackers(wandb["project"], config=flat, init_kwargs=options)


def reduce_metrics(
    accelerator: Accelerator, metrics: dict[str, Any], how: str
) -> dict[str, float]:
    """Mean or sum of each metric over all processes that have it."""
    if accelerator.num_processes == 1:
        return {k: float(v) for k, v in metrics.items()}
    gathered: list[dict[str, float]] = gather_object([metrics])
    keys = sorted({key for row in gathered for key in row})
    values = {key: [float(row[key]) for row in gathered if key in row] for key in keys}
    return {k: sum(v) if how == "sum" else sum(v) / len(v) for k, v in values.items()}
