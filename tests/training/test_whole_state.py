"""Checkpoints of runs: what they refuse, what they start, and who can open them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from remdm import config
from remdm.experiment import Experiment
from remdm.training.checkpoint import CheckpointError
from remdm.training.progress import Progress
from remdm.training.whole_state import checkpoint_name, newest_checkpoint
from tests.tiny_runs import files_below, learnt, started, tiny_bindings

SHORT = {"epochs": "2"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds a finished run called "run"."""
    folder = tmp_path_factory.mktemp("finished")
    config.clear_config()
    learnt(folder, **SHORT)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path


def change_state(path: Path, **changed: object) -> None:
    file = path / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def weights_of(agent: torch.nn.Module) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in agent.state_dict().items()}


# Names


def test_checkpoints_are_named_by_how_far_the_run_is() -> None:
    assert checkpoint_name(Progress(epoch=12)) == "epoch_000012"
    assert checkpoint_name(Progress(epoch=12, collected=True)) == "epoch_000012_batch_000000"
    within = Progress(epoch=12, collected=True, batches=7)
    assert checkpoint_name(within) == "epoch_000012_batch_000007"


def test_newest_checkpoint_is_the_one_that_is_furthest(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    stages = [(2, False, 0), (2, True, 0), (2, True, 30), (3, False, 0), (10, False, 0)]
    for epoch, collected, batches in stages:
        progress = Progress(epoch=epoch, collected=collected, batches=batches)
        place = tmp_path / checkpoint_name(progress)
        place.mkdir()
        state = {"format_version": 1, "progress": progress.to_dict()}
        (place / "state.json").write_text(json.dumps(state))
        assert newest_checkpoint(tmp_path) == place


# Refusals: each names the folder and what to do, and changes nothing on disk


def torn(path: Path, name: str) -> None:
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: change_state(path, format_version=99), "checkpoint format 99.*reads 1"),
        (lambda path: change_state(path, action_names=["up"]), r"action_names \['up'\], here it"),
        (lambda path: change_state(path, plan_horizon=64), "plan_horizon 64, here it is 6"),
        (lambda path: change_state(path, agents={"planner": "X"}), "holds no single_step"),
        (lambda path: change_state(path, num_processes=2), "by 2 processes, this run has 1"),
        (lambda path: torn(path, "state.json"), r"state.json is damaged.*move that folder"),
        (lambda path: torn(path, "planner.safetensors"), "planner.safetensors is damaged"),
        (lambda path: torn(path, "process_0.pt"), r"process_0.pt is damaged.*move that folder"),
        (lambda path: (path / "process_0.pt").unlink(), "process_0.pt is missing"),
        (lambda path: torn(path, "single_step_training.pt"), "single_step_training.pt is damaged"),
    ],
)
def test_checkpoint_that_cannot_be_gone_on_with_is_refused_and_nothing_changes(
    damage: Callable[[Path], None], message: str, folder: Path
) -> None:
    newest = folder / "run/ckpts/epoch_000002"
    damage(newest)
    before = files_below(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        started(folder, **SHORT)
    assert str(newest) in str(caught.value)
    assert files_below(folder) == before


def test_without_the_damaged_one_the_checkpoint_before_is_gone_on_with(folder: Path) -> None:
    shutil.rmtree(folder / "run/ckpts/epoch_000002")
    run = started(folder, **SHORT)
    assert run.progress.epoch == 1
    run.learn()
    run.close()
    assert run.progress.finished


def test_checkpoint_of_another_net_is_refused(folder: Path) -> None:
    bindings = [*tiny_bindings(folder, **SHORT), "EgoDenoiser.width = 8"]
    config.load_config([], bindings)
    run = Experiment("other")
    run.start()
    path = folder / "run/ckpts/epoch_000002"
    with pytest.raises(CheckpointError, match=r"does not fit this model.*config.gin"):
        run.load_checkpoint_from_path(path, resume_training_state=False)
    run.close()


def test_checkpoint_that_is_not_there_is_refused(folder: Path) -> None:
    run = started(folder, **SHORT)
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*epoch_000007"):
        run.load_checkpoint(7)
    run.close()


def test_checkpoint_of_another_run_can_only_be_a_warm_start(folder: Path) -> None:
    run = started(folder, run_name="other", **SHORT)
    path = folder / "run/ckpts/epoch_000002"
    with pytest.raises(CheckpointError, match="resume_training_state=False"):
        run.load_checkpoint_from_path(path)
    run.close()


# What they start


def test_warm_start_begins_with_the_averaged_weights_and_a_fresh_optimiser(folder: Path) -> None:
    old = started(folder, **SHORT)
    old.close()
    run = started(folder, run_name="other", seed="7", **SHORT)
    run.load_checkpoint_from_path(folder / "run/best", resume_training_state=False)
    for name, policy in old.policies.items():
        assert weights_of(run.trainers[name].agent) == weights_of(policy)
        assert weights_of(run.policies[name]) == weights_of(policy)
        assert run.trainers[name].optimiser.state_dict()["state"] == {}
    assert run.progress == Progress()
    run.learn()
    run.close()
    assert run.progress.finished
    assert weights_of(run.policy) != weights_of(old.policy)


def test_run_can_go_back_to_an_earlier_checkpoint_of_its_own(folder: Path) -> None:
    before = weights_of(learnt(folder, **SHORT).policy)
    run = started(folder, **SHORT)
    run.load_checkpoint(1)
    assert run.progress.epoch == 1
    assert weights_of(run.policy) != before
    run.learn()
    run.close()
    assert weights_of(run.policy) == before


def test_agents_can_be_opened_without_starting_the_run(folder: Path) -> None:
    trained = started(folder, **SHORT)
    seen = {k: v.copy() for k, v in trained.envs.reset(list(range(5))).items()}
    config.load_config([folder / "run/config.gin"])
    agents = Experiment("anything").load_agents(folder / "run/ckpts/epoch_000002")
    assert set(agents) == {"planner", "single_step"}
    for name, agent in agents.items():
        assert weights_of(agent) == weights_of(trained.policies[name])
        assert not agent.training
        plans = [
            a.plan(seen, torch.Generator().manual_seed(0)).tokens.numpy()
            for a in (agent, trained.policies[name])
        ]
        assert np.array_equal(*plans)
    trained.close()
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Experiment("anything").load_agents(folder / "run/ckpts")


def test_best_weights_can_be_opened_too(folder: Path) -> None:
    config.load_config([folder / "run/config.gin"])
    assert Experiment("anything").load_agents(folder / "run/best")
    change_state(folder / "run/best", action_names=["up"])
    with pytest.raises(CheckpointError, match="action_names"):
        Experiment("anything").load_agents(folder / "run/best")
