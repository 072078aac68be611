"""What SB3 sees of our environments."""

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

from remdm.baselines.reinforcement import fitting
from remdm.baselines.vec_env import TrainingVecEnv, training_vec_env
from remdm.envs.making import make_vec_env
from remdm.maps import Action
from remdm.nets.egocentric import FEATURE_KEYS
from remdm.seeding import TRAINING_SEEDS, training_level_seed

DOORS, DARK = "Gridworld-Doors-9x13-v0", "Gridworld-DarkRoom-9x9-v0"


def playing(names: list[str], reward: str = "sparse") -> TrainingVecEnv:
    return TrainingVecEnv(training_vec_env(names, reward), FEATURE_KEYS, seed=3)


def test_rows_begin_anew_on_levels_of_the_training_seeds_and_show_the_last_of_the_old() -> None:
    env = playing([DARK, DARK])
    mirror = make_vec_env([DARK, DARK])
    begun = [0, 0]
    seeds = [training_level_seed(3, row, 0) for row in range(2)]
    seen, expected = env.reset(), mirror.reset(seeds)
    rng = np.random.default_rng(0)
    for _ in range(400):
        for key in FEATURE_KEYS:
            np.testing.assert_array_equal(seen[key].reshape(expected[key].shape), expected[key])
        actions = rng.integers(0, 8, 2)
        kept = {key: array.copy() for key, array in seen.items()}
        before, (seen, rewards, dones, infos) = seen, env.step(actions)
        assert all((before[key] == kept[key]).all() for key in kept)  # own copies
        chunk = mirror.execute(actions[:, None], 1)
        expected = {key: array.copy() for key, array in chunk.final_observations.items()}
        assert dones.tolist() == chunk.done.tolist()
        assert rewards.tolist() == chunk.rewards[:, 0].tolist()
        for row in np.flatnonzero(dones).tolist():
            last = infos[row]["terminal_observation"]
            np.testing.assert_array_equal(last["visited"], expected["visited"][row])
            assert infos[row]["is_success"] == bool(chunk.won[row])
            assert infos[row]["TimeLimit.truncated"] == bool(chunk.truncated[row].any())
            begun[row] += 1
            seed = training_level_seed(3, row, begun[row])
            assert seed in TRAINING_SEEDS
            expected = mirror.reset([seed], [row])
    assert min(begun) > 1
    env.close()
    mirror.close()


def test_an_action_that_waits_is_finished_by_the_next_one() -> None:
    env, mirror = playing([DOORS]), make_vec_env([DOORS])
    seen, _ = env.reset(), mirror.reset([training_level_seed(3, 0, 0)])
    asked, rewards, dones, _ = env.step(np.array([Action.KICK]))
    assert all((asked[key] == seen[key]).all() for key in seen)
    assert (rewards.tolist(), dones.tolist()) == ([0.0], [False])
    answered, *_ = env.step(np.array([Action.EAST]))
    chunk = mirror.execute(np.array([[Action.KICK, Action.EAST]]), 1)
    assert chunk.valid.sum() == 2
    assert answered["step"].tolist() == [[2]]
    for key in FEATURE_KEYS:
        shape = chunk.final_observations[key].shape
        np.testing.assert_array_equal(answered[key].reshape(shape), chunk.final_observations[key])
    env.close()
    mirror.close()


@pytest.mark.minihack
def test_learning_is_paid_for_what_measuring_is_not() -> None:
    pytest.importorskip("nle")
    name = "MiniHack-Room-Random-5x5-v0"
    for reward, rich in (("shaped", True), ("sparse", False)):
        env = playing([name], reward)
        env.reset()
        paid = [float(env.step(np.array([action % 8]))[1][0]) for action in range(20)]
        assert any(value not in (0.0, 1.0) for value in paid) is rich
        env.close()


@pytest.mark.parametrize(
    ("budget", "rows", "num_steps", "batch", "expected"),
    [
        (100_000, 8, 2048, 64, (1784, 64)),  # seven roll-outs, 99,904 steps
        (16_384, 8, 2048, 64, (2048, 64)),
        (100_000, 8, 5, 1, (5, 1)),
        (96, 8, 2048, 64, (8, 64)),
        (48, 8, 2048, 64, (6, 48)),
    ],
)
def test_roll_outs_fit_into_the_budget(
    budget: int, rows: int, num_steps: int, batch: int, expected: tuple[int, int]
) -> None:
    steps, size = fitting(budget, rows, num_steps, batch)
    assert (steps, size) == expected
    assert steps * rows % size == 0
    assert steps * rows <= budget
