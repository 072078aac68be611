"""Going on from a checkpoint where others have collected since."""

import json
import logging

import numpy as np
import pytest

from remdm.data.datasets import MixtureOfDatasets
from remdm.data.ledger import Ledger
from remdm.data.manifest import load_manifest
from tests.data.recorded import HORIZON, TraceOracle, dataset, filled, piece, put_shard, traces


def add(data, *seeds):
    for seed in seeds:
        put_shard(data.folder.shards, [piece("a", seed, 0, 10)], epoch=seed)
        data.label_new(TraceOracle(), HORIZON)
        data.refresh()


def test_what_others_made_since_stays_and_is_drawn_after_the_next_refresh(tmp_path):
    data = filled(tmp_path, 0, 1)
    state = json.loads(json.dumps(data.state()))
    wanted = data.sample(64, np.random.default_rng(1))
    add(data, 2, 3)
    put_shard(data.folder.shards, [piece("a", 4, 0, 10)], epoch=4)
    resumed = dataset(tmp_path)
    resumed.restore(state, keep_newer=True)
    again = resumed.sample(64, np.random.default_rng(1))
    np.testing.assert_array_equal(wanted.observations["trace"], again.observations["trace"])
    assert resumed.manifest.generation == state["manifest"]["generation"]
    assert not resumed.folder.superseded.exists()
    resumed.label_new(TraceOracle(), HORIZON)
    resumed.refresh()
    assert traces(resumed) == {0, 1, 2, 3, 4}


def test_other_readers_never_see_a_generation_with_another_content(tmp_path):
    data = filled(tmp_path, 0)
    state, last = data.state(), 0
    ledger = Ledger(data.folder)
    add(data, 1, 2)
    seen = {data.manifest.generation: data.manifest}
    resumed = dataset(tmp_path)
    for seed in (None, 3, 4):
        if seed is None:
            resumed.restore(state, keep_newer=True)
        else:
            add(resumed, seed)
        newest = load_manifest(data.folder)
        assert newest.generation >= last
        assert seen.setdefault(newest.generation, newest) == newest
        last = newest.generation
    assert last == data.manifest.generation + 2
    assert ledger.collected() == 50


def test_numbers_go_on_from_the_checkpoint_where_manifests_were_lost(tmp_path):
    data = filled(tmp_path, 0)
    add(data, 1, 2)
    state = data.state()
    for path in data.folder.manifests().values():
        path.unlink()
    resumed = dataset(tmp_path)
    resumed.restore(state, keep_newer=True)
    assert load_manifest(resumed.folder) == data.manifest
    add(resumed, 3)
    assert resumed.manifest.generation == data.manifest.generation + 1


def test_shards_evicted_since_are_drawn_as_long_as_their_files_are_there(tmp_path, caplog):
    data = filled(tmp_path, 0, 1, dset_max_timesteps=20)
    state = data.state()
    add(data, 2)
    resumed = dataset(tmp_path, dset_max_timesteps=20)
    resumed.restore(state, keep_newer=True)
    assert traces(resumed) == {0, 1}
    resumed.refresh()
    assert traces(resumed) == {1, 2}
    add(data, 3)
    late = dataset(tmp_path, dset_max_timesteps=20)
    with caplog.at_level(logging.WARNING):
        late.restore(state, keep_newer=True)
    assert "e000000-main-000000-10.safetensors is in the manifest and not on disk" in caplog.text
    assert traces(late) == {1}


@pytest.mark.parametrize("keep_newer", [True, False])
def test_a_mixture_tells_its_datasets_what_to_keep(tmp_path, keep_newer):
    parts = [filled(tmp_path / name, 0) for name in "ab"]
    state = MixtureOfDatasets(parts).state()
    for part in parts:
        add(part, 1)
    again = [dataset(tmp_path / name) for name in "ab"]
    MixtureOfDatasets(again).restore(state, keep_newer=keep_newer)
    assert [part.folder.superseded.exists() for part in again] == [not keep_newer] * 2
