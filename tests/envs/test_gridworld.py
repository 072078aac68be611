import numpy as np
import pytest

from remdm.envs.gridworld import LEVEL_KINDS, GridworldEnv, Level
from remdm.envs.making import known_env_names, make_env
from remdm.maps import (
    DELTAS,
    NUM_ACTIONS,
    NUM_DIRECTIONS,
    Action,
    Terrain,
    empty_observations,
    map_observation_spec,
)

ROOM, DARK = "Gridworld-Room-9x9-v0", "Gridworld-DarkRoom-9x9-v0"
MAZE, DOORS = "Gridworld-Maze-9x9-v0", "Gridworld-Doors-9x13-v0"


def observe(env: GridworldEnv) -> dict[str, np.ndarray]:
    out = empty_observations(env.observation_spec, ())
    env.observe(out)
    return out


def started(name: str, seed: int = 0, **overrides) -> GridworldEnv:
    env = GridworldEnv(name, **overrides)
    env.reset(seed)
    return env


def doors_with(kind: str) -> GridworldEnv:
    """The first level whose rooms are joined by a "closed" or "locked" door, or a "hidden" cell."""
    env = GridworldEnv(DOORS)
    for seed in range(100):
        env.reset(seed)
        level = env._level
        found = "locked" if level.locked else "hidden" if level.hidden else "closed"
        if found == kind:
            return env
    raise AssertionError(f"no level of 100 has a {kind} door")


def put_beside_door(env: GridworldEnv) -> int:
    """Stand the agent in front of what joins the rooms; returns the direction towards it."""
    ways = np.isin(env._level.cells, (Terrain.CLOSED_DOOR, Terrain.DOORWAY))
    row, column = np.argwhere(ways)[0]
    env._cell = (int(row), int(column) - 1)
    env.step(Action.WAIT)
    return Action.EAST


def steps_to_goal(level: Level) -> int:
    """Breadth-first distance where doors and hidden cells count as open; -1 without a way."""
    frontier, seen, distance = {level.start}, {level.start}, 0
    while frontier:
        if any(level.cells[cell] == Terrain.GOAL for cell in frontier):
            return distance
        around = {(r + dr, c + dc) for r, c in frontier for dr, dc in DELTAS[:4].tolist()}
        frontier = {cell for cell in around - seen if level.cells[cell] != Terrain.WALL}
        seen |= frontier
        distance += 1
    return -1


def test_the_names_offered_are_the_names_that_exist():
    offered = [name for name in known_env_names() if name.startswith("Gridworld-")]
    assert offered == list(LEVEL_KINDS)


@pytest.mark.parametrize("name", LEVEL_KINDS)
def test_observation_fits_the_map_spec(name):
    env = make_env(name)
    kind = LEVEL_KINDS[name]
    assert env.observation_spec == map_observation_spec(kind.height, kind.width)
    env.reset(5)
    seen = observe(env)
    row, column = seen["position"]
    assert seen["visited"][row, column] == 1
    assert seen["step"] == 0
    assert seen["glyphs"].max() < len(Terrain)


@pytest.mark.parametrize("name", LEVEL_KINDS)
def test_same_seed_and_actions_give_the_same_episode(name):
    first, second = GridworldEnv(name), GridworldEnv(name)
    second.reset(99)  # what came before must not matter
    actions = np.random.default_rng(0).integers(NUM_ACTIONS, size=40)
    first.reset(7)
    second.reset(7)
    for action in actions:
        results = first.step(int(action)), second.step(int(action))
        assert results[0] == results[1]
        assert first.pending == second.pending
        for mine, other in zip(observe(first).values(), observe(second).values(), strict=True):
            np.testing.assert_array_equal(mine, other)
        if results[0].terminated or results[0].truncated:
            break


@pytest.mark.parametrize("name", LEVEL_KINDS)
def test_every_level_can_be_solved_and_none_is_solved_at_the_start(name):
    env = GridworldEnv(name)
    for seed in range(40):
        env.reset(seed)
        assert steps_to_goal(env._level) >= 1


@pytest.mark.parametrize("name", [MAZE, "Gridworld-Maze-15x15-v0"])
def test_mazes_are_perfect(name):
    env = GridworldEnv(name)
    for seed in range(20):
        env.reset(seed)
        open_cells = env._level.cells != Terrain.WALL
        rooms = open_cells[1::2, 1::2]
        assert rooms.all()
        # A connected graph (see the test of solvability) with one passage less than rooms.
        assert open_cells.sum() == 2 * rooms.size - 1


def test_levels_differ_between_seeds():
    env = GridworldEnv(MAZE)
    layouts = set()
    for seed in range(20):
        env.reset(seed)
        layouts.add(env._level.cells.tobytes())
    assert len(layouts) == 20


def test_a_lit_room_is_seen_whole_and_a_dark_one_only_next_to_the_agent():
    lit = observe(started(ROOM))["terrain"]
    assert (lit != Terrain.UNKNOWN).all()
    dark = started(DARK)
    assert (observe(dark)["terrain"] != Terrain.UNKNOWN).sum() == 9


