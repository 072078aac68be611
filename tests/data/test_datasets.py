import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import gin
import numpy as np
import pytest

from remdm.data.datasets import DiskTrajDataset
from remdm.data.labels import LabelIdentity, Labels
from remdm.data.shards import RecordingBuffer, Shard
from remdm.envs.making import make_vec_env
from remdm.oracles.memory_oracle import MemoryOracle
from tests.data.recorded import (
    ACTIONS,
    HORIZON,
    TraceOracle,
    dataset,
    filled,
    piece,
    put_shard,
    traces,
)


def test_what_actors_do_is_recorded_labelled_and_drawn(tmp_path):
    names = ["Gridworld-Maze-9x9-v0", "Gridworld-Room-9x9-v0"]
    env, oracle, horizon = make_vec_env(names, env_mode="sync"), MemoryOracle(), 8
    data = DiskTrajDataset(tmp_path / "a run")
    data.configure(horizon, oracle=oracle, action_names=env.action_names)
    buffer = RecordingBuffer(data.save_new_trajs_to, env.action_names)
    rng, seeds, taken = np.random.default_rng(0), np.arange(2), 0
    observations = env.reset(seeds.tolist())
    for epoch in range(3):
        for _ in range(10):
            plans = oracle.plan(observations, horizon, rng)
            chunk = env.execute(plans, 4, stop_when_blocked=True)
            buffer.append(chunk, seeds, env.env_names)
            taken += int(chunk.lengths.sum())
            observations = chunk.final_observations
            rows = np.flatnonzero(chunk.done)
            if len(rows):
                seeds[rows] += 2
                observations = env.reset(seeds[rows].tolist(), rows.tolist())
        buffer.flush(epoch)
        assert data.label_new(oracle, horizon) > 0
        metrics = data.refresh()
    assert metrics["buffer/timesteps"] == metrics["buffer/windows"] == taken
    assert metrics["buffer/shards"] == 3
    assert data.ready_for_training
    assert data.env_names == tuple(names)
    window = data.sample(200, rng)
    plans, weights = oracle.label(window.observations, horizon)
    np.testing.assert_array_equal(window.plans, plans)
    np.testing.assert_array_equal(window.weights, weights)


def test_a_dataset_begins_empty_and_says_so(tmp_path):
    data = dataset(tmp_path)
    assert data.refresh()["buffer/timesteps"] == 0
    assert not data.ready_for_training
    with pytest.raises(RuntimeError, match="nothing to draw from yet; collect and label first"):
        data.sample(1, np.random.default_rng(0))


def test_training_begins_at_exactly_the_least_number_of_drawable_steps(tmp_path):
    # Two of ten steps have no plan.
    assert filled(tmp_path / "a", 0, dset_min_timesteps=8).ready_for_training
    assert not filled(tmp_path / "b", 0, dset_min_timesteps=9).ready_for_training


def test_a_dataset_must_be_configured_first(tmp_path):
    data = DiskTrajDataset(tmp_path)
    put_shard(data.folder.shards, [piece("a", 0, 0, 3)])
    with pytest.raises(RuntimeError, match="call configure"):
        data.refresh()


def test_labels_are_made_once(tmp_path):
    data = filled(tmp_path, 0, 1)
    assert data.label_new(TraceOracle(), HORIZON) == 0


@pytest.mark.parametrize(
    ("version", "horizon"), [(2, HORIZON), (1, HORIZON + 2)], ids=["version", "horizon"]
)
def test_labels_of_another_oracle_or_horizon_are_redone_and_not_mixed(tmp_path, version, horizon):
    data = filled(tmp_path, 0, 1)
    oracle = TraceOracle(version)
    data.configure(horizon, oracle=oracle)
    data.refresh()
    assert not data.ready_for_training
    # Only one of two shards is relabelled before the labeller stops.
    one = sorted(data.folder.labels.iterdir())[0]
    kept = one.read_bytes()
    assert data.label_new(oracle, horizon) == 20
    one.write_bytes(kept)
    data.refresh()
    assert traces(data) == {1}
    window = data.sample(100, np.random.default_rng(0))
    np.testing.assert_array_equal(window.plans, oracle.label(window.observations, horizon)[0])
    assert data.label_new(oracle, horizon) == 10
    data.refresh()
    assert traces(data) == {0, 1}
    for path in data.folder.labels.iterdir():
        assert Labels.open(path).identity == LabelIdentity("trace", version, horizon)


def test_without_an_oracle_the_newest_labels_are_drawn(tmp_path):
    filled(tmp_path, 0, 1)
    data = DiskTrajDataset(tmp_path)
    data.configure(HORIZON)
    data.refresh()
    assert traces(data) == {0, 1}


