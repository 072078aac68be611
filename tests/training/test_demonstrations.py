"""Demonstrations: what is played, what is kept, and that interruptions leave no trace."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from remdm.data.disk import DiskTrajDataset
from remdm.data.labels import Labels
from remdm.data.shard_file import Shard
from remdm.distributed.lease import LeaseHeld
from remdm.envs.making import make_vec_env
from remdm.oracles.contract import Oracle
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.random_policy import RandomPolicy
from remdm.seeding import TRAINING_SEEDS
from remdm.tokens import end_token
from remdm.training.demonstrations import Demonstrations, Manner, demonstration_seed
from tests.tiny_runs import files_below, learnt

MAZE = "Gridworld-Maze-9x9-v0"
ROOM = "Gridworld-Room-9x9-v0"
USUAL = Manner()


def collect(
    root: Path,
    episodes: int,
    *,
    env: str = MAZE,
    oracle: Oracle | None = None,
    seed: int = 0,
    rows: int = 8,
    manner: Manner = USUAL,
    plan_horizon: int | None = None,
    **how: object,
) -> Demonstrations:
    """Collect, label where a horizon is given, and let go of the folder."""

    def make(most: int):
        cap = manner.max_steps
        return make_vec_env([env] * min(rows, most), max_episode_steps=cap, **how)

    with Demonstrations(root, oracle or MemoryOracle(), seed, manner) as demonstrations:
        assert demonstrations.collect(env, episodes, make, lambda ended: False)
        if plan_horizon is not None:
            assert demonstrations.label(plan_horizon, lambda steps: False)
        demonstrations.announce()
    return demonstrations


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "protected").iterdir())}


def segments(root: Path) -> list:
    shards = [Shard.open(path) for path in sorted((root / "protected").iterdir())]
    return [segment for shard in shards for segment in shard.segments]


def nobody_plays(most: int):
    raise AssertionError("nothing was left to play")


class Nothing(Oracle):
    """An oracle that never has a plan."""

    name = "nothing"

    def label(self, observations, plan_horizon):
        count = len(observations["position"])
        end = end_token(11)
        return np.full((count, plan_horizon), end, np.int8), np.zeros(count, np.float32)


# What is played


def test_level_seeds_are_training_seeds_that_follow_from_seed_environment_and_number() -> None:
    names = [(seed, env, i) for seed in (0, 1) for env in (MAZE, ROOM) for i in range(200)]
    seeds = [demonstration_seed(*name) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(seed in TRAINING_SEEDS for seed in seeds)
    assert seeds == [demonstration_seed(*name) for name in names]


@pytest.mark.parametrize("oracle", [MemoryOracle, RandomPolicy])
def test_neither_rows_nor_processes_change_what_is_played(
    tmp_path: Path, oracle: Callable[[], Oracle]
) -> None:
    manner = Manner(max_steps=40, keep_lost=True)
    collect(tmp_path / "a", 40, oracle=oracle(), rows=3, manner=manner)
    collect(
        tmp_path / "b", 40, oracle=oracle(), manner=manner, rows=7, env_mode="async", num_workers=2
    )
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    wanted = [demonstration_seed(0, MAZE, i) for i in range(40)]
    assert [segment.seed for segment in segments(tmp_path / "a")] == wanted


def test_replanning_at_every_step_makes_every_action_the_oracles_own(tmp_path: Path) -> None:
    collect(tmp_path, 10, plan_horizon=6)
    (path,) = (tmp_path / "protected").iterdir()
    shard, labels = Shard.open(path), Labels.open(tmp_path / "labels" / path.name)
    assert labels.belongs_to(shard)
    assert labels.identity.plan_horizon == 6
    np.testing.assert_array_equal(labels.plans[:, 0], shard.steps.actions)


def test_an_oracle_without_plans_loses_instead_of_playing_for_ever(tmp_path: Path) -> None:
    manner = Manner(max_steps=5, keep_lost=True)
    (record,) = collect(tmp_path, 4, oracle=Nothing(), manner=manner).records.records
    assert (record.won, record.steps, record.kept, record.shard) == (0, 0, 0, None)


# What is kept


def test_only_won_episodes_are_kept_unless_asked(tmp_path: Path) -> None:
    manner, all_of_them = Manner(max_steps=20), Manner(max_steps=20, keep_lost=True)
    some = collect(tmp_path / "won", 32, env=ROOM, oracle=RandomPolicy(), manner=manner)
    every = collect(tmp_path / "all", 32, env=ROOM, oracle=RandomPolicy(), manner=all_of_them)
    won = {s.seed for s in segments(tmp_path / "all") if s.won}
    assert 0 < len(won) < 32
    assert {s.seed for s in segments(tmp_path / "won")} == won
    assert len(segments(tmp_path / "all")) == 32
    (few,), (many,) = some.records.records, every.records.records
    assert (few.won, few.steps, few.kept) == (len(won), many.steps, len(won))
    assert (many.won, many.kept) == (len(won), 32)


def test_learners_that_may_not_change_the_folder_draw_from_it(tmp_path: Path) -> None:
    collect(tmp_path / "demos", 10, plan_horizon=6)
    dataset = DiskTrajDataset(str(tmp_path), "demos")
    dataset.configure(6, oracle=MemoryOracle(), may_edit=False)
    dataset.refresh()
    steps = sum(segment.length for segment in segments(tmp_path / "demos"))
    assert dataset.ready_for_training
    assert dataset.index is not None
    assert dataset.index.num_windows == steps


# Going on


def test_what_is_there_is_not_played_again_even_if_nothing_was_won(tmp_path: Path) -> None:
    manner = Manner(max_steps=1)
    collect(tmp_path, 40, oracle=RandomPolicy(), manner=manner)
    with Demonstrations(tmp_path, RandomPolicy(), 0, manner) as again:
        assert len(again.records.of(MAZE, 0, 40)) == 2
        assert again.collect(MAZE, 40, nobody_plays, lambda ended: False)


def test_more_episodes_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    collect(tmp_path, 40)
    before = contents(tmp_path)
    collect(tmp_path, 70)
    assert before.items() <= contents(tmp_path).items()
    wanted = [demonstration_seed(0, MAZE, i) for i in range(70)]
    assert [segment.seed for segment in segments(tmp_path)] == wanted


def test_other_seeds_and_environments_share_a_folder(tmp_path: Path) -> None:
    collect(tmp_path, 3)
    collect(tmp_path, 3, seed=1)
    collect(tmp_path, 3, env=ROOM)
    assert len(segments(tmp_path)) == 9


def test_who_asks_to_stop_loses_what_is_open_and_nothing_else(tmp_path: Path) -> None:
    collect(tmp_path / "whole", 70)
    ended: list[int] = []

    def stop(episodes) -> bool:
        ended.extend(episode.number for episode in episodes)
        return len(ended) > 40

    with Demonstrations(tmp_path / "parts", MemoryOracle(), 0, Manner()) as stopped:
        assert not stopped.collect(MAZE, 70, lambda most: make_vec_env([MAZE] * 8), stop)
    assert len(contents(tmp_path / "parts")) == 1
    collect(tmp_path / "parts", 70)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["no record", "another length", "no shard", "torn shard"])
def test_what_an_interruption_or_damage_left_is_made_anew(tmp_path: Path, harm: str) -> None:
    collect(tmp_path, 40, plan_horizon=6)
    before = contents(tmp_path)
    shard = tmp_path / "protected" / next(iter(before))
    record = next(p for p in (tmp_path / "demonstrations").iterdir() if "-000000-" in p.name)
    if harm == "no record":
        record.unlink()
    elif harm == "another length":  # as an older version of the oracle may have left it
        record.unlink()
        shard.rename(shard.with_name("e000000-demo-0-" + MAZE + "-000000-7.safetensors"))
    elif harm == "no shard":
        shard.unlink()
    else:
        shard.write_bytes(before[shard.name][:1000])
    collect(tmp_path, 40, plan_horizon=6)
    assert contents(tmp_path) == before
    for name in before:
        whole = Shard.open(tmp_path / "protected" / name)
        assert Labels.open(tmp_path / "labels" / name).belongs_to(whole)


# What is refused


def test_another_manner_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    collect(tmp_path, 3)
    with pytest.raises(ValueError, match=r"keep_lost was False and is True.*--out"):
        Demonstrations(tmp_path, MemoryOracle(), 0, Manner(keep_lost=True))
    with pytest.raises(ValueError, match="oracle was 'memory' and is 'random'"):
        Demonstrations(tmp_path, RandomPolicy(), 0, Manner())


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    collect(tmp_path, 3)
    (record,) = (tmp_path / "demonstrations").iterdir()
    for text in ("{", '{"schema_version": 1}', record.read_text().replace('"first": 0', "7: 0")):
        record.write_text(text)
        with pytest.raises(ValueError, match=f"{record.name} must be a record"):
            Demonstrations(tmp_path, MemoryOracle(), 0, Manner())


def test_a_record_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    collect(tmp_path, 3)
    (record,) = (tmp_path / "demonstrations").iterdir()
    (name,) = contents(tmp_path)
    record.write_text(record.read_text().replace(name, f"../{name}"))
    with pytest.raises(ValueError, match="no name of a shard"):
        Demonstrations(tmp_path, MemoryOracle(), 0, Manner())


def test_two_processes_cannot_collect_into_one_folder(tmp_path: Path) -> None:
    with (
        Demonstrations(tmp_path, MemoryOracle(), 0, Manner()),
        pytest.raises(LeaseHeld),
    ):
        Demonstrations(tmp_path, MemoryOracle(), 0, Manner())


# Learning from them


def test_a_planner_learns_offline_without_a_step_and_dagger_begins_with_it(
    tmp_path: Path,
) -> None:
    for env in (MAZE, ROOM):
        collect(tmp_path / "demos", 10, env=env, plan_horizon=6)
    before = files_below(tmp_path / "demos")
    offline = learnt(
        tmp_path,
        run_name="offline",
        buffer_dir=repr(str(tmp_path / "demos")),
        has_dset_edit_rights="False",
        start_collecting_at_epoch="1_000_000",
        warm_start_timesteps="0",
        lr_final_fraction="0.1",
    )
    assert (offline.progress.env_steps, offline.trainers["planner"].updates) == (0, 16)
    assert files_below(tmp_path / "demos") == before
    (last,) = {group["lr"] for group in offline.trainers["planner"].optimiser.param_groups}
    assert 0.1 <= last / offline.learning_rate < 0.15  # of the 16th update
    start_from = repr(str(offline.folder.root))
    dagger = learnt(tmp_path, run_name="dagger", start_from=start_from, warm_start_timesteps="0")
    assert dagger.progress.env_steps > 0
