"""Small shards, many of them at once, and processes that write them as collectors would.

`python -m benchmarks.inputs.shard_writers FOLDER WRITERS EPOCH LABELS` starts processes that write
one shard a second each, and a label file with it where LABELS is 1, until its input is closed.
Then it prints one line of JSON: how many were written, and how many seconds that took.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from remdm.data.folder import DatasetFolder
from remdm.data.labels import write_labels
from remdm.data.records import Segment, StepArrays
from remdm.data.shards import Shard, shard_name, write_shard
from remdm.tokens import end_token

ACTIONS = ("NORTH", "EAST", "SOUTH", "WEST")
ENVS = ("env-a", "env-b", "env-c", "env-d")
ORACLE, ORACLE_VERSION, PLAN_HORIZON = "simulated", 1, 16
SEGMENTS, SEGMENT_STEPS = 64, 8
STEPS = SEGMENTS * SEGMENT_STEPS


def _steps() -> StepArrays:
    """Whole episodes one after another, with observations of 20 bytes."""
    rng = np.random.default_rng(0)
    ends = np.arange(STEPS) % SEGMENT_STEPS == SEGMENT_STEPS - 1
    observations = {
        "view": rng.integers(0, 9, (STEPS, 16)).astype(np.uint8),
        "position": rng.integers(0, 9, (STEPS, 2)).astype(np.int16),
    }
    actions = rng.integers(0, len(ACTIONS), STEPS).astype(np.int8)
    no = np.zeros(STEPS, np.bool_)
    return StepArrays(observations, actions, np.zeros(STEPS, np.float32), ends, no)


def _segments(collector: str, sequence: int) -> list[Segment]:
    first = sequence * SEGMENTS
    return [
        Segment(ENVS[i % len(ENVS)], first + i, 0, SEGMENT_STEPS, True, True, 0, collector)
        for i in range(SEGMENTS)
    ]


class Writer:
    """Writes one shard after another, as collector and labeller do."""

    def __init__(self, folder: DatasetFolder, collector: str, epoch: int, labels: bool) -> None:
        """Args:
        folder: The dataset.
        collector: Name of the collector.
        epoch: Part of the shards' names.
        labels: Whether to write labels, too.
        """
        self.folder, self.collector, self.epoch, self.labels = folder, collector, epoch, labels
        self.written = 0
        self._steps = _steps()
        self._plans = np.full((STEPS, PLAN_HORIZON), end_token(len(ACTIONS)), np.int8)
        self._plans[:, : PLAN_HORIZON // 2] = 1
        self._weights = np.ones(STEPS, np.float32)

    def write(self) -> Path:
        """Write the next shard."""
        name = shard_name(self.epoch, self.collector, self.written, STEPS)
        path, segments = self.folder.shards / name, _segments(self.collector, self.written)
        write_shard(path, segments, [self._steps], ACTIONS)
        if self.labels:
            write_labels(
                self.folder.labels / name,
                self._plans,
                self._weights,
                ORACLE,
                ORACLE_VERSION,
                ACTIONS,
                shard_checksum=Shard.open(path).checksum,
            )
        self.written += 1
        return path


def fill(folder: DatasetFolder, shards: int, *, labels: bool) -> None:
    """Put shards into a dataset at once: files of their own with the same contents."""
    folder.make()
    writer = Writer(folder, "filled", 0, labels)
    first = writer.write()
    places = [folder.shards, folder.labels] if labels else [folder.shards]
    for place in places:
        raw = (place / first.name).read_bytes()
        for number in range(1, shards):
            (place / shard_name(0, "filled", number, STEPS)).write_bytes(raw)


def _write_every_second(writer: Writer, phase: float, counts: np.ndarray) -> None:
    due = time.monotonic() + phase
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        writer.write()
        counts += 1, time.monotonic() - began
        due += 1.0


def main(arguments: Sequence[str]) -> None:
    folder, labels = DatasetFolder(Path(arguments[0])), arguments[3] == "1"
    count, epoch = int(arguments[1]), int(arguments[2])
    # Shared by all processes: shards written, and seconds that took, by writer.
    counts = np.memmap(folder.root / f"writers-{epoch}", np.float64, "w+", shape=(count, 2))
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            writer = Writer(folder, f"w{number}", epoch, labels)
            _write_every_second(writer, number / count, counts[number])
        children.append(child)
    sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    written, seconds = counts.sum(0).tolist()
    print(json.dumps({"written": int(written), "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1:])
