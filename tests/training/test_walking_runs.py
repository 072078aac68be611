"""Runs that learn from long episodes with a memory: stopping, going on, and what is validated."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from remdm import config
from remdm.data.batch import Batch
from remdm.experiment import Experiment
from remdm.ranks import ALONE
from remdm.seeding import torch_generator
from remdm.stretch import CarriedMemory
from remdm.training.checkpoint import CheckpointError, save_weights
from remdm.training.compiled_loss import CompiledLoss
from remdm.training.trainer import AgentTrainer
from remdm.training.val_loss import val_loss
from remdm.training.whole_state import newest_checkpoint
from tests.test_resume import stopping
from tests.tiny_runs import checkpoint_values, differences, learnt, metric_rows, tiny_bindings
from tests.training.rank_runs import LEARN_ONLY, VALIDATING, WALKING

MEMORY_FILES = [f"{name}_memory.safetensors" for name in ("planner", "single_step")]
SHORT = LEARN_ONLY | {"train_batches_per_epoch": "10", "log_interval": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of short episodes and of pieces of long ones."""
    root = tmp_path_factory.mktemp("walked")
    learnt(root, run_name="data", epochs="3", val_interval="None", baseline_agent_type="None")
    return root / "data"


def offline(
    kind: type[Experiment],
    folder: Path,
    data: Path,
    more: Sequence[str] = WALKING,
    **changed: str,
) -> Experiment:
    """A run that only learns, from a copy of the data of its own, after `start()`."""
    if not (folder / "own").exists():
        for part in ("shards", "labels"):
            shutil.copytree(data / part, folder / "own" / part)
    changed = SHORT | {"buffer_dir": repr(str(folder / "own"))} | changed
    config.load_config([], [*tiny_bindings(folder, **changed), *more])
    run = kind("run")
    run.start()
    return run


def finished(*arguments: Any, **changed: str) -> Experiment:
    run = offline(*arguments, **changed)
    try:
        run.learn()
    finally:
        run.close()
    return run


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished(Experiment, folder, data)
    return folder / "run"


