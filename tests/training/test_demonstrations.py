"""Demonstrations: what is played, what is kept, and that interruptions leave no trace."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from remdm.cli import main
from remdm.data.disk import DiskTrajDataset
from remdm.data.labels import Labels
from remdm.data.shard_file import Shard
from remdm.distributed.lease import LeaseHeld
from remdm.envs.contract import EnvError
from remdm.envs.wrapper import PlanVecEnvWrapper
from remdm.oracles.contract import Oracle
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.random_policy import RandomPolicy
from remdm.seeding import TRAINING_SEEDS
from remdm.tokens import end_token
from remdm.training.demonstration_pieces import Manner, demonstration_seed
from remdm.training.demonstrations import Demonstrations
from tests.tiny_runs import files_below, learnt, metric_rows

MAZE = "Gridworld-Maze-9x9-v0"
ROOM = "Gridworld-Room-9x9-v0"
DOORS = "Gridworld-Doors-9x13-v0"
USUAL = Manner()


def collect(
    root: Path,
    episodes: int,
    *,
    env: str = MAZE,
    oracle: Oracle | None = None,
    seed: int = 0,
    manner: Manner = USUAL,
    plan_horizon: int | None = None,
    **how: int,
) -> Demonstrations:
    """Collect, label where a horizon is given, and let go of the folder."""

    with Demonstrations(
        root, oracle or MemoryOracle(), seed, manner, label_horizon=plan_horizon, **how
    ) as demonstrations:
        assert demonstrations.collect(env, episodes, goes_on, max_episode_steps=manner.max_steps)
        if plan_horizon is not None:
            assert demonstrations.label(plan_horizon, lambda steps: False)
        demonstrations.announce()
    return demonstrations


def goes_on(ended: int, won: int) -> bool:
    return False


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "protected").iterdir())}


def segments(root: Path) -> list:
    shards = [Shard.open(path) for path in sorted((root / "protected").iterdir())]
    return [segment for shard in shards for segment in shard.segments]


def nobody_plays(ended: int, won: int) -> bool:
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


class Unchanged(PlanVecEnvWrapper):
    """Shows what the inner set shows."""

    def _shown(self, observations):
        return observations

    def execute(self, plans, num_steps, *, stop_when_blocked=False):
        return self.vec_env.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)


class Companion(MemoryOracle):
    """Goes along with the environments, so that they are played in rows."""

    def accompany(self, vec_env, plan_horizon):
        return Unchanged(vec_env)


class Deadly(MemoryOracle):
    """Kills the process of a worker."""

    def label(self, observations, plan_horizon):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().label(observations, plan_horizon)


@pytest.mark.parametrize("oracle", [MemoryOracle, RandomPolicy])
def test_processes_do_not_change_what_is_played(
    tmp_path: Path, oracle: Callable[[], Oracle]
) -> None:
    manner = Manner(max_steps=40, keep_lost=True)
    collect(tmp_path / "a", 150, oracle=oracle(), manner=manner)
    collect(tmp_path / "b", 150, oracle=oracle(), manner=manner, processes=2, plan_horizon=6)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(list((tmp_path / "b/labels").iterdir())) == 3
    wanted = [demonstration_seed(0, MAZE, i) for i in range(150)]
    assert [segment.seed for segment in segments(tmp_path / "a")] == wanted


@pytest.mark.parametrize("manner", [USUAL, Manner(replan_every=5, max_steps=15, keep_lost=True)])
def test_rows_play_what_is_played_one_after_the_other(tmp_path: Path, manner: Manner) -> None:
    collect(tmp_path / "alone", 40, env=DOORS, manner=manner)
    collect(tmp_path / "rows", 40, env=DOORS, oracle=Companion(), manner=manner, rows=7)
    assert contents(tmp_path / "alone") == contents(tmp_path / "rows")


def test_rows_in_several_processes_play_the_same(tmp_path: Path) -> None:
    collect(tmp_path / "alone", 10)
    collect(tmp_path / "rows", 10, oracle=Companion(), rows=3, processes=2)
    assert contents(tmp_path / "alone") == contents(tmp_path / "rows")


def test_a_process_that_dies_is_told_and_costs_no_more_than_its_pieces(tmp_path: Path) -> None:
    collect(tmp_path, 64)
    with (
        pytest.raises(EnvError, match=f"played {MAZE} died.*goes on from there"),
        Demonstrations(tmp_path, Deadly(), 0, USUAL, processes=2) as demonstrations,
    ):
        demonstrations.collect(MAZE, 128, goes_on)
    collect(tmp_path, 128)
    collect(tmp_path / "whole", 128)
    assert contents(tmp_path) == contents(tmp_path / "whole")


def test_an_oracle_that_cannot_be_sent_to_a_process_is_refused(tmp_path: Path) -> None:
    oracle = MemoryOracle()
    oracle.act = lambda: None  # type: ignore[attr-defined]
    with (
        pytest.raises(ValueError, match=r"'memory' must be picklable.*--processes 1"),
        Demonstrations(tmp_path, oracle, 0, USUAL, processes=2) as demonstrations,
    ):
        demonstrations.collect(MAZE, 4, goes_on)


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
    collect(tmp_path, 70, oracle=RandomPolicy(), manner=manner)
    with Demonstrations(tmp_path, RandomPolicy(), 0, manner) as again:
        assert len(again.records.of(MAZE, 0, 70)) == 2
        assert again.collect(MAZE, 70, nobody_plays)


def test_more_episodes_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    collect(tmp_path, 70)
    before = contents(tmp_path)
    collect(tmp_path, 130)
    assert before.items() <= contents(tmp_path).items()
    wanted = [demonstration_seed(0, MAZE, i) for i in range(130)]
    assert [segment.seed for segment in segments(tmp_path)] == wanted


def test_other_seeds_and_environments_share_a_folder(tmp_path: Path) -> None:
    collect(tmp_path, 3)
    collect(tmp_path, 3, seed=1)
    collect(tmp_path, 3, env=ROOM)
    assert len(segments(tmp_path)) == 9


def test_who_asks_to_stop_loses_what_is_open_and_nothing_else(tmp_path: Path) -> None:
    collect(tmp_path / "whole", 140)
    played = 0

    def stop(ended: int, won: int) -> bool:
        nonlocal played
        played += ended
        return played > 100

    with Demonstrations(tmp_path / "parts", MemoryOracle(), 0, Manner()) as stopped:
        assert not stopped.collect(MAZE, 140, stop)
    assert played == 101
    assert len(contents(tmp_path / "parts")) == 1
    collect(tmp_path / "parts", 140)
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["no record", "another length", "no shard", "torn shard"])
def test_what_an_interruption_or_damage_left_is_made_anew(tmp_path: Path, harm: str) -> None:
    collect(tmp_path, 70, plan_horizon=6)
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
    collect(tmp_path, 70, plan_horizon=6)
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


def test_an_offline_run_without_data_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"offline run needs data, and has 0 steps.*collect"):
        learnt(tmp_path, start_collecting_at_epoch="1_000_000", warm_start_timesteps="0")


@pytest.mark.minihack
def test_the_recipes_lead_from_demonstrations_by_offline_training_to_dagger(
    tmp_path: Path,
) -> None:
    pytest.importorskip("nle")
    demos, room = str(tmp_path / "demos"), "MiniHack-Room-Random-5x5-v0"
    assert main(["collect", "--envs", room, "--episodes", "8", "--out", demos]) == 0
    small = ["smoke.gin", "--test_episodes", "1", "--ckpt_base_dir", str(tmp_path)]
    for bound in (
        f"TRAINING = ({room!r},)",
        "HELD_OUT = ('MiniHack-Room-Dark-15x15-v0',)",
        "SHARES = (1.0,)",
        "Experiment.train_step_caps = (30,)",
        "Experiment.baseline_agent_type = None",
    ):
        small += ["--bind", bound]
    first = ["--run_name", "offline", "--buffer_dir", demos]
    assert main(["train", "--configs", "minihack_offline.gin", *small, *first]) == 0
    second = ["--run_name", "dagger", "--bind"]
    second += [f"Experiment.start_from = {str(tmp_path / 'offline')!r}"]
    second += ["--bind", "Experiment.warm_start_timesteps = 0"]
    assert main(["train", "--configs", "minihack_dagger_from_offline.gin", *small, *second]) == 0
    offline, dagger = (metric_rows(tmp_path / name) for name in ("offline", "dagger"))
    assert (offline[-1]["env_steps"], offline[-1]["updates"]) == (0, 4)
    assert dagger[-1]["env_steps"] > 0
    assert dagger[-1]["updates"] == 4
