import itertools

import numpy as np
import pytest
from scipy.stats import trim_mean

from remdm.evaluation.bootstrap import bootstrap_iqm, interquartile_mean, resampled_iqms

# Two environments of three seeds each: 27 x 27 equally likely tables.
SCORES = np.array([[0.1, 0.5], [0.4, 0.9], [0.8, 0.6]])


def all_tables(scores):
    """The interquartile mean of every table that the bootstrap could draw."""
    seeds, envs = scores.shape
    columns = [list(itertools.product(scores[:, env], repeat=seeds)) for env in range(envs)]
    tables = [np.concatenate(table) for table in itertools.product(*columns)]
    return np.array([trim_mean(table, 0.25) for table in tables])


@pytest.mark.parametrize("count", range(1, 14))
def test_interquartile_mean_is_the_trimmed_mean(count):
    scores = np.random.default_rng(count).random((5, count))
    np.testing.assert_allclose(interquartile_mean(scores), trim_mean(scores, 0.25, axis=1))


def test_bootstrap_draws_every_table_as_often_as_it_should():
    exact = all_tables(SCORES)
    drawn = resampled_iqms(SCORES, np.random.default_rng(0), 40_000)
    assert set(np.round(drawn, 9)) <= set(np.round(exact, 9))
    # The seed is fixed; another one would fail with probability 6e-5 (four standard errors).
    assert abs(drawn.mean() - exact.mean()) < 4 * exact.std() / 200
    for level in (0.3, 0.5, 0.7, 0.85):
        share = (exact <= level).mean()
        error = np.sqrt(share * (1 - share) / len(drawn))
        assert abs((drawn <= level).mean() - share) <= 4 * error + 1e-12


def test_interval_is_that_of_the_exact_enumeration():
    exact = np.sort(all_tables(SCORES))
    found = bootstrap_iqm(SCORES, np.random.default_rng(1), 40_000)
    assert found.value == pytest.approx(trim_mean(SCORES.reshape(-1), 0.25))
    # The limits lie between the exact quantiles a little below and above (0.4 % of resamples are
    # five standard errors of a share of 2.5 %).
    for limit, share in ((found.low, 0.025), (found.high, 0.975)):
        below, above = np.quantile(exact, [share - 0.004, share + 0.004], method="nearest")
        assert below - 1e-9 <= limit <= above + 1e-9


def test_environments_are_drawn_each_on_its_own():
    # Seeds are good in one environment and bad in the other. Whole runs drawn anew would always
    # have the mean 0.5; environments on their own do not.
    scores = np.array([[0.0, 1.0], [1.0, 0.0]])
    drawn = resampled_iqms(scores, np.random.default_rng(0), 200)
    assert drawn.min() < 0.5 < drawn.max()


def test_interval_of_one_seed_is_unknown_and_of_equal_seeds_a_point():
    assert bootstrap_iqm([[0.5, 1.0]], np.random.default_rng(0)).low is None
    equal = bootstrap_iqm([[0.5, 0.5]] * 3, np.random.default_rng(0))
    assert (equal.low, equal.value, equal.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("scores", [[], [[]], [0.5], [[float("nan")]]])
def test_scores_must_be_a_table_of_numbers(scores):
    with pytest.raises(ValueError, match="seeds, environments"):
        bootstrap_iqm(scores, np.random.default_rng(0))
