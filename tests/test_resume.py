"""Stopping a run in every way there is, and going on as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import gin
import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.agent import BaseAgent, DiffusionPlannerAgent
from remdm.data.batch import Batch
from remdm.data.shards import Shard
from remdm.experiment import Experiment
from remdm.training.collect_stats import CollectStats
from tests.tiny_runs import (
    assert_same_run,
    checkpoint_values,
    files_below,
    learnt,
    metric_rows,
    started,
    tiny_bindings,
)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four epochs that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    learnt(folder)
    return folder / "run"


class StopAfter(Experiment):
    """Is asked to stop at one point, the way a signal does it."""

    at = ("batch", 0)
    """What is counted over the whole run, and which one of it asks."""

    def count(self, what: str) -> None:
        self.counts = getattr(self, "counts", {})
        self.counts[what] = self.counts.get(what, 0) + 1
        if (what, self.counts[what]) == self.at:
            self.stop.requested = True

    def run_epoch(self) -> None:
        super().run_epoch()
        self.count("epoch")

    def interact(self, agent: BaseAgent | None, stats: CollectStats, beta: float) -> None:
        super().interact(agent, stats, beta)
        self.count(f"chunk of epoch {self.progress.epoch}")

    def label_new_training_data(self) -> dict[str, float]:
        self.count("label")
        return super().label_new_training_data()

    def train_step(self, batch: Batch) -> dict[str, float]:
        metrics = super().train_step(batch)
        self.count("batch")
        return metrics

    def evaluate_val(self) -> dict[str, float]:
        self.count("validation")
        return super().evaluate_val()


def stopping(what: str, number: int) -> type[Experiment]:
    return type("Stopping", (StopAfter,), {"at": (what, number)})


@pytest.mark.parametrize(
    ("point", "newest"),
    [
        pytest.param(("epoch", 2), "epoch_000002", id="between epochs"),
        pytest.param(("batch", 6), "epoch_000001_batch_000002", id="between batches"),
        pytest.param(("batch", 12), "epoch_000002_batch_000004", id="after an epoch's last batch"),
        pytest.param(("label", 2), "epoch_000001_batch_000001", id="while labelling"),
        pytest.param(("validation", 1), "epoch_000001_batch_000004", id="while validating"),
    ],
)
def test_stopped_run_goes_on_bit_for_bit(
    point: tuple[str, int], newest: str, undisturbed: Path, tmp_path: Path
) -> None:
    first = learnt(tmp_path, stopping(*point))
    assert not first.progress.finished
    assert checkpoint_values(tmp_path / "run")["name"] == newest
    second = learnt(tmp_path)
    assert second.progress.finished
    assert_same_run(tmp_path / "run", undisturbed)


def test_run_that_is_stopped_again_and_again_is_the_same_run(
    undisturbed: Path, tmp_path: Path
) -> None:
    for _ in range(20):
        if learnt(tmp_path, stopping("batch", 3)).progress.finished:
            break
    assert_same_run(tmp_path / "run", undisturbed)


def steps_of(folder: Path, epochs: int) -> dict[tuple[str, str, int], bytes]:
    """Actions of the first epochs by epoch, environment and level seed, pieces joined."""
    found: dict[tuple[str, str, int], bytes] = {}
    for path in sorted((folder / "shards").glob("*")):
        shard = Shard.open(path)
        for segment, start in zip(shard.segments, shard.offsets[:-1], strict=True):
            key = path.name.split("-")[0], segment.env, segment.seed
            actions = shard.steps.actions[start : start + segment.length].tobytes()
            found[key] = found.get(key, b"") + actions
    return {key: steps for key, steps in found.items() if int(key[0][1:]) < epochs}


def test_stop_while_collecting_loses_no_step(undisturbed: Path, tmp_path: Path) -> None:
    run = learnt(tmp_path, stopping("chunk of epoch 1", 2))
    assert checkpoint_values(tmp_path / "run")["name"] == "epoch_000001_batch_000000"
    assert 0 < run.progress.collect.env_steps < 9 * run.envs.num_envs
    learnt(tmp_path)
    assert steps_of(tmp_path / "run", 2) == steps_of(undisturbed, 2)
    rows = [metric_rows(folder) for folder in (tmp_path / "run", undisturbed)]
    for row, expected in zip(*rows, strict=True):
        if row["epoch"] < 2:
            collected = {k for k in expected if k.startswith(("collect/", "env_steps"))}
            assert {k: row.get(k) for k in collected} == {k: expected[k] for k in collected}


def test_workers_and_bookkeeping_may_change_when_a_run_goes_on(
    undisturbed: Path, tmp_path: Path
) -> None:
    learnt(tmp_path, stopping("batch", 6))
    learnt(
        tmp_path,
        env_mode="'async'",
        num_env_workers="1",
        dloader_workers="0",
        ckpt_interval="2",
        keep_last_ckpts="1",
        verbose="False",
        resume="'must'",
    )
    assert_same_run(tmp_path / "run", undisturbed)


@gin.configurable(module="tests")
class Forgetful(DiffusionPlannerAgent):
    """Draws from the global generator of torch, as nets with dropout do."""

    def loss(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(batch, generator)
        return loss * torch.rand(()), metrics


def test_net_that_draws_from_the_global_generator_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = {"agent_type": "@Forgetful", "val_interval": "None", "epochs": "2"}
    learnt(tmp_path, run_name="whole", **settings)
    torch.rand(7)  # another process would stand elsewhere
    learnt(tmp_path, stopping("batch", 6), run_name="stopped", **settings)
    torch.rand(7)
    learnt(tmp_path, run_name="stopped", **settings)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


MINIHACK = {
    "train_envs": "['MiniHack-Room-Random-5x5-v0', 'MiniHack-MazeWalk-9x9-v0']",
    "heldout_envs": "()",
    "epochs": "2",
    "warm_start_timesteps": "0",
    "train_timesteps_per_epoch": "12",
    "val_interval": "None",
}


@pytest.mark.minihack
def test_stopped_run_on_minihack_goes_on_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("nle")
    learnt(tmp_path, run_name="whole", **MINIHACK)
    learnt(tmp_path, stopping("batch", 2), run_name="stopped", **MINIHACK)
    learnt(tmp_path, run_name="stopped", **MINIHACK)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


# Real signals to real processes

SCRIPT = """
import os, signal, sys
import torch
from remdm import config
from remdm.cli import main, user_errors
from remdm.cli.commands import run_experiment
from remdm.experiment import Experiment

