import numpy as np
import pytest

from remdm.evaluation.plan_path import Deed, PlanStep, plan_path, plan_words
from remdm.maps import NUM_ACTIONS, Action, Terrain
from remdm.tokens import end_token, mask_token

A = Action
END, MASK = end_token(NUM_ACTIONS), mask_token(NUM_ACTIONS)


def targets(steps):
    return [step.target for step in steps]


@pytest.fixture
def terrain():
    cells = np.full((7, 9), Terrain.FLOOR, np.uint8)
    cells[:, 6] = Terrain.WALL
    return cells


def test_moves_in_all_eight_directions_enter_the_neighbours():
    for action, cell in {
        A.NORTH: (2, 3),
        A.EAST: (3, 4),
        A.SOUTH: (4, 3),
        A.WEST: (3, 2),
        A.NORTHEAST: (2, 4),
        A.SOUTHEAST: (4, 4),
        A.SOUTHWEST: (4, 2),
        A.NORTHWEST: (2, 2),
    }.items():
        assert plan_path((3, 3), [action]) == [PlanStep(Deed.MOVE, (3, 3), cell, 0)]


def test_moves_follow_each_other():
    steps = plan_path((3, 3), [A.EAST, A.SOUTHEAST, A.NORTH, END])
    assert targets(steps) == [(3, 4), (4, 5), (3, 5)]


@pytest.mark.parametrize("stop", [END, MASK])
def test_path_stops_at_the_first_token_that_is_no_action(stop):
    assert targets(plan_path((3, 3), [A.EAST, stop, A.EAST])) == [(3, 4)]


def test_move_into_a_known_wall_is_a_bump_and_stays(terrain):
    steps = plan_path((3, 5), [A.EAST, A.NORTH], terrain)
    assert [s.deed for s in steps] == [Deed.BUMP, Deed.MOVE]
    assert targets(steps) == [(3, 6), (2, 5)]


def test_move_off_the_map_is_a_bump(terrain):
    assert plan_path((0, 0), [A.NORTH], terrain)[0].deed is Deed.BUMP
    assert plan_path((0, 0), [A.WEST], terrain)[0].deed is Deed.BUMP


def test_unknown_cells_are_walked_into(terrain):
    terrain[3, 4] = Terrain.UNKNOWN
    assert plan_path((3, 3), [A.EAST], terrain)[0].deed is Deed.MOVE


def test_closed_door_opens_at_the_first_bump_and_lets_through_at_the_second(terrain):
    terrain[3, 6] = Terrain.CLOSED_DOOR
    steps = plan_path((3, 5), [A.EAST, A.EAST, A.EAST], terrain)
    assert [s.deed for s in steps] == [Deed.BUMP, Deed.MOVE, Deed.MOVE]
    assert targets(steps) == [(3, 6), (3, 6), (3, 7)]


def test_kick_takes_the_next_direction_and_opens_the_way(terrain):
    terrain[3, 6] = Terrain.LOCKED_DOOR
    steps = plan_path((3, 5), [A.EAST, A.KICK, A.EAST, A.EAST], terrain)
    assert [s.deed for s in steps] == [Deed.BUMP, Deed.KICK, Deed.MOVE]
    assert targets(steps) == [(3, 6), (3, 6), (3, 6)]
    assert [s.first_token for s in steps] == [0, 1, 3]


def test_kick_without_a_direction_concerns_the_own_cell():
    assert plan_path((3, 5), [A.KICK, END])[0].target == (3, 5)
    assert [s.deed for s in plan_path((3, 5), [A.KICK, A.SEARCH])] == [Deed.KICK, Deed.SEARCH]


def test_searching_and_waiting_stay():
    steps = plan_path((3, 5), [A.SEARCH, A.WAIT, A.EAST])
    assert [s.deed for s in steps] == [Deed.SEARCH, Deed.WAIT, Deed.MOVE]
    assert targets(steps) == [(3, 5), (3, 5), (3, 6)]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([A.EAST, A.EAST, A.NORTHEAST, END], "east x2, northeast"),
        ([A.KICK, A.NORTH, A.KICK, A.NORTH, A.NORTH], "kick north x2, north"),
        ([A.SEARCH] * 5 + [END], "search x5"),
        ([A.OPEN, A.SEARCH], "open, search"),
        ([END, A.EAST], "nothing"),
        ([], "nothing"),
    ],
)
def test_words_say_what_the_plan_does(plan, words):
    assert plan_words(plan) == words
