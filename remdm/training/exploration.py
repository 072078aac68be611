"""Re-exploring a remembered map in the mind, compiled.

A map that some episode came to know is taken as the world; an imaginary agent starts in it with
an empty memory and a sight of one cell, follows the memory oracle's own plans (with some noise)
for a while, and what it remembers then is a new training state. What the source episode never
saw stays unknown for ever. Doors open, turn out locked, and break under kicks by chance, so that
these rare events are met often.
"""

import numba
import numpy as np

from remdm.maps import DELTAS, NUM_DIRECTIONS, Action, Terrain
from remdm.oracles.search import label_map, walkable

# Chance that a closed door turns out to be locked, and that one kick breaks it.
LOCKED_CHANCE = 0.3
KICK_CHANCE = 0.3
# Chance to stop where only a search is left to do; such states are common enough as it is.
STOP_SEARCHING = 0.7

_UNKNOWN = int(Terrain.UNKNOWN)
_FLOOR = int(Terrain.FLOOR)
_GOAL = int(Terrain.GOAL)
_DOORWAY = int(Terrain.DOORWAY)
_OPEN_DOOR = int(Terrain.OPEN_DOOR)
_CLOSED_DOOR = int(Terrain.CLOSED_DOOR)
_LOCKED_DOOR = int(Terrain.LOCKED_DOOR)
_KICK = int(Action.KICK)
_SEARCH = int(Action.SEARCH)
_DR = DELTAS[:, 0].copy()
_DC = DELTAS[:, 1].copy()
_FIRST_DIAGONAL = 4
# Tokens of the scratch plan the imaginary agent follows; END is any token past the actions.
_PLAN_LENGTH = 24
_END = len(Action) + 1


@numba.njit(cache=True)
def _look(world: np.ndarray, terrain: np.ndarray, row: int, col: int) -> None:
    """Remember the 3x3 around the agent; a door known to be locked stays so while closed."""
    height, width = world.shape
    for r in range(max(0, row - 1), min(height, row + 2)):
        for c in range(max(0, col - 1), min(width, col + 2)):
            locked = terrain[r, c] == _LOCKED_DOOR and world[r, c] == _CLOSED_DOOR
            if world[r, c] != _UNKNOWN and not locked:
                terrain[r, c] = world[r, c]


@numba.njit(cache=True)
def _move(
    world: np.ndarray,
    terrain: np.ndarray,
    blocked: np.ndarray,
    row: int,
    col: int,
    direction: int,
) -> bool:
    """Try to move; opens or learns of a lock where a door stands. Returns whether it moved."""
    height, width = world.shape
    r, c = row + _DR[direction], col + _DC[direction]
    inside = 0 <= r < height and 0 <= c < width
    diagonal = direction >= _FIRST_DIAGONAL
    if inside and world[r, c] == _CLOSED_DOOR and not diagonal:
        if terrain[r, c] != _LOCKED_DOOR:
            if np.random.random() < LOCKED_CHANCE:
                terrain[r, c] = _LOCKED_DOOR
            else:
                world[r, c] = _OPEN_DOOR
        return False
    through_door = inside and diagonal
    through_door = through_door and (world[r, c] == _OPEN_DOOR or world[row, col] == _OPEN_DOOR)
    if inside and walkable(world[r, c]) and not through_door:
        return True
    blocked[row, col] |= np.uint8(1 << direction)
    return False


@numba.njit(cache=True)
def explore(
    world: np.ndarray,
    row: int,
    col: int,
    num_steps: int,
    noise: float,
    seed: int,
    terrain: np.ndarray,
    visited: np.ndarray,
    searched: np.ndarray,
    blocked: np.ndarray,
    position: np.ndarray,
) -> int:
    """Explore `world` from scratch and leave behind the memory of it.

    Args:
        world: uint8 [height, width] of `Terrain`, changed where doors open.
        row: Row to start from.
        col: Column to start from.
        num_steps: Steps to take; fewer when the stairs would be entered.
        noise: Chance that a plan is replaced by one random move.
        seed: Seed of the chances in here.
        terrain: uint8 [height, width], written; likewise the arrays below, as in an observation.
        visited: int16 [height, width].
        searched: uint8 [height, width].
        blocked: uint8 [height, width].
        position: uint8 [2].

    Returns:
        The number of steps taken.
    """
    np.random.seed(seed)
    height, width = world.shape
    terrain[:], visited[:], searched[:], blocked[:] = _UNKNOWN, 0, 0, 0
    queue = np.empty(height * width, np.int32)
    parent = np.empty(height * width, np.int8)
    distance = np.empty(height * width, np.int16)
    plan = np.empty(_PLAN_LENGTH, np.int8)
    cursor = _PLAN_LENGTH
    step = 0
    visited[row, col] = 1
    _look(world, terrain, row, col)
    while step < num_steps:
        if cursor >= _PLAN_LENGTH or plan[cursor] == _END:
            label_map(
                terrain, visited, searched, blocked, row, col, _END, plan, queue, parent, distance
            )
            cursor = 0
            if np.random.random() < noise:
                plan[:] = _END
                plan[0] = np.random.randint(NUM_DIRECTIONS)
            if plan[0] == _END or (plan[0] == _SEARCH and np.random.random() < STOP_SEARCHING):
                break
        action = plan[cursor]
        cursor += 1
        if action == _SEARCH:
            lo_r, hi_r = max(0, row - 1), min(height, row + 2)
            for r in range(lo_r, hi_r):
                for c in range(max(0, col - 1), min(width, col + 2)):
                    searched[r, c] = min(255, searched[r, c] + 1)
        elif action == _KICK:
            d = plan[cursor]
            cursor += 1
            if np.random.random() < KICK_CHANCE:
                r, c = row + _DR[d], col + _DC[d]
                world[r, c] = _DOORWAY
                terrain[r, c] = _DOORWAY
            step += 1
        elif _move(world, terrain, blocked, row, col, action):
            r, c = row + _DR[action], col + _DC[action]
            if world[r, c] == _GOAL:
                break
            row, col = r, c
        else:
            cursor = _PLAN_LENGTH
        step += 1
        visited[row, col] = step + 1
        _look(world, terrain, row, col)
    position[0], position[1] = row, col
    return step
