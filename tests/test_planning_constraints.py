"""What the remembered map rules out, and how repeated states are counted."""

import numpy as np
import pytest
import torch

from remdm.maps import (
    DELTAS,
    NUM_ACTIONS,
    Action,
    ArraySpec,
    Terrain,
    empty_observations,
    map_observation_spec,
)
from remdm.planning_constraints import PlanMemory, allowed_first_actions, door_directions, heat
from remdm.policy_agent import PolicyAgent
from tests.nets.states import random_states
from tests.oracles.drawn import drawn

MOVES = list(Action)[:8]
DIAGONALS = list(Action)[4:8]


def room() -> dict[str, np.ndarray]:
    """The agent in the middle of a known 5x5 floor."""
    state = empty_observations(map_observation_spec(7, 7), (1,))
    state["terrain"][0, 1:6, 1:6] = Terrain.FLOOR
    state["position"][0] = 3, 3
    return state


def beside(state: dict[str, np.ndarray], direction: Action, terrain: Terrain) -> None:
    row, column = (3, 3) + DELTAS[direction]
    state["terrain"][0, row, column] = terrain


def allowed(state: dict[str, np.ndarray]) -> set[Action]:
    return {Action(i) for i in np.flatnonzero(allowed_first_actions(state)[0])}


def test_in_an_open_room_moves_search_and_wait_are_allowed():
    assert allowed(room()) == {*MOVES, Action.SEARCH, Action.WAIT}


@pytest.mark.parametrize(
    "terrain", [Terrain.UNKNOWN, Terrain.WALL, Terrain.LOCKED_DOOR, Terrain.HAZARD]
)
def test_no_move_into(terrain):
    state = room()
    beside(state, Action.EAST, terrain)
    assert Action.EAST not in allowed(state)
    assert Action.WEST in allowed(state)


@pytest.mark.parametrize(
    "terrain", [Terrain.OBJECT, Terrain.BOULDER, Terrain.MONSTER, Terrain.GOAL, Terrain.CORRIDOR]
)
def test_moves_into(terrain):
    state = room()
    beside(state, Action.EAST, terrain)
    assert Action.EAST in allowed(state)


def test_no_move_off_the_map():
    state = room()
    state["terrain"][:] = Terrain.FLOOR
    state["position"][0] = 0, 0
    assert allowed(state) & set(MOVES) == {Action.EAST, Action.SOUTH, Action.SOUTHEAST}


def test_no_move_that_failed_before():
    state = room()
    state["blocked"][0, 3, 3] = 1 << Action.SOUTHWEST
    assert allowed(state) & set(MOVES) == set(MOVES) - {Action.SOUTHWEST}


@pytest.mark.parametrize("door", [Terrain.OPEN_DOOR, Terrain.CLOSED_DOOR])
def test_doors_are_entered_straight_and_left_straight(door):
    state = room()
    beside(state, Action.NORTHEAST, door)
    beside(state, Action.WEST, door)
    assert Action.NORTHEAST not in allowed(state)
    assert Action.WEST in allowed(state)
    state = room()
    state["terrain"][0, 3, 3] = door
    assert not allowed(state) & set(DIAGONALS)


def test_doorways_are_entered_diagonally():
    state = room()
    beside(state, Action.NORTHEAST, Terrain.DOORWAY)
    assert Action.NORTHEAST in allowed(state)


def test_kick_only_beside_a_locked_door_and_open_only_beside_a_closed_one():
    state = room()
    beside(state, Action.NORTH, Terrain.LOCKED_DOOR)
    assert Action.KICK in allowed(state)
    assert Action.OPEN not in allowed(state)
    beside(state, Action.NORTH, Terrain.CLOSED_DOOR)
    assert Action.KICK not in allowed(state)
    assert Action.OPEN in allowed(state)


def test_searching_ends_after_twenty_times():
    state = room()
    state["searched"][0, 3, 3] = 19
    assert Action.SEARCH in allowed(state)
    state["searched"][0, 3, 3] = 20
    assert Action.SEARCH not in allowed(state)


def test_something_is_always_allowed():
    states = random_states(300)
    states["blocked"][:] = 255
    states["searched"][:] = 255
    made = allowed_first_actions(states)
    assert made.shape == (300, NUM_ACTIONS)
    assert made.any(1).all()


def test_heat_rises_after_two_free_repeats_up_to_six():
    assert heat(np.array([0, 1, 2, 3, 4, 12, 100])).tolist() == [1, 1, 1, 1.5, 2, 6, 6]


def test_plans_are_counted_by_episode_position_and_knowledge():
    memory, rows = PlanMemory(), np.array([4, 9])
    states = {key: value.repeat(2, 0) for key, value in room().items()}
    assert memory.count(states, rows).tolist() == [0, 0]
    assert memory.count(states, rows).tolist() == [1, 1]
    states["position"][0] = 3, 4
    assert memory.count(states, rows).tolist() == [0, 2]
    states["terrain"][1, 0, 0] = Terrain.WALL
    assert memory.count(states, rows).tolist() == [1, 0]
    memory.reset(np.array([4]))
    assert memory.count(states, rows).tolist() == [0, 1]


def test_a_kick_goes_to_the_locked_door_and_opening_to_the_closed_one():
    here = drawn("""
W+WWW
W@LWW
W,WWW
""")
    three = {key: np.repeat(value, 3, 0) for key, value in here.items()}
    actions = np.array([Action.KICK, Action.OPEN, Action.SEARCH])
    assert door_directions(actions, three, 13).tolist() == [Action.EAST, Action.NORTH, 13]


def test_a_kick_with_no_door_beside_it_goes_north_also_at_the_edge_of_the_map():
    here = drawn("@.\n..")
    assert door_directions(np.array([Action.KICK]), here, 13).tolist() == [Action.NORTH]


def test_a_single_step_head_that_kicks_kicks_the_door_beside_it():
    seen = drawn("""
WWWWW
W,@LW
WWWWW
""")
    spec = {key: ArraySpec(value.shape[1:], value.dtype) for key, value in seen.items()}
    agent = PolicyAgent(spec, NUM_ACTIONS, plan_horizon=4).eval()
    for action in (Action.KICK, Action.SEARCH):
        with torch.no_grad():
            agent.denoiser.head.bias.zero_()
            agent.denoiser.head.bias[action] = 99.0
        tokens = agent.plan(seen, torch.Generator().manual_seed(0)).tokens[0].tolist()
        assert tokens[0] == action
        assert tokens[1] == (Action.EAST if action == Action.KICK else 13)
