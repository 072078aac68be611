"""Follows plans over remembered maps, compiled; see `planning_constraints.hazardous_moves`."""

import numba
import numpy as np

from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, NUM_TERRAINS, Action, Terrain

_WALL = int(Terrain.WALL)
_OPEN_DOOR = int(Terrain.OPEN_DOOR)
_CLOSED_DOOR = int(Terrain.CLOSED_DOOR)
_KICK = int(Action.KICK)
_OPEN = int(Action.OPEN)
_FIRST_DIAGONAL = int(Action.NORTHEAST)
_ROW = DELTAS[:, 0].copy()
_COLUMN = DELTAS[:, 1].copy()
_NO_ENTRY = np.zeros(NUM_TERRAINS, np.bool_)
_NO_ENTRY[[Terrain.WALL, Terrain.LOCKED_DOOR, Terrain.HAZARD]] = True
_DOOR = np.zeros(NUM_TERRAINS, np.bool_)
_DOOR[[Terrain.OPEN_DOOR, Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR]] = True


@numba.njit(cache=True)
def _seen(terrain: np.ndarray, row: int, column: int, opened: np.ndarray, count: int) -> int:
    """What is at a cell, with the doors that the plan has opened so far; off the map are walls."""
    height, width = terrain.shape
    if not (0 <= row < height and 0 <= column < width):
        return _WALL
    for i in range(count):
        if opened[i, 0] == row and opened[i, 1] == column:
            return _OPEN_DOOR
    return terrain[row, column]


@numba.njit(cache=True)
def _judge_plan(
    terrain: np.ndarray, row: int, column: int, tokens: np.ndarray, hazardous: np.ndarray
) -> None:
    """One plan of `judge`."""
    opened = np.empty((len(tokens), 2), np.int64)
    num_opened = 0
    before = -1
    for h in range(len(tokens)):
        token = tokens[h]
        if token >= NUM_ACTIONS:
            return
        if token < NUM_DIRECTIONS:
            to_row, to_column = row + _ROW[token], column + _COLUMN[token]
            there = _seen(terrain, to_row, to_column, opened, num_opened)
            here = _seen(terrain, row, column, opened, num_opened)
            aimed = before in (_KICK, _OPEN)
            crooked = token >= _FIRST_DIAGONAL and (_DOOR[there] or _DOOR[here])
            if not aimed and (_NO_ENTRY[there] or crooked):
                hazardous[h] = True
            elif (aimed and _DOOR[there]) or there == _CLOSED_DOOR:
                opened[num_opened] = to_row, to_column
                num_opened += 1
            elif not aimed:
                row, column = to_row, to_column
        before = token


@numba.njit(cache=True)
def judge(
    terrain: np.ndarray, position: np.ndarray, tokens: np.ndarray, hazardous: np.ndarray
) -> None:
    """Mark the moves that fail or harm.

    Args:
        terrain: uint8 [B, h, w].
        position: int64 [B, 2].
        tokens: int64 [B, H].
        hazardous: bool [B, H], all False; written.
    """
    for b in range(len(tokens)):
        _judge_plan(terrain[b], position[b, 0], position[b, 1], tokens[b], hazardous[b])