def test_a_run_that_stops_within_an_epoch_goes_on_bit_for_bit(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    first = finished(stopping("batch", 6), tmp_path, data)
    assert not first.progress.finished
    stopped = newest_checkpoint(tmp_path / "run/ckpts")
    assert stopped is not None
    assert stopped.name == "epoch_000000_batch_000006"
    for name in MEMORY_FILES:
        assert load_file(stopped / name)["state"].shape == (2, 8)
    second = finished(Experiment, tmp_path, data, dloader_workers="3")
    assert second.progress.finished
    assert metric_rows(tmp_path / "run") == metric_rows(undisturbed)
    one, other = checkpoint_values(tmp_path / "run"), checkpoint_values(undisturbed)
    assert differences(one, other) == []
    assert {"planner_memory.safetensors/state", "state/dataset/walk/contents"} <= one.keys()


def test_without_the_memory_of_the_checkpoint_it_would_be_another_run(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    finished(stopping("batch", 6), tmp_path, data)
    stopped = newest_checkpoint(tmp_path / "run/ckpts")
    assert stopped is not None
    for name in MEMORY_FILES:
        (stopped / name).unlink()
    finished(Experiment, tmp_path, data)
    losses = [
        [row["train/planner/loss"] for row in metric_rows(folder)]
        for folder in (tmp_path / "run", undisturbed)
    ]
    assert losses[0][:6] == losses[1][:6]
    assert losses[0][6:] != losses[1][6:]


def test_new_data_begin_a_new_walk_and_the_same_data_go_on(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    class Watched(Experiment):
        def train_step(self, batch: Batch) -> dict[str, float]:
            assert batch.stretch is not None
            self.begun = [*getattr(self, "begun", []), batch.stretch.first[:, 0].all().item()]
            return super().train_step(batch)

    knobs = {"start_collecting_at_epoch": "1", "train_timesteps_per_epoch": "9", "epochs": "3"}
    run = offline(Watched, tmp_path, data, **knobs)
    run.learn()
    walk = run.dataset.state()["walk"]
    run.close()
    assert [run.begun[batch] for batch in (0, 10, 20)] == [True] * 3
    assert walk["number"] == 2
    assert walk["batch"] == 20
    same = checkpoint_values(undisturbed)  # two epochs, and a look at the data before each
    assert (same["state/dataset/walk/number"], same["state/dataset/walk/batch"]) == (0, 0)


@pytest.mark.parametrize("wrong", ["damaged", "no memory", "other rows"])
def test_a_memory_of_a_checkpoint_is_checked(wrong: str, data: Path, tmp_path: Path) -> None:
    finished(stopping("batch", 2), tmp_path, data)
    stopped = newest_checkpoint(tmp_path / "run/ckpts")
    assert stopped is not None
    path = stopped / MEMORY_FILES[0]
    if wrong == "damaged":
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
    elif wrong == "no memory":
        save_file({"state": torch.zeros(8, dtype=torch.int64)}, path)
    else:
        save_weights(path, {"state": torch.ones(3, 8)})
        run = offline(Experiment, tmp_path, data)
        run.close()
        assert run.trainers["planner"].memory.state is None
        assert run.trainers["single_step"].memory.state is not None
        return
    with pytest.raises(CheckpointError, match=r"planner_memory.safetensors is damaged"):
        offline(Experiment, tmp_path, data)


def test_memory_is_carried_where_rows_walk_and_nowhere_else(data: Path, tmp_path: Path) -> None:
    class Watched(Experiment):
        def compute_loss(
            self, trainer: AgentTrainer, batch: Batch, generator: torch.Generator
        ) -> tuple[Tensor, dict[str, Tensor | float]]:
            self.carried = [*getattr(self, "carried", []), batch.memory]
            return super().compute_loss(trainer, batch, generator)

    walking = finished(Watched, tmp_path / "walk", data, epochs="1")
    planner, baseline = (walking.trainers[name].memory for name in ("planner", "single_step"))
    assert walking.carried == [planner, baseline] * 10
    assert planner is not baseline
    more = (*WALKING, "DiskTrajDataset.stretches = 'random'")
    drawn = finished(Watched, tmp_path / "random", data, more, epochs="1")
    assert drawn.carried == [None] * 20
    assert not list((tmp_path / "random").rglob("*_memory.safetensors"))
    forgetful = [line for line in WALKING if "Memory" not in line and "memory" not in line]
    without = finished(Watched, tmp_path / "none", data, forgetful, epochs="1")
    assert without.carried == [None] * 20


# Levels that are kept back


@pytest.mark.parametrize("kind", ["walk", "single"])
def test_the_loss_of_levels_kept_back_is_that_of_their_batches(
    kind: str, data: Path, tmp_path: Path
) -> None:
    single = [line for line in VALIDATING if "emory" not in line and "stretch" not in line]
    more = VALIDATING if kind == "walk" else single
    run = offline(
        Experiment, tmp_path, data, more, epochs="1", val_interval="1", val_loss_batches="4"
    )
    run.learn()
    told = metric_rows(tmp_path / "run")[-1]
    trained = {name: trainer.memory.state for name, trainer in run.trainers.items()}
    again = val_loss(run)
    assert again == {name: told[name] for name in again}
    assert {"val/planner/loss", "val/single_step/loss"} <= again.keys()
    for name, trainer in run.trainers.items():
        assert trainer.memory.state is trained[name]
        memory, losses, weights = CarriedMemory(), [], []
        for index in range(4):
            window = run.dataset.val_window(index, run.batch_size, run.seed, slice(0, 6))
            carried = memory if kind == "walk" else None
            batch = Batch.from_window(window, ALONE)
            own = replace(batch, memory=carried)
            chance = torch_generator(run.seed, "val masks", index)
            with torch.no_grad():
                losses.append(float(trainer.policy(own, chance)[0]))
            weights.append(float(batch.weights.sum()))
        wanted = np.average(losses, weights=weights)
        assert again[f"val/{name}/loss"] == pytest.approx(wanted, rel=1e-6)
    run.close()
    # It changes no data, so a run may go on with another number.
    more_batches = offline(Experiment, tmp_path, data, more, epochs="1", val_interval="1")
    more_batches.close()
    assert more_batches.progress.finished


def test_a_loss_without_levels_for_it_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"DiskTrajDataset\.val_share"):
        offline(Experiment, tmp_path, data, val_loss_batches="2")
    more = (*WALKING, "DiskTrajDataset.val_share = 1e-9")
    run = offline(Experiment, tmp_path, data, more, val_interval="1", val_loss_batches="2")
    with pytest.raises(ValueError, match="none of the data is one"):
        run.learn()
    run.close()


# What goes together


def test_rows_must_fill_the_batch_and_only_mirrors_may_alter_those_drawn_at_random(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"whole stretches of 3 steps, got 7 windows"):
        offline(Experiment, tmp_path, data, batch_size="7")
    with pytest.raises(ValueError, match=r"go on in the next one"):
        offline(Experiment, tmp_path, data, augmentation_type="@MemoryAugmentation")
    drawn = (*WALKING, "DiskTrajDataset.stretches = 'random'")
    with pytest.raises(ValueError, match=r"MemoryAugmentation.explore_probability and"):
        offline(Experiment, tmp_path, data, drawn, augmentation_type="@MemoryAugmentation")
    off = [
        f"MemoryAugmentation.{name}_probability = 0.0"
        for name in ("explore", "close", "lock", "exhaust", "obstruct")
    ]
    more = (*drawn, *off)
    run = finished(
        Experiment, tmp_path, data, more, augmentation_type="@MemoryAugmentation", epochs="1"
    )
    assert run.progress.total_batches == 10


def test_compiling_a_net_with_memory_is_warned_about_and_left_out(
    data: Path, tmp_path: Path
) -> None:
    with pytest.warns(RuntimeWarning, match="losses without memory"):
        run = offline(Experiment, tmp_path, data, compile_model="True")
    run.close()
    assert not isinstance(run.trainers["planner"].model, CompiledLoss)
