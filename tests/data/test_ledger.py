"""Counting the steps of a dataset from outside, also while others write, evict and delete."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remdm.data.folder import DatasetFolder
from remdm.data.following import ManifestFollower
from remdm.data.generation import Manifest
from remdm.data.labels import LabelIdentity
from remdm.data.ledger import Ledger
from remdm.data.manifest import load_manifest, save_manifest
from tests.data.recorded import HORIZON, TraceOracle, dataset, piece, put_shard

ROOT = Path(__file__).parents[2]
TRACE = LabelIdentity("trace", 1, HORIZON)


def put(data, epoch: int, length: int = 10, *, protected: bool = False) -> Path:
    place = data.folder.protected if protected else data.folder.shards
    return put_shard(place, [piece("a", epoch, 0, length)], epoch=epoch)


def test_every_step_is_counted_once_from_its_arrival_to_after_its_eviction(tmp_path):
    data = dataset(tmp_path, dset_max_timesteps=20)
    ledger, total = Ledger(data.folder), 0
    for epoch in range(8):
        total += 10 + epoch
        put(data, epoch, 10 + epoch)
        assert ledger.collected() == total
        data.refresh()
        assert ledger.collected() == Ledger(data.folder).collected() == total
    assert len(data.folder.shard_paths()) < 5


def test_what_was_not_collected_here_is_not_counted(tmp_path):
    data = dataset(tmp_path)
    put(data, 0, protected=True)
    put_shard(data.folder.shards, [piece("a", 0, 0, 10)], epoch=0)  # hidden by the protected one
    put(data, 1)
    (data.folder.shards / ".tmp-1-x").write_bytes(b"half a shard")
    (data.folder.shards / "e000001-c0-000000-7.safetensors.txt").touch()
    by_hand = data.folder.shards / "by-hand.safetensors"
    put(data, 2, 5).rename(by_hand)
    data.refresh()
    put(data, 3)
    assert Ledger(data.folder).collected() == 10 + 5 + 10


def test_a_dataset_that_does_not_exist_yet_has_no_steps_and_is_not_made(tmp_path):
    ledger = Ledger(dataset(tmp_path / "made").folder)
    assert ledger.collected() == ledger.without_labels() == 0
    absent = DatasetFolder(tmp_path / "absent")
    assert Ledger(absent).collected() == 0
    assert not absent.root.exists()


def test_steps_set_aside_or_superseded_leave_the_count(tmp_path):
    data = dataset(tmp_path)
    put(data, 0)
    data.refresh()
    state = data.state()
    put(data, 1)
    torn = put(data, 2)
    torn.write_bytes(torn.read_bytes()[:-9])
    ledger = Ledger(data.folder)
    assert ledger.collected() == 30
    data.refresh()
    assert ledger.collected() == 20
    data.restore(state)
    assert ledger.collected() == 10


def test_a_damaged_manifest_is_counted_around(tmp_path):
    data = dataset(tmp_path, dset_max_timesteps=10)
    ledger = Ledger(data.folder)
    for epoch in range(4):
        put(data, epoch)
        data.refresh()
    newest = data.folder.manifests()[4]
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    # The file that was deleted with it is only known to the manifest before.
    assert ledger.collected() == 40
    newest.write_bytes(whole)
    assert ledger.collected() == 40


def test_a_manifest_is_read_again_only_where_there_is_a_newer_one(tmp_path):
    data = dataset(tmp_path)
    follower = ManifestFollower(data.folder)
    for epoch in range(2):
        put(data, epoch)
        data.refresh()
        first = follower.newest()
        assert first == data.manifest
        assert follower.newest() is first


def test_labels_are_waited_for_until_they_are_the_right_ones(tmp_path):
    data = dataset(tmp_path, dset_max_timesteps=20)
    ledger = Ledger(data.folder)
    put(data, 0, protected=True)
    put(data, 1)
    put(data, 2)
    assert ledger.without_labels() == ledger.without_labels(TRACE) == 20
    data.label_new(TraceOracle(), HORIZON)
    assert ledger.without_labels() == ledger.without_labels(TRACE) == 0
    assert ledger.without_labels(LabelIdentity("trace", 2, HORIZON)) == 20
    put(data, 3)
    assert ledger.without_labels(TRACE) == 10
    data.refresh()
    # The oldest of three is evicted, and is no longer waited for.
    data.label_new(TraceOracle(2), HORIZON)
    for path in data.folder.labels.iterdir():
        if path.name in data.manifest.tombstones:
            path.unlink()
    assert ledger.without_labels() == 0


class Overtaken(Ledger):
    """One that lists so slowly that two manifests are made meanwhile."""

    def _listed(self) -> list[str]:
        for _ in range(2):
            save_manifest(self.folder, Manifest(load_manifest(self.folder).generation + 1))
        return super()._listed()


def test_manifests_that_come_faster_than_the_folder_is_listed_are_named(tmp_path):
    data = dataset(tmp_path)
    with pytest.raises(RuntimeError, match="faster than its files can be listed"):
        Overtaken(data.folder).collected()


# Beside processes that write

WRITER = """
import sys
from pathlib import Path
import numpy as np
from remdm.data.records import Segment, StepArrays
from remdm.data.shards import shard_name, write_shard
folder, me, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
begun, done = np.memmap(sys.argv[4], np.int64, "r+", shape=(2, 2))[:, me : me + 1]
rng = np.random.default_rng(me)
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    n = int(rng.integers(1, 9))
    zeros = np.zeros(n, np.bool_)
    steps = StepArrays(
        {"x": np.zeros(n)}, np.zeros(n, np.int8), np.zeros(n, np.float32), zeros, zeros
    )
    segment = Segment("a", number, 0, n, None, False, 0, f"c{me}")
    begun += n
    path = folder / "shards" / shard_name(number, f"c{me}", 0, n)
    write_shard(path, [segment], [steps], ["x"])
    done += n
