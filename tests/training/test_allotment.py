from collections import Counter

import numpy as np
import pytest

from remdm.training.allotment import allot_actors, level_caps


def counts(shares, actors, envs=None):
    envs = [f"env{i}" for i in range(len(shares))] if envs is None else envs
    names = allot_actors(envs, shares, actors)
    assert len(names) == actors
    assert list(dict.fromkeys(names)) == envs  # side by side, in order
    return [Counter(names)[env] for env in envs]


def test_shares_are_met_as_well_as_whole_actors_allow():
    assert counts([0.25, 0.75], 32) == [8, 24]
    assert counts([0.06, 0.12, 0.41, 0.41], 64) == [4, 8, 26, 26]
    assert counts([1, 1, 1], 4) in ([2, 1, 1], [1, 2, 1], [1, 1, 2])


def test_shares_need_not_add_up_to_one():
    assert counts([2, 6], 32) == [8, 24]


def test_every_environment_has_an_actor():
    assert counts([0.01, 0.01, 0.98], 10) == [1, 1, 8]
    assert counts([0.001] * 5 + [0.5, 0.495], 7) == [1] * 7


def test_without_shares_all_environments_get_the_same():
    assert allot_actors(["a", "b"], None, 4) == ("a", "a", "b", "b")


def test_nobody_is_more_than_one_actor_away_from_its_share():
    rng = np.random.default_rng(0)
    for _ in range(300):
        shares = rng.random(int(rng.integers(1, 8))) + 0.01
        actors = int(rng.integers(len(shares), 100))
        exact = shares / shares.sum() * actors
        got = np.array(counts(shares.tolist(), actors))
        assert (got >= 1).all()
        if (exact >= 1).all():
            assert np.abs(got - exact).max() < 1


@pytest.mark.parametrize(
    "shares", [[0.5], [0.5, 0.5, 0.5], [0.5, 0.0], [0.5, -1.0], [0.5, float("nan")]]
)
def test_shares_must_be_one_positive_number_per_environment(shares):
    with pytest.raises(ValueError, match=r"set Experiment\.actor_shares"):
        allot_actors(["a", "b"], shares, 4)


def test_there_must_be_an_actor_for_every_environment():
    with pytest.raises(ValueError, match=r"training environments, 2, got 1; set Experiment\.para"):
        allot_actors(["a", "b"], None, 1)


def test_caps_go_by_environment():
    assert level_caps(["a", "b"], [30, 60]) == {"a": 30, "b": 60}
    assert level_caps(["a", "b"], None) == {"a": None, "b": None}


@pytest.mark.parametrize("caps", [[30], [30, 60, 90], [30, 0]])
def test_caps_must_be_one_positive_number_per_environment(caps):
    with pytest.raises(ValueError, match=r"set Experiment\.train_step_caps"):
        level_caps(["a", "b"], caps)
