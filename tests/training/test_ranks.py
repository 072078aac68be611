"""Several processes that learn together do what one process does with the whole batch."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from remdm.data.records import Segment
from remdm.data.shards import Shard
from remdm.training.val_loss import val_loss
from tests.tiny_runs import learnt, metric_rows
from tests.training.rank_losses import LOSSES, ROWS
from tests.training.rank_runs import GRIEFS, SHORT, VALIDATING, Recorded, free_port, learner

ROOT = Path(__file__).parent.parent.parent
# Whoever needs longer hangs, and is ended.
HANGS_S = 240
ENVIRONMENT = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
LAUNCH = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
LAUNCH += ["--dynamo_backend=no", "--num_cpu_threads_per_process=1"]


def run_to_end(*command: str) -> None:
    """Run what starts processes of its own; if it hangs, have it end them, too."""
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=ENVIRONMENT)
    try:
        assert process.wait(HANGS_S) == 0
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of one epoch, and copies of them for every run."""
    root = tmp_path_factory.mktemp("ranks")
    learnt(root, run_name="data", epochs="2", val_interval="None")
    copies = [
        "one",
        "two",
        "walk",
        "walking",
        "stopped",
        "broken",
        "stale_0",
        "stale_1",
        "empty_0",
        *GRIEFS,
    ]
    for name in copies:
        for part in ("shards", "labels"):
            shutil.copytree(root / "data" / part, root / f"data_{name}" / part)
    (root / "data_empty_1").mkdir()
    max((root / "data_stale_1/shards").iterdir()).unlink()
    return root


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    """What two processes of one launch found."""
    launcher = ["accelerate.commands.launch", *LAUNCH, f"--main_process_port={free_port()}", "-m"]
    run_to_end(*launcher, "tests.training.rank_runs", "together", str(folder))
    return [json.loads((folder / f"found_{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def one(folder: Path) -> Iterator[Recorded]:
    """The run of one process with the whole batch."""
    run = learner(Recorded, "one", folder, folder / "data_one", ROWS)
    run.learn()
    yield run
    run.close()


@pytest.mark.parametrize("name", LOSSES)
def test_parts_of_a_batch_have_loss_metrics_and_gradient_of_the_whole(
    name: str, found: list[dict[str, Any]]
) -> None:
    assert [own["losses"][name] for own in found] == [[], []]


def test_parts_of_stretches_have_the_gradient_of_the_whole_to_a_millionth(
    found: list[dict[str, Any]],
) -> None:
    assert max(own["apart"][name] for own in found for name in LOSSES if "stretches" in name) < 1e-6


def test_two_processes_walk_the_rows_of_one_with_the_same_memory(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    run = learner(Recorded, "walk", folder, folder / "data_walk", ROWS, VALIDATING, **SHORT)
    run.learn()
    validated = val_loss(run)
    run.close()
    assert validated["val/planner/loss"] > 0
    for own in found:
        assert own["val"] == pytest.approx(validated, rel=1e-5)
    assert len(run.drawn) == 16
    for index, rows in enumerate(run.drawn):
        halves = [dict(np.load(folder / f"walked_{index}_{rank}.npz")) for rank in range(2)]
        for name, whole in rows.items():
            np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), whole)
    assert any(not rows["real"].all() for rows in run.drawn)
    ones, twos = metric_rows(folder / "walk"), metric_rows(folder / "walking")
    assert len(ones) == len(twos) > 2
    for mine, other in zip(ones, twos, strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-7)
    for agent in ("planner", "single_step"):
        states = [
            load_file(folder / name / f"ckpts/epoch_000002/{agent}_memory.safetensors")["state"]
            for name in ("walk", "walking")
        ]
        assert states[0].shape == (ROWS // 3, 8)
        np.testing.assert_allclose(*states, rtol=1e-4, atol=1e-6)
        assert np.abs(states[0]).min() > 0


def test_two_processes_train_on_the_rows_of_one_and_no_window_twice(
    folder: Path, found: list[dict[str, Any]], one: Recorded
) -> None:
    stored = Counter(
        row_bytes(shard.steps.observations, one.drawn[0], step)
        for shard in map(Shard.open, (folder / "data_one/shards").iterdir())
        for step in range(shard.num_steps)
    )
    assert len(one.drawn) == 48
    for index, rows in enumerate(one.drawn):
        halves = [dict(np.load(folder / f"batch_{index}_{rank}.npz")) for rank in range(2)]
        for name, whole in rows.items():
            np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), whole)
        own = {name.removeprefix("obs/"): array for name, array in rows.items()}
        drawn = Counter(row_bytes(own, rows, row) for row in range(ROWS))
        assert not drawn - stored


def row_bytes(arrays: dict[str, np.ndarray], like: dict[str, np.ndarray], row: int) -> bytes:
    """One observation: the arrays that a batch has."""
    names = sorted(name.removeprefix("obs/") for name in like if name.startswith("obs/"))
    return b"".join(arrays[name][row].tobytes() for name in names)


def test_one_process_and_two_with_half_the_batch_have_the_same_loss_curve(
    folder: Path, found: list[dict[str, Any]], one: Recorded
) -> None:
    ones, twos = metric_rows(folder / "one"), metric_rows(folder / "two")
    assert len(ones) == len(twos) == 48 // 5 + 2
    assert sum("train/planner/loss" in row for row in ones) == len(ones)
    for mine, other in zip(ones, twos, strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-7)
        exact = ("train/planner/learning_rate", "updates", "epoch")
        assert [mine[name] for name in exact] == [other[name] for name in exact]
    assert found[0]["updates"] == found[1]["updates"] == {"planner": 24, "single_step": 24}
    assert {name: t.updates for name, t in one.trainers.items()} == found[0]["updates"]


def test_weights_after_training_do_not_depend_on_the_number_of_processes(
    folder: Path, found: list[dict[str, Any]], one: Recorded
) -> None:
    ones, twos = (
        {p.name: load_file(p) for p in (folder / run / "ckpts/epoch_000002").glob("*.safetensors")}
        for run in ("one", "two")
    )
    assert len(ones) == 4
    for file, weights in ones.items():
        for name, value in weights.items():
            # A softmax does not see what is added to all keys: these gradients are rounding alone.
            if not name.endswith(("to_keys.bias", "self_in.bias")):
                np.testing.assert_allclose(twos[file][name], value, rtol=1e-4, atol=1e-5)


def test_two_processes_go_through_whole_epochs_and_come_to_the_same_weights(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    assert found[0]["weights"] == found[1]["weights"]
    assert found[0]["env_steps"] == found[1]["env_steps"]
    last = metric_rows(folder / "whole")[-1]
    assert last["env_steps"] == found[0]["env_steps"] == last["buffer/timesteps"]
    assert {"val/win_rate", "train/planner/loss", "collect/env_steps"} <= last.keys()
    assert {segment.seed for segment in segments(folder, "rank0")}.isdisjoint(
        segment.seed for segment in segments(folder, "rank1")
    )


def segments(folder: Path, collector: str) -> list[Segment]:
    """What one of the processes has collected."""
    shards = list((folder / "whole/shards").glob(f"*{collector}*"))
    assert shards
    return [segment for shard in map(Shard.open, shards) for segment in shard.segments]


def test_an_update_that_overflows_in_one_process_is_left_out_in_all(
    found: list[dict[str, Any]],
) -> None:
    assert [own["overflow"] for own in found] == [
        {"updates then": 0, "scale then": 512.0, "updates": 1}
    ] * 2


def test_a_process_that_finds_an_empty_folder_keeps_nobody_waiting(
    found: list[dict[str, Any]],
) -> None:
    assert [own["updates without data"] for own in found] == [0, 0]


def test_a_shard_that_one_process_cannot_see_is_left_out_by_all(
    folder: Path, found: list[dict[str, Any]]
) -> None:
    seen = sum(s.num_steps for s in map(Shard.open, (folder / "data_stale_1/shards").iterdir()))
    assert found[0]["stale"] == found[1]["stale"] == {"windows": seen, "updates": 24}


def test_a_loss_that_is_not_finite_in_one_process_ends_all_alike(
    found: list[dict[str, Any]],
) -> None:
    assert found[0]["not finite"] == found[1]["not finite"]
    assert "the loss of planner is nan at update 2" in found[0]["not finite"]


def test_asking_one_process_to_stop_stops_all_after_the_same_update(
    found: list[dict[str, Any]],
) -> None:
    assert [own["stopped after"] for own in found] == [8, 8]


@pytest.fixture(scope="module")
def last_words(folder: Path) -> dict[str, str]:
    """By grief, what the process says that had none."""
    run_to_end("tests.training.rank_runs", "apart", str(folder))
    return {
        name: (folder / f"{name}_{1 - unlucky}.txt").read_text()
        for name, (_, unlucky, _) in GRIEFS.items()
    }


@pytest.mark.parametrize("grief", GRIEFS)
def test_a_process_that_is_left_alone_ends_and_says_why(
    grief: str, last_words: dict[str, str]
) -> None:
    what = (
        "has not answered for Experiment.max_silence_seconds"
        if grief == "stands still"
        else "has ended"
    )
    assert last_words[grief].startswith(f"LostProcessError: another process of this run {what}")
