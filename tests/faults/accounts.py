"""What must hold of a run whose processes were killed: nothing lost, nothing twice, all right."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

from remdm.data.atomic_file import sweep_temporary_files
from remdm.data.folder import DatasetFolder, listed
from remdm.data.labels import Labeller, label_shard
from remdm.data.manifest import load_manifest
from remdm.data.records import Segment
from remdm.data.shards import Shard
from remdm.seeding import training_level_seed
from tests.faults.folder_watch import FolderWatch, SeenShard

# More episodes than any actor plays in a test.
_MOST_EPISODES = 5_000
# Not those beside a lease or a claim: they go when somebody next has it.
_LEFT_BEHIND = (".tmp-*", ".partial-*", ".replaced-*", ".config-*")


def shard_faults(watch: FolderWatch) -> list[str]:
    """Shards that are neither there nor evicted by the rules, and manifests that do not add up."""
    folder, faults = watch.folder, []
    newest = load_manifest(folder)
    there = {path.name: path for path in listed(folder.shards)}
    known = {entry.name for entry in newest.shards}
    evicted = set()
    for one, next_one in pairwise(sorted(watch.manifests)):
        before, after = watch.manifests[one], watch.manifests[next_one]
        names = {entry.name for entry in after.shards}
        gone = {entry.name for entry in before.shards} - names
        evicted |= gone
        steps = sum(watch.shards[name].num_steps for name in gone)
        if next_one == one + 1 and after.evicted_steps - before.evicted_steps != steps:
            faults.append(f"manifest {next_one} left out {sorted(gone)}, which it does not count")
    for name, seen in watch.shards.items():
        if name in evicted:
            continue
        if name not in there:
            faults.append(f"{name} is lost")
        elif Shard.open(there[name], verify_data=True).checksum != seen.checksum:
            faults.append(f"{name} has changed")
    counted = newest.evicted_steps + sum(e.steps for e in newest.shards if not e.protected)
    fresh = there.keys() - known - newest.tombstones.keys()
    total = sum(seen.num_steps for seen in watch.shards.values())
    if counted + sum(watch.shards[name].num_steps for name in fresh) != total:
        faults.append(
            f"{total} steps were seen, {counted} are counted, and {sorted(fresh)} besides"
        )
    return faults


def level_faults(
    shards: Iterable[SeenShard], *, seed: int, actors: int, collectors: int
) -> list[str]:
    """Levels that were skipped or played twice, and episodes with a gap.

    Args:
        shards: All that were ever made.
        seed: Of the run.
        actors: Of each collector.
        collectors: How many there were.
    """
    pieces: dict[tuple[str, int], list[Segment]] = defaultdict(list)
    for shard in shards:
        for segment in shard.segments:
            pieces[segment.env, segment.seed].append(segment)
    faults = []
    over = {}
    for level, segments in pieces.items():
        segments.sort(key=lambda s: s.first_step)
        step = 0
        for segment in segments:
            if segment.first_step != step:
                faults.append(f"level {level} goes on at step {segment.first_step} after {step}")
            step += segment.length
        if any(s.final for s in segments[:-1]):
            faults.append(f"level {level} goes on after its end")
        over[level[1]] = segments[-1].final
    for actor in range(actors * collectors):
        played = 0
        while (level_seed := training_level_seed(seed, actor, played)) in over:
            if not over.pop(level_seed) and training_level_seed(seed, actor, played + 1) in over:
                faults.append(f"actor {actor} began episode {played + 1} before the end of another")
            played += 1
    faults += [f"level seed {left} is of no actor, or was played out of turn" for left in over]
    return faults


def label_faults(folder: DatasetFolder, oracle: Labeller, plan_horizon: int) -> list[str]:
    """Label files that are not what the oracle says."""
    faults = []
    with tempfile.TemporaryDirectory() as elsewhere:
        for path in listed(folder.labels):
            shard = Shard.open(folder.shards / path.name)
            again = label_shard(shard, oracle, plan_horizon, Path(elsewhere))
            if again.read_bytes() != path.read_bytes():
                faults.append(f"the labels of {path.name} are not the oracle's")
    return faults + [
        f"{entry.name} has no labels"
        for entry in load_manifest(folder).shards
        if not (folder.labels / entry.name).exists()
    ]


def metric_faults(
    rows: Sequence[Mapping[str, Any]], *, epochs: int, batches: int, log_interval: int
) -> list[str]:
    """Lines of the learner's metrics that are missing, doubled, or out of order.

    Args:
        rows: Of `metrics.jsonl`.
        epochs: Of the run.
        batches: Of each epoch; each is an update.
        log_interval: Batches from one line to the next.
    """
    expected = []
    for batch in range(1, epochs * batches + 1):
        if batch % log_interval == 0:
            expected.append(((batch - 1) // batches, batch, False))
        if batch % batches == 0:
            expected.append(((batch - 1) // batches, batch, True))
    found = [(row["epoch"], row["updates"], "seconds" in row) for row in rows]
    if found == expected:
        return []
    pairs = enumerate(zip_longest(found, expected))
    return [f"line {n} is {a}, not {b}" for n, (a, b) in pairs if a != b][:5]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Lines of metrics; each must be whole."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def left_behind(run: Path) -> list[Path]:
    """Temporary files and folders that are still there after a sweep by a learner."""
    for folder in (run, run / "shards", run / "labels"):
        sweep_temporary_files(folder, older_than_s=-1)
    return sorted({path for pattern in _LEFT_BEHIND for path in run.rglob(pattern)})
