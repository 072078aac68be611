"""The encoder's two views against loops over cells."""

import math

import numpy as np
import pytest
import torch

from remdm.maps import DELTAS, Terrain
from remdm.nets.egocentric import (
    COARSE_CHANNELS,
    DOORS,
    NUM_BLOCKED,
    NUM_CELL_CODES,
    NUM_SEARCH_BUCKETS,
    NUM_VISIT_BUCKETS,
    WALKABLE,
    EgocentricFeatures,
    ViewSize,
    egocentric_crop,
    egocentric_features,
    features_by_tensors,
)
from remdm.nets.egocentric_kernel import features_by_kernel
from tests.nets.states import random_states, tensors

SIZES = [ViewSize(), ViewSize(crop=5, coarse_rows=3, coarse_columns=3, block=3)]
MAPS = [(21, 79), (7, 9)]


def slow_features(state: dict[str, np.ndarray], size: ViewSize) -> EgocentricFeatures:
    """One state, cell by cell, from the definitions."""
    terrain, visited, searched, blocked = (
        state[key].astype(int) for key in ("terrain", "visited", "searched", "blocked")
    )
    row, column = state["position"].astype(int)
    step = int(state["step"])
    height, width = terrain.shape

    def on_map(r: int, c: int) -> bool:
        return 0 <= r < height and 0 <= c < width

    def code(r: int, c: int) -> int:
        age = step + 1 - visited[r, c]
        visit = min(7, 1 + int(math.log2(age + 1))) if visited[r, c] else 0
        search = min(5, math.ceil(searched[r, c] / 5))
        into = 0
        for d, (dr, dc) in enumerate(DELTAS.tolist()):
            r0, c0 = r - dr, c - dc
            if on_map(r0, c0) and blocked[r0, c0] >> d & 1:
                into = max(into, 2 if (r0, c0) == (row, column) else 1)
        return ((terrain[r, c] * NUM_VISIT_BUCKETS + visit) * NUM_SEARCH_BUCKETS + search) * (
            NUM_BLOCKED
        ) + into

    cells = np.zeros((size.crop, size.crop), np.int32)
    for i in range(size.crop):
        for j in range(size.crop):
            r, c = row + i - size.crop // 2, column + j - size.crop // 2
            if on_map(r, c):
                cells[i, j] = code(r, c)

    coarse = np.zeros((size.coarse_rows, size.coarse_columns, 6), np.float32)
    for r in range(height):
        for c in range(width):
            i = (r - row + size.block // 2) // size.block + size.coarse_rows // 2
            j = (c - column + size.block // 2) // size.block + size.coarse_columns // 2
            if not (0 <= i < size.coarse_rows and 0 <= j < size.coarse_columns):
                continue
            unvisited = terrain[r, c] in WALKABLE and not visited[r, c]
            beside = [(r + dr, c + dc) for dr, dc in DELTAS.tolist()]
            unknown = any(on_map(*p) and terrain[p] == Terrain.UNKNOWN for p in beside)
            coarse[i, j] += (
                terrain[r, c] == Terrain.WALL,
                visited[r, c] > 0,
                unvisited,
                terrain[r, c] == Terrain.GOAL,
                terrain[r, c] in DOORS,
                unvisited and unknown,
            )
    return EgocentricFeatures(torch.from_numpy(cells), torch.from_numpy(coarse))


@pytest.mark.parametrize("size", SIZES, ids=["default", "small"])
@pytest.mark.parametrize(("height", "width"), MAPS, ids=["minihack", "tiny"])
@pytest.mark.parametrize("fast", [features_by_tensors, features_by_kernel])
def test_views_equal_loops_over_cells(fast, height, width, size):
    states = random_states(6, height=height, width=width)
    made = fast(tensors(states), size)
    for i in range(6):
        wanted = slow_features({key: value[i] for key, value in states.items()}, size)
        assert torch.equal(made.cells[i], wanted.cells)
        assert torch.equal(made.coarse[i], wanted.coarse)


def test_kernel_equals_tensors_on_many_states():
    states = tensors(random_states(200, seed=1))
    by_tensors = features_by_tensors(states, ViewSize())
    by_kernel = features_by_kernel(states, ViewSize())
    assert torch.equal(by_tensors.cells, by_kernel.cells)
    assert torch.equal(by_tensors.coarse, by_kernel.coarse)
    assert by_kernel.cells.min() >= 0
    assert by_kernel.cells.max() < NUM_CELL_CODES


def test_default_coarse_map_holds_every_cell_from_anywhere():
    states = random_states(40, seed=2)
    coarse = egocentric_features(tensors(states), ViewSize()).coarse.sum((1, 2))
    walls = (states["terrain"] == Terrain.WALL).sum((1, 2))
    visits = (states["visited"] > 0).sum((1, 2))
    assert coarse[:, COARSE_CHANNELS.index("wall")].tolist() == walls.tolist()
    assert coarse[:, COARSE_CHANNELS.index("visited")].tolist() == visits.tolist()


def test_coarse_counts_are_exact_under_autocast():
    states = tensors(random_states(4, seed=3))
    plain = features_by_tensors(states, ViewSize())
    with torch.autocast("cpu", torch.bfloat16):
        low = features_by_tensors(states, ViewSize())
    assert torch.equal(plain.coarse, low.coarse)


def test_views_move_with_the_agent():
    """The same surroundings elsewhere on the map give the same crop."""
    states = random_states(2, seed=4, height=9, width=9)
    states["position"][:] = 4, 4
    wide = random_states(2, seed=5, height=21, width=40)
    for key in ("terrain", "visited", "searched", "blocked"):
        wide[key][:] = 0
        wide[key][:, 8:17, 20:29] = states[key]
    wide["position"][:] = 12, 24
    wide["step"][:] = states["step"]
    size = ViewSize(crop=7)
    here = egocentric_features(tensors(states), size)
    there = egocentric_features(tensors(wide), size)
    assert torch.equal(here.cells, there.cells)


def test_crop_shows_the_outside_value_beyond_the_edge():
    values = torch.arange(1, 7).view(1, 2, 3)
    crop = egocentric_crop(values, torch.tensor([[0, 0]], dtype=torch.uint8), 3, outside=13)
    assert crop.tolist() == [[[13, 13, 13], [13, 1, 2], [13, 4, 5]]]
