"""Experts in torch answer as those in JAX whose folders they read."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("craftax")

import jax
import torch
from safetensors.numpy import load_file, save_file

from remdm.envs.craftax.game import CLASSIC
from remdm.experts.checkpoint import POLICY_FILE, save_expert
from remdm.experts.nets import POLICIES
from remdm.experts.policy import blank_params
from remdm.experts.torch_policy import ALGORITHMS, TorchExpert
from remdm.training.checkpoint import CheckpointError

pytestmark = pytest.mark.craftax

STEPS, ROWS, FLAT, ACTIONS, WIDTH = 32, 5, 23, 7, 16


def random_params(algorithm: str, flat: int = FLAT, width: int = WIDTH):
    """Parameters whose biases are not zero, as after training."""
    blank = blank_params(POLICIES[algorithm](ACTIONS, width), width, flat)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda x: np.float32(x + rng.normal(size=x.shape) / np.sqrt(x.shape[0])), blank
    )


def saved(folder: Path, algorithm: str, params=None) -> Path:
    facts = {"algorithm": algorithm, "env_name": CLASSIC, "width": WIDTH}
    return save_expert(folder, facts, random_params(algorithm) if params is None else params)


def stretch(seed: int, flat: int = FLAT, width: int = WIDTH) -> tuple[np.ndarray, ...]:
    """A memory, observations, and lives that begin now and then."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(ROWS, width)).astype(np.float32)
    seen = rng.normal(size=(STEPS, ROWS, flat)).astype(np.float32)
    begins = rng.random((STEPS, ROWS)) < 0.1
    begins[0] = [True, False, True, False, False]
    return hidden, seen, begins


@pytest.mark.parametrize("algorithm", sorted(POLICIES))
def test_torch_answers_as_flax_does(algorithm: str, tmp_path: Path) -> None:
    params = random_params(algorithm)
    expert = TorchExpert.load(saved(tmp_path / "expert", algorithm, params))
    assert (expert.flat_size, expert.num_actions, expert.width) == (FLAT, ACTIONS, WIDTH)
    assert expert.facts["env_name"] == CLASSIC
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    apply = jax.jit(POLICIES[algorithm](ACTIONS, WIDTH).apply)
    for seed in range(3):
        given = stretch(seed)
        theirs = apply(params, *given)
        ours = expert(*map(torch.from_numpy, given))
        shapes = [tuple(array.shape) for array in ours]
        values = (STEPS, ROWS, 2) if algorithm == "ppo_rnd" else (STEPS, ROWS)
        assert shapes == [(ROWS, WIDTH), (STEPS, ROWS, ACTIONS), values]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == torch.float32
            np.testing.assert_allclose(mine.numpy(), np.asarray(other), rtol=0, atol=1e-5)
    assert float(ours[1].std()) > 0.1  # the comparison was not of zeros


def test_two_stretches_are_one_and_a_life_that_begins_remembers_nothing(tmp_path: Path) -> None:
    expert = TorchExpert.load(saved(tmp_path / "expert", "ppo_rnn"))
    hidden, seen, begins = map(torch.from_numpy, stretch(7))
    _, whole, _ = expert(hidden, seen, begins)
    half, first, _ = expert(hidden, seen[:11], begins[:11])
    _, second, _ = expert(half, seen[11:], begins[11:])
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-6)
    alone = torch.zeros(1, ROWS, dtype=torch.bool)
    _, fresh, _ = expert(expert.memory(ROWS), seen[:1], alone)
    _, begun, _ = expert(hidden, seen[:1], ~alone)
    _, carried, _ = expert(hidden, seen[:1], alone)
    torch.testing.assert_close(begun, fresh, rtol=0, atol=0)
    assert not torch.allclose(carried, fresh, atol=1e-2)


def test_an_expert_is_read_and_asked_without_jax(tmp_path: Path) -> None:
    folder = saved(tmp_path / "expert", "ppo_rnn")
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from remdm.experts.torch_policy import TorchExpert\n"
        "expert = TorchExpert.load(Path(sys.argv[1]))\n"
        "seen, begins = torch.zeros(2, 3, expert.flat_size), torch.ones(2, 3, dtype=torch.bool)\n"
        "print(expert(expert.memory(3), seen, begins)[1].shape[2])\n"
        "print(sorted({'jax', 'flax', 'craftax'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == [str(ACTIONS), "[]", ""]


def test_the_same_algorithms_are_known_as_in_jax() -> None:
    assert sorted(ALGORITHMS) == sorted(POLICIES)
    with pytest.raises(ValueError, match="unknown algorithm 'ppo_rn': did you mean 'ppo_rnn'"):
        TorchExpert("ppo_rn", FLAT, ACTIONS, WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "ppo_rn"}, "expert: unknown algorithm 'ppo_rn': did you mean 'ppo_rnn'"),
        ({"algorithm": "ppo"}, r"another expert: missing \['params/Dense_7/bias'"),
        ({"width": 8}, r"Dense_0/kernel is \(23, 16\) in the file and \(23, 8\) here"),
        ({"kind": "planner"}, "holds no expert: its state.json lacks the kind"),
        ({"width": None}, "holds no expert: its state.json lacks width"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    folder = saved(tmp_path / "expert", "ppo_rnn")
    state = json.loads((folder / "state.json").read_text()) | change
    kept = {name: value for name, value in state.items() if value is not None}
    (folder / "state.json").write_text(json.dumps(kept))
    with pytest.raises(CheckpointError, match=message):
        TorchExpert.load(folder)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*: state\.json is missing"):
        TorchExpert.load(tmp_path)
    folder = saved(tmp_path / "expert", "ppo_rnn")
    path = folder / POLICY_FILE
    whole, arrays = path.read_bytes(), load_file(path)
    hidden_bias = "params/ScannedRNN_0/GRUCell_1/hn/bias"
    for left, message in (
        ({k: v for k, v in arrays.items() if k != hidden_bias}, f"missing .'{hidden_bias}'"),
        (arrays | {"params/Dense_7/bias": np.zeros(1)}, "unknown params/Dense_7/bias"),
        ({"other": np.zeros(1)}, "must hold the parameters of a ppo_rnn expert.*; it holds other"),
    ):
        save_file(left, path)
        with pytest.raises(CheckpointError, match=message):
            TorchExpert.load(folder)
    path.write_bytes(whole[:-9])
    with pytest.raises(CheckpointError, match="is damaged"):
        TorchExpert.load(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="is missing, the checkpoint is not complete"):
        TorchExpert.load(folder)
