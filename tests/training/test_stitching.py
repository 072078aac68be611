"""Worlds glued from maps: what was known is kept, and all maps can be walked to."""

import numpy as np
import pytest

from remdm.maps import DELTAS, Terrain
from remdm.training.stitching import dig, known_part, stitch

HEIGHT, WIDTH = 21, 40
PASSABLE = (Terrain.FLOOR, Terrain.CORRIDOR, Terrain.GOAL)


def room(top: int, left: int, rows: int, columns: int) -> np.ndarray:
    """A walled room of floor in an unknown world."""
    world = np.zeros((HEIGHT, WIDTH), np.uint8)
    world[top - 1 : top + rows + 1, left - 1 : left + columns + 1] = Terrain.WALL
    world[top : top + rows, left : left + columns] = Terrain.FLOOR
    return world


def reachable(world: np.ndarray) -> np.ndarray:
    """bool like `world`: what can be walked to from the first passable cell."""
    passable = np.isin(world, PASSABLE)
    found = np.zeros(world.shape, bool)
    stack = [tuple(np.argwhere(passable)[0])]
    while stack:
        row, column = stack.pop()
        inside = 0 <= row < world.shape[0] and 0 <= column < world.shape[1]
        if inside and passable[row, column] and not found[row, column]:
            found[row, column] = True
            stack += [(row + dr, column + dc) for dr, dc in DELTAS]
    return found


def test_known_part_is_the_smallest_rectangle():
    assert known_part(room(5, 7, 3, 4)).shape == (5, 6)
    assert known_part(np.zeros((HEIGHT, WIDTH), np.uint8)).size == 0


def test_one_map_is_only_moved_and_mirrored():
    world = stitch([room(5, 7, 3, 4)], HEIGHT, WIDTH, np.random.default_rng(0))
    assert np.array_equal(known_part(world), known_part(room(5, 7, 3, 4)))


@pytest.mark.parametrize("seed", range(20))
def test_every_map_can_be_reached_from_every_other(seed):
    rng = np.random.default_rng(seed)
    maps = [room(3, 3, *rng.integers(2, 6, 2)) for _ in range(rng.integers(2, 6))]
    world = stitch(maps, HEIGHT, WIDTH, rng)
    passable = np.isin(world, PASSABLE)
    assert np.array_equal(reachable(world), passable)
    assert (world == Terrain.FLOOR).sum() >= (maps[0] == Terrain.FLOOR).sum()


def test_the_same_generator_state_gives_the_same_world():
    maps = [room(3, 3, 4, 4), room(2, 2, 3, 6)]
    first, second = (stitch(maps, HEIGHT, WIDTH, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)


def test_a_map_larger_than_the_world_is_left_out():
    assert not stitch([room(2, 2, 15, 30)], 10, 10, np.random.default_rng(0)).any()


def test_dig_opens_rock_and_walls_and_leaves_the_rest():
    world = room(5, 5, 3, 3)
    world[6, 6] = Terrain.GOAL
    dig(world, (6, 6), (6, 20), np.random.default_rng(0))
    assert world[6, 6] == Terrain.GOAL
    assert world[6, 7] == Terrain.FLOOR
    assert (world[6, 8:21] == Terrain.CORRIDOR).all()
