"""Breadth-first search over a remembered map, compiled.

One call labels one observation with a whole plan, up to the first event whose outcome the agent
cannot know: the edge of what it has seen, a door that may be locked, a search that may find
nothing. The order of preference is

1. walk to the stairs, if a way is known;
2. go to the nearest place never visited that borders the unknown, or to the nearest closed door
   (a locked one is kicked, which costs `LOCKED_COST` extra steps on average);
3. search for hidden passages where finds per turn are expected to be highest.

Moves are eight-connected; nobody passes a door diagonally, and a way that failed once is not
tried again (`blocked`).
"""

import numba
import numpy as np

from remdm.maps import DELTAS, NUM_DIRECTIONS, Action, Terrain

# Expected extra steps for getting through a locked door by kicking.
LOCKED_COST = 6
# Turns spent on one visit to a search place before the map is looked at again.
SEARCH_TURNS = 5
# Chance that something hidden lies at a neighbouring cell, by what is known of it.
PRIOR_DOOR = 0.3  # the unknown in front of a door: something must lead there
PRIOR_WALL = 0.02  # a wall with the unknown behind it
PRIOR_DEAD_END = 0.12  # the unknown beside the end of a corridor
PRIOR_CORRIDOR = 0.003  # the unknown beside any other corridor cell
# An adjacent hidden thing is missed with this probability per turn of searching.
MISS = 6.0 / 7.0
# Turns that a visit to a search place costs beside the walk; weighs distance against hope.
SEARCH_OVERHEAD = 7.0

_UNKNOWN = int(Terrain.UNKNOWN)
_WALL = int(Terrain.WALL)
_CORRIDOR = int(Terrain.CORRIDOR)
_OPEN_DOOR = int(Terrain.OPEN_DOOR)
_CLOSED_DOOR = int(Terrain.CLOSED_DOOR)
_LOCKED_DOOR = int(Terrain.LOCKED_DOOR)
_GOAL = int(Terrain.GOAL)
_HAZARD = int(Terrain.HAZARD)
_KICK = int(Action.KICK)
_SEARCH = int(Action.SEARCH)
_DR = DELTAS[:, 0].copy()
_DC = DELTAS[:, 1].copy()
_FIRST_DIAGONAL = 4
_FAR = 1 << 30
# The eight directions in the order they lie around a cell.
_RING = np.array([0, 4, 1, 5, 2, 6, 3, 7])
_MISS_POWERS = MISS ** np.arange(256)


@numba.njit(cache=True, inline="always")
def walkable(terrain: int) -> bool:
    """Whether a remembered cell can be entered and passed."""
    return terrain not in (_UNKNOWN, _WALL, _CLOSED_DOOR, _LOCKED_DOOR, _HAZARD)


@numba.njit(cache=True, inline="always")
def borders_unknown(terrain: np.ndarray, row: int, col: int) -> bool:
    """Whether one of the eight neighbours was never seen; the map's edge does not count."""
    height, width = terrain.shape
    for d in range(NUM_DIRECTIONS):
        r, c = row + _DR[d], col + _DC[d]
        if 0 <= r < height and 0 <= c < width and terrain[r, c] == _UNKNOWN:
            return True
    return False


@numba.njit(cache=True, inline="always")
def _contains(terrain: np.ndarray, kind: int) -> bool:
    found = False  # no early way out, so that the loop is vectorised
    for r in range(terrain.shape[0]):
        for c in range(terrain.shape[1]):
            found |= terrain[r, c] == kind
    return found


@numba.njit(cache=True)
def _is_door(terrain: int) -> bool:
    return terrain in (_OPEN_DOOR, _CLOSED_DOOR, _LOCKED_DOOR)


@numba.njit(cache=True)
def _ways_out(terrain: np.ndarray, row: int, col: int) -> int:
    """Number of separate ways that lead away from a cell; neighbours in touch are one way."""
    height, width = terrain.shape
    ways = 0
    r, c = row + _DR[_RING[-1]], col + _DC[_RING[-1]]
    before = 0 <= r < height and 0 <= c < width
    before = before and (walkable(terrain[r, c]) or _is_door(terrain[r, c]))
    for d in _RING:
        r, c = row + _DR[d], col + _DC[d]
        is_open = 0 <= r < height and 0 <= c < width
        is_open = is_open and (walkable(terrain[r, c]) or _is_door(terrain[r, c]))
        if is_open and not before:
            ways += 1
        before = is_open
    return ways


