import numpy as np
import pytest

from remdm.data.records import Segment
from remdm.data.windows import action_windows, episode_outcomes, past_windows

END = 9


def windows_by_loop(actions, known, offsets, ended, horizon):
    """`action_windows`, one token after another."""
    plans, drawable = [], []
    for start, stop, over in zip(offsets[:-1], offsets[1:], ended, strict=True):
        for t in range(start, stop):
            plan, possible = [], True
            for u in range(t, t + horizon):
                if plan and plan[-1] == END:
                    plan.append(END)
                elif u < stop:
                    possible &= known[u]
                    plan.append(actions[u])
                else:
                    possible &= over
                    plan.append(END)
            plans.append(plan)
            drawable.append(possible)
    return np.array(plans, np.int8), np.array(drawable)


@pytest.mark.parametrize("horizon", [1, 2, 5, 16])
def test_windows_agree_with_a_slow_loop(horizon):
    rng = np.random.default_rng(horizon)
    for _ in range(50):
        lengths = rng.integers(1, 12, rng.integers(1, 6))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        actions = rng.choice([0, 1, 2, END], lengths.sum(), p=[0.3, 0.3, 0.3, 0.1])
        known = rng.random(len(actions)) < 0.9
        ended = rng.random(len(lengths)) < 0.5
        plans, drawable = action_windows(actions, known, offsets, ended, horizon, END)
        wanted_plans, wanted_drawable = windows_by_loop(actions, known, offsets, ended, horizon)
        np.testing.assert_array_equal(drawable, wanted_drawable)
        np.testing.assert_array_equal(plans[drawable], wanted_plans[drawable])
        assert plans.dtype == np.int8


def test_a_window_never_reaches_into_the_next_segment():
    actions = np.array([0, 0, 1, 1, 1])
    known, offsets = np.ones(5, bool), np.array([0, 2, 5])
    plans, drawable = action_windows(actions, known, offsets, np.array([True, False]), 3, END)
    assert plans[:2].tolist() == [[0, 0, END], [0, END, END]]
    assert plans[2].tolist() == [1, 1, 1]
    assert drawable.tolist() == [True, True, True, False, False]


def segment(first, length, won, *, seed=0, env="e", collector="c"):
    return Segment(env, seed, first, length, won, won is not None, 0, collector)


def test_pieces_share_the_outcome_of_their_episode():
    pieces = [
        segment(0, 4, None),
        segment(0, 3, None, seed=1),
        segment(4, 2, None),
        segment(3, 9, False, seed=1),
        segment(6, 1, True),
    ]
    assert episode_outcomes(pieces) == [True, False, True, False, True]


@pytest.mark.parametrize(
    "other",
    [
        segment(5, 1, True),
        segment(4, 1, True, seed=1),
        segment(4, 1, True, env="f"),
        segment(4, 1, True, collector="d"),
        segment(0, 4, True),
    ],
    ids=["gap", "seed", "env", "collector", "restart"],
)
def test_a_piece_without_its_continuation_has_no_outcome(other):
    assert episode_outcomes([segment(0, 4, None), other]) == [None, True]


@pytest.mark.parametrize(
    "values",
    [{"length": 0}, {"first_step": -1}, {"won": None}, {"final": False}],
    ids=["empty", "negative", "final_unknown", "known_unfinished"],
)
def test_a_contradictory_segment_is_refused(values):
    good = {"env": "e", "seed": 0, "first_step": 0, "length": 1, "won": True, "final": True}
    with pytest.raises(ValueError, match="got"):
        Segment(**{**good, **values}, policy_version=0, collector="c")


def test_past_actions_are_the_latest_first_and_stay_within_the_segment():
    past = past_windows(np.array([5, 6, 7, 8, 9], np.int8), np.array([0, 3, 5]), 3, -1)
    assert past.dtype == np.int8
    assert past.tolist() == [[-1, -1, -1], [5, -1, -1], [6, 5, -1], [-1, -1, -1], [8, -1, -1]]
