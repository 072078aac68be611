"""Plans that go on after the first uncertain event, compiled.

`search.label_map` stops where the agent cannot know what comes next. Here it is asked again and
again, on a copy of the memory, under one assumption: what was walked to taught nothing. A place at
the edge of the known map then counts as visited, a closed door as a wall, and a search has found
nothing. So a tour visits one frontier after the other, nearest first, until the plan is full.

It ends before that in two cases: at the stairs, where nothing is left to do, and after a kick. A
kick needs its direction, and mostly several tries, so nobody plans on behind one; a kick whose
direction would not fit is left out.

Numba tells by the age of this file whether its compiled code is still good. After a change to
`remdm.oracles.search`, which is compiled into it, touch it.
"""

import numba
import numpy as np

from remdm.maps import DELTAS, Action, Terrain
from remdm.oracles.search import label_map

_WALL = int(Terrain.WALL)
_CLOSED_DOOR = int(Terrain.CLOSED_DOOR)
_GOAL = int(Terrain.GOAL)
_KICK = int(Action.KICK)
_SEARCH = int(Action.SEARCH)
_DR = DELTAS[:, 0].copy()
_DC = DELTAS[:, 1].copy()
_MOST_SEARCHES = 255


@numba.njit(cache=True)
def _search_in_vain(searched: np.ndarray, row: int, col: int) -> None:
    """Count one search, as the memory does."""
    height, width = searched.shape
    for r in range(max(row - 1, 0), min(row + 2, height)):
        for c in range(max(col - 1, 0), min(col + 2, width)):
            if searched[r, c] < _MOST_SEARCHES:
                searched[r, c] += 1


@numba.njit(cache=True)
def tour_map(
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
    """Write the tour for one remembered map; arguments as of `search.label_map`.

    `terrain`, `visited` and `searched` are changed: hand in copies.
    """
    horizon = plan.shape[0]
    plan[:] = end
    length = 0
    while length < horizon:
        leg = length
        label_map(
            terrain, visited, searched, blocked, row, col, end, plan[leg:], queue, parent, distance
        )
        while length < horizon and plan[length] != end:
            token = plan[length]
            if token == _KICK:
                if length + 1 == horizon:
                    plan[length] = end
                return
            length += 1
            if token == _SEARCH:
                _search_in_vain(searched, row, col)
                continue
            r, c = row + _DR[token], col + _DC[token]
            if terrain[r, c] == _CLOSED_DOOR:
                terrain[r, c] = _WALL
            else:
                row, col = r, c
        visited[row, col] = 1
        if length == leg or terrain[row, col] == _GOAL:
            return


@numba.njit(cache=True, nogil=True)
def tour_maps(
    terrain: np.ndarray,
    visited: np.ndarray,
    searched: np.ndarray,
    blocked: np.ndarray,
    position: np.ndarray,
    end: int,
    plans: np.ndarray,
) -> None:
    """`tour_map` for T observations, which stay as they are; arguments as of `label_maps`."""
    size = terrain.shape[1] * terrain.shape[2]
    queue = np.empty(size, np.int32)
    parent = np.empty(size, np.int8)
    distance = np.empty(size, np.int16)
    for i in range(terrain.shape[0]):
        tour_map(
            terrain[i].copy(),
            visited[i].copy(),
            searched[i].copy(),
            blocked[i].copy(),
            int(position[i, 0]),
            int(position[i, 1]),
            end,
            plans[i],
            queue,
            parent,
            distance,
        )