torch.set_num_threads(1)
bindings, what = sys.argv[1].split(";"), sys.argv[2]

class Signalled(Experiment):
    def train_step(self, batch):
        metrics = super().train_step(batch)
        if what == "interrupt" and self.progress.total_batches == 5:
            os.kill(os.getpid(), signal.SIGINT)
        if what == "interrupt twice" and self.progress.total_batches == 5:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        return metrics

config.load_config([], bindings)
with user_errors() as outcome:
    outcome.code = run_experiment(Signalled("run"))
sys.exit(outcome.code)
"""


def start_process(folder: Path, what: str) -> subprocess.Popen[str]:
    script = folder / "train.py"
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(script), ";".join(tiny_bindings(folder)), what],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_interrupt_stops_between_batches_and_says_what_to_type(
    undisturbed: Path, tmp_path: Path
) -> None:
    process = start_process(tmp_path, "interrupt")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "go on with: " in output
    assert "train.py" in output.split("go on with: ")[1]
    assert checkpoint_values(tmp_path / "run")["name"] == "epoch_000001_batch_000002"
    learnt(tmp_path)
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_second_interrupt_stops_at_once_and_the_last_checkpoint_is_gone_on_with(
    undisturbed: Path, tmp_path: Path
) -> None:
    process = start_process(tmp_path, "interrupt twice")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert checkpoint_values(tmp_path / "run")["name"] == "epoch_000001"
    learnt(tmp_path)
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_run_killed_at_any_moment_goes_on_from_its_last_checkpoint(
    undisturbed: Path, tmp_path: Path
) -> None:
    delay = random.Random(time.time()).uniform(0.0, 1.0)
    process = start_process(tmp_path, "nothing")
    log = tmp_path / "run/metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.01)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    print(f"killed {delay:.3f} s after the first line of metrics")
    learnt(tmp_path)
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("moment", ["collected", "labelled", "validated", "logged", "published"])
def test_run_that_dies_between_any_two_steps_goes_on_from_its_last_checkpoint(
    moment: str, undisturbed: Path, tmp_path: Path
) -> None:
    """A run that is given up without another word leaves the files a killed one leaves."""

    class Dies(Experiment):
        def die(self, here: str) -> None:
            if here == moment and self.progress.epoch == 1:
                raise MemoryError

        def label_new_training_data(self) -> dict[str, float]:
            self.die("collected")
            metrics = super().label_new_training_data()
            self.die("labelled")
            return metrics

        def log(self, metrics: dict[str, float]) -> None:
            self.die("validated" if "val/win_rate" in metrics else "")
            super().log(metrics)
            self.die("logged")

        def write_latest_policy(self) -> None:
            super().write_latest_policy()
            if moment == "published" and self.progress.epoch == 2:
                raise MemoryError

    with pytest.raises(MemoryError):
        learnt(tmp_path, Dies)
    assert checkpoint_values(tmp_path / "run")["name"] == "epoch_000001"
    learnt(tmp_path)
    assert_same_run(tmp_path / "run", undisturbed)


def test_half_a_checkpoint_is_neither_used_nor_kept(undisturbed: Path, tmp_path: Path) -> None:
    learnt(tmp_path, stopping("epoch", 2))
    whole = tmp_path / "run/ckpts/epoch_000002"
    half = tmp_path / "run/ckpts/.partial-1234-epoch_000003"
    half.mkdir()
    (half / "state.json").write_bytes((whole / "state.json").read_bytes()[:100])
    (tmp_path / "run/.partial-1234-best").mkdir()
    learnt(tmp_path)
    assert not half.exists()
    assert not (tmp_path / "run/.partial-1234-best").exists()
    assert_same_run(tmp_path / "run", undisturbed)


def test_run_killed_before_its_first_epoch_ended_collects_that_epoch_once(
    undisturbed: Path, tmp_path: Path
) -> None:
    run = started(tmp_path)
    run.collect_new_training_data()
    run.log({"something": 1.0})
    run.close()
    learnt(tmp_path)
    assert_same_run(tmp_path / "run", undisturbed)
    assert len(files_below(tmp_path / "run/superseded")) == 1


def test_best_weights_that_are_lost_are_chosen_anew(tmp_path: Path) -> None:
    learnt(tmp_path, stopping("epoch", 2))
    for path in (tmp_path / "run/best").iterdir():
        path.unlink()
    (tmp_path / "run/best").rmdir()
    run = learnt(tmp_path)
    assert run.progress.best_epoch == 3
    assert (tmp_path / "run/best/state.json").exists()


def test_level_seeds_of_a_resumed_run_are_never_played_twice(
    undisturbed: Path, tmp_path: Path
) -> None:
    learnt(tmp_path, stopping("batch", 6))
    learnt(tmp_path)
    first_steps = [
        (segment.env, segment.seed, segment.first_step)
        for path in (tmp_path / "run/shards").glob("*")
        for segment in Shard.open(path).segments
    ]
    assert len(first_steps) == len(set(first_steps))
    assert np.array([seed for _, seed, _ in first_steps]).min() >= 1_000_000
