"""The loop: what each step does, what it must not touch, and how it answers to bad input."""

import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
import torch

from remdm import config
from remdm.data.shards import Shard
from remdm.envs.contract import PlanVecEnv
from remdm.envs.making import EnvMaker
from remdm.envs.sync import SyncPlanVecEnv
from remdm.experiment import Experiment
from remdm.seeding import TEST_SEEDS, TRAINING_SEEDS, VALIDATION_SEEDS
from tests.tiny_runs import (
    checkpoint_values,
    data_files,
    differences,
    files_below,
    learnt,
    metric_rows,
    started,
    tiny_bindings,
)

SHORT = {"epochs": "2", "val_interval": "None"}


def weights_of(agent: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in agent.state_dict().items()}


# What is played when


class RecordedResets(SyncPlanVecEnv):
    """Writes down every level that is started."""

    log: list[tuple[str, int]]

    def reset(
        self, seeds: Sequence[int], rows: Sequence[int] | None = None
    ) -> dict[str, np.ndarray]:
        chosen = range(self.num_envs) if rows is None else rows
        self.log += [(self.env_names[row], seed) for row, seed in zip(chosen, seeds, strict=True)]
        return super().reset(seeds, rows)


class Recorded(Experiment):
    """Plays in environments that write down their resets."""

    def make_vec_env(
        self, names: Sequence[str], caps: Sequence[int | None] | None = None
    ) -> PlanVecEnv:
        made = RecordedResets([EnvMaker(name) for name in names])
        self.resets = getattr(self, "resets", [])
        made.log = self.resets
        return made


def test_learning_touches_no_held_out_environment_and_no_test_level(tmp_path: Path) -> None:
    run = started(tmp_path, Recorded)
    run.learn()
    assert {env for env, _ in run.resets} == set(run.train_envs)
    seeds = [seed for _, seed in run.resets]
    assert all(seed in TRAINING_SEEDS or seed in VALIDATION_SEEDS for seed in seeds)
    validated = sorted({seed for seed in seeds if seed in VALIDATION_SEEDS})
    assert validated == [VALIDATION_SEEDS.start, VALIDATION_SEEDS.start + 1]
    recorded = [
        segment.seed
        for path in (tmp_path / "run/shards").glob("*")
        for segment in Shard.open(path).segments
    ]
    assert all(seed in TRAINING_SEEDS for seed in recorded)
    del run.resets[:]
    run.evaluate_test(["random"])
    assert {env for env, _ in run.resets} == {*run.train_envs, *run.heldout_envs}
    assert {seed for _, seed in run.resets} == {TEST_SEEDS.start}
    run.close()


def test_best_weights_are_those_of_the_last_highest_score(tmp_path: Path) -> None:
    run = started(tmp_path, **SHORT)
    kept = []
    for epoch, score in enumerate([0.5, 0.25, 0.5, 0.4]):
        run.progress.epoch = epoch
        with torch.no_grad():
            for shadow in run.trainers["planner"].ema.shadow.values():
                shadow.fill_(epoch)
        run.publish()
        run.keep_if_best(score)
        kept.append((run.progress.best_score, run.progress.best_epoch))
    assert kept == [(0.5, 0), (0.5, 0), (0.5, 2), (0.5, 2)]
    run.load_best()
    assert {float(p.flatten()[0]) for p in run.policy.parameters()} == {2.0}
    run.close()


def test_a_later_score_within_the_tolerance_chooses_the_weights(tmp_path: Path) -> None:
    run = started(tmp_path, **SHORT, val_tolerance=0.1)
    kept = []
    for epoch, score in enumerate([0.5, 0.45, 0.42, 0.39, 0.6]):
        run.progress.epoch = epoch
        run.keep_if_best(score)
        kept.append((run.progress.best_score, run.progress.best_epoch))
    # Measured from the best of all, so that many small steps down do not add up.
    assert kept == [(0.5, 0), (0.5, 1), (0.5, 2), (0.5, 2), (0.6, 4)]
    run.close()


class Watched(Experiment):
    """Remembers the weights that play."""

    def make_vec_env(
        self, names: Sequence[str], caps: Sequence[int | None] | None = None
    ) -> PlanVecEnv:
        if hasattr(self, "trainers"):
            self.played = {name: weights_of(agent) for name, agent in self.policies.items()}
        return super().make_vec_env(names, caps)


