"""The agent's memory of an episode: each rule, and the compiled kernels against plain Python."""

import numpy as np
import pytest

from remdm.envs.memory import EpisodeMemory
from remdm.maps import DELTAS, Action, Terrain, empty_observations, map_observation_spec

T = Terrain
HEIGHT, WIDTH = 5, 7
MIDDLE = (2, 3)


def frame(fill: int = T.FLOOR, **cells: int) -> np.ndarray:
    """A shown map; `r1c2=T.WALL` sets a cell."""
    shown = np.full((HEIGHT, WIDTH), fill, np.uint8)
    for name, code in cells.items():
        row, column = name[1:].split("c")
        shown[int(row), int(column)] = code
    return shown


def started(shown: np.ndarray, position: tuple[int, int] = MIDDLE) -> EpisodeMemory:
    memory = EpisodeMemory(HEIGHT, WIDTH)
    memory.reset()
    memory.begin(shown, position)
    return memory


def test_a_blank_never_erases_a_remembered_cell() -> None:
    memory = started(frame(r0c0=T.WALL, r1c1=T.OPEN_DOOR))
    memory.update(frame(T.UNKNOWN), MIDDLE, Action.WAIT)
    assert memory.terrain[0, 0] == T.WALL
    assert memory.terrain[1, 1] == T.OPEN_DOOR


def test_the_cell_under_the_agent_keeps_what_was_seen_there() -> None:
    memory = started(frame(r2c4=T.OPEN_DOOR))
    # The agent's own symbol looks like a monster.
    memory.update(frame(r2c4=T.MONSTER), (2, 4), Action.EAST)
    assert memory.terrain[2, 4] == T.OPEN_DOOR


@pytest.mark.parametrize("start", [T.UNKNOWN, T.MONSTER])
def test_an_unknown_cell_under_the_agent_is_floor(start: Terrain) -> None:
    assert started(frame(T.UNKNOWN, r2c3=start)).terrain[MIDDLE] == T.FLOOR


def test_a_locked_door_stays_locked_until_the_cell_shows_something_else() -> None:
    closed = frame(r2c4=T.CLOSED_DOOR)
    memory = started(closed)
    assert memory.update(closed, MIDDLE, Action.EAST, locked=True)
    assert memory.terrain[2, 4] == T.LOCKED_DOOR
    memory.update(closed, MIDDLE, Action.WAIT)
    assert memory.terrain[2, 4] == T.LOCKED_DOOR
    memory.update(frame(r2c4=T.DOORWAY), MIDDLE, Action.WAIT)
    assert memory.terrain[2, 4] == T.DOORWAY


def test_a_door_is_learnt_to_be_locked_in_the_direction_that_was_asked_for() -> None:
    closed = frame(r2c2=T.CLOSED_DOOR)
    memory = started(closed)
    memory.update(closed, MIDDLE, Action.OPEN)
    assert not memory.update(closed, MIDDLE, Action.WEST, locked=True, answering=True)
    assert memory.terrain[2, 2] == T.LOCKED_DOOR
    assert not memory.blocked.any()


def test_a_search_counts_on_the_cell_and_its_neighbours_and_saturates() -> None:
    memory = started(frame())
    for _ in range(300):
        memory.update(frame(), MIDDLE, Action.SEARCH)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[1:4, 2:5] = 255
    np.testing.assert_array_equal(memory.searched, expected)


def test_a_search_in_the_corner_stays_on_the_map() -> None:
    memory = started(frame(), (0, 0))
    memory.update(frame(), (0, 0), Action.SEARCH)
    assert memory.searched.sum() == 4


@pytest.mark.parametrize("action", [Action(i) for i in range(8)])
def test_a_move_that_fails_sets_its_own_bit(action: Action) -> None:
    memory = started(frame())
    assert memory.update(frame(), MIDDLE, action)
    assert memory.blocked[MIDDLE] == 1 << action
    assert memory.blocked.sum() == 1 << action


def test_a_later_success_clears_the_bit() -> None:
    memory = started(frame())
    memory.update(frame(), MIDDLE, Action.EAST)
    memory.update(frame(), MIDDLE, Action.NORTH)
    assert not memory.update(frame(), (2, 4), Action.EAST)
    assert memory.blocked[MIDDLE] == 1 << Action.NORTH


@pytest.mark.parametrize("faced", [T.CLOSED_DOOR, T.MONSTER])
def test_doors_and_monsters_block_without_a_bit(faced: Terrain) -> None:
    shown = frame(r2c4=faced)
    memory = started(shown)
    assert memory.update(shown, MIDDLE, Action.EAST)
    assert not memory.blocked.any()


@pytest.mark.parametrize(("before", "after"), [(T.CLOSED_DOOR, T.OPEN_DOOR), (T.MONSTER, T.OBJECT)])
def test_an_opened_door_or_a_beaten_monster_is_no_failure(before: Terrain, after: Terrain) -> None:
    memory = started(frame(r2c4=before))
    assert not memory.update(frame(r2c4=after), MIDDLE, Action.EAST)
    assert not memory.blocked.any()


def test_a_bump_that_shows_a_wall_is_a_failure() -> None:
    memory = started(frame(r2c4=T.UNKNOWN))
    assert memory.update(frame(r2c4=T.WALL), MIDDLE, Action.EAST)
    assert memory.terrain[2, 4] == T.WALL
    assert memory.blocked[MIDDLE] == 1 << Action.EAST


def test_a_held_agent_learns_nothing_about_the_map() -> None:
    memory = started(frame())
    assert memory.update(frame(), MIDDLE, Action.EAST, held=True)
    assert not memory.blocked.any()


