"""What episodes carry from plan to plan, against a list kept by hand."""

import numpy as np

from remdm.continuation import RunningPlans, shifted
from remdm.tokens import mask_token

HORIZON, ACTIONS = 5, 3
MASK = mask_token(ACTIONS)


def padded(tokens):
    return [*tokens] + [MASK] * (HORIZON - len(tokens))


def test_executed_actions_fill_the_window_which_then_begins_anew():
    """Random chunks of 0 to 3 actions in four rows, kept beside plain lists of all actions."""
    rng = np.random.default_rng(0)
    running, rows = RunningPlans(4, HORIZON, ACTIONS), np.arange(4)
    history = [[] for _ in rows]
    for _ in range(40):
        actions, lengths = rng.integers(ACTIONS, size=(4, 3)), rng.integers(0, 4, 4)
        running.ran(rows, actions, lengths)
        for row in rows:
            history[row] += actions[row, : lengths[row]].tolist()
        carried = running.continuation(rows)
        for row in rows:
            begun = len(history[row]) // HORIZON * HORIZON
            assert carried.num_executed[row] == len(history[row]) - begun < HORIZON
            assert carried.executed[row].tolist() == padded(history[row][begun:])


def test_rest_of_the_plan_moves_to_the_front():
    running = RunningPlans(3, HORIZON, ACTIONS)
    rows = np.array([2, 0])
    plans = np.array([[0, 1, 2, 0, 1], [2, 2, 1, 1, 0]])
    running.planned(rows, plans, np.log([[0.1, 0.2, 0.3, 0.4, 0.5]] * 2))
    running.ran(rows, plans, np.array([2, 5]))
    carried = running.continuation(np.arange(3))
    assert carried.previous[2].tolist() == padded([2, 0, 1])
    np.testing.assert_allclose(carried.confidence[2], [0.3, 0.4, 0.5, 0, 0], rtol=1e-6)
    assert (carried.previous[:2] == MASK).all()  # run to its end, and never planned for
    assert not carried.confidence[:2].any()


def test_plans_of_somebody_else_are_not_continued_but_their_actions_are_remembered():
    running, rows = RunningPlans(1, HORIZON, ACTIONS), np.array([0])
    running.planned(rows, np.zeros((1, HORIZON), np.int64))
    running.forget_plans(rows)
    running.ran(rows, np.array([[1, 2]]), np.array([2]))
    carried = running.continuation(rows)
    assert (carried.previous == MASK).all()
    assert carried.executed[0].tolist() == padded([1, 2])


def test_a_new_episode_carries_nothing_and_rows_are_added_as_they_come():
    running = RunningPlans(0, HORIZON, ACTIONS)
    running.reset(np.array([0, 3]))
    every = np.arange(4)
    running.planned(every, np.zeros((4, HORIZON), np.int64))
    running.ran(every, np.ones((4, 2), np.int64), np.full(4, 2))
    running.reset(np.array([1]))
    carried = running.continuation(every)
    assert carried.num_executed.tolist() == [2, 0, 2, 2]
    assert (carried.previous[1] == MASK).all()
    assert (carried.executed[1] == MASK).all()


def test_what_is_handed_out_does_not_change_any_more():
    running, rows = RunningPlans(1, HORIZON, ACTIONS), np.array([0])
    carried, state = running.continuation(rows), running.state()
    running.ran(rows, np.array([[1]]), np.array([1]))
    assert carried.num_executed[0] == state["num_executed"][0] == 0
    running.restore(state)
    assert running.continuation(rows).num_executed[0] == 0


def test_rows_move_each_by_its_own_number():
    values = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(
        shifted(values, np.array([1, 4]), -1), [[1, 2, 3, -1], [-1, -1, -1, -1]]
    )
