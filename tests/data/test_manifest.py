import json
import logging
import os

import pytest

from remdm.data.eviction import Limits
from remdm.data.folder import DatasetFolder
from remdm.data.generation import Manifest
from remdm.data.manifest import MANIFESTS_KEPT, load_manifest, rewind_manifest
from remdm.data.opened import OpenFiles
from remdm.data.scan import Scanner
from tests.data.recorded import HORIZON, TraceOracle, dataset, piece, put_shard


class Stock:
    """A folder with shards of 10 steps each, and what scanning it finds."""

    def __init__(self, root, **limits) -> None:
        self.folder = DatasetFolder(root)
        self.folder.make()
        self.limits = Limits(**limits)
        self.scanner = Scanner(self.folder, OpenFiles(self.folder.set_aside))

    def put(self, *epochs: int, protected: bool = False) -> None:
        place = self.folder.protected if protected else self.folder.shards
        for epoch in epochs:
            put_shard(place, [piece("a", epoch, 0, 10)], epoch=epoch)

    def scan(self) -> Manifest:
        manifest = self.scanner.refresh(self.limits)
        self.scanner.bury(self.limits)
        return manifest

    def on_disk(self) -> list[int]:
        return [epoch(p.name) for p in self.folder.shard_paths()]


def epoch(name: str) -> int:
    return int(name[1:7])


def epochs(manifest: Manifest) -> list[int]:
    return [epoch(e.name) for e in manifest.shards]


@pytest.fixture
def stock(tmp_path):
    return Stock(tmp_path)


def test_a_scan_finds_shards_in_the_order_of_making_and_protected_ones_first(stock):
    stock.put(3, 10, 2)
    stock.put(7, protected=True)
    manifest = stock.scan()
    assert epochs(manifest) == [7, 2, 3, 10]
    assert [e.protected for e in manifest.shards] == [True, False, False, False]
    entry = manifest.shards[0]
    assert (entry.steps, entry.verified, entry.labels) == (10, True, None)
    assert entry.bytes == (stock.folder.protected / entry.name).stat().st_size


def test_a_manifest_comes_back_as_written(stock):
    stock.put(0, 1)
    manifest = stock.scan()
    assert load_manifest(stock.folder) == manifest
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_scan_that_finds_nothing_new_makes_no_generation(stock):
    stock.put(0)
    assert stock.scan() == stock.scan()
    stock.put(1)
    assert stock.scan().generation == 2


def test_the_oldest_shards_beyond_the_step_limit_go(tmp_path):
    stock = Stock(tmp_path, max_steps=30)
    stock.put(0, 1, 2)
    assert epochs(stock.scan()) == [0, 1, 2]
    stock.put(3, 4)
    manifest = stock.scan()
    assert epochs(manifest) == [2, 3, 4]
    assert manifest.evicted_steps == 20


def test_the_oldest_shards_beyond_the_byte_limit_go(tmp_path):
    size = put_shard(tmp_path / "probe", [piece("a", 0, 0, 10)]).stat().st_size
    stock = Stock(tmp_path / "data", max_bytes=2 * size)
    stock.put(0, 1)
    assert epochs(stock.scan()) == [0, 1]
    stock.put(2)
    assert epochs(stock.scan()) == [1, 2]


def test_labels_count_against_the_byte_limit(tmp_path):
    data = dataset(tmp_path)
    for number in (0, 1):
        put_shard(data.folder.shards, [piece("a", number, 0, 10)], epoch=number)
    size = sum(p.stat().st_size for p in data.folder.shard_paths())
    data.limits = Limits(max_bytes=size)
    data.refresh()
    assert epochs(data.manifest) == [0, 1]
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    assert epochs(data.manifest) == [1]


def test_evicted_files_live_one_generation_longer(tmp_path):
    stock = Stock(tmp_path, max_steps=10)
    stock.put(0)
    stock.scan()
    stock.put(1)
    assert list(stock.scan().tombstones.values()) == [2]
    assert stock.on_disk() == [0, 1]
    stock.put(2)
    assert epochs(stock.scan()) == [2]
    assert stock.on_disk() == [1, 2]


def test_evicted_files_live_as_long_as_they_are_told_to(tmp_path):
    stock = Stock(tmp_path, max_steps=10, unlink_after=3)
    alive = []
    for number in range(6):
        stock.put(number)
        stock.scan()
        alive.append(stock.on_disk())
    assert alive[-1] == [2, 3, 4, 5]


def test_labels_go_with_their_shard(tmp_path):
    data = dataset(tmp_path, dset_max_timesteps=10)
    for number in range(4):
        put_shard(data.folder.shards, [piece("a", number, 0, 10)], epoch=number)
        data.label_new(TraceOracle(), HORIZON)
        data.refresh()
        listed = sorted(p.name for p in data.folder.labels.iterdir())
        assert listed == sorted(p.name for p in data.folder.shards.iterdir())
    assert len(listed) == 2


def test_protected_shards_stay_and_do_not_count(tmp_path):
    stock = Stock(tmp_path, max_steps=20)
    stock.put(0, 1, 2, protected=True)
    stock.put(3, 4, 5)
    assert epochs(stock.scan()) == [0, 1, 2, 4, 5]
    stock.put(6, 7, 8)
    assert epochs(stock.scan()) == [0, 1, 2, 7, 8]
    assert stock.on_disk()[:3] == [0, 1, 2]


