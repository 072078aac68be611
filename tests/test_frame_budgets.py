"""Runs whose budgets are stated in env steps."""

from pathlib import Path

import pytest

from remdm import config
from remdm.agent import BaseAgent
from remdm.data.disk import DiskTrajDataset
from remdm.experiment import Experiment
from remdm.training.collect_stats import CollectStats
from tests.tiny_runs import assert_same_run, learnt, metric_rows, tiny_bindings

# Five actors of 9 steps make epochs of 45, which 200 env steps suffice for four of.
IN_FRAMES = {
    "epochs": "None",
    "total_timesteps": "200",
    "warm_start_timesteps": "0",
    "lr_warmup_steps": "50",
    "lr_warmup_timesteps": "50",
    "val_interval": "5",
    "val_interval_timesteps": "100",
}
LONGEST_CHUNK = 5 * 5  # actors, replan_every and the direction of an action that asks for one


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    learnt(folder, **IN_FRAMES)
    return folder / "run"


def test_run_collects_its_budget_and_at_most_a_plan_more(undisturbed: Path) -> None:
    rows = [row for row in metric_rows(undisturbed) if "label/steps" in row]
    assert len(rows) == 4
    for epochs, row in enumerate(rows, start=1):
        assert 45 * epochs <= row["env_steps"] < 45 * epochs + LONGEST_CHUNK
    assert rows[-1]["updates"] == 16
    assert ["val/win_rate" in row for row in rows] == [False, True, False, True]


def test_learning_rate_peaks_after_the_warm_up_and_falls_to_its_end(undisturbed: Path) -> None:
    rates = [
        row["train/planner/learning_rate"]
        for row in metric_rows(undisturbed)
        if "train/planner/learning_rate" in row and "label/steps" in row
    ]
    assert rates[1] == max(rates)  # the first epoch is the warm-up
    assert rates[0] < rates[1] > rates[2] > rates[3]


class StopAfterChunk(Experiment):
    """Is asked to stop after the first chunk of the third epoch."""

    def interact(self, agent: BaseAgent | None, stats: CollectStats, beta: float) -> None:
        super().interact(agent, stats, beta)
        if self.progress.epoch == 2:
            self.stop.requested = True


def test_epoch_that_was_stopped_while_it_collected_collects_what_it_would_have(
    undisturbed: Path, tmp_path: Path
) -> None:
    first = learnt(tmp_path, StopAfterChunk, **IN_FRAMES)
    assert first.progress.epoch == 2
    assert first.progress.collect.env_steps > 0
    second = learnt(tmp_path, **IN_FRAMES)
    assert second.progress.finished
    straight = [row["env_steps"] for row in metric_rows(undisturbed)]
    assert [row["env_steps"] for row in metric_rows(tmp_path / "run")] == straight


def test_same_run_of_env_steps_is_the_same_bit_for_bit(undisturbed: Path, tmp_path: Path) -> None:
    learnt(tmp_path, **IN_FRAMES)
    assert_same_run(tmp_path / "run", undisturbed)


def test_summary_says_how_budgets_were_rounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "remdm")
    learnt(tmp_path, **{**IN_FRAMES, "total_timesteps": "50", "lr_warmup_timesteps": "0"})
    assert "total_timesteps 50 is 1 epoch of 45 env steps by 5 actors, rounded down to 45" in (
        caplog.text
    )


def test_warm_up_longer_than_the_run_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lr_warmup_timesteps=200 comes to 16 of 16 updates"):
        learnt(tmp_path, **{**IN_FRAMES, "lr_warmup_timesteps": "200"})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_data_is_kept_by_epochs(tmp_path: Path) -> None:
    keeps = "DiskTrajDataset.dset_max_cycles = 2.5"
    config.load_config([], [*tiny_bindings(tmp_path, **IN_FRAMES), keeps])
    run = Experiment("run")
    run.start()
    try:
        run.learn()
    finally:
        run.close()
    assert isinstance(run.dataset, DiskTrajDataset)
    assert run.dataset.limits.max_steps == 112
    assert len(run.dataset.manifest.shards) == 2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"dset_max_cycles": 0.0}, "dset_max_cycles must be a finite number above 0, got 0.0"),
        ({"dset_max_cycles": float("inf")}, r"got inf; set DiskTrajDataset\.dset_max_cycles"),
        (
            {"dset_max_cycles": 2.0, "dset_max_timesteps": 9},
            "dset_max_cycles=2.0 and dset_max_timesteps=9 both say how many steps to keep",
        ),
    ],
)
def test_cycles_that_make_no_sense_are_refused(
    knobs: dict[str, float], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        DiskTrajDataset(tmp_path, **knobs)
