"""What an experiment refuses, and what is left when it fails."""

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from remdm import config
from remdm.data.batch import Batch
from remdm.experiment import Experiment
from remdm.training.trainer import AgentTrainer
from tests.tiny_runs import (
    checkpoint_values,
    files_below,
    learnt,
    metric_rows,
    started,
    tiny_bindings,
)

SHORT = {"epochs": "2", "val_interval": "None"}


# The configuration


def test_binding_that_nothing_uses_is_refused_and_the_run_can_start_once_it_is_gone(
    tmp_path: Path,
) -> None:
    config.load_config([], [*tiny_bindings(tmp_path), "ExponentialBeta.decay = 0.5"])
    with pytest.raises(config.ConfigError, match=r"ExponentialBeta.decay .*nothing in this run"):
        Experiment("run").start()
    assert not (tmp_path / "run/config.gin").exists()
    learnt(tmp_path, epochs="1")


def test_misspelt_binding_of_a_part_in_use_offers_the_nearest(tmp_path: Path) -> None:
    config.load_config([], [*tiny_bindings(tmp_path), "ExponentialBeta.first = 0.5"])
    with pytest.raises(config.ConfigError, match=r"Did you mean LinearBeta.first"):
        Experiment("run").start()


def test_parts_that_a_flag_replaced_leave_no_binding_behind(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.gin"
    recipe.write_text("\n".join(tiny_bindings(tmp_path, **SHORT, beta_schedule_type="@LinearBeta")))
    flags = [
        "Experiment.baseline_agent_type = None",
        "Experiment.beta_schedule_type = @ExponentialBeta",
        "ExponentialBeta.decay = 0.5",
    ]
    ways = [([recipe], flags), ([recipe], flags), ([tmp_path / "run/config.gin"], [])]
    for files, bindings in ways:  # begun, gone on with, and repeated from what was saved
        config.load_config(files, bindings)
        run = Experiment("run")
        run.start()
        run.close()
    saved = (tmp_path / "run/config.gin").read_text()
    assert "ExponentialBeta.decay" in saved
    assert "LinearBeta" not in saved
    assert "PolicyAgent" not in saved
    assert "EgoEncoder.channels" in saved  # the planner uses it, too


def test_another_configuration_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    learnt(tmp_path, **SHORT)
    before = files_below(tmp_path)
    for changed in ({"seed": "1"}, {"epochs": "3"}, {"batch_size": "5"}):
        with pytest.raises(ValueError, match=f"Experiment.{next(iter(changed))} is"):
            started(tmp_path, **SHORT | changed)
    assert files_below(tmp_path) == before


def test_misspelt_held_out_environment_is_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'Gridworld-DarkRoom-9x9-v0'"):
        started(tmp_path, heldout_envs="['Gridworld-DarkRoom-9x8-v0']")


def test_held_out_environment_of_another_size_is_refused_before_the_training(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="same observation arrays"):
        started(tmp_path, heldout_envs="['Gridworld-Maze-15x15-v0']")


def test_half_precision_floats_need_an_accelerator(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="mixed_precision 'fp16' needs an accelerator"):
        started(tmp_path, mixed_precision="'fp16'")


def test_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"tensorboard is needed.*pip install"):
        started(tmp_path, trackers="['tensorboard']")
    assert list(tmp_path.iterdir()) == []


def test_learning_before_starting_is_refused(tmp_path: Path) -> None:
    config.load_config([], tiny_bindings(tmp_path))
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        Experiment("run").learn()


# Numbers that are not finite


class NotFinite(Experiment):
    def compute_loss(
        self, trainer: AgentTrainer, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss, metrics = super().compute_loss(trainer, batch, generator)
        return loss * (torch.nan if self.progress.total_batches == 5 else 1.0), metrics


def test_loss_that_is_not_finite_ends_the_run_and_its_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"Experiment\.learning_rate"):
        learnt(tmp_path, NotFinite)
    assert checkpoint_values(tmp_path / "run")["name"] == "epoch_000001"
    assert learnt(tmp_path).progress.finished


# A full disk


@contextlib.contextmanager
def full_disk(room: int = 100) -> Iterator[None]:
    """No file can grow beyond `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class RunsOutOfRoom(Experiment):
    """The disk is full during one step of the second epoch."""

    step = ""

    def room(self, step: str, epoch: int = 1) -> contextlib.AbstractContextManager[None]:
        here = step == self.step and self.progress.epoch == epoch
        return full_disk() if here else contextlib.nullcontext()

    def collect_new_training_data(self) -> dict[str, float]:
        with self.room("collect"):
            return super().collect_new_training_data()

    def label_new_training_data(self) -> dict[str, float]:
        with self.room("label"):
            return super().label_new_training_data()

    def log(self, metrics: dict[str, float]) -> None:
        with self.room("log"):
            super().log(metrics)

    def write_latest_policy(self) -> None:
        with self.room("publish", 2):
            super().write_latest_policy()

    def save_checkpoint(self) -> None:
        with self.room("save", 2):
            super().save_checkpoint()


@pytest.mark.parametrize("step", ["collect", "label", "log", "publish", "save"])
def test_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    step: str, tmp_path: Path
) -> None:
    kind = type("Full", (RunsOutOfRoom,), {"step": step})
    with pytest.raises(OSError, match="File too large") as caught:
        learnt(tmp_path, kind, val_interval="None", epochs="3")
    assert "could not be written" in str(caught.value)
    assert checkpoint_values(tmp_path / "run")["name"] == "epoch_000001"
    assert not list(tmp_path.rglob(".partial-*"))
    learnt(tmp_path, val_interval="None", epochs="3")
    learnt(tmp_path, run_name="other", val_interval="None", epochs="3")
    assert metric_rows(tmp_path / "run") == metric_rows(tmp_path / "other")
