"""Gluing maps that episodes came to know into a larger world to explore in the mind.

No training map is as large as the largest held-out one, so nobody learns there what to do about
a frontier that is far away. A world glued from several training maps has such frontiers.
"""

import numpy as np

from remdm.maps import NUM_TERRAINS, Terrain

# Tries to find a place for another map beside those already there.
PLACING_TRIES = 8
# Share of a map's known cells that may fall on cells already known.
LARGEST_OVERLAP = 0.1

_UNKNOWN = int(Terrain.UNKNOWN)
_PASSABLE = np.ones(NUM_TERRAINS, bool)
_PASSABLE[[Terrain.UNKNOWN, Terrain.WALL, Terrain.HAZARD]] = False


def known_part(terrain: np.ndarray) -> np.ndarray:
    """The smallest rectangle that holds all known cells of `terrain` [height, width]."""
    rows = np.flatnonzero((terrain != _UNKNOWN).any(1))
    columns = np.flatnonzero((terrain != _UNKNOWN).any(0))
    if not len(rows):
        return terrain[:0, :0]
    return terrain[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _random_place(passable: np.ndarray, rng: np.random.Generator) -> tuple[int, int]:
    places = np.argwhere(passable)
    row, column = places[rng.integers(len(places))]
    return int(row), int(column)


def dig(
    world: np.ndarray, start: tuple[int, int], end: tuple[int, int], rng: np.random.Generator
) -> None:
    """Open a way with one bend between two cells, in place; what can be passed stays as it is."""
    (r0, c0), (r1, c1) = start, end
    bend = (r0, c1) if rng.random() < 0.5 else (r1, c0)
    for (ra, ca), (rb, cb) in ((start, bend), (bend, end)):
        way = world[min(ra, rb) : max(ra, rb) + 1, min(ca, cb) : max(ca, cb) + 1]
        way[~_PASSABLE[way]] = Terrain.CORRIDOR


def stitch(maps: list[np.ndarray], height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Lay maps side by side and join each to one that is there already.

    Args:
        maps: uint8 [height, width] of `Terrain` each; what is unknown in all stays unknown.
        height: Rows of the world.
        width: Columns of the world.
        rng: Draws places, mirror images and ways.

    Returns:
        uint8 [height, width]. Maps that find no place are left out.
    """
    world = np.zeros((height, width), np.uint8)
    for terrain in maps:
        part = known_part(terrain)
        part = part[:: rng.choice((1, -1)), :: rng.choice((1, -1))]
        if not part.size or part.shape[0] > height or part.shape[1] > width:
            continue
        for _ in range(PLACING_TRIES):
            top = int(rng.integers(height - part.shape[0] + 1))
            left = int(rng.integers(width - part.shape[1] + 1))
            spot = world[top : top + part.shape[0], left : left + part.shape[1]]
            fresh = (part != _UNKNOWN) & (spot == _UNKNOWN)
            passable = fresh & _PASSABLE[part]
            if fresh.sum() < (1 - LARGEST_OVERLAP) * (part != _UNKNOWN).sum():
                continue
            if not passable.any():
                continue
            before = _PASSABLE[world]
            spot[fresh] = part[fresh]
            if before.any():
                row, column = _random_place(passable, rng)
                dig(world, _random_place(before, rng), (top + row, left + column), rng)
            break
    return world