"""

LEARNER = """
import sys
from pathlib import Path
from remdm.data.eviction import Limits
from remdm.data.folder import DatasetFolder
from remdm.data.opened import OpenFiles
from remdm.data.scan import Scanner
folder = DatasetFolder(Path(sys.argv[1]))
scanner = Scanner(folder, OpenFiles(folder.set_aside))
print("ready", flush=True)
stop = Path(sys.argv[2])
while True:
    last = stop.exists()
    manifest = scanner.refresh(Limits(max_steps=30))
    scanner.bury(Limits())
    if last:
        break
print(manifest.generation, folder.num_quarantined)
"""


@pytest.fixture
def start():
    """Starts processes, and ends them with the test."""
    processes = []

    def started(code: str, *args: object) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def test_the_count_is_exact_beside_writers_and_a_learner_that_evicts_and_deletes(tmp_path, start):
    folder, count = DatasetFolder(tmp_path / "data"), 70
    folder.make()
    begun, done = np.memmap(tmp_path / "steps", np.int64, "w+", shape=(2, 2))
    stop = tmp_path / "stop"
    learner = start(LEARNER, folder.root, stop)
    writers = [start(WRITER, folder.root, me, count, tmp_path / "steps") for me in (0, 1)]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ledger, seen = Ledger(folder), set()
    while any(writer.poll() is None for writer in writers):
        least = int(done.sum())
        counted = ledger.collected()
        assert least <= counted <= int(begun.sum())
        seen.add(counted)
    stop.touch()
    generation, quarantined = map(int, learner.stdout.readline().split())
    assert [p.wait() for p in (learner, *writers)] == [0, 0, 0]
    assert quarantined == 0
    # Neither was it over before it was looked at, nor did the learner do nothing.
    assert len(seen) > 10
    assert generation > 10
    assert len(folder.shard_paths()) < count
    assert ledger.collected() == Ledger(folder).collected() == int(done.sum())
