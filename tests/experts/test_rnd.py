"""Experts with a novelty bonus: the nets, the bonus, two returns, whole trainings."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import gin
import numpy as np
import pytest

pytest.importorskip("craftax")

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from flax.training.train_state import TrainState

from remdm.cli import main
from remdm.envs.craftax.game import CLASSIC, load_game
from remdm.envs.craftax.worlds import runner_of
from remdm.experts.checkpoint import (
    POLICY_FILE,
    TRAINING_FILE,
    load_tree,
    named_leaves,
    save_expert,
)
from remdm.experts.orbax_import import import_expert
from remdm.experts.policy import Expert, blank_params
from remdm.experts.ppo import PPO
from remdm.experts.rnd import RND, Novelty
from remdm.experts.rollout import Experience, act, advantages, new_actors
from remdm.experts.training import facts_of
from remdm.training.checkpoint import CheckpointError
from tests.experts.trainings import trained

pytestmark = pytest.mark.craftax

TINY = {
    "algorithm": "ppo_rnd",
    "num_envs": 8,
    "num_steps": 8,
    "update_epochs": 2,
    "num_minibatches": 2,
    "width": 16,
    "pool_size": 4,
    "max_episode_steps": 12,
    "learning_rate": 1e-2,
}
SMALL = {"width": 8, "features": 6}
CODEC = load_game(CLASSIC).codec
KEY = jax.random.PRNGKey(0)


def rnd(**knobs) -> RND:
    return RND(CODEC, 2, 1.0, **(SMALL | knobs))


def copied(tree):
    """What a compiled update may not take the arrays of."""
    return jax.tree.map(jnp.copy, tree)


def same(first, second) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


# The nets


def written_by_the_baselines(width: int, flat: int) -> dict:
    """craftax_spec 2.1: Dense_0..3 act, 4..7 value rewards, 8..11 value bonuses."""
    rng, layers = np.random.default_rng(0), {}
    for tower, out in enumerate((17, 1, 1)):
        for depth, (rows, columns) in enumerate(
            ((flat, width), *[(width, width)] * 2, (width, out))
        ):
            layers[f"Dense_{4 * tower + depth}"] = {
                "kernel": rng.normal(size=(rows, columns)).astype(np.float32) / rows**0.5,
                "bias": rng.normal(size=columns).astype(np.float32),
            }
    return {"params": layers}


@pytest.mark.filterwarnings("ignore")  # Orbax's own threads and deprecations.
def test_an_expert_of_the_baselines_acts_and_values_as_its_layers_say(tmp_path: Path) -> None:
    params = written_by_the_baselines(8, CODEC.flat_size)
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3))
    with ocp.CheckpointManager(tmp_path / "policies") as manager:
        manager.save(7, args=ocp.args.StandardSave(state))
        manager.wait_until_finished()
    folder = import_expert(
        tmp_path / "policies", tmp_path / "e", algorithm="ppo_rnd", env_name=CLASSIC, width=8
    )
    expert = Expert.load(folder, env_name=CLASSIC)
    flat = np.random.default_rng(1).random((1, 3, CODEC.flat_size)).astype(np.float32)

    def tower(first: int) -> np.ndarray:
        x = flat
        for depth in range(4):
            layer = params["params"][f"Dense_{first + depth}"]
            x = x @ layer["kernel"] + layer["bias"]
            x = np.tanh(x) if depth < 3 else x
        return x

    _, logits, values = act(expert.net, expert.params, None, flat, None)
    np.testing.assert_allclose(np.asarray(logits), tower(0), atol=1e-5)
    np.testing.assert_allclose(np.asarray(values)[..., 0], tower(4)[..., 0], atol=1e-5)
    np.testing.assert_allclose(np.asarray(values)[..., 1], tower(8)[..., 0], atol=1e-5)


def test_target_and_predictor_have_the_layers_of_the_baselines() -> None:
    """craftax_spec 2.1: 3 x 256 with ReLU, then 512 without."""
    like = jax.eval_shape(RND(CODEC, 8, 1.0).start, KEY)
    wanted = {
        f"params/Dense_{depth}/{part}": shape
        for depth, (rows, columns) in enumerate(((1345, 256), (256, 256), (256, 256), (256, 512)))
        for part, shape in (("kernel", (rows, columns)), ("bias", (columns,)))
    }
    for net in (like.target, like.predictor):
        assert {name: leaf.shape for name, leaf in named_leaves(net).items()} == wanted
    novelty = rnd().start(KEY)
    assert not same(novelty.target, novelty.predictor)


# The bonus


@pytest.fixture(scope="module")
def visited() -> tuple[Experience, dict]:
    """Two steps of four actors in eight worlds, of which none looks like another; and the end."""
    packed = runner_of(CLASSIC).make_many(np.arange(12)).observations
    steps = jax.tree.map(lambda x: x.reshape(3, 4, *x.shape[1:]), packed)
    ends = jnp.asarray([[False, True, False, False], [False, False, False, True]])
    zeros = jnp.zeros((2, 4))
    values = jnp.zeros((2, 4, 2))
    before = jax.tree.map(lambda x: x[:2], steps)
    experience = Experience(before, ends, zeros, zeros, values, zeros + 3.0, ends)
    return experience, jax.tree.map(lambda x: x[2], steps)


def test_the_bonus_is_the_error_about_what_is_seen_after_a_step_of_the_same_life(visited) -> None:
    experience, last = visited
    bonus = rnd(reward_weight=5.0)
    novelty = bonus.start(KEY)
    _, rewarded, scalars = bonus.advance(novelty, experience, last, KEY)
    after = jax.tree.map(lambda x, end: jnp.stack([x[1], end]), experience.packed, last)

    def features(net) -> np.ndarray:
        x = np.asarray(CODEC.expand(after))
        for depth in range(4):
            layer = net["params"][f"Dense_{depth}"]
            x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
            x = np.maximum(x, 0.0) if depth < 3 else x
        return x

    errors = ((features(novelty.target) - features(novelty.predictor)) ** 2).mean(-1)
    expected = 5.0 * np.where(experience.ends, 0.0, errors)
    assert np.count_nonzero(expected) == 6
    np.testing.assert_allclose(np.asarray(rewarded.rewards)[..., 1], expected, rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(rewarded.rewards)[..., 0], experience.rewards)
    assert float(scalars["intrinsic_reward"]) == pytest.approx(expected.mean(), rel=1e-4)


def test_learning_follows_the_predictor_and_leaves_the_target(visited) -> None:
    experience, last = visited
    # One step of Adam moves every parameter that has a gradient by its rate.
    bonus = RND(CODEC, 1, 1e9, **SMALL, learning_rate=1e-3, loss_weight=1e6)
    before = bonus.start(KEY)
    after, rewarded, scalars = bonus.advance(before, experience, last, KEY)
    assert same(after.target, before.target)
    moved = jax.tree.leaves(jax.tree.map(jnp.subtract, after.predictor, before.predictor))
    assert max(float(jnp.abs(change).max()) for change in moved) == pytest.approx(1e-3, rel=1e-3)
    assert float(scalars["rnd_loss"]) == pytest.approx(
        1e6 * float(rewarded.rewards[..., 1].mean()), rel=1e-4
    )


def test_what_was_visited_again_and_again_is_new_no_more(visited) -> None:
    experience, last = visited
    bonus = rnd(learning_rate=3e-3, update_epochs=4)
    novelty, bonuses = bonus.start(KEY), []
    unseen = runner_of(CLASSIC).make_many(np.arange(100, 104)).observations
    never = jnp.zeros(4, bool)
    first = float(bonus.errors(novelty, unseen, never).mean())
    advance = jax.jit(bonus.advance)
    for turn in range(20):
        key = jax.random.PRNGKey(turn)
        novelty, rewarded, _ = advance(novelty, experience, last, key)
        bonuses.append(np.asarray(rewarded.rewards[..., 1]).sum())
    assert bonuses[10] < 0.5 * bonuses[0]
    assert bonuses[19] < bonuses[10]
    # What nobody saw stays newer.
    assert float(bonus.errors(novelty, unseen, never).mean()) / first > 2 * bonuses[19] / bonuses[0]


# Two returns


@pytest.mark.parametrize("episodic", [False, True])
def test_the_return_of_bonuses_crosses_the_ends_of_lives(episodic: bool) -> None:
    """arXiv 1506.02438, equation 16, summed for every way that three steps can end."""
    gamma, lam, rng = 0.9, 0.7, np.random.default_rng(0)
    ends = np.array(list(product([False, True], repeat=3))).T  # [3, 8]
    rewards, bonuses = rng.normal(size=(2, 3, 8)).astype(np.float32)
    values = rng.normal(size=(3, 8, 2)).astype(np.float32)
    last = rng.normal(size=(8, 2)).astype(np.float32)
    nothing = jnp.zeros((3, 8))
    experience = Experience({}, nothing, nothing, nothing, values, rewards, jnp.asarray(ends))
    bonus = rnd(advantage_weight=0.25, episodic=episodic)
    rewarded = bonus.rewarded(experience, bonuses)
    found, targets = advantages(rewarded, jnp.asarray(last), gamma=gamma, lam=lam)
    following = np.concatenate([values[1:], last[None]])
    for kind, gains in enumerate((rewards, bonuses)):
        for row, start in product(range(8), range(3)):
            total, factor = 0.0, 1.0
            for t in range(start, 3):
                stops = ends[t, row] and (kind == 0 or episodic)
                after = 0.0 if stops else following[t, row, kind]
                total += factor * (gains[t, row] + gamma * after - values[t, row, kind])
                factor *= 0.0 if stops else gamma * lam
            assert float(found[start, row, kind]) == pytest.approx(total, abs=1e-5)
    np.testing.assert_allclose(np.asarray(targets), np.asarray(found) + values, atol=1e-6)
    joined = np.asarray(bonus.joined(found))
    np.testing.assert_allclose(
        joined, np.asarray(found)[..., 0] + 0.25 * np.asarray(found)[..., 1], atol=1e-6
    )


def test_without_weight_on_bonuses_the_policy_learns_what_ppo_learns() -> None:
    """Same experience: gradients of the two towers that PPO has, too, are those of PPO."""
    gin.bind_parameter("RND.advantage_weight", 0.0)
    with_bonus = PPO(**TINY, total_timesteps=64)
    plain = PPO(**(TINY | {"algorithm": "ppo"}), total_timesteps=64)
    rng = np.random.default_rng(0)
    actors = new_actors(plain.runner.make_many(np.arange(8)), 16)
    packed = jax.tree.map(lambda x: x[rng.integers(8, size=(8, 8))], actors.worlds.observations)
    params = blank_params(with_bonus.net, 16, CODEC.flat_size)
    flat = CODEC.expand(packed)
    _, logits, values = act(with_bonus.net, params, None, flat, None)
    actions = jnp.asarray(rng.integers(17, size=(8, 8)))
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], -1)[..., 0]
    rewards, bonuses = jnp.asarray(rng.normal(size=(2, 8, 8)), jnp.float32)
    ends = jnp.asarray(rng.random((8, 8)) < 0.2)
    seen = Experience(packed, ends, actions, log_probs, values, rewards, ends)
    narrow = replace(seen, values=values[..., 0])
    rest = {f"Dense_{layer}" for layer in range(8, 12)}
    two_towers = {"params": {k: v for k, v in params["params"].items() if k not in rest}}

    def gradient(ppo: PPO, params, experience: Experience, rewarded: Experience):
        learnt = ppo._judged(params, rewarded, actors)
        return jax.grad(ppo._loss, has_aux=True)(params, None, experience, *learnt)

    rewarded = with_bonus.rnd.rewarded(seen, bonuses)
    ours, of_ours = gradient(with_bonus, params, seen, rewarded)
    theirs, of_theirs = gradient(plain, two_towers, narrow, narrow)
    for name, leaf in named_leaves(theirs).items():
        np.testing.assert_allclose(named_leaves(ours)[name], leaf, atol=1e-6, err_msg=name)
    assert all(float(jnp.abs(ours["params"][name]["kernel"]).max()) > 0.0 for name in rest)
    assert float(of_ours["policy_loss"]) == pytest.approx(float(of_theirs["policy_loss"]), abs=1e-6)
    assert float(of_ours["value_loss"]) > float(of_theirs["value_loss"])

    gin.bind_parameter("RND.advantage_weight", 1.0)
    curious, _ = gradient(PPO(**TINY, total_timesteps=64), params, seen, rewarded)
    assert not np.allclose(curious["params"]["Dense_3"]["bias"], ours["params"]["Dense_3"]["bias"])


# Trainings


def test_equal_settings_share_a_compiled_update_and_others_do_not() -> None:
    first, second = (PPO(**TINY, total_timesteps=64) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    gin.bind_parameter("RND.episodic", True)
    assert PPO(**TINY, total_timesteps=64) != first
    assert PPO(**(TINY | {"algorithm": "ppo"}), total_timesteps=64).rnd is None


@pytest.mark.slow
def test_training_with_a_bonus_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Two updates, one more after a stop: the same as three without."""
    for name, value in (TINY | {"total_timesteps": 3 * 64}).items():
        gin.bind_parameter(f"PPO.{name}", value)
    for name, value in (SMALL | {"learning_rate": 3e-3, "update_epochs": 2}).items():
        gin.bind_parameter(f"RND.{name}", value)
    gin.bind_parameter("ExpertTraining.log_interval", 1)
    ppo = PPO()
    straight = trained(tmp_path / "straight")
    like = jax.eval_shape(ppo.start)
    whole = load_tree(straight / TRAINING_FILE, like)
    assert isinstance(whole.novelty, Novelty)

    training = ppo.start()
    blank, began = copied(training.params), copied(training.novelty)
    never = jnp.zeros(8, bool)
    for update in range(2):
        training, _, lives = ppo.advance(training)
        if not update:
            # Where the first update ended was visited, and the predictor has learnt of it.
            place = copied(training.actors.worlds.observations)
            learnt = copied(training.novelty)
            assert int(lives.count) == 0
    assert same(training.novelty.target, began.target)
    errors = [float(ppo.rnd.errors(stage, place, never).mean()) for stage in (began, learnt)]
    assert errors[1] < 0.8 * errors[0]
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), blank, training.params)
    assert all(jax.tree.leaves(changed))
    # All eight lives were cut at the twelfth step, and the pool had four worlds for them.
    _, shared = np.unique(np.asarray(training.actors.worlds.keys), axis=0, return_counts=True)
    assert shared.tolist() == [2, 2, 2, 2]

    save_expert(tmp_path / "stopped" / "expert", facts_of(ppo, 2), training.params, training)
    resumed = trained(tmp_path / "stopped")
    assert same(load_tree(resumed / TRAINING_FILE, like), whole)

    rows = [
        json.loads(line) for line in (tmp_path / "straight/metrics.jsonl").read_text().splitlines()
    ]
    assert [row["timesteps"] for row in rows] == [64, 128, 192]
    assert all(row["train/intrinsic_reward"] > 0.0 for row in rows)
    assert all(row["train/rnd_loss"] > 0.0 for row in rows)

    expert = Expert.load(straight, env_name=CLASSIC)
    names = {f"params/Dense_{layer}/{part}" for layer in range(12) for part in ("kernel", "bias")}
    assert set(named_leaves(expert.params)) == names
    assert (straight / POLICY_FILE).stat().st_size < (straight / TRAINING_FILE).stat().st_size
    found = tmp_path / "rows.json"
    argv = ["expert", "eval", str(tmp_path / "straight"), "--episodes", "8", "--max_steps", "20"]
    assert main([*argv, "--json", str(found)]) == 0
    assert list(json.loads(found.read_text())["rows"]) == ["random", "expert"]

    gin.bind_parameter("RND.features", 5)
    with pytest.raises(CheckpointError, match=r"rnd is .*'features': 5.* now, .*'features': 6"):
        trained(tmp_path / "straight")


def test_bindings_of_a_bonus_that_is_not_given_are_told_before_training(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["expert", "train", "--configs", "craftax_classic_expert.gin", "--bind"]
    assert main([*argv, "RND.width = 8", "--base_dir", str(tmp_path)]) == 2
    assert "RND.width" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"features": 0}, "features must be at least 1, got 0; set RND.features"),
        ({"update_epochs": 0}, "update_epochs must be at least 1, got 0; set RND.update_epochs"),
        ({"loss_weight": -1.0}, "loss_weight must be at least 0, got -1.0; set RND.loss_weight"),
    ],
)
def test_settings_of_the_bonus_that_make_no_sense_are_refused(knobs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rnd(**knobs)
