"""A run in separate roles that take turns in this process: they only meet in its folder."""

import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from remdm import config
from remdm.data.batch import Batch
from remdm.data.shards import Shard
from remdm.distributed.lease import LeaseHeld
from remdm.experiment import Experiment
from remdm.training.checkpoint import CheckpointError
from remdm.training.roles import role_of
from tests.tiny_runs import checkpoint_values, differences, metric_rows, tiny_bindings


def begun(
    folder: Path,
    mode: str,
    index: int | None = None,
    kind: type[Experiment] = Experiment,
    **changed: str,
) -> Experiment:
    """A tiny run in one role after `start`; it waits for nobody."""
    values = {"epochs": "2", "max_wait_seconds": "0"} | changed
    config.load_config([], tiny_bindings(folder, **values))
    run = kind("run")
    run.start(role_of(mode, index))
    return run


def play(
    folder: Path,
    mode: str,
    index: int | None = None,
    kind: type[Experiment] = Experiment,
    **changed: str,
) -> Experiment:
    """The same after `learn`, closed."""
    run = begun(folder, mode, index, kind, **changed)
    try:
        run.learn()
    finally:
        run.close()
    return run


def shards(folder: Path) -> list[Shard]:
    return [Shard.open(path) for path in sorted((folder / "run/shards").glob("*.safetensors"))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose roles took turns until it was done."""
    folder = tmp_path_factory.mktemp("roles")
    with pytest.raises(TimeoutError, match="env steps"):
        play(folder, "learn")
    for index in (0, 3):
        with pytest.raises(TimeoutError, match="learner"):
            play(folder, "collect", index)
    with pytest.raises(TimeoutError, match="shards without labels"):
        play(folder, "label")
    play(folder, "learn")
    play(folder, "validate").evaluate_test()
    return folder


def test_roles_that_take_turns_finish_a_run(finished: Path) -> None:
    run = finished / "run"
    assert (run / "DONE").exists()
    assert (run / "best/state.json").exists()
    assert (run / "report").is_dir()
    assert metric_rows(run)[-1]["updates"] == 8


def test_best_weights_are_those_that_the_learner_published(finished: Path) -> None:
    """They were validated after the second epoch, the last one."""
    newest = max((finished / "run/latest").glob("weights-*.safetensors"))
    best = load_file(finished / "run/best/planner_ema.safetensors")
    wanted = load_file(newest)
    assert all(torch.equal(best[name], wanted[f"planner/{name}"]) for name in best)


def test_collectors_stop_at_the_epochs_they_may_be_ahead(finished: Path) -> None:
    """Two epochs of 60 and 45 env steps; a collector may go over by its last stretch."""
    by_collector: dict[str, int] = defaultdict(int)
    for shard in shards(finished):
        by_collector[shard.segments[0].collector] += shard.num_steps
    assert set(by_collector) == {"c0"}
    assert 105 <= by_collector["c0"] < 105 + 20


def test_every_level_seed_is_played_once_and_without_a_gap(finished: Path) -> None:
    seen: dict[tuple[str, int], int] = defaultdict(int)
    for shard in shards(finished):
        for segment in shard.segments:
            assert segment.first_step == seen[segment.env, segment.seed]
            seen[segment.env, segment.seed] += segment.length


def test_learner_logs_how_old_the_policy_was_that_made_the_new_data(finished: Path) -> None:
    """All was collected by the first weights, before the first update, and taken in at once."""
    rows = [row for row in metric_rows(finished / "run") if "data/updates_behind" in row]
    assert [row["data/updates_behind"] for row in rows] == [0.0]


def test_shards_say_which_weights_acted(finished: Path) -> None:
    versions = {s.policy_version for shard in shards(finished) for s in shard.segments}
    assert versions == {0}
    names = [shard.path.name for shard in shards(finished)]
    assert all(re.fullmatch(r"e00000[01]-c0-\d{6}-\d+\.safetensors", name) for name in names)


def test_learner_without_data_says_what_it_waits_for(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"60 env steps in .*0 are collected.*--mode collect"):
        play(tmp_path, "learn")
    with pytest.raises(TimeoutError, match="--mode collect"):
        play(tmp_path, "label")
    with pytest.raises(TimeoutError, match=r"Experiment\.max_wait_seconds"):
        play(tmp_path, "validate")


def test_learner_without_labels_asks_for_a_labeller(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        play(tmp_path, "collect")
    with pytest.raises(TimeoutError, match=r"collected, 0 labelled.*--mode label"):
        play(tmp_path, "learn")


def test_collector_without_weights_says_so(tmp_path: Path) -> None:
    """The warm start needs none, the next epoch does."""
    with pytest.raises(TimeoutError, match="none is alive, no weights are published"):
        play(tmp_path, "collect")
    assert sum(shard.num_steps for shard in shards(tmp_path)) >= 60


class StopsAfter(Experiment):
    """Is asked to stop after so many batches, the way a signal does it."""

    last = 0

    def train_step(self, batch: Batch) -> dict[str, float]:
        metrics = super().train_step(batch)
        self.stop.requested = self.progress.total_batches + 1 == self.last
        return metrics


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of two epochs, and a learner that has not begun."""
    folder = tmp_path_factory.mktemp("labelled")
    begun(folder, "learn").close()
    for mode in ("collect", "label"):
        with pytest.raises(TimeoutError):
            play(folder, mode)
    return folder


@pytest.mark.parametrize("batches", [1, 4, 6])
def test_learner_that_was_stopped_goes_on_bit_for_bit(
    batches: int, labelled: Path, tmp_path: Path
) -> None:
    for name in ("stopped", "undisturbed"):
        shutil.copytree(labelled, tmp_path / name)
    kind = type("Stopping", (StopsAfter,), {"last": batches})
    stopped = play(tmp_path / "stopped", "learn", kind=kind)
    assert not stopped.progress.finished
    assert stopped.progress.total_batches == batches
    for name in ("stopped", "undisturbed"):
        assert play(tmp_path / name, "learn").progress.finished
    found, wanted = (
        checkpoint_values(tmp_path / name / "run") for name in ("stopped", "undisturbed")
    )
    assert differences(found, wanted) == []
    assert metric_rows(tmp_path / "stopped/run") == metric_rows(tmp_path / "undisturbed/run")


def test_shards_made_after_a_checkpoint_stay_when_the_learner_goes_back_to_it(
    labelled: Path, tmp_path: Path
) -> None:
    shutil.copytree(labelled, tmp_path / "one")
    before = {path.name for path in (tmp_path / "one/run/shards").iterdir()}
    run = begun(tmp_path / "one", "learn")
    run.close()
    assert {path.name for path in (tmp_path / "one/run/shards").iterdir()} == before
    assert not (tmp_path / "one/run/superseded").exists()


def test_second_learner_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    first = begun(tmp_path, "learn")
    for mode in ("learn", "both"):
        with pytest.raises(LeaseHeld, match="'learn' has it"):
            begun(tmp_path, mode)
    first.close()
    begun(tmp_path, "learn").close()


def test_collector_takes_the_lowest_free_number(tmp_path: Path) -> None:
    runs = [begun(tmp_path, "collect") for _ in range(2)]
    assert [run.number for run in runs] == [0, 1]
    with pytest.raises(LeaseHeld, match="'collect-1' has it"):
        begun(tmp_path, "collect", 1)
    runs[0].close()
    runs.append(begun(tmp_path, "collect"))
    assert runs[-1].number == 0
    for run in runs:
        run.close()


def test_run_of_one_process_is_not_gone_on_with_in_roles(tmp_path: Path) -> None:
    play(tmp_path, "both", epochs="1")
    with pytest.raises(CheckpointError, match="was written with --mode both"):
        begun(tmp_path, "learn", epochs="1")


def test_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'collect'"):
        role_of("colect")
    with pytest.raises(ValueError, match="--index must be at least 0"):
        role_of("learn", 1)


def collected_alone(folder: Path, stretches: list[int]) -> dict[str, bytes]:
    """What a collector of a long warm start writes, started anew after so many shards each."""
    for count in stretches:
        run = begun(folder, "collect", 0, warm_start_timesteps="200", shard_timesteps="40")
        for _ in range(count):
            run.collect_new_training_data(40)
        run.close()
    return {p.name: p.read_bytes() for p in sorted((folder / "run/shards").iterdir())}


def test_collector_that_starts_again_writes_the_same_bytes(tmp_path: Path) -> None:
    undisturbed = collected_alone(tmp_path / "one", [6])
    assert len(undisturbed) == 6
    for name, stretches in {"two": [1, 5], "three": [2, 1, 3]}.items():
        assert differences(undisturbed, collected_alone(tmp_path / name, stretches)) == []
