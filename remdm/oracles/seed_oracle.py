"""The oracle of the published MiniHack planner, for comparison.

It has no memory and moves in four directions only. What it sees as frontier (any reachable cell
beside a blank one) never expires next to solid rock, so it walks to and fro there: it wins 0.73
of the training maps and 0.08 of the held-out ones. One thing is mended: its "kick" pressed a key
that was no kick in any of its environments; ours kicks, and says in which direction.
"""

from functools import cache

import gin
import numba
import numpy as np

from remdm.maps import DELTAS, NUM_ACTIONS, NUM_TERRAINS, Action, Terrain
from remdm.oracles.contract import Oracle
from remdm.oracles.search import write_path
from remdm.tokens import end_token

_UNKNOWN = int(Terrain.UNKNOWN)
_CLOSED = int(Terrain.CLOSED_DOOR)
_GOAL = int(Terrain.GOAL)
_KICK = int(Action.KICK)
_CARDINALS = 4
_DR = DELTAS[:_CARDINALS, 0].copy()
_DC = DELTAS[:_CARDINALS, 1].copy()
# What the published oracle walks on. An open door is drawn like a wall, so it counts as one.
_WALKABLE = np.ones(NUM_TERRAINS, np.bool_)
_WALKABLE[[_UNKNOWN, int(Terrain.WALL), int(Terrain.OPEN_DOOR), _CLOSED, int(Terrain.HAZARD)]] = 0


@gin.configurable(module="remdm")
class SeedOracle(Oracle):
    """Five tiers over the symbols shown now: kick, stairs, frontier, farthest cell, random.

    The published oracle decides anew at every step; so should who acts by it (`replan_every` 1).
    Its random tier is drawn from the position and the step, which keeps labels a function of the
    observation.
    """

    name = "seed"
    version = 1

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.label`; every observation gets a plan of weight 1."""
        seen = np.ascontiguousarray(seen_terrain(observations["glyphs"]))
        position = observations["position"].astype(np.int64)
        step = observations["step"].astype(np.int64)
        chance = (step * 7919 + position[:, 0] * 31 + position[:, 1]) % _CARDINALS
        plans = np.empty((len(seen), plan_horizon), np.int8)
        _label_all(seen, position, chance, end_token(NUM_ACTIONS), plans)
        return plans, np.ones(len(seen), np.float32)


def seen_terrain(glyphs: np.ndarray) -> np.ndarray:
    """Terrain shown now, uint8 like `glyphs`; a gridworld's symbols are terrain codes already."""
    if glyphs.max(initial=0) < NUM_TERRAINS:
        return glyphs.astype(np.uint8)
    return _glyph_table()[glyphs]


@cache
def _glyph_table() -> np.ndarray:
    from remdm.envs.nethack_glyphs import glyph_terrain
    from remdm.registry import import_extra

    return glyph_terrain(import_extra("nle.nethack", "minihack"))


@numba.njit(cache=True)
def _closed_door_beside(seen: np.ndarray, row: int, col: int) -> int:
    """Direction of the first closed door straight beside a cell, or -1."""
    height, width = seen.shape
    for d in range(_CARDINALS):
        r, c = row + _DR[d], col + _DC[d]
        if 0 <= r < height and 0 <= c < width and seen[r, c] == _CLOSED:
            return d
    return -1


@numba.njit(cache=True)
def _destination(
    seen: np.ndarray, start: int, queue: np.ndarray, parent: np.ndarray, depth: np.ndarray
) -> int:
    """The stairs, else the nearest cell beside a blank one, else the farthest, else -1."""
    height, width = seen.shape
    depth[:] = -1
    depth[start] = 0
    queue[0] = start
    head, tail = 0, 1
    frontier, farthest, farthest_depth = -1, -1, 0
    while head < tail:
        cell = queue[head]
        head += 1
        row, col = cell // width, cell % width
        if seen[row, col] == _GOAL and cell != start:
            return cell
        if depth[cell] > farthest_depth:
            farthest, farthest_depth = cell, depth[cell]
        for d in range(_CARDINALS):
            r, c = row + _DR[d], col + _DC[d]
            if not (0 <= r < height and 0 <= c < width):
                continue
            if frontier < 0 and cell != start and seen[r, c] == _UNKNOWN:
                frontier = cell
            neighbour = r * width + c
            if depth[neighbour] < 0 and _WALKABLE[seen[r, c]]:
                depth[neighbour] = depth[cell] + 1
                parent[neighbour] = d
                queue[tail] = neighbour
                tail += 1
    return frontier if frontier >= 0 else farthest


@numba.njit(cache=True, nogil=True)
def _label_all(
    seen: np.ndarray, position: np.ndarray, chance: np.ndarray, end: int, plans: np.ndarray
) -> None:
    """Write the plans of T observations; arrays have a leading T, `plans` is int8 [T, horizon]."""
    width = seen.shape[2]
    size = seen.shape[1] * width
    queue = np.empty(size, np.int32)
    parent = np.empty(size, np.int8)
    depth = np.empty(size, np.int16)
    plans[:] = end
    for i in range(seen.shape[0]):
        row, col, plan = position[i, 0], position[i, 1], plans[i]
        door = _closed_door_beside(seen[i], row, col)
        if door >= 0:
            plan[0] = _KICK
            plan[1:2] = door
            continue
        start = row * width + col
        target = _destination(seen[i], start, queue, parent, depth)
        if target >= 0:
            write_path(parent, start, target, width, plan)
        else:
            plan[0] = chance[i]