def test_test_levels_are_played_by_the_best_weights_and_training_keeps_its_own(
    tmp_path: Path,
) -> None:
    run = started(tmp_path, Watched, **SHORT)
    run.keep_if_best(1.0)  # before any training
    best = {name: weights_of(agent) for name, agent in run.policies.items()}
    run.learn()
    last = {name: weights_of(agent) for name, agent in run.policies.items()}
    rows = run.evaluate_test(["planner", "single_step"])
    assert run.played == best
    assert {name: weights_of(agent) for name, agent in run.policies.items()} == last
    assert best != last
    assert [row.policy for row in rows] == ["planner"] * 3 + ["single_step"] * 3
    run.close()


def test_without_validation_the_last_weights_are_tested(tmp_path: Path) -> None:
    run = started(tmp_path, Watched, **SHORT)
    run.learn()
    run.evaluate_test(["planner"])
    assert run.played["planner"] == weights_of(run.policy)
    run.close()


# The baseline beside the planner


@pytest.mark.parametrize("batches_per_update", ["1", "2"])
def test_planner_is_the_same_bit_for_bit_with_and_without_baseline(
    batches_per_update: str, tmp_path: Path
) -> None:
    runs = {
        name: learnt(
            tmp_path,
            run_name=name,
            batches_per_update=batches_per_update,
            baseline_agent_type=kind,
            epochs="3",
        )
        for name, kind in (("with", "@PolicyAgent"), ("without", "None"))
    }
    assert set(runs["with"].trainers) == {"planner", "single_step"}
    assert set(runs["without"].trainers) == {"planner"}
    ones, others = (
        {k: v for k, v in checkpoint_values(tmp_path / name).items() if k.startswith("planner")}
        for name in ("with", "without")
    )
    assert len(ones) > 50
    assert differences(ones, others) == []
    assert data_files(tmp_path / "with") == data_files(tmp_path / "without")
    assert runs["with"].trainers["planner"].updates == 12 // int(batches_per_update)


def test_checkpoints_hold_the_baseline_too(tmp_path: Path) -> None:
    run = learnt(tmp_path, **SHORT)
    again = started(tmp_path, **SHORT)
    for name in ("planner", "single_step"):
        assert weights_of(again.trainers[name].agent) == weights_of(run.trainers[name].agent)
        assert weights_of(again.policies[name]) == weights_of(run.policies[name])
        assert again.trainers[name].updates == 8
    again.close()


# Budgets


