"""Scans that touch little: what is known is not looked at, what is new is verified when needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remdm.data import burial, scan
from remdm.data.disk import DiskTrajDataset
from remdm.data.labels import label_shard
from remdm.data.manifest import load_manifest
from remdm.data.opened import OpenFiles
from remdm.data.shards import Shard
from remdm.data.tensor_file import TensorFile
from tests.data.recorded import HORIZON, TraceOracle, dataset, filled, piece, put_shard, traces


@pytest.fixture
def unverified(monkeypatch):
    """No scan compares contents with checksums, as if there were too many new files."""
    monkeypatch.setattr(scan, "VERIFIED_BYTES", 0)


def flip(path: Path, place: int | None = None) -> None:
    """Flip a bit of a file: by default of numbers that only a checksum protects."""
    raw = bytearray(path.read_bytes())
    if place is None:
        file = TensorFile.open(path)
        numbers = file.tensors.get("rewards", file.tensors.get("weights"))
        place = bytes(raw).rindex(numbers.tobytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def unknown(root: Path, *seeds: int) -> DiskTrajDataset:
    """A dataset with labelled shards that nobody has looked at."""
    made = filled(root, *seeds)
    for path in made.folder.manifests().values():
        path.unlink()
    return dataset(root)


def shard_of(data, seed: int) -> Path:
    return data.folder.shards / f"e{seed:06d}-main-000000-10.safetensors"


def sample(data, count=40, seed=3):
    return data.sample(count, np.random.default_rng(seed)).observations["trace"].tolist()


# Verified before it is drawn from


def test_what_a_scan_does_not_verify_is_verified_by_a_later_one(tmp_path, unverified, monkeypatch):
    data = unknown(tmp_path, 0, 1)
    data.refresh()
    assert not any(entry.all_verified for entry in data.manifest.shards)
    assert traces(data) == {0, 1}
    # Later scans compare what is left over, and the next manifest tells of it.
    monkeypatch.setattr(scan, "VERIFIED_BYTES", 1 << 20)
    put_shard(data.folder.shards, [piece("a", 2, 0, 10)], epoch=2)
    data.refresh()
    assert all(entry.all_verified for entry in load_manifest(data.folder).shards)
    assert len(data.manifest.shards) == 3


@pytest.mark.parametrize("place", ["shards", "labels"])
def test_damage_that_no_scan_has_found_is_found_by_the_first_draw(tmp_path, unverified, place):
    data, without = unknown(tmp_path / "run", 0, 1, 2), filled(tmp_path / "without", 0, 2)
    flip(data.folder.root / place / shard_of(data, 1).name)
    data.refresh()
    assert data.index.num_windows == 24
    assert data.folder.num_quarantined == 0
    # Drawn as if it had not been there, from the first window on.
    assert sample(data) == sample(without)
    assert data.index.num_windows == 16
    assert data.folder.num_quarantined == 1
    assert traces(data) == {0, 2}
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    assert traces(data) == ({0, 2} if place == "shards" else {0, 1, 2})
    assert data.folder.num_quarantined == 1


def test_what_another_process_did_not_verify_is_verified_here(tmp_path, unverified):
    owner = unknown(tmp_path, 0, 1)
    owner.refresh()
    assert not load_manifest(owner.folder).shards[0].verified
    reader = dataset(tmp_path)
    reader.configure(HORIZON, oracle=TraceOracle(), may_edit=False)
    flip(shard_of(owner, 0))
    reader.refresh()
    assert traces(reader) == {1}
    assert shard_of(owner, 0).exists()


def test_nothing_is_left_to_draw_where_all_is_damaged(tmp_path, unverified):
    data = unknown(tmp_path, 0)
    flip(shard_of(data, 0))
    data.refresh()
    with pytest.raises(RuntimeError, match="no labelled step to draw"):
        data.sample(4, np.random.default_rng(0))
    assert not data.ready_for_training


def test_a_good_file_is_not_set_aside_for_the_damaged_one_that_it_replaced(tmp_path):
    damages = []
    files, path = OpenFiles(damages.append), put_shard(tmp_path, [piece("a", 0, 0, 10)])
    whole = path.read_bytes()
    flip(path)
    damaged = files.shard(path)
    path.unlink()
    path.write_bytes(whole)
    os.utime(path, ns=(1, 1))
    assert not files.verify(damaged)
    assert damages == []
    assert files.verify(files.shard(path))


def test_a_file_that_changed_in_place_is_not_believed_for_what_it_was(tmp_path):
    damages = []
    files, path = OpenFiles(damages.append), put_shard(tmp_path, [piece("a", 0, 0, 10)])
    shard = files.shard(path)
    assert files.verify(shard)
    trusted = {shard.checksum}
    flip(path)
    os.utime(path, ns=(1, 1))
    assert not files.verify(files.shard(path, trusted))
    assert len(damages) == 1


# Known files are not touched


def test_changes_that_a_listing_cannot_tell_are_found_in_turns(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "LOOKED_AT_AGAIN", 1)
    data = filled(tmp_path, 0, 1, 2)
    flip(shard_of(data, 1), place=60)
    seen = []
    for _ in range(3):
        data.refresh()
        seen.append(data.folder.num_quarantined)
    assert seen[-1] == 1
    assert traces(data) == {0, 2}


def test_labels_that_are_replaced_are_noticed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "LOOKED_AT_AGAIN", 0)
    data = filled(tmp_path, 0, 1)
    label_shard(Shard.open(shard_of(data, 0)), TraceOracle(2), HORIZON, data.folder.labels)
    data.refresh()
    assert traces(data) == {1}


def change_something(data, rng, number):
    """Collect, label, protect, damage or lose something."""
    what = rng.integers(6)
    paths = data.folder.shard_paths()
    if what <= 2 or len(paths) < 3:
        env = "abc"[rng.integers(3)]
        pieces = [piece(env, number, 0, 10), piece("a", number, 3, 4, won=None)]
        put_shard(data.folder.shards, pieces, epoch=number, collector=f"c{rng.integers(2)}")
    elif what == 3:
        data.label_new(TraceOracle(), HORIZON)
    elif what == 4:
        path = paths[rng.integers(len(paths))]
        path.rename(data.folder.protected / path.name)
    else:
        flip(paths[rng.integers(len(paths))], place=70)


@pytest.mark.parametrize("target", ["plan", "executed"])
def test_an_index_that_grew_draws_what_one_made_at_once_draws(tmp_path, target):
    """Whatever came, went or was labelled between, also with histories and weighed returns."""
    knobs = {"target": target, "return_weight_cap": 3.0, "won_only": target == "executed"}
    data, rng = dataset(tmp_path, dset_max_timesteps=90, **knobs), np.random.default_rng(0)
    data.configure(HORIZON, oracle=TraceOracle(), history=2, past_actions=1)
    compared = 0
    for number in range(60):
        change_something(data, rng, number)
        data.refresh()
        at_once = dataset(tmp_path, **knobs)
        at_once.configure(HORIZON, oracle=TraceOracle(), history=2, past_actions=1, may_edit=False)
        at_once.refresh()
        assert at_once.manifest == data.manifest
        assert at_once.env_names == data.env_names
        if not data.ready_for_training:
            continue
        compared += 1
        windows = [d.sample(30, np.random.default_rng(number)) for d in (data, at_once)]
        for name, array in windows[0].observations.items():
            np.testing.assert_array_equal(array, windows[1].observations[name])
        for name in ("plans", "weights", "env_ids", "past"):
            np.testing.assert_array_equal(*(getattr(window, name) for window in windows))
    assert compared > 30
    assert data.manifest.evicted_steps > 0
    assert data.folder.num_quarantined > 0


# Deleting


def test_many_evicted_files_are_deleted_beside_the_scan_and_forgotten_afterwards(tmp_path):
    data, count = dataset(tmp_path), burial.AT_ONCE + 10
    for number in range(count):
        put_shard(data.folder.shards, [piece("a", number, 0, 2)], epoch=number)
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    small = dataset(tmp_path, dset_max_timesteps=2)
    small.refresh()
    assert len(small.manifest.tombstones) == count - 1
    put_shard(data.folder.shards, [piece("a", count, 0, 2)], epoch=count)
    small.refresh()
    # Until they are deleted, the newest manifest tells of them.
    assert small.manifest.tombstones.keys() >= {p.name for p in data.folder.labels.iterdir()} - {
        e.name for e in small.manifest.shards
    }
    small._scanner.wait()
    assert len(data.folder.shard_paths()) == 2
    assert len(list(data.folder.labels.iterdir())) == 1
    put_shard(data.folder.shards, [piece("a", count + 1, 0, 2)], epoch=count + 1)
    small.refresh()
    assert len(small.manifest.tombstones) == 2
    assert small.manifest.evicted_steps == 2 * (count + 1)


# Formats, and what the system allows


def test_a_manifest_is_written_as_columns(tmp_path):
    data = filled(tmp_path, 0, 1)
    values = json.loads(data.folder.manifests()[data.manifest.generation].read_bytes())
    assert values["schema_version"] == 2
    assert values["shards"]["steps"] == [10, 10]
    assert values["shards"]["label_identities"] == [["trace", 1, HORIZON]]


MANY = """
import sys
from pathlib import Path
import numpy as np
from remdm.data.mapped_file import mapped
path, most = sys.argv[1], int(Path("/proc/sys/vm/max_map_count").read_text())
files = [mapped(path) for _ in range(most + 500)]
words = Path(path).read_bytes()
assert all(files[n].tobytes() == words for n in (0, 1000, most - 1, most + 400))
assert not any(file.flags.writeable for file in files[:: most // 7])
used = len(Path("/proc/self/maps").read_text().splitlines())
assert 0.7 * most < used < 0.9 * most, used
assert np.ones(1 << 26, np.uint8).sum() == 1 << 26
del files
assert len(Path("/proc/self/maps").read_text().splitlines()) < 2_000
"""


def test_more_files_than_the_system_maps_are_copied(tmp_path):
    limit = Path("/proc/sys/vm/max_map_count")
    if not limit.exists() or int(limit.read_text()) > 200_000:
        pytest.skip("needs a low vm.max_map_count")
    path = put_shard(tmp_path, [piece("a", 0, 0, 10)])
    ran = subprocess.run(
        [sys.executable, "-c", MANY, str(path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