@numba.njit(cache=True)
def _before_door(terrain: np.ndarray, row: int, col: int) -> bool:
    """Whether a door lies straight beside a cell."""
    height, width = terrain.shape
    for d in range(_FIRST_DIAGONAL):
        r, c = row + _DR[d], col + _DC[d]
        if 0 <= r < height and 0 <= c < width and _is_door(terrain[r, c]):
            return True
    return False


@numba.njit(cache=True)
def _search_gain(terrain: np.ndarray, searched: np.ndarray, row: int, col: int) -> float:
    """Expected finds of one search at (row, col), given the searches already made."""
    height, width = terrain.shape
    on_corridor = terrain[row, col] == _CORRIDOR
    dead_end = _ways_out(terrain, row, col) <= 1
    gain = 0.0
    for d in range(NUM_DIRECTIONS):
        r, c = row + _DR[d], col + _DC[d]
        if not (0 <= r < height and 0 <= c < width):
            continue
        prior = 0.0
        if terrain[r, c] == _WALL:
            r2, c2 = r + _DR[d], c + _DC[d]
            if 0 <= r2 < height and 0 <= c2 < width and terrain[r2, c2] == _UNKNOWN:
                prior = PRIOR_WALL
        elif terrain[r, c] == _UNKNOWN:
            if _before_door(terrain, r, c):
                prior = PRIOR_DOOR
            elif dead_end:
                prior = PRIOR_DEAD_END
            elif on_corridor:
                prior = PRIOR_CORRIDOR
        gain += prior * _MISS_POWERS[searched[r, c]]
    return gain


@numba.njit(cache=True)
def write_path(parent: np.ndarray, start: int, target: int, width: int, plan: np.ndarray) -> int:
    """Write the moves from start to target into `plan`; returns how many there are in all."""
    length = 0
    cell = target
    while cell != start:
        d = parent[cell]
        cell -= _DR[d] * width + _DC[d]
        length += 1
    cell = target
    for i in range(length - 1, -1, -1):
        d = parent[cell]
        if i < plan.shape[0]:
            plan[i] = d
        cell -= _DR[d] * width + _DC[d]
    return length


@numba.njit(cache=True)
def _write_door(plan: np.ndarray, length: int, direction: int, locked: bool) -> None:
    """Walk into a closed door, or kick a locked one, after `length` moves."""
    if locked:
        if length < plan.shape[0]:
            plan[length] = _KICK
        length += 1
    if length < plan.shape[0]:
        plan[length] = direction


@numba.njit(cache=True, inline="always")
def _spread(
    terrain: np.ndarray,
    blocked: np.ndarray,
    cell: int,
    queue: np.ndarray,
    tail: int,
    parent: np.ndarray,
    distance: np.ndarray,
) -> int:
    """Put the cells that can be entered from `cell` into the queue; returns its new length."""
    height, width = terrain.shape
    row, col = cell // width, cell % width
    in_door = terrain[row, col] == _OPEN_DOOR
    for d in range(NUM_DIRECTIONS):
        r, c = row + _DR[d], col + _DC[d]
        neighbour = cell + _DR[d] * width + _DC[d]
        if not (0 <= r < height and 0 <= c < width) or distance[neighbour] >= 0:
            continue
        if not walkable(terrain[r, c]) or (blocked[row, col] >> d) & 1:
            continue
        if d >= _FIRST_DIAGONAL and (in_door or terrain[r, c] == _OPEN_DOOR):
            continue
        distance[neighbour] = distance[cell] + 1
        parent[neighbour] = d
        queue[tail] = neighbour
        tail += 1
    return tail


@numba.njit(cache=True, inline="always")
def _door_beside(terrain: np.ndarray, blocked: np.ndarray, row: int, col: int) -> tuple[int, int]:
    """Direction of the cheapest shut door beside a cell, or -1, and its cost in steps."""
    height, width = terrain.shape
    best, best_cost = -1, _FAR
    for d in range(_FIRST_DIAGONAL):
        r, c = row + _DR[d], col + _DC[d]
        if (blocked[row, col] >> d) & 1 or not (0 <= r < height and 0 <= c < width):
            continue
        there = terrain[r, c]
        if there in (_CLOSED_DOOR, _LOCKED_DOOR):
            cost = 1 if there == _CLOSED_DOOR else 1 + LOCKED_COST
            if cost < best_cost:
                best, best_cost = d, cost
    return best, best_cost


