"""Windows weighed by what they earn, and END after lives that were not won."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from remdm.data.datasets import DiskTrajDataset
from remdm.data.shards import Shard
from remdm.data.windows import return_factors, window_returns
from tests.data.recorded import (
    ACTIONS,
    END,
    HORIZON,
    TraceOracle,
    dataset,
    piece,
    put_shard,
)


class Doubtful(TraceOracle):
    """Some of its plans count for more than others."""

    def label(self, observations, plan_horizon):
        plans, weights = super().label(observations, plan_horizon)
        return plans, weights * (1 + observations["step"] % 3)


def earning(env: str, seed: int, first: int, rewards, **knobs):
    segment, arrays = piece(env, seed, first, len(rewards), **knobs)
    return segment, replace(arrays, rewards=np.asarray(rewards, np.float32))


def drawn_weights(made: DiskTrajDataset, count: int = 4000) -> dict[tuple[int, int], float]:
    window = made.sample(count, np.random.default_rng(0))
    places = map(tuple, window.observations["trace"].tolist())
    return dict(zip(places, window.weights.tolist(), strict=True))


def expected(made: DiskTrajDataset, shard: Shard, cap: float, drawable) -> dict:
    """Weights of the windows of a shard by level and step, one after another."""
    plain, earned = {}, {}
    for number, segment in enumerate(shard.segments):
        own = shard.steps[shard.offsets[number] : shard.offsets[number + 1]]
        labels = Doubtful().label(own.observations, HORIZON)[1]
        for step in range(segment.length):
            place = (segment.seed, segment.first_step + step)
            if drawable(segment, step) and labels[step] > 0:
                plain[place] = float(labels[step])
                earned[place] = max(0.0, sum(own.rewards[step : step + HORIZON].tolist()))
    mean = sum(earned.values()) / len(earned)
    factors = {p: min(max(r / mean, 0.1), cap) if mean else 0.1 for p, r in earned.items()}
    return {place: float(np.float32(weight * factors[place])) for place, weight in plain.items()}


def recorded(made: DiskTrajDataset) -> list[Shard]:
    """Three shards of lives won, lost and going on: two with rewards, one without."""
    rng = np.random.default_rng(0)

    def rewards(length: int) -> np.ndarray:
        return rng.integers(-4, 9, length) / 8 * (rng.random(length) < 0.5)

    folder = made.folder.shards
    lives = [
        earning("a", 1, 0, rewards(12)),
        earning("a", 2, 0, rewards(9), won=False),
        earning("b", 3, 0, rewards(7), won=None),
    ]
    paths = [
        put_shard(folder, lives, epoch=0),
        put_shard(folder, [earning("b", 3, 7, 100 * rewards(15))], epoch=1),
        put_shard(folder, [earning("a", 4, 0, np.zeros(10)), earning("a", 5, 0, [-1.0])], epoch=2),
    ]
    made.label_new(Doubtful(), HORIZON)
    return [Shard.open(path) for path in paths]


@pytest.mark.parametrize("cap", [0.1, 1.5, 5.0, float("inf")])
def test_weights_follow_the_return_of_each_window(tmp_path, cap):
    made = dataset(tmp_path, Doubtful(), balance="timestep", return_weight_cap=cap)
    shards = recorded(made)
    made.refresh()
    wanted = {}
    for shard in shards:
        wanted |= expected(made, shard, cap, lambda segment, step: True)
    # One of some 45 steps is missed with probability below 45 * exp(-80).
    assert drawn_weights(made) == wanted
    assert (len(set(wanted.values())) > 8) == (cap > 1)


def test_the_mean_is_over_what_can_be_drawn(tmp_path):
    knobs = {"balance": "timestep", "return_weight_cap": 5.0, "won_only": True}
    made = dataset(tmp_path, Doubtful(), **knobs)
    shards = recorded(made)
    made.configure(HORIZON, oracle=Doubtful(), action_names=ACTIONS, history=2)
    made.refresh()
    wanted = {}
    for shard in shards:
        wanted |= expected(
            made,
            shard,
            5.0,
            lambda segment, step: segment.won is not False and (not segment.first_step or step > 1),
        )
    assert drawn_weights(made) == wanted


def test_weights_are_the_labels_own_without_a_cap(tmp_path):
    made = dataset(tmp_path, Doubtful())
    recorded(made)
    made.refresh()
    assert set(drawn_weights(made).values()) == {1.0, 2.0, 3.0}


def test_returns_agree_with_a_slow_loop():
    rng = np.random.default_rng(0)
    for horizon in (1, 3, 20):
        lengths = rng.integers(1, 9, 6)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rewards = rng.normal(size=lengths.sum()).astype(np.float32)
        wanted = [
            rewards[t : min(t + horizon, stop)].astype(np.float64).sum()
            for start, stop in pairwise(offsets)
            for t in range(start, stop)
        ]
        np.testing.assert_allclose(window_returns(rewards, offsets, horizon), wanted, atol=1e-12)


def test_nothing_to_draw_and_nothing_earned_have_factors_all_the_same():
    returns = np.array([-1.0, 0.0, 3.0])
    assert return_factors(returns, np.array([True, True, False]), 5.0).tolist() == [0.1] * 3
    assert return_factors(returns, np.zeros(3, bool), 5.0).tolist() == [0.1] * 3


LIVES = [
    piece("a", 0, 0, 6),
    piece("a", 1, 0, 6, won=False),
    piece("a", 2, 0, 6, won=None),
]


def cut(life):
    """The same life, ended by the limit and not by itself."""
    segment, arrays = life
    return segment, replace(arrays, terminated=arrays.truncated, truncated=arrays.terminated)


@pytest.mark.parametrize(("end_after", "open_ends"), [("won", {1, 2, 3}), ("ended", {2, 3})])
def test_lives_that_ended_by_themselves_can_be_followed_by_end(tmp_path, end_after, open_ends):
    made = dataset(tmp_path, target="executed", end_after=end_after, balance="timestep")
    put_shard(made.folder.shards, [*LIVES, cut(piece("a", 3, 0, 6, won=False))])
    made.refresh()
    window = made.sample(3000, np.random.default_rng(0))
    seed, step = window.observations["trace"].T
    following = step[:, None] + np.arange(HORIZON)
    wanted = np.where(following < 6, (seed[:, None] + following) % len(ACTIONS), END)
    np.testing.assert_array_equal(window.plans, wanted)
    for life in range(4):
        last = 2 if life in open_ends else 5
        assert set(step[seed == life]) == set(range(last + 1))


def test_oracle_actions_can_be_followed_by_end_after_a_death(tmp_path):
    class Talker(TraceOracle):
        """Knows an action everywhere."""

        def label(self, observations, plan_horizon):
            step = observations["step"].astype(np.int64)
            plans = np.repeat((step % len(ACTIONS))[:, None], plan_horizon, 1).astype(np.int8)
            return plans, np.ones(len(step), np.float32)

    for end_after, last in (("won", 2), ("ended", 5)):
        made = dataset(tmp_path / end_after, Talker(), target="oracle_actions", end_after=end_after)
        put_shard(made.folder.shards, [piece("a", 1, 0, 6, won=False)])
        made.label_new(Talker(), HORIZON)
        made.refresh()
        window = made.sample(500, np.random.default_rng(0))
        step = window.observations["step"].astype(int)
        following = step[:, None] + np.arange(HORIZON)
        np.testing.assert_array_equal(
            window.plans, np.where(following < 6, following % len(ACTIONS), END)
        )
        assert set(step) == set(range(last + 1))


def test_plans_of_the_oracle_are_left_as_they_are(tmp_path):
    drawn = []
    for end_after in ("won", "ended"):
        made = dataset(tmp_path / end_after, end_after=end_after)
        put_shard(made.folder.shards, LIVES)
        made.label_new(TraceOracle(), HORIZON)
        made.refresh()
        drawn.append(made.sample(200, np.random.default_rng(0)))
    np.testing.assert_array_equal(drawn[0].plans, drawn[1].plans)
    np.testing.assert_array_equal(drawn[0].observations["trace"], drawn[1].observations["trace"])


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"end_after": "end"}, "unknown DiskTrajDataset.end_after 'end': did you mean 'ended'"),
        ({"return_weight_cap": 0.09}, r"return_weight_cap must be at least 0\.1, .* got 0\.09"),
        ({"return_weight_cap": float("nan")}, "return_weight_cap must be .* got nan"),
    ],
)
def test_words_and_caps_that_make_no_sense_are_refused(tmp_path, knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        DiskTrajDataset(tmp_path, **knobs)