def test_one_process_can_run_experiments_of_different_precision(tmp_path: Path) -> None:
    for name, precision in (("low", "bf16"), ("full", "no")):
        run = learnt(tmp_path, run_name=name, mixed_precision=repr(precision), **SHORT)
        assert run.trainers["planner"].updates == 8
    rows = {name: metric_rows(tmp_path / name)[-1] for name in ("low", "full")}
    losses = [rows[name]["train/planner/loss"] for name in ("low", "full")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_finished_run_goes_straight_to_its_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learnt(tmp_path, **SHORT)
    before = files_below(tmp_path / "run")
    run = started(tmp_path, **SHORT)
    assert run.progress.finished
    run.learn()
    assert files_below(tmp_path / "run") == before
    rows = run.evaluate_test()
    assert {row.policy for row in rows} == {"random", "memory", "planner", "single_step"}
    new = set(files_below(tmp_path / "run")) - set(before)
    assert {name.split("/")[0] for name in new} == {"report"}
    run.close()


def test_step_budget_ends_the_run_after_the_epoch_that_reaches_it(tmp_path: Path) -> None:
    run = learnt(tmp_path, epochs="50", total_timesteps="150", val_interval="None")
    assert run.progress.finished
    steps = [row["env_steps"] for row in metric_rows(tmp_path / "run") if "label/steps" in row]
    assert steps[-1] >= 150 > steps[-2]
    # Schedules are stretched over the epochs that the budget allows, not over all fifty.
    assert run.num_epochs == 3
    assert len(steps) <= 3
    assert run.trainers["planner"].settings.total_updates == 12


def test_learning_and_collecting_begin_when_they_are_told_to(tmp_path: Path) -> None:
    learnt(tmp_path, run_name="waits", start_learning_at_epoch="2", val_interval="None")
    rows = [row for row in metric_rows(tmp_path / "waits") if "label/steps" in row]
    assert ["train/planner/loss" in row for row in rows] == [False, False, True, True]
    assert rows[-1]["updates"] == 8
    data = repr(str(tmp_path / "waits"))
    learnt(
        tmp_path,
        run_name="borrows",
        buffer_dir=data,
        start_collecting_at_epoch="1",
        **SHORT,
    )
    rows = [row for row in metric_rows(tmp_path / "borrows") if "label/steps" in row]
    assert ["collect/env_steps" in row for row in rows] == [False, True]
    assert rows[0]["train/planner/loss"] > 0
    assert rows[0]["env_steps"] == 0
    assert rows[1]["collect/beta"] == 1.0  # the oracle's steps come first, whenever that is


def test_epoch_without_data_is_told_and_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = learnt(tmp_path, start_collecting_at_epoch="1", **SHORT)
    assert "nothing to train on in epoch 1 yet" in caplog.text
    assert run.trainers["planner"].updates == 4


def test_actors_can_act_by_published_weights(tmp_path: Path) -> None:
    learnt(tmp_path, run_name="own", **SHORT)
    learnt(tmp_path, run_name="published", always_load_latest="True", **SHORT)
    shards = [files_below(tmp_path / name / "shards") for name in ("own", "published")]
    assert shards[0] == shards[1]


# Subclasses


@gin.configurable(module="tests")
class OwnArgument(Experiment):
    """The blessed pattern for arguments of one's own."""

    def __init__(self, run_name: str, *, only_env: str = "", **arguments: Any) -> None:
        super().__init__(run_name, **arguments)
        self.only_env = only_env


class OwnLabels(OwnArgument):
    """Overrides one step."""

    def label_new_training_data(self) -> dict[str, float]:
        metrics = super().label_new_training_data()
        return metrics | {"label/own": len(self.only_env)}


def test_subclass_overrides_one_step_and_receives_bindings(tmp_path: Path) -> None:
    config.load_config([], [*tiny_bindings(tmp_path, **SHORT), "OwnArgument.only_env = 'abc'"])
    run = OwnLabels("run")
    run.start()
    run.learn()
    run.close()
    assert run.epochs == 2
    rows = [row for row in metric_rows(tmp_path / "run") if "label/steps" in row]
    assert [row["label/own"] for row in rows] == [3, 3]


def test_knobs_of_a_subclass_may_change_like_those_of_its_base(tmp_path: Path) -> None:
    learnt(tmp_path, OwnArgument, **SHORT)
    config.load_config([], [*tiny_bindings(tmp_path, **SHORT), "OwnArgument.verbose = False"])
    run = OwnArgument("run")
    run.start()
    assert run.progress.finished
    run.close()


# What people see


def test_off_a_terminal_there_is_a_line_per_epoch_and_no_bar(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, "remdm")
    learnt(tmp_path, epochs="2")
    lines = [line for line in caplog.messages if line.startswith("epoch 1/2 |")]
    assert len(lines) == 1
    assert "steps" in lines[0]
    assert "loss" in lines[0]
    assert "left" in lines[0]
    (last,) = [line for line in caplog.messages if line.startswith("epoch 2/2 |")]
    assert "val win 0." in last or "val win 1." in last
    assert "finished after 2 of 2 epochs" in caplog.text
    assert "best win rate on the validation levels" in caplog.text
    assert "%|" not in capfd.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_there_is_a_bar_and_no_line_per_epoch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "remdm")
    run = started(tmp_path, epochs="2")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    run.learn()
    run.close()
    assert "100%|" in screen.getvalue()
    assert "epoch 2/2" in screen.getvalue()
    assert "| loss 2." in screen.getvalue()
    assert not any(line.startswith("epoch 1/2") for line in caplog.messages)


def test_quiet_run_has_neither_bar_nor_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "remdm")
    learnt(tmp_path, verbose="False", **SHORT)
    assert "epoch 1/2 |" not in caplog.text
