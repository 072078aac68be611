"""Environments of Gymnasium in a plain `Experiment`, by names in gin."""

from pathlib import Path

import gin
import numpy as np
import pytest
import torch

from remdm import Experiment, config
from remdm.cli.runs import open_run

BINDINGS = [
    "Experiment.parallel_actors = 3",
    "Experiment.oracle_type = @ActingOracle",
    "ActingOracle.expert_type = @Pushing",
    "Experiment.oracle_noise = 0.0",
    "DiskTrajDataset.target = 'oracle_actions'",
    "Experiment.epochs = 2",
    "Experiment.train_timesteps_per_epoch = 20",
    "Experiment.train_batches_per_epoch = 30",
    "Experiment.batch_size = 16",
    "Experiment.val_metric = 'return'",
    "Experiment.val_interval = 1",
    "Experiment.val_episodes = 2",
    "Experiment.val_step_cap = 20",
    "Experiment.test_episodes = 2",
    "Experiment.test_step_cap = 20",
    "Experiment.verbose = False",
]


@gin.configurable
class Pushing:
    """Always the same: the second of two actions, or a half."""

    def act(self, obs: np.ndarray, deterministic: bool) -> np.ndarray:
        swings = obs.shape[1] == 3
        return np.full((len(obs), 1), 0.5, np.float32) if swings else np.ones(len(obs), np.int64)


@pytest.mark.parametrize("env", ["Gymnasium:CartPole-v1", "Gymnasium:Pendulum-v1"])
def test_a_run_by_names_learns_is_compared_by_return_and_can_be_opened(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = [f"Experiment.train_envs = ['{env}']", "Experiment.agent_type = @HeadAgent"]
    with config.gin_sandbox():
        config.load_config(bindings=[*BINDINGS, *own])
        run = Experiment("named")
        run.start()
        run.learn()
        rows = run.evaluate_test()
        run.close()
    assert {row.policy for row in rows} == {"random", "expert", "planner"}
    table = (tmp_path / "runs" / "named" / "report" / "table.md").read_text()
    assert f"| {env} | expert |" in table
    assert "## Return" in table
    with config.gin_sandbox():
        opened = open_run(tmp_path / "runs" / "named", [], [])
        seen = np.zeros((1, 3 if "Pendulum" in env else 4), np.float32)
        agent = opened.agents["planner"]
        sample = agent.plan({"observation": seen}, torch.Generator().manual_seed(0))
        assert (sample.vectors is None) == ("CartPole" in env)


def test_a_planner_of_tokens_is_refused_where_actions_are_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with config.gin_sandbox():
        config.load_config(
            bindings=[*BINDINGS, "Experiment.train_envs = ['Gymnasium:Pendulum-v1']"]
        )
        with pytest.raises(ValueError, match=r"set Experiment\.agent_type = @HeadAgent"):
            Experiment("planner").start()
