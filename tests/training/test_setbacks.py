"""Imagined setbacks: ways that failed, maps with nothing left to explore."""

import numpy as np
import pytest

from remdm.maps import DELTAS, NUM_DIRECTIONS, Action, Terrain
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.training.augmentation import MemoryAugmentation
from remdm.training.setbacks import exhaust, lock, obstruct
from tests.oracles.drawn import drawn, random_maps, words
from tests.training.remembered import DOORS, PLAN_HORIZON, copied, noisy_states, same, window


@pytest.fixture(scope="module")
def states():
    """200 memories of two rooms with a door between them."""
    return noisy_states(DOORS, 200)


def labels(observations):
    return MemoryOracle().label(observations, PLAN_HORIZON)[0]


def all_rows(observations):
    return np.arange(len(observations["position"]))


def test_a_way_that_failed_is_not_tried_again(states):
    plans = labels(states)
    failed = copied(states)
    rows = obstruct(failed, plans, all_rows(states), np.random.default_rng(0))
    assert len(rows) > 100
    there = states["position"][rows] + DELTAS[plans[rows, 0].astype(int)]
    rows = rows[states["terrain"][rows, there[:, 0], there[:, 1]] != Terrain.CLOSED_DOOR]
    after = labels({k: v[rows] for k, v in failed.items()})
    moved = plans[rows, 0] < NUM_DIRECTIONS
    assert moved.sum() > 100
    assert not (after[moved, 0] == plans[rows[moved], 0]).any()


def test_half_of_the_failed_ways_on_open_ground_have_a_boulder(states):
    plans = labels(states)
    failed = copied(states)
    rows = obstruct(failed, plans, all_rows(states), np.random.default_rng(1))
    rows = rows[plans[rows, 0] < NUM_DIRECTIONS]
    there = states["position"][rows] + DELTAS[plans[rows, 0].astype(int)]
    before, after = (x["terrain"][rows, there[:, 0], there[:, 1]] for x in (states, failed))
    open_ground = np.isin(before, (Terrain.FLOOR, Terrain.CORRIDOR))
    doors = before == Terrain.CLOSED_DOOR
    assert (after[doors] == Terrain.LOCKED_DOOR).all()
    others = ~open_ground & ~doors
    assert (after[others] == before[others]).all()
    share = (after[open_ground] == Terrain.BOULDER).mean()
    # Hoeffding: farther off than this with probability 1e-6.
    assert abs(share - 0.5) < np.sqrt(np.log(2e6) / (2 * open_ground.sum()))
    assert (failed["terrain"] != states["terrain"]).sum() == (after != before).sum()


def test_the_way_round_a_failed_move_is_the_label():
    here = drawn("WWWWWW\nW@,,>W\nW,,,,W\nWWWWWW")
    plans = labels(here)
    assert words(plans[0]) == "E E E"
    obstruct(here, plans, np.array([0]), np.random.default_rng(0))
    assert here["blocked"][0, 1, 1] == 1 << Action.EAST
    assert words(labels(here)[0]) in ("SE E NE", "SE NE E")


def test_a_closed_door_that_fails_is_locked():
    here = drawn("WWWWW\nW@+.?\nWWWWW")
    plans = labels(here)
    assert words(plans[0]) == "E"
    obstruct(here, plans, np.array([0]), np.random.default_rng(0))
    assert here["terrain"][0, 1, 2] == Terrain.LOCKED_DOOR
    assert not here["blocked"].any()
    assert words(labels(here)[0]) == "KICK E"


def test_half_of_the_closed_doors_are_locked(states):
    locked = copied(states)
    lock(locked, all_rows(states), np.random.default_rng(0))
    closed = states["terrain"] == Terrain.CLOSED_DOOR
    assert np.array_equal(locked["terrain"][~closed], states["terrain"][~closed])
    share = (locked["terrain"][closed] == Terrain.LOCKED_DOOR).mean()
    # Hoeffding: farther off than this with probability 1e-6.
    assert abs(share - 0.5) < np.sqrt(np.log(2e6) / (2 * closed.sum()))


def test_a_plan_that_begins_with_no_move_is_left_alone():
    here = drawn("WWW\nW@W\nWWW")
    plans = labels(here)
    assert plans[0, 0] == Action.SEARCH
    before = copied(here)
    assert not len(obstruct(here, plans, np.array([0]), np.random.default_rng(0)))
    assert same(before, here)


def test_an_exhausted_map_is_searched_for_hidden_passages():
    maps = random_maps(200, 0, goals=True)
    maps["step"][:] = 1 + np.arange(200)
    spent = copied(maps)
    exhaust(spent, all_rows(maps), MemoryOracle(), np.random.default_rng(3))
    assert not np.isin(spent["terrain"], (Terrain.GOAL, Terrain.CLOSED_DOOR)).any()
    assert (spent["visited"] <= maps["step"][:, None, None] + 1).all()
    plans = labels(spent)
    for row, plan in enumerate(plans):
        moves = plan[plan < NUM_DIRECTIONS]
        assert (plan == Action.SEARCH).any() or len(moves) == PLAN_HORIZON, row
    searched = spent["searched"].reshape(200, -1).max(1)
    assert (searched > 0).any()
    assert (searched[searched > 0] >= 5).all()
    here = spent["position"].astype(int)
    assert (spent["visited"][np.arange(200), here[:, 0], here[:, 1]] > 0).all()
    for key in ("blocked", "step"):
        assert np.array_equal(spent[key], maps[key])


def test_a_batch_with_setbacks_is_labelled_by_the_oracle(states):
    setbacks = MemoryAugmentation(
        MemoryOracle(),
        explore_probability=0.0,
        close_probability=0.0,
        flip_probability=0.0,
        lock_probability=0.3,
        exhaust_probability=0.3,
        obstruct_probability=0.5,
    )
    batch = setbacks(window(copied(states)), np.random.default_rng(0))
    assert not same(batch.observations, states)
    assert np.array_equal(batch.plans, labels(batch.observations))


@pytest.mark.parametrize(
    "knob", ["lock_probability", "exhaust_probability", "obstruct_probability"]
)
def test_a_share_outside_0_and_1_is_refused(knob):
    with pytest.raises(ValueError, match=f"set MemoryAugmentation.{knob}"):
        MemoryAugmentation(MemoryOracle(), **{knob: 1.5})