def test_a_direction_that_answers_a_question_is_no_move() -> None:
    memory = started(frame())
    assert not memory.update(frame(), MIDDLE, Action.EAST, answering=True)
    assert not memory.blocked.any()


def test_a_monster_that_walks_off_into_the_dark_leaves_what_was_there() -> None:
    memory = started(frame(r1c1=T.CORRIDOR, r0c0=T.UNKNOWN))
    memory.update(frame(r1c1=T.MONSTER, r0c0=T.MONSTER), MIDDLE, Action.WAIT)
    assert memory.terrain[1, 1] == T.MONSTER
    memory.update(frame(T.UNKNOWN), MIDDLE, Action.WAIT)
    assert memory.terrain[1, 1] == T.CORRIDOR
    assert memory.terrain[0, 0] == T.FLOOR


def test_a_pushed_boulder_leaves_what_was_there() -> None:
    memory = started(frame(r2c4=T.CORRIDOR))
    memory.update(frame(r2c4=T.BOULDER), MIDDLE, Action.WAIT)
    memory.update(frame(r2c4=T.MONSTER, r2c5=T.BOULDER), (2, 4), Action.EAST)
    assert memory.terrain[2, 4] == T.CORRIDOR
    assert memory.terrain[2, 5] == T.BOULDER


def test_visits_are_dated_by_step() -> None:
    memory = started(frame())
    assert memory.visited[MIDDLE] == 1
    memory.update(frame(), (2, 4), Action.EAST)
    memory.update(frame(), (2, 4), Action.WAIT)
    assert memory.visited[2, 4] == 3
    assert memory.visited[MIDDLE] == 1
    assert memory.step == 2
    assert memory.place == (2, 4)


def test_reset_forgets_everything() -> None:
    memory = started(frame())
    memory.update(frame(), MIDDLE, Action.SEARCH)
    memory.update(frame(), MIDDLE, Action.EAST)
    memory.reset()
    memory.begin(frame(T.UNKNOWN), (0, 0))
    assert memory.step == 0
    assert memory.terrain.sum() == T.FLOOR
    assert memory.visited.sum() == 1
    assert not memory.searched.any()
    assert not memory.blocked.any()


def test_what_is_written_is_a_copy_of_every_array_but_glyphs() -> None:
    memory = started(frame(r0c0=T.WALL))
    memory.update(frame(), MIDDLE, Action.SEARCH)
    spec = map_observation_spec(HEIGHT, WIDTH)
    out = {name: array[1, ...] for name, array in empty_observations(spec, (2,)).items()}
    memory.write(out)
    for name in ("terrain", "visited", "searched", "blocked", "position"):
        np.testing.assert_array_equal(out[name], getattr(memory, name))
    assert out["step"] == 1
    written = out["searched"].copy()
    memory.update(frame(), MIDDLE, Action.SEARCH)
    np.testing.assert_array_equal(out["searched"], written)


def test_symbols_are_translated_by_the_table() -> None:
    memory = EpisodeMemory(1, 3, np.array([T.UNKNOWN, T.WALL, T.GOAL], np.uint8))
    memory.begin(np.array([[1, 0, 2]], np.int16), (0, 1))
    assert memory.terrain.tolist() == [[T.WALL, T.FLOOR, T.GOAL]]


def plain_merge(terrain: dict, under: dict, shown: np.ndarray, position: tuple[int, int]) -> None:
    """The merging rules, cell by cell, with nothing skipped."""
    for cell, code in np.ndenumerate(shown):
        old = terrain.get(cell, T.UNKNOWN)
        if cell == position or code == old:
            continue
        if code == T.UNKNOWN:
            if old == T.MONSTER:
                terrain[cell] = under.get(cell, T.UNKNOWN) or T.FLOOR
            continue
        if code == T.CLOSED_DOOR and old == T.LOCKED_DOOR:
            continue
        if code in (T.MONSTER, T.BOULDER) and old not in (T.MONSTER, T.BOULDER):
            under[cell] = old
        terrain[cell] = code
    here = terrain.get(position, T.UNKNOWN)
    if here in (T.MONSTER, T.BOULDER):
        here = under.get(position, T.UNKNOWN)
    if here in (T.UNKNOWN, T.WALL):
        here = T.FLOOR
    if here in (T.CLOSED_DOOR, T.LOCKED_DOOR):
        here = T.OPEN_DOOR
    terrain[position] = here


@pytest.mark.parametrize("seed", range(5))
def test_kernels_agree_with_plain_python_on_random_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shown = rng.integers(len(T), size=(HEIGHT, WIDTH)).astype(np.uint8)
    position = MIDDLE
    memory = started(shown, position)
    terrain: dict = {}
    under: dict = {}
    plain_merge(terrain, under, shown, position)
    for _ in range(300):
        for _ in range(rng.integers(4)):  # most rows stay as they are
            shown[rng.integers(HEIGHT), rng.integers(WIDTH)] = rng.integers(len(T))
        action = int(rng.integers(12))
        locked = False
        if action < 8:
            row, column = np.add(position, DELTAS[action]).tolist()
            inside = 0 <= row < HEIGHT and 0 <= column < WIDTH
            if inside and rng.random() < 0.7:
                position = (row, column)
            else:
                locked = bool(rng.random() < 0.5)
        plain_merge(terrain, under, shown, position)
        if locked and inside and terrain.get((row, column)) == T.CLOSED_DOOR:
            terrain[row, column] = T.LOCKED_DOOR
        memory.update(shown, position, action, locked=locked)
        expected = [[terrain.get((r, c), 0) for c in range(WIDTH)] for r in range(HEIGHT)]
        np.testing.assert_array_equal(memory.terrain, expected)
