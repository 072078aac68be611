import numpy as np

from remdm.maps import NUM_ACTIONS, NUM_DIRECTIONS
from remdm.oracles.random_policy import RandomPolicy
from tests.oracles.drawn import END, drawn


def many(count):
    return {k: np.repeat(v, count, 0) for k, v in drawn("W@.W").items()}


def test_it_has_no_opinion_to_learn_from():
    plans, weights = RandomPolicy().label(many(3), 5)
    assert plans.dtype == np.int8
    assert plans.tolist() == [[END] * 5] * 3
    assert weights.tolist() == [0.0] * 3


def test_it_acts_uniformly_at_random():
    rows, horizon = 1000, 16
    for policy, choices in (
        (RandomPolicy(), NUM_DIRECTIONS),
        (RandomPolicy(moves_only=False), NUM_ACTIONS),
    ):
        plans = policy.plan(many(rows), horizon, np.random.default_rng(0))
        assert plans.shape == (rows, horizon)
        assert plans.dtype == np.int8
        counts = np.bincount(plans.ravel(), minlength=NUM_ACTIONS)
        assert not counts[choices:].any()
        # Five standard deviations; over both cases wrong with chance 20 * 6e-7.
        expected = rows * horizon / choices
        assert np.abs(counts[:choices] - expected).max() < 5 * np.sqrt(expected)


def test_the_generator_alone_decides():
    observations = many(4)
    draws = [
        RandomPolicy().plan(observations, 8, np.random.default_rng(seed)) for seed in (1, 1, 2)
    ]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
