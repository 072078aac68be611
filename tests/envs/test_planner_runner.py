"""Plans that are carried out step by step, against the same plans carried out in one call."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from remdm.envs.planner_runner import PlannerRunner
from tests.envs.probe import DOORS, EAST, END, MASK, NUM_ACTIONS, WAIT, make

ROWS, HORIZON = 4, 6


@pytest.fixture
def doors() -> Iterator:
    with closing(make([DOORS] * ROWS, "sync", max_episode_steps=15)) as envs:
        yield envs


def whim(seen: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """A plan that depends on the row and what it sees, and may be cut short by END."""
    plans = []
    for row, step, place in zip(rows, seen["step"], seen["position"], strict=True):
        rng = np.random.default_rng([int(row), int(step), *place.tolist()])
        plan = rng.integers(NUM_ACTIONS, size=HORIZON)
        # The first action makes sure that a row goes on.
        plan[1 + rng.integers(HORIZON - 1) :] = rng.choice([plan[-1], END, MASK])
        plans.append(plan)
    return np.array(plans)


def level(row: int, life: int) -> int:
    return 100 * life + row


def lives_of_chunks(envs, replan_every: int, lives: int) -> dict:
    """Steps of the first lives of each row, with `execute`: (position, action, reward)."""
    seen = envs.reset([level(row, 0) for row in range(ROWS)])
    number = np.zeros(ROWS, int)
    steps: dict = {}
    while number.min() < lives:
        chunk = envs.execute(whim(seen, np.arange(ROWS)), replan_every)
        for row, slot in np.argwhere(chunk.valid):
            steps.setdefault((int(row), int(number[row])), []).append(
                (
                    chunk.observations["position"][row, slot].tolist(),
                    int(chunk.actions[row, slot]),
                    float(chunk.rewards[row, slot]),
                )
            )
        seen = chunk.final_observations
        over = np.flatnonzero(chunk.done)
        number[over] += 1
        seen = envs.reset([level(row, number[row]) for row in over], over.tolist())
    return {key: value for key, value in steps.items() if key[1] < lives}


def lives_of_steps(envs, replan_every: int, lives: int) -> dict:
    runner = PlannerRunner(envs, whim, plan_horizon=HORIZON, replan_every=replan_every)
    runner.reset([level(row, 0) for row in range(ROWS)])
    number = np.zeros(ROWS, int)
    steps: dict = {}
    while number.min() < lives:
        step = runner.step()
        for row, slot in np.argwhere(step.chunk.valid):
            steps.setdefault((int(row), int(number[row])), []).append(
                (
                    step.chunk.observations["position"][row, slot].tolist(),
                    int(step.chunk.actions[row, slot]),
                    float(step.chunk.rewards[row, slot]),
                )
            )
        over = np.flatnonzero(step.done)
        number[over] += 1
        runner.reset([level(row, number[row]) for row in over], over.tolist())
    return {key: value for key, value in steps.items() if key[1] < lives}


@pytest.mark.parametrize("replan_every", [1, 4, HORIZON])
def test_each_row_does_what_it_would_do_with_whole_chunks(replan_every):
    limits = [15, 9, 12, 7]
    with closing(make([DOORS] * ROWS, "sync", max_episode_steps=limits)) as envs:
        wanted = lives_of_chunks(envs, replan_every, 3)
        assert lives_of_steps(envs, replan_every, 3) == wanted
    assert {len(steps) for steps in wanted.values()} >= set(limits)


def test_rows_plan_when_their_own_plan_is_used_up_or_their_episode_begins(doors):
    asked: list[list[int]] = []

    def planner(seen, rows):
        assert all(len(array) == len(rows) for array in seen.values())
        asked.append(rows.tolist())
        plans = np.full((len(rows), HORIZON), WAIT)
        plans[rows == 1, 2:] = END  # row 1 has shorter plans
        return plans

    runner = PlannerRunner(doors, planner, plan_horizon=HORIZON, replan_every=4)
    runner.reset([0, 1, 2], [0, 1, 2])
    for step in range(1, 16):
        if step == 4:
            runner.reset([7], [2])  # in the middle of its plan
        before = len(asked)
        result = runner.step()
        asked.extend([[]] * (before + 1 - len(asked)))
        assert result.actions.tolist()[3] == -1  # never started, and never planned for
        assert result.done.tolist() == [step == 15, step == 15, False, False]
    assert asked == [
        [0, 1, 2], [], [1], [2], [0, 1], [], [1], [2], [0, 1], [], [1], [2], [0, 1], [], [1]
    ]  # fmt: skip
    assert runner.running.tolist() == [False, False, True, False]
    runner.step()  # rows whose episode is over wait
    assert asked[-1] == [2]
    runner.reset([5], [0])
    runner.step()
    assert asked[-1] == [0]


def test_a_step_says_what_it_did(doors):
    plan = np.array([[EAST, WAIT, END, END], [END, WAIT, WAIT, WAIT], [WAIT] * 4, [EAST] * 4])
    runner = PlannerRunner(doors, lambda seen, rows: plan[rows], plan_horizon=4, replan_every=3)
    first = runner.reset([0, 1, 2, 3])["step"].copy()
    step = runner.step()
    assert step.actions.tolist() == [EAST, -1, WAIT, EAST]
    assert (step.actions.dtype, step.rewards.dtype, step.done.dtype) == ("i8", "f4", "?")
    assert step.rewards.tolist() == [0.0] * 4
    assert (step.observations["step"] - first).tolist() == [1, 0, 1, 1]
    assert runner.positions.tolist() == [1, 0, 1, 1]
    np.testing.assert_array_equal(runner.plans, plan)
    assert runner.step().actions.tolist() == [WAIT, -1, WAIT, EAST]


@pytest.mark.parametrize("replan_every", [0, 5])
def test_a_plan_must_last_until_the_next_one(doors, replan_every):
    with pytest.raises(ValueError, match=rf"1..plan_horizon = 4, got {replan_every}"):
        PlannerRunner(doors, whim, plan_horizon=4, replan_every=replan_every)


@pytest.mark.parametrize("plans", [np.zeros((3, 4), int), np.zeros((4, 5), int), np.zeros((4, 4))])
def test_what_is_no_plan_for_each_row_is_refused(doors, plans):
    runner = PlannerRunner(doors, lambda seen, rows: plans, plan_horizon=4, replan_every=4)
    with pytest.raises(RuntimeError, match="before the first reset"):
        runner.step()
    runner.reset([0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"integers of shape \[4, 4\]"):
        runner.step()
