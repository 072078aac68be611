"""Experts: nets as in the baselines, advantages, whole trainings, files."""

import json
from pathlib import Path

import gin
import numpy as np
import pytest

pytest.importorskip("craftax")

import jax
import jax.numpy as jnp
import torch

from remdm.cli import main
from remdm.envs.craftax.game import CLASSIC, FULL
from remdm.experts.checkpoint import POLICY_FILE, load_tree, named_leaves, save_expert
from remdm.experts.nets import POLICIES, ActorCriticRNN
from remdm.experts.policy import Expert, blank_params, play_first_lives
from remdm.experts.ppo import PPO, Training
from remdm.experts.rollout import Experience, advantages
from remdm.seeding import TRAINING_SEEDS
from remdm.training.checkpoint import CheckpointError
from tests.experts.trainings import trained
from tests.tiny_runs import THREE_UPDATES, TINY_PPO
from tests.tiny_runs import TINY_EXPERT as TINY

pytestmark = pytest.mark.craftax


@pytest.mark.parametrize(
    ("algorithm", "flat", "actions", "parameters"),
    [
        ("ppo", 1345, 17, 2_438_162),
        ("ppo_rnn", 1345, 17, 3_323_922),
        ("ppo", 8268, 43, 9_540_652),
        ("ppo_rnn", 8268, 43, 6_881_836),
        # Those of "ppo" and a third tower.
        ("ppo_rnd", 1345, 17, 2_438_162 + 1_214_977),
        ("ppo_rnd", 8268, 43, 9_540_652 + 4_759_553),
    ],
)
def test_nets_have_the_parameters_of_the_baselines(
    algorithm: str, flat: int, actions: int, parameters: int
) -> None:
    """craftax_spec 2.1: 2.44 M and 9.54 M, 3.32 M and 6.88 M with 512 channels."""
    net = POLICIES[algorithm](actions, 512)
    tree = jax.eval_shape(lambda: blank_params(net, 512, flat))
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == parameters
    if algorithm == "ppo_rnn":
        names = named_leaves(tree)
        assert "params/ScannedRNN_0/GRUCell_1/hn/bias" in names
        assert "params/Dense_6/kernel" in names


def test_the_memory_is_that_of_torch_with_the_same_weights() -> None:
    """craftax_spec 2.1: a GRU of flax is one of torch without recurrent biases of r and z."""
    net, width = ActorCriticRNN(5, 8), 8
    params = blank_params(net, width, 6, seed=3)
    gru = params["params"]["ScannedRNN_0"]["GRUCell_1"]
    rng = np.random.default_rng(0)
    for gate in gru.values():
        if "bias" in gate:
            gate["bias"] = jnp.asarray(rng.normal(size=width), jnp.float32)
    cell = torch.nn.GRUCell(width, width)

    def joined(part: str, gates: str) -> torch.Tensor:
        arrays = [np.array(gru[gate][part]).T for gate in gates.split()]
        return torch.from_numpy(np.concatenate(arrays))

    with torch.no_grad():
        cell.weight_ih.copy_(joined("kernel", "ir iz in"))
        cell.weight_hh.copy_(joined("kernel", "hr hz hn"))
        cell.bias_ih.copy_(joined("bias", "ir iz in"))
        cell.bias_hh.zero_()
        cell.bias_hh[2 * width :] = joined("bias", "hn")
    flat = rng.normal(size=(4, 3, 6)).astype(np.float32)
    begins = np.zeros((4, 3), bool)
    begins[2, 1] = True  # the second row's life begins anew
    hidden, _, _ = net.apply(params, jnp.ones((3, width)), flat, begins)
    embed = params["params"]["Dense_0"]
    state = torch.ones(3, width)
    for step in range(4):
        state = state * torch.from_numpy(~begins[step, :, None])
        seen = torch.from_numpy(np.maximum(flat[step] @ np.asarray(embed["kernel"]), 0.0))
        state = cell(seen, state)
    np.testing.assert_allclose(np.asarray(hidden), state.detach().numpy(), rtol=0, atol=1e-5)


