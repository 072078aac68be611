"""Episodes that were played to measure: kept whole, read as demonstrations, never learnt from."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remdm import config
from remdm.baselines.demonstration_set import existing
from remdm.cli import main
from remdm.data.datasets import DiskTrajDataset
from remdm.data.minari_export import EpisodeJoiner
from remdm.data.shard_names import shard_name
from remdm.data.shards import Shard, write_shard
from remdm.envs.making import make_vec_env
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.training.demonstration_records import RECORDS_FOLDER
from remdm.training.level_guard import check_levels
from tests.cli.told_errors import errors_of
from tests.tiny_runs import learnt, metric_rows, started

ENVS = ["Gridworld-Room-9x9-v0", "Gridworld-Maze-9x9-v0"]
CAP = 7
TINY = {"val_interval": "None", "heldout_envs": "()", "epochs": "1", "test_step_cap": str(CAP)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of an epoch."""
    folder = learnt(tmp_path_factory.mktemp("trained"), **TINY).folder.root
    config.clear_config()
    return folder


def saved(run: Path, to: Path, *argv: str, rows: Sequence[str] = ("planner", "random")) -> None:
    played = ["--episodes", "4", "--max_steps", str(CAP), "--policies", *rows]
    where = ["--save_trajectories", str(to), "--json", str(to.with_suffix(".json"))]
    assert main(["eval", str(run), "--envs", *ENVS, *played, *where, *argv]) == 0
    config.clear_config()