def test_mazes_are_seen_along_straight_corridors_up_to_the_wall():
    env = started(MAZE, seed=3)
    seen = observe(env)
    row, column = (int(x) for x in seen["position"])
    for dr, dc in DELTAS[:4].tolist():
        r, c = row + dr, column + dc
        while env._level.cells[r, c] != Terrain.WALL:
            assert seen["terrain"][r, c] != Terrain.UNKNOWN
            r, c = r + dr, c + dc
        assert seen["terrain"][r, c] == Terrain.WALL


def test_reaching_the_goal_wins_with_reward_one():
    env = started(ROOM)
    goal = np.argwhere(env._level.cells == Terrain.GOAL)[0]
    result = None
    while result is None or not result.terminated:
        step = np.sign(goal - observe(env)["position"].astype(int))
        result = env.step(int(np.argmax((step == DELTAS).all(1))))
        assert result.reward == float(result.terminated)
    assert result.won
    assert not result.truncated


def test_the_step_limit_truncates_and_does_not_win():
    env = started(ROOM, max_episode_steps=3)
    results = [env.step(Action.WAIT) for _ in range(3)]
    assert [r.truncated for r in results] == [False, False, True]
    assert not any(r.terminated or r.won for r in results)


def test_walking_into_a_wall_is_blocked_and_remembered():
    env = started(ROOM)
    env._cell = (1, 4)
    env.step(Action.WAIT)
    assert env.step(Action.NORTH).blocked
    assert observe(env)["blocked"][1, 4] == 1 << Action.NORTH


def test_walking_into_a_closed_door_opens_it_and_diagonals_do_not_pass():
    env = doors_with("closed")
    east = put_beside_door(env)
    row, column = env._cell[0], env._cell[1] + 1
    assert not env.step(east).blocked
    assert observe(env)["terrain"][row, column] == Terrain.OPEN_DOOR
    env.step(east)
    assert env._cell == (row, column)
    for diagonal in range(4, NUM_DIRECTIONS):
        assert env.step(diagonal).blocked
    assert env._cell == (row, column)


def test_open_asks_for_a_direction_and_opens():
    env = doors_with("closed")
    east = put_beside_door(env)
    row, column = env._cell[0], env._cell[1] + 1
    env.step(Action.OPEN)
    assert env.pending
    env.step(east)
    assert not env.pending
    assert observe(env)["terrain"][row, column] == Terrain.OPEN_DOOR


def test_a_cancelled_kick_leaves_only_the_step_behind():
    env = doors_with("locked")
    put_beside_door(env)
    before = observe(env)
    env.step(Action.KICK)
    env.cancel()
    assert not env.pending
    after = observe(env)
    assert after["step"] == before["step"] + 1
    np.testing.assert_array_equal(after["terrain"], before["terrain"])


def test_a_locked_door_says_so_and_only_kicks_get_through():
    env = doors_with("locked")
    east = put_beside_door(env)
    row, column = env._cell[0], env._cell[1] + 1
    assert env.step(east).blocked
    assert observe(env)["terrain"][row, column] == Terrain.LOCKED_DOOR
    for _ in range(60):  # all fail with probability 0.65**60 < 1e-11
        env.step(Action.KICK)
        env.step(east)
        if observe(env)["terrain"][row, column] == Terrain.DOORWAY:
            break
    env.step(east)
    assert env._cell == (row, column)


def test_a_search_finds_a_hidden_cell_one_time_in_seven():
    env = doors_with("hidden")
    (hidden,) = env._level.hidden
    put_beside_door(env)
    env.step(Action.EAST)  # into the doorway, beside the hidden cell
    assert observe(env)["terrain"][hidden] == Terrain.UNKNOWN
    assert env.step(Action.EAST).blocked
    found, tries = 0, 2000
    for _ in range(tries):
        env._level.hidden = {hidden}
        env._search()
        found += not env._level.hidden
    # Five standard deviations: fails by chance less than once in a million runs.
    assert abs(found / tries - 1 / 7) < 5 * np.sqrt(6 / 49 / tries)
    env._level.hidden = set()
    env.step(Action.WAIT)
    assert observe(env)["terrain"][hidden] == Terrain.CORRIDOR


def test_stepping_without_an_episode_is_an_error():
    env = GridworldEnv(ROOM, max_episode_steps=1)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(Action.WAIT)
    env.reset(0)
    env.step(Action.WAIT)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(Action.WAIT)


def test_bad_values_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match="Gridworld-Maze-9x9-v0"):
        make_env("Gridworld-Mase-9x9-v0")
    with pytest.raises(ValueError, match=r"GridworldEnv\.max_episode_steps"):
        GridworldEnv(ROOM, max_episode_steps=0)
    with pytest.raises(ValueError, match=r"GridworldEnv\.kick_chance"):
        GridworldEnv(ROOM, kick_chance=0.0)
    with pytest.raises(ValueError, match=r"0\.\.11"):
        started(ROOM).step(12)
