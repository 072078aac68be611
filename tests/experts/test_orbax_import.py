"""Experts of Craftax_Baselines, written as its scripts write them."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("craftax")

import jax
import optax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState

from remdm.cli import main
from remdm.envs.craftax.game import CLASSIC, FULL
from remdm.experts.nets import POLICIES
from remdm.experts.orbax_import import import_expert, newest_step
from remdm.experts.policy import Expert, blank_params
from remdm.training.checkpoint import CheckpointError

pytestmark = [
    pytest.mark.craftax,
    # Orbax's own threads and deprecations.
    pytest.mark.filterwarnings("ignore"),
]
WIDTH = 8


@pytest.fixture(scope="module")
def params():
    return blank_params(POLICIES["ppo_rnn"](17, WIDTH), WIDTH, 1345, seed=5)


@pytest.fixture(scope="module")
def policies(params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`policies/` of a baseline run, with the states of two steps."""
    folder = tmp_path_factory.mktemp("run") / "policies"
    net = POLICIES["ppo_rnn"](17, WIDTH)
    state = TrainState.create(apply_fn=net.apply, params=params, tx=optax.adam(1e-3))
    with ocp.CheckpointManager(folder) as manager:
        other = state.replace(params=jax.tree.map(lambda x: x + 1, params))
        manager.save(900, args=ocp.args.StandardSave(other))
        manager.save(1000, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
    return folder


def test_newest_step_is_read_and_acts_as_it_did(policies: Path, params, tmp_path: Path) -> None:
    argv = ["expert", "import", str(policies), "--base_dir", str(tmp_path), "--run_name", "peer"]
    assert main([*argv, "--width", str(WIDTH)]) == 0
    expert = Expert.load(tmp_path / "peer" / "expert", env_name=CLASSIC)
    for ours, theirs in zip(jax.tree.leaves(expert.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    state = json.loads((tmp_path / "peer" / "expert" / "state.json").read_text())
    assert state["imported_from"] == "policies/1000"
    older = import_expert(
        policies / "900", tmp_path / "older", algorithm="ppo_rnn", env_name=CLASSIC, width=WIDTH
    )
    assert json.loads((older / "state.json").read_text())["imported_from"] == "900"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"env_name": FULL}, r"another game, algorithm or width: params/Dense_0/kernel is \(1345"),
        ({"algorithm": "ppo"}, r"Dense_6/bias is \(1,\) there, \(8,\) here"),
        ({"width": 16}, r"Dense_0/bias is \(8,\) there, \(16,\) here"),
    ],
)
def test_experts_of_another_kind_are_refused(
    policies: Path, tmp_path: Path, options: dict, message: str
) -> None:
    asked = {"algorithm": "ppo_rnn", "env_name": CLASSIC, "width": WIDTH} | options
    with pytest.raises(CheckpointError, match=message):
        import_expert(policies, tmp_path / "expert", **asked)
    assert not (tmp_path / "expert").exists()


def test_folders_of_another_layout_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="needs folders named by their steps"):
        newest_step(tmp_path)
    (tmp_path / "7" / "default").mkdir(parents=True)
    asked = {"algorithm": "ppo_rnn", "env_name": CLASSIC, "width": WIDTH}
    with pytest.raises(CheckpointError, match="cannot be read as an Orbax checkpoint"):
        import_expert(tmp_path, tmp_path / "expert", **asked)
    with pytest.raises(ValueError, match="did you mean 'ppo_rnn'"):
        import_expert(tmp_path, tmp_path / "expert", **(asked | {"algorithm": "ppo_rn"}))