def test_a_shard_moved_to_protected_after_its_eviction_is_taken_back(tmp_path):
    stock = Stock(tmp_path, max_steps=10)
    stock.put(0, 1)
    stock.scan()
    path = stock.folder.shard_paths()[0]
    path.replace(stock.folder.protected / path.name)
    assert epochs(stock.scan()) == [0, 1]
    stock.put(2)
    assert epochs(stock.scan()) == [0, 2]
    assert (stock.folder.protected / path.name).exists()


def test_the_newest_shard_stays_however_large(tmp_path):
    stock = Stock(tmp_path, max_steps=1)
    stock.put(0, 1)
    assert epochs(stock.scan()) == [1]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.999])
def test_a_torn_shard_is_set_aside_with_its_reason_and_nothing_else_is_lost(stock, share, caplog):
    stock.put(0, 1, 2)
    torn = stock.folder.shard_paths()[1]
    whole = torn.read_bytes()
    torn.write_bytes(whole[: int(len(whole) * share)])
    with caplog.at_level(logging.WARNING):
        assert epochs(stock.scan()) == [0, 2]
    assert "training goes on" in caplog.text
    assert stock.folder.num_quarantined == 1
    aside = stock.folder.quarantine / torn.name
    assert aside.read_bytes() == whole[: int(len(whole) * share)]
    reason = aside.with_name(f"{torn.name}.reason.txt").read_text()
    assert "bytes" in reason
    assert stock.on_disk() == [0, 2]


def test_a_flipped_bit_in_the_data_of_a_new_shard_is_found(stock):
    stock.put(0, 1)
    path = stock.folder.shard_paths()[0]
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 4
    path.write_bytes(raw)
    assert epochs(stock.scan()) == [1]
    assert stock.folder.num_quarantined == 1


def test_two_damaged_files_of_one_name_are_both_kept(stock):
    for content in (b"one", b"two"):
        stock.put(0)
        stock.folder.shard_paths()[0].write_bytes(content)
        stock.scan()
    assert stock.folder.num_quarantined == 2


def test_damaged_labels_are_set_aside_and_made_again(tmp_path):
    data = dataset(tmp_path)
    path = put_shard(data.folder.shards, [piece("a", 0, 0, 10)])
    data.label_new(TraceOracle(), HORIZON)
    labels = data.folder.labels / path.name
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1])
    data.refresh()
    assert not data.ready_for_training
    assert data.folder.num_quarantined == 1
    assert data.label_new(TraceOracle(), HORIZON) == 10
    data.refresh()
    assert data.ready_for_training
    assert labels.read_bytes() == whole


def test_what_killed_writers_left_behind_is_swept_when_it_is_old(stock):
    old, young = (stock.folder.shards / f".tmp-1-{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half a shard")
    os.utime(old, (0, 0))
    stock.put(0)
    assert epochs(stock.scan()) == [0]
    assert not old.exists()
    assert young.exists()


def test_only_the_last_few_manifests_are_kept(stock):
    for number in range(MANIFESTS_KEPT + 3):
        stock.put(number)
        stock.scan()
    assert list(stock.folder.manifests()) == list(range(4, MANIFESTS_KEPT + 4))


def test_an_unreadable_manifest_is_replaced_by_an_older_one(stock, caplog):
    stock.put(0)
    stock.scan()
    stock.put(1)
    stock.scan()
    newest = stock.folder.manifests()[2]
    newest.write_text(newest.read_text()[:40])
    with caplog.at_level(logging.WARNING):
        assert load_manifest(stock.folder).generation == 1
    assert "no readable manifest" in caplog.text
    assert epochs(stock.scan()) == [0, 1]
    assert load_manifest(stock.folder).generation == 2


def test_a_missing_generation_is_named(stock):
    stock.put(0)
    stock.scan()
    with pytest.raises(FileNotFoundError, match=r"no manifest of generation 7; it has \[1\]"):
        load_manifest(stock.folder, 7)
    assert load_manifest(stock.folder, 1).generation == 1


def test_rewinding_takes_back_what_came_after(stock):
    stock.put(0, 1)
    then = stock.scan()
    known = [p.name for p in stock.folder.shard_paths()]
    stock.put(2)
    stock.scan()
    stock.put(3)
    rewind_manifest(stock.folder, then, known)
    assert load_manifest(stock.folder) == then
    assert stock.on_disk() == [0, 1]
    assert sorted(epoch(p.name) for p in stock.folder.superseded.iterdir()) == [2, 3]
    stock.put(2)
    assert stock.scan().generation == then.generation + 1


def test_rewinding_takes_back_evictions_whose_files_still_lie_there(tmp_path):
    stock = Stock(tmp_path, max_steps=20)
    stock.put(0, 1)
    then = stock.scan()
    known = [p.name for p in stock.folder.shard_paths()]
    stock.put(2)
    assert epochs(stock.scan()) == [1, 2]
    rewind_manifest(stock.folder, then, known)
    assert epochs(stock.scan()) == [0, 1]
