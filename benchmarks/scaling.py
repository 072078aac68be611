"""What a run's folder can take: many writers beside one learner's scan; env steps of collectors.

The file protocol alone: simulated collectors, each a process that sleeps where a real one would
step, write one small shard of 64 segments a second. A learner takes in what is there every twenty
seconds, as `DiskTrajDataset.refresh` does, evicts what is beyond 1,000,000 segments and deletes it.
The value is the share of the learner's time that this takes with the most writers; 5 % are allowed.
Below it the same where each writer labels its shard as well, so that all of it can be drawn from.
The bytes are those of the index and all it needs, in the learner's own memory, for each segment of
8 steps. `--folder` says where to write, the system's temporary folder by default.
"""

import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import options, report, show_table
from benchmarks.inputs.collector_processes import env_steps_per_second
from benchmarks.inputs.shard_writers import (
    ACTIONS,
    ORACLE,
    ORACLE_VERSION,
    PLAN_HORIZON,
    SEGMENTS,
    STEPS,
    fill,
)
from remdm.data.disk import DiskTrajDataset
from remdm.data.folder import DatasetFolder

ALLOWED_PERCENT = 5.0


class _Oracle:
    """Stands for whoever labelled; the learner asks only for its name and version."""

    name, version = ORACLE, ORACLE_VERSION

    def label(self, observations: Any, plan_horizon: int) -> Any:
        raise NotImplementedError("the writers label")


def _learner(root: Path, shards: int, *, labels: bool, name: str = "dataset") -> DiskTrajDataset:
    target = "plan" if labels else "executed"
    dataset = DiskTrajDataset(root, name, target=target, dset_max_timesteps=shards * STEPS)
    oracle = _Oracle() if labels else None
    dataset.configure(PLAN_HORIZON, oracle=oracle, action_names=ACTIONS)
    return dataset


@contextlib.contextmanager
def _writers(root: Path, count: int, epoch: int, *, labels: bool) -> Iterator[dict[str, float]]:
    """Writers run while the block does; afterwards the dict says what they did."""
    command = [sys.executable, "-m", "benchmarks.inputs.shard_writers"]
    process = subprocess.Popen(
        [*command, str(root / "dataset"), str(count), str(epoch), str(int(labels))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    done: dict[str, float] = {}
    try:
        yield done
    finally:
        out, _ = process.communicate()
    done.update(json.loads(out))


def _scan_beside(
    dataset: DiskTrajDataset, count: int, epoch: int, every: float, scans: int, *, labels: bool
) -> dict[str, Any]:
    """One row of the table: scans of a learner while `count` writers write."""
    wall, cpu, began = 0.0, 0.0, 0.0
    shards_before = 0.0
    with _writers(dataset.folder.root.parent, count, epoch, labels=labels) as done:
        time.sleep(every)
        dataset.refresh()  # what came while the writers were started
        began = time.perf_counter()
        shards_before = _taken_in(dataset)
        for number in range(scans):
            time.sleep(max(0.0, began + (number + 1) * every - time.perf_counter()))
            start, start_cpu = time.perf_counter(), time.thread_time()
            metrics = dataset.refresh()
            wall += time.perf_counter() - start
            cpu += time.thread_time() - start_cpu
        passed = time.perf_counter() - began
        taken = _taken_in(dataset) - shards_before
    return {
        "writers": str(count),
        "labels": "yes" if labels else "no",
        "segments": int(metrics["buffer/shards"]) * SEGMENTS,
        "taken in/s": taken / passed,
        "ms/write": 1e3 * done["seconds"] / max(1, done["written"]),
        "ms/scan": 1e3 * wall / scans,
        "CPU ms/scan": 1e3 * cpu / scans,
        "scan %": 100 * wall / passed,
        "CPU %": 100 * cpu / passed,
    }


def _taken_in(dataset: DiskTrajDataset) -> float:
    """Shards taken in so far, evicted ones included."""
    steps = sum(entry.steps for entry in dataset.manifest.shards)
    return (steps + dataset.manifest.evicted_steps) / STEPS


def _bytes_per_segment(root: Path, shards: int, *, labels: bool) -> float:
    """What the objects of an index and its caches take, once everything they share is there."""
    sizes = []
    for folder, count in (("few", 10), ("dataset", shards)):
        gc.collect()
        tracemalloc.start()
        dataset = _learner(root, count, labels=labels, name=folder)
        dataset.refresh()
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del dataset
    return sizes[-1] / (shards * SEGMENTS)


def file_protocol(folder: str, *, quick: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows for each number of writers, and what else is worth a number."""
    shards, every, scans = (1_000, 2.0, 2) if quick else (15_625, 20.0, 2)
    settings = [(1, False), (8, False), (8, True)]
    if not quick:
        counts = (1, 8, 64, 256)
        settings = [(n, labels) for labels in (False, True) for n in counts]
    rows, facts = [], {}
    with tempfile.TemporaryDirectory(dir=folder or None) as made:
        root = Path(made)
        for name, count in (("few", 10), ("dataset", shards)):
            fill(DatasetFolder(root / name), count, labels=True)
        facts["bytes_per_segment"] = _bytes_per_segment(root, shards, labels=True)
        facts["bytes_per_segment_unlabelled"] = _bytes_per_segment(root, shards, labels=False)
        dataset = _learner(root, shards, labels=True)
        began = time.perf_counter()
        dataset.refresh()
        facts["seconds_to_open_all"] = time.perf_counter() - began
        for epoch, (count, labels) in enumerate(settings, 1):
            rows.append(_scan_beside(dataset, count, epoch, every, scans, labels=labels))
    return rows, facts


def collectors(*, quick: bool) -> list[dict[str, Any]]:
    """Env steps/s of 1 and 2 real collector processes: rows of "collectors" and "env steps/s"."""
    rows = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as made:
            speed = env_steps_per_second(Path(made), count, 5.0 if quick else 30.0)
        rows.append({"collectors": str(count), "env steps/s": speed})
        rows[-1]["ratio"] = speed / float(rows[0]["env steps/s"])
    return rows


def main() -> None:
    args = options(__doc__, folder="")
    collecting = collectors(quick=args.quick)
    rows, facts = file_protocol(args.folder, quick=args.quick)
    shares = {
        labels: {row["writers"]: row["scan %"] for row in rows if row["labels"] == labels}
        for labels in ("no", "yes")
    }
    most, worst = list(shares["no"].items())[-1]
    line = {
        "name": "scaling",
        "value": worst,
        "unit": "% of a learner's time",
        "reference": f"{ALLOWED_PERCENT:g} % are allowed",
        "reference_value": ALLOWED_PERCENT,
        "ratio": ALLOWED_PERCENT / worst,
        "writers": int(most),
        "segments": rows[-1]["segments"],
        "scan_percent": shares["no"],
        "scan_percent_with_labels": shares["yes"],
        "collectors": collecting,
        **facts,
    }
    if not args.json:
        show_table(collecting)
        print()
    report(rows, line, args.json)


if __name__ == "__main__":
    main()
