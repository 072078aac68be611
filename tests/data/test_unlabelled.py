"""Which shards labellers are told of."""

import logging

import pytest

from remdm.data.labels import LabelIdentity, Labels, label_shard
from remdm.data.shards import Shard
from remdm.data.unlabelled import LabelQueue, claim_name, log_damage
from remdm.distributed.claims import ClaimBoard
from tests.data.recorded import HORIZON, TraceOracle, dataset, piece, put_shard

TRACE = LabelIdentity("trace", 1, HORIZON)


@pytest.fixture
def data(tmp_path):
    made = dataset(tmp_path)
    made.folder.make()
    return made


def put(data, epoch, sequence=0, collector="c0", *, place=None):
    folder = place or data.folder.shards
    return put_shard(
        folder, [piece("a", epoch, 0, 5)], epoch=epoch, sequence=sequence, collector=collector
    )


def labelled(data, path, version=1):
    return label_shard(Shard.open(path), TraceOracle(version), HORIZON, data.folder.labels)


def names(queue):
    return [path.name[:17] for path in queue.waiting()]


def test_what_has_no_labels_waits_oldest_first(data):
    for epoch, sequence, collector in ((2, 0, "c0"), (1, 1, "c0"), (1, 0, "c1"), (1, 0, "c0")):
        put(data, epoch, sequence, collector)
    by_hand = put(data, 9, place=data.folder.protected)
    by_hand = by_hand.rename(by_hand.with_name("by-hand.safetensors"))
    (data.folder.shards / ".tmp-1-x.safetensors").write_bytes(b"half a shard")
    queue = LabelQueue(data.folder, TRACE)
    assert queue.waiting()[0] == by_hand
    assert names(queue)[1:] == [
        "e000001-c0-000000", "e000001-c1-000000", "e000001-c0-000001", "e000002-c0-000000",
    ]  # fmt: skip
    labelled(data, queue.waiting()[1])
    labelled(data, by_hand)
    assert names(queue) == ["e000001-c1-000000", "e000001-c0-000001", "e000002-c0-000000"]


def test_an_empty_place_has_nothing_to_label(tmp_path):
    assert LabelQueue(dataset(tmp_path / "absent").folder, TRACE).waiting() == []


def test_labels_of_another_oracle_or_shard_are_not_the_right_ones(data):
    queue, any_labels = LabelQueue(data.folder, TRACE), LabelQueue(data.folder, None)
    first, second = put(data, 0), put(data, 1)
    labelled(data, first, version=2)
    other = labelled(data, second)
    assert names(queue) == ["e000000-c0-000000"]
    assert any_labels.waiting() == []
    labelled(data, first)
    assert queue.waiting() == []
    # Labels of what was recorded under this name before.
    first.unlink()
    put_shard(data.folder.shards, [piece("a", 7, 0, 5)], epoch=0, collector="c0")
    fresh = LabelQueue(data.folder, TRACE)
    assert names(fresh) == ["e000000-c0-000000"]
    other.unlink()
    assert names(fresh) == ["e000000-c0-000000", "e000001-c0-000000"]
    assert names(any_labels) == ["e000001-c0-000000"]


def test_right_labels_that_are_replaced_by_wrong_ones_are_noticed(data):
    queue, path = LabelQueue(data.folder, TRACE), put(data, 0)
    labelled(data, path)
    assert queue.waiting() == []
    labelled(data, path, version=2)
    assert queue.waiting() == [path]


def test_a_label_file_known_to_be_right_is_not_opened_again(data):
    queue, path = LabelQueue(data.folder, TRACE), put(data, 0)
    labels = labelled(data, path)
    assert queue.waiting() == []
    # In place, so that it is the same file as far as a listing tells.
    labels.write_bytes(b"torn")
    assert queue.waiting() == []
    assert data.folder.num_quarantined == 0


def test_what_a_manifest_tells_of_is_not_opened_at_all(data):
    path = put(data, 0)
    labels = labelled(data, path)
    data.refresh()
    labels.write_bytes(b"torn")
    assert LabelQueue(data.folder, TRACE).waiting() == []
    assert LabelQueue(data.folder, LabelIdentity("trace", 2, HORIZON)).waiting() == [path]


def test_evicted_shards_are_not_labelled_any_more(tmp_path):
    data = dataset(tmp_path, dset_max_timesteps=5)
    queue = LabelQueue(data.folder, TRACE)
    put(data, 0)
    newest = put(data, 1)
    data.refresh()
    assert len(data.folder.shard_paths()) == 2
    assert queue.waiting() == [newest]


def test_damaged_shards_and_labels_are_set_aside(data, caplog):
    queue, paths = LabelQueue(data.folder, TRACE), [put(data, n) for n in range(3)]
    paths[0].write_bytes(paths[0].read_bytes()[:-3])
    labelled(data, paths[1]).write_bytes(b"torn")
    assert queue.shard(paths[0]) is None
    assert queue.waiting() == paths[1:]
    assert data.folder.num_quarantined == 2
    assert queue.shard(paths[0]) is None
    assert queue.shard(paths[2]).num_steps == 5


def test_who_may_change_nothing_is_warned_once(data, caplog):
    queue, path = LabelQueue(data.folder, TRACE, log_damage), put(data, 0)
    labelled(data, path).write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert queue.waiting() == [path]
    assert caplog.text.count("a header needs 8") == 1
    path.write_bytes(b"torn")
    assert queue.shard(path) is None
    assert queue.waiting() == []
    assert path.exists()


def test_a_shard_of_any_name_can_be_claimed(data, tmp_path):
    path = put(data, 0).rename(data.folder.shards / f"a b\u20ac{'x' * 200}.safetensors")
    with ClaimBoard(tmp_path / "board", "me") as board:
        assert board.claim(claim_name(Shard.open(path)))


def test_labels_of_a_shard_that_went_meanwhile_do_not_stay(data):
    path = put(data, 0)
    shard = Shard.open(path)
    path.unlink()
    label_shard(shard, TraceOracle(), HORIZON, data.folder.labels)
    assert list(data.folder.labels.iterdir()) == []
    labels = labelled(data, put(data, 0))
    assert Labels.open(labels).belongs_to(shard)
