"""Re-exploring a remembered map in the mind, compiled.

A map that some episode came to know is taken as the world; an imaginary agent starts in it with
an empty memory and a sight of one cell, follows the memory oracle's own plans (with some noise)
for a while, and what it remembers then is a new training state. What the source episode never
saw stays unknown for ever. Doors open, turn out locked, and break under kicks by chance, so that
these rare events are met often.

Numba tells by the age of this file whether its compiled code is still good. After a change to
`remdm.oracles.search`, which is compiled into it, touch it.
"""

import numba
import numpy as np

from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, Action, Terrain
from remdm.oracles.search import label_map, walkable
from remdm.tokens import end_token

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
_BOULDER = int(Terrain.BOULDER)
_MONSTER = int(Terrain.MONSTER)
_KICK = int(Action.KICK)
_SEARCH = int(Action.SEARCH)
_END = end_token(NUM_ACTIONS)
_DR = DELTAS[:, 0].copy()
_DC = DELTAS[:, 1].copy()
_FIRST_DIAGONAL = 4
# Tokens of the scratch plan that the imaginary agent follows.
_PLAN_LENGTH = 24


@numba.njit(cache=True)
def _look(world: np.ndarray, terrain: np.ndarray, row: int, col: int) -> None:
    """Remember the 3x3 around the agent; a door known to be locked stays so while closed."""
    height, width = world.shape
    if world[row, col] in (_BOULDER, _MONSTER):
        world[row, col] = _FLOOR  # whatever was there gave way to the agent
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
    rng: np.random.Generator,
) -> bool:
    """Try to move; opens or learns of a lock where a door stands. Returns whether it moved."""
    height, width = world.shape
    r, c = row + _DR[direction], col + _DC[direction]
    inside = 0 <= r < height and 0 <= c < width
    diagonal = direction >= _FIRST_DIAGONAL
    if inside and world[r, c] == _CLOSED_DOOR:
        if terrain[r, c] != _LOCKED_DOOR and not diagonal:
            if rng.random() < LOCKED_CHANCE:
                terrain[r, c] = _LOCKED_DOOR
            else:
                world[r, c] = _OPEN_DOOR
        return False  # a door may be another the next time, so the way does not count as blocked
    through_door = inside and diagonal
    through_door = through_door and (world[r, c] == _OPEN_DOOR or world[row, col] == _OPEN_DOOR)
    if inside and walkable(world[r, c]) and not through_door:
        return True
    blocked[row, col] |= np.uint8(1 << direction)
    return False


@numba.njit(cache=True)
def _search(searched: np.ndarray, row: int, col: int) -> None:
    """Count a search that finds nothing."""
    height, width = searched.shape
    for r in range(max(0, row - 1), min(height, row + 2)):
        for c in range(max(0, col - 1), min(width, col + 2)):
            searched[r, c] = min(255, searched[r, c] + 1)


@numba.njit(cache=True)
def _gives_up(plan: np.ndarray, noise: float, rng: np.random.Generator) -> bool:
    """Replace a plan by a random move now and then; returns whether to stop instead of acting."""
    if rng.random() < noise:
        plan[:] = _END
        plan[0] = int(rng.random() * NUM_DIRECTIONS)
    return plan[0] == _SEARCH and rng.random() < STOP_SEARCHING


@numba.njit(cache=True, nogil=True)
def explore(
    world: np.ndarray,
    row: int,
    col: int,
    num_steps: int,
    noise: float,
    rng: np.random.Generator,
    terrain: np.ndarray,
    visited: np.ndarray,
    searched: np.ndarray,
    blocked: np.ndarray,
    position: np.ndarray,
) -> int:
    """Explore `world` from scratch and leave behind the memory of it.

    Args:
        world: uint8 [height, width] of `Terrain`, changed where doors open or things give way.
        row: Row to start from.
        col: Column to start from.
        num_steps: Steps to take; fewer when the stairs would be entered, one more when the last
            step is a kick.
        noise: Chance that a plan is replaced by one random move.
        rng: All chances in here.
        terrain: uint8 [height, width], written; likewise the arrays below, as in an observation.
        visited: int16 [height, width].
        searched: uint8 [height, width].
        blocked: uint8 [height, width].
        position: uint8 [2].

    Returns:
        The number of steps taken.
    """
    terrain[:], visited[:], searched[:], blocked[:] = _UNKNOWN, 0, 0, 0
    queue = np.empty(world.size, np.int32)
    parent = np.empty(world.size, np.int8)
    distance = np.empty(world.size, np.int16)
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
            # A kick needs a direction; one that the plan's length cuts off waits for a new plan.
            if plan[_PLAN_LENGTH - 1] == _KICK:
                plan[_PLAN_LENGTH - 1] = _END
            cursor = 0
            if _gives_up(plan, noise, rng):
                break
        action = plan[cursor]
        cursor += 1
        if action == _SEARCH:
            _search(searched, row, col)
        elif action == _KICK:
            r, c = row + _DR[plan[cursor]], col + _DC[plan[cursor]]
            cursor += 1
            if rng.random() < KICK_CHANCE:
                world[r, c] = _DOORWAY
            step += 1
        elif _move(world, terrain, blocked, row, col, action, rng):
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