@pytest.fixture(scope="module")
def measured(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the test levels of two policies."""
    folder = tmp_path_factory.mktemp("measured") / "episodes"
    saved(trained, folder)
    return folder


def shards_in(folder: Path) -> list[Shard]:
    return [Shard.open(path) for path in sorted((folder / "protected").glob("*.safetensors"))]


def test_all_steps_of_whole_episodes_are_kept_and_won_where_the_table_says_so(
    measured: Path,
) -> None:
    shards = shards_in(measured)
    told = [
        (s.collector, s.env, s.seed, s.first_step, s.final)
        for shard in shards
        for s in shard.segments
    ]
    assert sorted(told) == sorted(
        (f"eval-{policy}", env, seed, 0, True)
        for policy in ("planner", "random")
        for env in ENVS
        for seed in range(4)
    )
    assert all(len({s.env for s in shard.segments}) == 1 for shard in shards)
    rows = json.loads(measured.with_suffix(".json").read_text())["rows"]
    found = {
        (f"{shard.segments[0].collector}", shard.segments[0].env): (
            sum(bool(s.won) for s in shard.segments),
            np.mean([s.length for s in shard.segments]),
        )
        for shard in shards
    }
    assert found == {
        (f"eval-{row['policy']}", row["env"]): (row["wins"], row["mean_steps"]) for row in rows
    }
    for shard in shards:  # an episode that reaches the cap is cut there, as by a limit of its own
        ends = shard.offsets[1:] - 1
        cut = np.array([not s.won and s.length == CAP for s in shard.segments])
        assert cut.any()
        assert shard.steps.truncated[ends[cut]].all()
        assert shard.steps.truncated.sum() == cut.sum()


def test_they_are_read_as_demonstrations(measured: Path, tmp_path: Path) -> None:
    data = DiskTrajDataset(tmp_path, "copy")
    shutil.copytree(measured, tmp_path / "copy", dirs_exist_ok=True)
    data.configure(6, oracle=MemoryOracle())
    data.label_new(MemoryOracle(), 6)
    data.refresh()
    assert len(data.sample(32, np.random.default_rng(0)).weights) == 32
    joiner, count = EpisodeJoiner(), 0
    for shard in shards_in(measured):
        for segment, (a, b) in zip(
            shard.segments, zip(shard.offsets, shard.offsets[1:], strict=False), strict=True
        ):
            count += len(list(joiner.add(segment, shard.steps[a:b])))
    assert count == 16
    assert not joiner.rest()
    assert list(measured.glob("manifest-*.json"))


def test_cloning_reads_episodes_of_training_levels_and_refuses_those_of_test_levels(
    trained: Path, measured: Path, tmp_path: Path
) -> None:
    actions = shards_in(measured)[0].action_names
    with pytest.raises(ValueError, match="play levels from seed 1000000 on"):
        existing(measured, ENVS, 50, actions)
    folder = tmp_path / "more"
    saved(trained, folder, "--seed", "1000000", rows=("memory",))
    assert len(list((folder / RECORDS_FOLDER).glob("eval-memory-*.json"))) == 2
    (room,) = (s for s in shards_in(folder) if s.segments[0].env == ENVS[0])
    found = existing(folder, ENVS, room.num_steps, actions)
    assert len(found.episodes) == 4
    assert len(found) == found.env_steps == room.num_steps
    # What was kept plays again alike; where there are no doors, an action is a plan of its own.
    for segment, start in zip(room.segments, room.offsets[:-1], strict=True):
        env = make_vec_env([segment.env])
        seen, was = env.reset([segment.seed]), room.steps.observations
        for step in range(start, start + segment.length):
            assert all(np.array_equal(seen[name][0], was[name][step]) for name in was)
            chunk = env.execute(room.steps.actions[step : step + 1, None].astype(np.int64), 1)
            assert chunk.rewards[0, 0] == room.steps.rewards[step]
            seen = chunk.final_observations
        assert bool(chunk.won[0]) == segment.won
        env.close()


def test_a_run_refuses_to_learn_from_levels_that_it_is_measured_on(
    measured: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(measured, tmp_path / "data")
    place = {**TINY, "buffer_dir": repr(str(tmp_path / "data"))}
    run = started(tmp_path, **place)
    with pytest.raises(ValueError, match=r"seeds 0 to 3\), which were played to measure"):
        run.learn()
    run.close()
    # Where they are given another name, in the folder of what is collected, likewise.
    shutil.rmtree(tmp_path / "data")
    path = sorted((measured / "protected").iterdir())[0]
    (tmp_path / "data" / "protected").mkdir(parents=True)
    shutil.copy(path, tmp_path / "data" / "protected" / "demonstrations.safetensors")
    run = started(tmp_path / "again", **place)
    with pytest.raises(ValueError, match="which were played to measure"):
        run.learn()
    run.close()
    check_levels(shards_in(measured), ["MiniHack-Room-5x5-v0"])  # of no concern elsewhere


def test_low_seeds_of_imported_data_are_told_and_learnt_from(
    measured: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = shards_in(measured)[0]
    table: list[Any] = [
        type(s)(s.env, s.seed, 0, s.length, s.won, s.final, 0, "import-theirs")
        for s in shard.segments
    ]
    folder = tmp_path / "data" / "protected"
    folder.mkdir(parents=True)
    path = folder / shard_name(0, "import-theirs", 0, shard.num_steps)
    write_shard(path, table, [shard.steps], shard.action_names)
    with caplog.at_level(logging.WARNING):
        run = learnt(tmp_path, **{**TINY, "buffer_dir": repr(str(tmp_path / "data"))})
    said = [r.getMessage() for r in caplog.records if "the run learns its test" in r.getMessage()]
    assert len(said) == 1
    assert str(path) in said[0]
    assert metric_rows(run.folder.root)


def test_a_folder_with_anything_else_is_refused(
    trained: Path, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["eval", str(trained), "--episodes", "1", "--max_steps", "2"]
    for folder in (trained, trained.parent / "run"):
        told = errors_of(capsys, *short, "--save_trajectories", str(folder))
        assert "save to a folder of its own" in told
    for more in ([], ["--policies", "planner"]):
        told = errors_of(capsys, *short, *more, "--save_trajectories", str(measured))
        assert "holds episodes of planner already" in told
    blind = errors_of(capsys, *short, "--blind", "--save_trajectories", str(tmp_path / "new"))
    assert "sees less than there is" in blind


def test_environments_of_another_size_are_kept_beside_the_others(
    trained: Path, tmp_path: Path
) -> None:
    doors = "Gridworld-Doors-9x13-v0"
    saved(trained, tmp_path / "kept", "--envs", ENVS[0], doors, rows=("random",))
    shards = shards_in(tmp_path / "kept")
    assert [{s.env for s in shard.segments} for shard in shards] == [{ENVS[0]}, {doors}]
    shapes = [shard.steps.observations["terrain"].shape[1:] for shard in shards]
    assert shapes == [(9, 9), (9, 13)]


def test_the_test_at_the_end_of_a_run_keeps_its_episodes_too(tmp_path: Path) -> None:
    run = learnt(tmp_path, **TINY)
    rows = run.evaluate_test(["single_step+constraints", "random"], save_trajs_to=tmp_path / "kept")
    shards = shards_in(tmp_path / "kept")
    assert sum(len(shard.segments) for shard in shards) == sum(row.episodes for row in rows)
    names = {shard.segments[0].collector for shard in shards}
    assert {name.rpartition("-")[0] or name for name in names} == {
        "eval-single_step_constraints",
        "eval",
    }
    with pytest.raises(ValueError, match="save to a folder of its own"):
        run.evaluate_test(["random"], save_trajs_to=run.folder.root)
