"""The egocentric views in one compiled pass per state, for observations in CPU memory.

Same numbers as `remdm.nets.egocentric.features_by_tensors` (a test compares them cell by cell).
"""

import numba
import numpy as np
import torch
from torch import Tensor

from remdm.maps import DELTAS, NUM_DIRECTIONS, Terrain
from remdm.nets.egocentric import (
    DOORS,
    NUM_BLOCKED,
    NUM_COARSE_CHANNELS,
    NUM_SEARCH_BUCKETS,
    NUM_VISIT_BUCKETS,
    SEARCHES_PER_BUCKET,
    WALKABLE,
    EgocentricFeatures,
    ViewSize,
    terrain_flags,
)

_UNKNOWN = int(Terrain.UNKNOWN)
_WALL = int(Terrain.WALL)
_GOAL = int(Terrain.GOAL)
_IS_WALKABLE = terrain_flags(WALKABLE)
_IS_DOOR = terrain_flags(DOORS)
_ROW = DELTAS[:, 0].copy()
_COLUMN = DELTAS[:, 1].copy()
_LAST_VISIT_BUCKET = NUM_VISIT_BUCKETS - 1
_LAST_SEARCH_BUCKET = NUM_SEARCH_BUCKETS - 1


@numba.njit(cache=True)
def _cell_code(terrain: int, visited: int, searched: int, step: int) -> int:
    """Code of a cell into which no move has failed."""
    bucket = 0
    if visited > 0:
        bucket = 1
        age = step + 2 - visited
        while age >= 2 and bucket < _LAST_VISIT_BUCKET:
            age >>= 1
            bucket += 1
    coverage = (searched + SEARCHES_PER_BUCKET - 1) // SEARCHES_PER_BUCKET
    coverage = min(coverage, _LAST_SEARCH_BUCKET)
    return ((terrain * NUM_VISIT_BUCKETS + bucket) * NUM_SEARCH_BUCKETS + coverage) * NUM_BLOCKED


@numba.njit(cache=True)
def _borders_unknown(terrain: np.ndarray, row: int, column: int) -> bool:
    height, width = terrain.shape
    for d in range(NUM_DIRECTIONS):
        r, c = row + _ROW[d], column + _COLUMN[d]
        if 0 <= r < height and 0 <= c < width and terrain[r, c] == _UNKNOWN:
            return True
    return False


@numba.njit(cache=True)
def _fill_cells(
    row: int,
    column: int,
    step: int,
    terrain: np.ndarray,
    visited: np.ndarray,
    searched: np.ndarray,
    blocked: np.ndarray,
    cells: np.ndarray,
) -> None:
    """Write the crop of one state into a zeroed array."""
    height, width = terrain.shape
    size = cells.shape[0]
    top, left = row - size // 2, column - size // 2
    for r in range(max(0, top), min(height, top + size)):
        for c in range(max(0, left), min(width, left + size)):
            kind, seen, tries = int(terrain[r, c]), int(visited[r, c]), int(searched[r, c])
            if kind | seen | tries:
                cells[r - top, c - left] = _cell_code(kind, seen, tries, step)
    # A failed move out of the ring around the crop can point into it.
    for r in range(max(0, top - 1), min(height, top + size + 1)):
        for c in range(max(0, left - 1), min(width, left + size + 1)):
            bits = int(blocked[r, c])
            if bits == 0:
                continue
            level = 2 if r == row and c == column else 1
            for d in range(NUM_DIRECTIONS):
                i, j = r + _ROW[d], c + _COLUMN[d]
                on_map = 0 <= i < height and 0 <= j < width
                i, j = i - top, j - left
                if (bits >> d) & 1 and on_map and 0 <= i < size and 0 <= j < size:
                    code = cells[i, j]
                    cells[i, j] = code + max(0, level - code % NUM_BLOCKED)


@numba.njit(cache=True)
def _fill_coarse(
    row: int, column: int, block: int, terrain: np.ndarray, visited: np.ndarray, coarse: np.ndarray
) -> None:
    """Count the cells of one state into a zeroed array."""
    height, width = terrain.shape
    blocks_down, blocks_across = coarse.shape[0], coarse.shape[1]
    top = row - block // 2 - block * (blocks_down // 2)
    left = column - block // 2 - block * (blocks_across // 2)
    for r in range(max(0, top), min(height, top + block * blocks_down)):
        i = (r - top) // block
        for c in range(max(0, left), min(width, left + block * blocks_across)):
            kind = int(terrain[r, c])
            seen = visited[r, c] > 0
            if kind == _UNKNOWN and not seen:
                continue
            counts = coarse[i, (c - left) // block]
            if kind == _WALL:
                counts[0] += 1
            if seen:
                counts[1] += 1
            elif _IS_WALKABLE[kind]:
                counts[2] += 1
                if _borders_unknown(terrain, r, c):
                    counts[5] += 1
            if kind == _GOAL:
                counts[3] += 1
            if _IS_DOOR[kind]:
                counts[4] += 1


@numba.njit(cache=True)
def _fill(
    position: np.ndarray,
    step: np.ndarray,
    terrain: np.ndarray,
    visited: np.ndarray,
    searched: np.ndarray,
    blocked: np.ndarray,
    block: int,
    cells: np.ndarray,
    coarse: np.ndarray,
) -> None:
    """Write the features of every state into zeroed arrays."""
    for b in range(len(terrain)):
        row, column = int(position[b, 0]), int(position[b, 1])
        _fill_cells(
            row, column, int(step[b]), terrain[b], visited[b], searched[b], blocked[b], cells[b]
        )
        _fill_coarse(row, column, block, terrain[b], visited[b], coarse[b])


def features_by_kernel(observations: dict[str, Tensor], size: ViewSize) -> EgocentricFeatures:
    """Both egocentric views of a batch of CPU observations."""
    batch = len(observations["terrain"])
    cells = np.zeros((batch, size.crop, size.crop), np.int32)
    coarse = np.zeros(
        (batch, size.coarse_rows, size.coarse_columns, NUM_COARSE_CHANNELS), np.float32
    )
    keys = ("position", "step", "terrain", "visited", "searched", "blocked")
    position, step, terrain, visited, searched, blocked = (
        np.ascontiguousarray(observations[key].numpy()) for key in keys
    )
    _fill(position, step, terrain, visited, searched, blocked, size.block, cells, coarse)
    return EgocentricFeatures(torch.from_numpy(cells), torch.from_numpy(coarse))
