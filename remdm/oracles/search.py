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
# The eight directions in the order they lie around a cell.
_RING = np.array([0, 4, 1, 5, 2, 6, 3, 7])
_MISS_POWERS = MISS ** np.arange(256)


@numba.njit(cache=True)
def walkable(terrain: int) -> bool:
    """Whether a remembered cell can be entered and passed."""
    return not (
        terrain == _UNKNOWN
        or terrain == _WALL
        or terrain == _CLOSED_DOOR
        or terrain == _LOCKED_DOOR
        or terrain == _HAZARD
    )


@numba.njit(cache=True)
def borders_unknown(terrain: np.ndarray, row: int, col: int) -> bool:
    """Whether one of the eight neighbours was never seen; the map's edge does not count."""
    height, width = terrain.shape
    for d in range(NUM_DIRECTIONS):
        r, c = row + _DR[d], col + _DC[d]
        if 0 <= r < height and 0 <= c < width and terrain[r, c] == _UNKNOWN:
            return True
    return False


@numba.njit(cache=True)
def _is_door(terrain: int) -> bool:
    return terrain == _OPEN_DOOR or terrain == _CLOSED_DOOR or terrain == _LOCKED_DOOR


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
def _write_path(
    parent: np.ndarray, start: int, target: int, width: int, plan: np.ndarray
) -> int:
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
    height, width = terrain.shape
    plan[:] = end
    distance[:] = -1
    goal_known = False
    for r in range(height):
        for c in range(width):
            if terrain[r, c] == _GOAL:
                goal_known = True
    start = row * width + col
    queue[0] = start
    distance[start] = 0
    head, tail = 0, 1
    target = -1  # cell to walk to
    target_cost = 1 << 30
    final_action = -1  # direction of a closed door beside the target, or -1
    kick = False
    while head < tail:
        cell = queue[head]
        head += 1
        r, c = cell // width, cell % width
        here = terrain[r, c]
        steps = distance[cell]
        if here == _GOAL and cell != start:
            target, final_action, kick = cell, -1, False
            break
        if steps >= target_cost and not goal_known:
            break
        if (
            steps < target_cost
            and cell != start
            and visited[r, c] == 0
            and borders_unknown(terrain, r, c)
        ):
            target, target_cost, final_action, kick = cell, steps, -1, False
            if not goal_known:
                break
        in_door = here == _OPEN_DOOR
        for d in range(NUM_DIRECTIONS):
            diagonal = d >= _FIRST_DIAGONAL
            if (diagonal and in_door) or (blocked[r, c] >> d) & 1:
                continue
            nr, nc = r + _DR[d], c + _DC[d]
            if not (0 <= nr < height and 0 <= nc < width):
                continue
            there = terrain[nr, nc]
            if there == _CLOSED_DOOR or there == _LOCKED_DOOR:
                locked = there == _LOCKED_DOOR
                cost = steps + 1 + (LOCKED_COST if locked else 0)
                if not diagonal and cost < target_cost:
                    target, target_cost, final_action, kick = cell, cost, d, locked
                continue
            neighbour = nr * width + nc
            if distance[neighbour] >= 0 or not walkable(there):
                continue
            if diagonal and there == _OPEN_DOOR:
                continue
            distance[neighbour] = steps + 1
            parent[neighbour] = d
            queue[tail] = neighbour
            tail += 1
    if target >= 0:
        length = _write_path(parent, start, target, width, plan)
        if final_action >= 0:
            if kick:
                if length < plan.shape[0]:
                    plan[length] = _KICK
                length += 1
            if length < plan.shape[0]:
                plan[length] = final_action
        return
    _search_plan(terrain, searched, start, tail, plan, queue, parent, distance)


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
    length = _write_path(parent, start, target, width, plan)
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