def test_advantages_agree_with_the_sum_that_defines_them() -> None:
    """arXiv 1506.02438, equation 16, within each life."""
    rng, gamma, lam = np.random.default_rng(0), 0.9, 0.7
    rewards, values = rng.normal(size=(2, 6, 3)).astype(np.float32)
    ends = rng.random((6, 3)) < 0.3
    last = rng.normal(size=3).astype(np.float32)
    nothing = np.zeros((6, 3))
    experience = Experience({}, nothing, nothing, nothing, values, rewards, ends)
    found, targets = advantages(experience, jnp.asarray(last), gamma=gamma, lam=lam)
    for row in range(3):
        for start in range(6):
            total, factor = 0.0, 1.0
            for t in range(start, 6):
                after = 0.0 if ends[t, row] else (values[t + 1, row] if t < 5 else last[row])
                total += factor * (rewards[t, row] + gamma * after - values[t, row])
                if ends[t, row]:
                    break
                factor *= gamma * lam
            assert float(found[start, row]) == pytest.approx(total, abs=1e-5)
    np.testing.assert_allclose(np.asarray(targets), np.asarray(found) + values, atol=1e-6)


def parts_of(ppo: PPO) -> tuple:
    """Minibatches of an experience whose actions say where they are from: 100 t + n."""
    steps, rows = np.arange(ppo.num_steps)[:, None], np.arange(ppo.num_envs)
    place = jnp.asarray(100 * steps + rows)
    experience = Experience({}, place, place, place, place, place, place)
    hidden = jnp.arange(ppo.num_envs)[:, None].repeat(2, 1)
    return ppo._parts((hidden, experience, place, place), jax.random.PRNGKey(0))


def test_minibatches_hold_every_step_once_and_whole_worlds_where_there_is_a_memory() -> None:
    ppo = PPO(**TINY, total_timesteps=64)
    hidden, experience, gained, _ = parts_of(ppo)
    assert experience.actions.shape == (2, 8, 4)
    assert sorted(np.asarray(experience.actions).ravel()) == sorted(
        100 * t + n for t in range(8) for n in range(8)
    )
    np.testing.assert_array_equal(experience.actions, gained)
    for part in range(2):
        rows = np.asarray(hidden)[part, :, 0]
        expected = 100 * np.arange(8)[:, None] + rows
        np.testing.assert_array_equal(np.asarray(experience.actions)[part], expected)
    plain = PPO(**TINY, total_timesteps=64, algorithm="ppo")
    _, mixed, _, _ = parts_of(plain)
    assert mixed.actions.shape == (2, 1, 32)
    assert len(np.unique(np.asarray(mixed.actions))) == 64


def equal(first: Training, second: Training) -> bool:
    leaves = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


