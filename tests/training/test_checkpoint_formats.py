"""Checkpoints that other versions wrote: they load, or say which version they need."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from remdm import config
from remdm.experiment import Experiment
from remdm.training.checkpoint import CheckpointError, load_plain, save_plain
from tests.tiny_runs import (
    checkpoint_values,
    data_files,
    differences,
    files_below,
    learnt,
    metric_rows,
    started,
)

SETTINGS = {"epochs": "2", "val_interval": "None"}


class StopsWithin(Experiment):
    """Is asked to stop in the middle of the second epoch's training."""

    def train_step(self, batch: Any) -> dict[str, float]:
        metrics = super().train_step(batch)
        self.stop.requested = self.stop.requested or self.progress.total_batches == 5
        return metrics


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    config.clear_config()
    learnt(folder, **SETTINGS)
    return folder / "run"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was stopped within an epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    config.clear_config()
    learnt(folder, StopsWithin, **SETTINGS)
    return folder / "run"


@pytest.fixture
def newest(stopped: Path, tmp_path: Path) -> Path:
    """The newest checkpoint of a copy of it."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run/ckpts/epoch_000001_batch_000002"


def change_state(folder: Path, **changed: Any) -> None:
    path = folder / "state.json"
    state = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({k: v for k, v in state.items() if v is not None}))


def as_first_written(folder: Path) -> None:
    """Take away what checkpoints of format 1 did not have from the beginning.

    Of collecting: what running plans carry, and returns. Of weights: their sums. Of the state: the
    mode of the process.
    """
    own = load_plain(folder / "process_0.pt")
    progress = json.loads((folder / "state.json").read_text())["progress"]
    for counters in (own["progress"], progress):
        del counters["collect"]["returns"]
    carried = [name for name in own["collector"] if name.startswith("running_")]
    assert len(carried) == 4
    for name in carried:
        del own["collector"][name]
    save_plain(folder / "process_0.pt", own)
    change_state(folder, progress=progress, mode=None)
    weights = list(folder.glob("*.safetensors"))
    assert len(weights) == 4
    for path in weights:
        save_file(load_file(path), path)


def without_returns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if "return" not in k} for row in rows]


def test_a_run_goes_on_from_a_checkpoint_as_it_was_first_written(
    newest: Path, whole: Path, tmp_path: Path
) -> None:
    for checkpoint in newest.parent.iterdir():
        as_first_written(checkpoint)
    learnt(tmp_path, **SETTINGS)
    run = tmp_path / "run"
    found = differences(checkpoint_values(run), checkpoint_values(whole))
    # Episodes that were open then end without what they would have carried, which no agent reads
    # here, and without their returns.
    assert [name for name in found if "running_" not in name and "return" not in name] == []
    assert differences(data_files(run), data_files(whole)) == []
    assert without_returns(metric_rows(run)) == without_returns(metric_rows(whole))


def refused(folder: Path, message: str) -> None:
    before = files_below(folder)
    with pytest.raises(CheckpointError, match=message):
        started(folder, **SETTINGS)
    assert files_below(folder) == before


def test_a_checkpoint_from_before_the_first_format_names_its_version(
    newest: Path, tmp_path: Path
) -> None:
    """The collector had a file of its own then, and the state no names of agents."""
    change_state(
        newest,
        remdm_version="0.0.1",
        agents=None,
        num_processes=None,
        metrics_bytes=None,
        mode=None,
    )
    collector = load_plain(newest / "process_0.pt")["collector"]
    save_file(collector, newest / "collector.safetensors")
    (newest / "process_0.pt").rename(newest / "random.pt")
    refused(tmp_path, r"it has no agents; version 0\.0\.1 wrote it.*load it with that one, or move")


def test_a_checkpoint_of_a_later_format_names_its_version(newest: Path, tmp_path: Path) -> None:
    change_state(newest, format_version=2, remdm_version="7.1")
    refused(tmp_path, r"format 2, this version of remdm reads 1; load it .*7\.1")


def test_counters_of_a_later_version_are_not_passed_over(newest: Path, tmp_path: Path) -> None:
    change_state(newest, remdm_version="7.1")
    own = load_plain(newest / "process_0.pt")
    own["progress"]["fused_updates"] = 7
    save_plain(newest / "process_0.pt", own)
    refused(tmp_path, r"its counters: .*fused_updates.*version 7\.1 wrote it")


def test_weights_of_any_format_1_begin_another_run(newest: Path, tmp_path: Path) -> None:
    as_first_written(newest)
    averaged = load_file(newest / "planner_ema.safetensors")
    run = started(tmp_path, run_name="other", start_from=repr(str(newest)), **SETTINGS)
    run.close()
    own = run.policy.state_dict()
    assert averaged.keys() == own.keys()
    assert all(torch.equal(own[name], averaged[name]) for name in averaged)