def test_labels_of_a_shard_that_was_replaced_are_redone(tmp_path):
    data = filled(tmp_path, 0)
    path = data.folder.shard_paths()[0]
    path.unlink()
    put_shard(data.folder.shards, [piece("a", 5, 0, 10)], epoch=0)
    data.refresh()
    assert not data.ready_for_training
    assert data.label_new(TraceOracle(), HORIZON) == 10
    data.refresh()
    assert traces(data) == {5}


def test_a_damaged_shard_does_not_stop_labelling_or_training(tmp_path, caplog):
    data = filled(tmp_path, 0)
    torn = put_shard(data.folder.shards, [piece("a", 1, 0, 10)], epoch=1)
    put_shard(data.folder.shards, [piece("a", 2, 0, 10)], epoch=2)
    torn.write_bytes(torn.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert data.label_new(TraceOracle(), HORIZON) == 10
    metrics = data.refresh()
    assert metrics["buffer/quarantined_files"] == 1
    assert traces(data) == {0, 2}
    assert caplog.text.count("training goes on") == 1


def test_shards_of_another_action_set_are_refused_and_kept(tmp_path):
    data = filled(tmp_path, 0)
    other = put_shard(data.folder.shards, [piece("a", 1, 0, 5)], actions=("X", "Y", "Z"), epoch=1)
    with pytest.raises(ValueError, match="must have the actions LEFT, RIGHT, JUMP") as caught:
        data.refresh()
    assert "X, Y, Z" in str(caught.value)
    assert "Experiment.buffer_dir" in str(caught.value)
    assert Shard.open(other).num_steps == 5


def test_evicted_shards_are_no_longer_drawn(tmp_path):
    data = filled(tmp_path, 0, 1, 2, dset_max_timesteps=20)
    assert traces(data) == {1, 2}
    assert data.refresh()["buffer/evicted_timesteps"] == 10


def test_a_batch_can_be_drawn_while_files_are_replaced_and_deleted(tmp_path):
    data = filled(tmp_path, 0, 1)
    before = data.sample(50, np.random.default_rng(0))
    for path in [*data.folder.shards.iterdir(), *data.folder.labels.iterdir()]:
        path.unlink()
    after = data.sample(50, np.random.default_rng(0))
    np.testing.assert_array_equal(before.observations["map"], after.observations["map"])


def test_a_restored_state_draws_what_was_drawn_then(tmp_path):
    data = filled(tmp_path, 0, 1, dset_max_timesteps=20)
    state = json.loads(json.dumps(data.state()))
    wanted = data.sample(64, np.random.default_rng(1))
    put_shard(data.folder.shards, [piece("a", 2, 0, 10)], epoch=2)
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    assert traces(data) == {1, 2}
    resumed = dataset(tmp_path, dset_max_timesteps=20)
    resumed.restore(state)
    again = resumed.sample(64, np.random.default_rng(1))
    np.testing.assert_array_equal(wanted.observations["trace"], again.observations["trace"])
    # The shard made since is out of the way, so that the resumed run can make it again.
    assert [p.name for p in resumed.folder.superseded.iterdir()] == [
        "e000002-main-000000-10.safetensors"
    ]
    resumed.refresh()
    assert traces(resumed) == {0, 1}


def test_shards_not_yet_in_a_manifest_survive_a_restore(tmp_path):
    """A run that is stopped while collecting has written a shard that it has not drawn from."""
    data = filled(tmp_path, 0)
    put_shard(data.folder.shards, [piece("a", 1, 0, 10)], epoch=1)
    resumed = dataset(tmp_path)
    resumed.restore(data.state())
    assert traces(resumed) == {0}
    resumed.label_new(TraceOracle(), HORIZON)
    resumed.refresh()
    assert traces(resumed) == {0, 1}


def test_a_shard_of_the_checkpoint_that_is_gone_is_named_and_done_without(tmp_path, caplog):
    data = filled(tmp_path, 0, 1)
    state = data.state()
    data.folder.shard_paths()[0].unlink()
    resumed = dataset(tmp_path)
    with caplog.at_level(logging.WARNING):
        resumed.restore(state)
    assert "e000000-main-000000-10.safetensors is in the manifest and not on disk" in caplog.text
    assert "DiskTrajDataset.unlink_after" in caplog.text
    assert traces(resumed) == {1}


def test_a_reader_follows_the_owner_and_edits_nothing(tmp_path, caplog):
    owner = filled(tmp_path, 0)
    torn = put_shard(owner.folder.shards, [piece("a", 1, 0, 10)], epoch=1)
    torn.write_bytes(b"torn")
    listed = sorted(p for p in owner.folder.root.rglob("*"))
    reader = DiskTrajDataset(tmp_path)
    reader.configure(HORIZON, may_edit=False)
    reader.refresh()
    assert reader.manifest == owner.manifest
    assert sorted(p for p in owner.folder.root.rglob("*")) == listed
    owner.refresh()
    reader.refresh()
    assert traces(reader) == {0}


def test_deleting_spares_protected_shards_and_other_files(tmp_path):
    data = filled(tmp_path, 0, 1)
    kept = put_shard(data.folder.protected, [piece("a", 2, 0, 10)], epoch=2)
    config = data.folder.root / "config.gin"
    config.write_text("# not the dataset's")
    data.delete()
    left = [p for p in data.folder.root.rglob("*") if p.is_file()]
    assert sorted(left) == sorted([kept, config])


def test_an_experiment_tells_what_windows_are_needed(tmp_path):
    filled(tmp_path, 0)
    shared = {"plan_horizon": HORIZON, "history": 0}
    agent = SimpleNamespace(**shared, observation_keys=("step",), label_keys=(), past_actions=3)
    beside = SimpleNamespace(
        **shared, observation_keys=("step",), label_keys=("trace",), past_actions=0
    )
    experiment = SimpleNamespace(
        agent=agent,
        trainers={"planner": SimpleNamespace(agent=agent), "b": SimpleNamespace(agent=beside)},
        oracle=TraceOracle(),
        augment=None,
        kind=SimpleNamespace(action_names=ACTIONS),
        role=SimpleNamespace(learns=True),
        accelerator=SimpleNamespace(
            num_processes=1, process_index=0, wait_for_everyone=lambda: None
        ),
        has_dset_edit_rights=True,
    )
    data = DiskTrajDataset(tmp_path)
    data.configure_from_experiment(experiment)
    assert data.on_end_of_collection(experiment)["buffer/windows"] == 8
    window = data.sample(4, np.random.default_rng(0))
    assert set(window.observations) == {"step", "trace"}
    assert window.past.shape == (4, 3)
    experiment.augment = object()
    data.configure_from_experiment(experiment)
    data.on_end_of_collection(experiment)
    observations = data.sample(4, np.random.default_rng(0)).observations
    assert set(observations) == {"step", "trace", "map"}


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"target": "plans"}, "unknown DiskTrajDataset.target 'plans': did you mean 'plan'"),
        ({"balance": "envs"}, "unknown DiskTrajDataset.balance 'envs': did you mean 'env'"),
        ({"balance": {}}, "finite shares >= 0, not all 0"),
        ({"balance": {"a": -1.0}}, "finite shares >= 0, not all 0"),
        ({"dset_max_timesteps": 0}, "DiskTrajDataset.dset_max_timesteps must be at least 1, got 0"),
        ({"unlink_after": 0}, "DiskTrajDataset.unlink_after must be at least 1"),
        ({"dset_max_timesteps": 5, "dset_min_timesteps": 6}, "or training never begins"),
    ],
)
def test_knobs_that_make_no_sense_are_refused_by_their_gin_name(tmp_path, knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        DiskTrajDataset(tmp_path, **knobs)


def test_shares_of_environments_that_never_occur_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must name an environment of the data \(a\), got b"):
        filled(tmp_path, 0, balance={"b": 1.0})


def test_knobs_can_be_bound_in_gin_and_the_place_cannot(tmp_path):
    gin.parse_config(["DiskTrajDataset.balance = {'a': 2}", "DiskTrajDataset.target = 'executed'"])
    data = DiskTrajDataset(tmp_path)
    assert (data.balance, data.target) == ({"a": 2}, "executed")
    with pytest.raises(ValueError, match="dset_root"):
        gin.parse_config("DiskTrajDataset.dset_root = 'elsewhere'")


@pytest.mark.slow
def test_two_processes_label_together_and_draw_from_one_generation(tmp_path):
    code = """
        import sys
        import numpy as np
        from accelerate import Accelerator
        from remdm.data.datasets import DiskTrajDataset
        from tests.data.recorded import HORIZON, TraceOracle, piece, put_shard
        accelerator = Accelerator(cpu=True)
        rank = accelerator.process_index
        data = DiskTrajDataset(sys.argv[1])
        data.configure(HORIZON, oracle=TraceOracle(), processes=accelerator)
        for epoch in range(2):
            put_shard(
                data.folder.shards, [piece("a", rank, 0, 10)], epoch=epoch, collector=f"rank{rank}"
            )
            labelled = data.label_new(TraceOracle(), HORIZON)
            accelerator.wait_for_everyone()
            data.refresh()
        seen = data.sample(200, np.random.default_rng(0)).observations["trace"].sum()
        print(labelled, data.manifest.generation, len(data.manifest.shards), seen)
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
            cwd=Path(__file__).parents[2],
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    outputs = [p.communicate(timeout=120) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    first, second = (out.split() for out, _ in outputs)
    assert first == second
    assert first[:3] == ["10", "2", "4"]