@pytest.mark.slow
def test_training_writes_an_expert_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Two updates, one more after a stop: the same as three without."""
    settings = {f"PPO.{name}": value for name, value in TINY.items()}
    for name, value in settings.items():
        gin.bind_parameter(name, value)
    gin.bind_parameter("PPO.total_timesteps", THREE_UPDATES)

    ppo = PPO()
    assert ppo.num_updates == 3
    assert all(level in TRAINING_SEEDS for level in ppo._levels(5, 40).tolist())
    training, ended = ppo.start(), 0
    blank = jax.tree.map(np.asarray, training.params)
    for _ in range(2):
        training, scalars, lives = ppo.advance(training)
        ended += int(lives.count)
        assert all(np.isfinite(float(value)) for value in scalars.values())
        assert int(lives.steps) == 12 * int(lives.count)  # nobody dies in twelve steps
    assert ended == 8  # of sixteen steps, every life was cut at the twelfth
    assert training.novelty is None
    # The pool had a world for each of them.
    assert len(np.unique(np.asarray(training.actors.worlds.keys), axis=0)) == 8
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(blank), jax.tree.leaves(training.params), strict=True)
    ]
    assert all(changed)

    from remdm.experts.training import facts_of

    save_expert(tmp_path / "stopped" / "expert", facts_of(ppo, 2), training.params, training)
    straight = trained(tmp_path / "straight")
    resumed = trained(tmp_path / "stopped")
    first, second = (
        load_tree(folder / "training.safetensors", jax.eval_shape(ppo.start))
        for folder in (straight, resumed)
    )
    assert equal(first, second)
    assert json.loads((straight / "state.json").read_text())["timesteps"] == 192
    rows = (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["timesteps"] == 192

    gin.bind_parameter("PPO.width", 8)
    with pytest.raises(CheckpointError, match="width is 8 now, 16 there"):
        trained(tmp_path / "straight")

    expert = Expert.load(straight, env_name=CLASSIC)
    lives = play_first_lives(expert, np.arange(8), max_steps=20)
    assert lives.steps.tolist() == [20] * 8
    assert not lives.ended.any()
    assert lives.achievements.shape == (8, 22)
    np.testing.assert_allclose(lives.returns, lives.achievements.sum(1), atol=0.91)

    rows = tmp_path / "rows.json"
    argv = ["expert", "eval", str(tmp_path / "straight"), "--episodes", "8", "--max_steps", "20"]
    assert main([*argv, "--json", str(rows)]) == 0
    found = json.loads(rows.read_text())["rows"]
    assert list(found) == ["random", "expert"]
    assert found["expert"]["return"] == pytest.approx(float(lives.returns.mean()), abs=1e-6)


@pytest.mark.slow
def test_recipe_of_the_expert_trains_when_tiny(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    binds = [word for line in TINY_PPO for word in ("--bind", line)]
    argv = ["expert", "train", "--configs", "craftax_classic_expert.gin", *binds]
    assert main([*argv, "--base_dir", str(tmp_path), "--run_name", "tiny"]) == 0
    assert "measure it: remdm expert eval" in capsys.readouterr().out.replace("\n", "")
    assert json.loads((tmp_path / "tiny" / "expert" / "state.json").read_text())["updates"] == 3


def test_a_binding_of_no_use_is_told_before_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["expert", "train", "--configs", "craftax_classic_expert.gin", "--bind"]
    assert main([*argv, "Experiment.epochs = 3", "--base_dir", str(tmp_path)]) == 2
    assert "Experiment.epochs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_evaluating_nothing_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["expert", "eval"]) == 2
    assert "needs the folder of a training" in capsys.readouterr().err
    assert main(["expert", "eval", str(tmp_path)]) == 2
    assert "no checkpoint at" in capsys.readouterr().err.replace("\n", " ")


def test_experts_of_another_game_or_shape_are_refused(tmp_path: Path) -> None:
    net = POLICIES["ppo_rnn"](17, 8)
    facts = {"algorithm": "ppo_rnn", "env_name": CLASSIC, "width": 8}
    folder = save_expert(tmp_path / "expert", facts, blank_params(net, 8, 1345))
    assert Expert.load(folder).width == 8
    with pytest.raises(CheckpointError, match=f"plays {CLASSIC}, and {FULL} was asked for"):
        Expert.load(folder, env_name=FULL)
    state = json.loads((folder / "state.json").read_text())
    for change, message in (
        ({"width": 16}, "of another expert: .* shapes"),
        ({"algorithm": "ppo"}, "of another expert: missing"),
        ({"algorithm": "ppo_rn"}, "did you mean 'ppo_rnn'"),
        ({"kind": "planner"}, "holds no expert"),
    ):
        (folder / "state.json").write_text(json.dumps(state | change))
        with pytest.raises(CheckpointError, match=message):
            Expert.load(folder)
    (folder / "state.json").write_text(json.dumps(state))
    torn = (folder / POLICY_FILE).read_bytes()[:-9]
    (folder / POLICY_FILE).write_bytes(torn)
    with pytest.raises(CheckpointError, match="is damaged"):
        Expert.load(folder)
    (folder / POLICY_FILE).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        Expert.load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "pp0"}, "unknown PPO.algorithm 'pp0'"),
        ({"algorithm": "ppo_rmd"}, "did you mean .*'ppo_rnd'"),
        ({"env_name": "Craftax-Classic-v1"}, "did you mean 'Craftax-Classic-Symbolic-v1'"),
        ({"total_timesteps": 63}, "less than one update of num_envs \\* num_steps = 64"),
        ({"num_minibatches": 3}, "must divide num_envs=8"),
        ({"width": 0}, "width must be at least 1, got 0; set PPO.width"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PPO(**(TINY | {"total_timesteps": 640} | options))