@numba.njit(cache=True)
def _nearest(
    terrain: np.ndarray,
    visited: np.ndarray,
    blocked: np.ndarray,
    start: int,
    queue: np.ndarray,
    parent: np.ndarray,
    distance: np.ndarray,
) -> tuple[int, int, int]:
    """Search from `start` for the stairs, else the nearest frontier or shut door.

    Returns:
        The cell to walk to, or -1; the direction of the door to try from there, or -1; the
        number of cells reached (they fill the front of `queue`).
    """
    width = terrain.shape[1]
    goal_known = _contains(terrain, _GOAL)
    distance[:] = -1
    distance[start] = 0
    queue[0] = start
    head, tail = 0, 1
    target, target_cost, door = -1, _FAR, -1
    while head < tail:
        cell = queue[head]
        head += 1
        row, col, steps = cell // width, cell % width, int(distance[cell])
        if terrain[row, col] == _GOAL and cell != start:
            return cell, -1, tail
        if steps < target_cost:
            if cell != start and visited[row, col] == 0 and borders_unknown(terrain, row, col):
                target, target_cost, door = cell, steps, -1
            direction, cost = _door_beside(terrain, blocked, row, col)
            if steps + cost < target_cost:
                target, target_cost, door = cell, steps + cost, direction
        if steps >= target_cost and not goal_known:
            break
        tail = _spread(terrain, blocked, cell, queue, tail, parent, distance)
    return target, door, tail


@numba.njit(cache=True)
def label_map(
    terrain: np.ndarray,
    visited: np.ndarray,
    searched: np.ndarray,
    blocked: np.ndarray,
    row: int,
    col: int,
    end: int,
    plan: np.ndarray,
    queue: np.ndarray,
    parent: np.ndarray,
    distance: np.ndarray,
) -> None:
    """Write the plan for one remembered map.

    Args:
        terrain: uint8 [height, width] of `Terrain`.
        visited: int16 [height, width]; 0 where the agent never was.
        searched: uint8 [height, width].
        blocked: uint8 [height, width] of direction bits.
        row: Row of the agent.
        col: Column of the agent.
        end: The END token.
        plan: int8 [plan_horizon], written: actions, then END to the last position.
        queue: int32 [height * width] scratch.
        parent: int8 [height * width] scratch.
        distance: int16 [height * width] scratch.
    """
    width = terrain.shape[1]
    plan[:] = end
    start = row * width + col
    target, door, reached = _nearest(terrain, visited, blocked, start, queue, parent, distance)
    if target < 0:
        _search_plan(terrain, searched, start, reached, plan, queue, parent, distance)
        return
    length = write_path(parent, start, target, width, plan)
    if door >= 0:
        r, c = target // width + _DR[door], target % width + _DC[door]
        _write_door(plan, length, door, terrain[r, c] == _LOCKED_DOOR)


@numba.njit(cache=True)
def _search_plan(
    terrain: np.ndarray,
    searched: np.ndarray,
    start: int,
    reached: int,
    plan: np.ndarray,
    queue: np.ndarray,
    parent: np.ndarray,
    distance: np.ndarray,
) -> None:
    """Walk to the reachable place with the best expected finds per turn, and search there."""
    width = terrain.shape[1]
    best, target = -1.0, start
    for i in range(reached):
        cell = queue[i]
        gain = _search_gain(terrain, searched, cell // width, cell % width)
        value = gain / (distance[cell] + SEARCH_OVERHEAD)
        if value > best:
            best, target = value, cell
    length = write_path(parent, start, target, width, plan)
    for i in range(length, min(length + SEARCH_TURNS, plan.shape[0])):
        plan[i] = _SEARCH


@numba.njit(cache=True, nogil=True)
def label_maps(
    terrain: np.ndarray,
    visited: np.ndarray,
    searched: np.ndarray,
    blocked: np.ndarray,
    position: np.ndarray,
    end: int,
    plans: np.ndarray,
) -> None:
    """`label_map` for T observations; arrays have a leading T, `plans` is int8 [T, horizon]."""
    size = terrain.shape[1] * terrain.shape[2]
    queue = np.empty(size, np.int32)
    parent = np.empty(size, np.int8)
    distance = np.empty(size, np.int16)
    for i in range(terrain.shape[0]):
        label_map(
            terrain[i],
            visited[i],
            searched[i],
            blocked[i],
            int(position[i, 0]),
            int(position[i, 1]),
            end,
            plans[i],
            queue,
            parent,
            distance,
        )
