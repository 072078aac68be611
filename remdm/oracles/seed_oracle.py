"""The oracle of the published MiniHack planner, for comparison.

It has no memory and moves in four directions only. What it sees as frontier (any reachable cell
beside a blank one) never expires next to solid rock, so it walks to and fro there: it wins 0.73
of the training maps and 0.08 of the held-out ones. One thing is mended: its "kick" pressed a key
that was no kick in any of its environments; ours kicks, and says in which direction.
"""

import gin
import numba
import numpy as np

from remdm.maps import DELTAS, NUM_ACTIONS, NUM_TERRAINS, Action, Terrain
from remdm.oracles.contract import Oracle
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


@numba.njit(cache=True)
def _label_seen(
    seen: np.ndarray, row: int, col: int, chance: int, end: int, plan: np.ndarray
) -> None:
    """The five tiers: kick, stairs, frontier, farthest cell, random."""
    height, width = seen.shape
    plan[:] = end
    for d in range(_CARDINALS):
        r, c = row + _DR[d], col + _DC[d]
        if 0 <= r < height and 0 <= c < width and seen[r, c] == _CLOSED:
            plan[0] = _KICK
            if plan.shape[0] > 1:
                plan[1] = d
            return
    parent = np.full(height * width, -1, np.int8)
    queue = np.empty(height * width, np.int32)
    start = row * width + col
    parent[start] = _CARDINALS
    queue[0] = start
    head, tail = 0, 1
    target, frontier = -1, -1
    farthest, depth_end, depth, farthest_depth = -1, 1, 0, 0
    while head < tail:
        if head == depth_end:
            depth += 1
            depth_end = tail
        cell = queue[head]
        head += 1
        r, c = cell // width, cell % width
        if seen[r, c] == _GOAL and cell != start:
            target = cell
            break
        if depth > farthest_depth:
            farthest, farthest_depth = cell, depth
        for d in range(_CARDINALS):
            nr, nc = r + _DR[d], c + _DC[d]
            if not (0 <= nr < height and 0 <= nc < width):
                continue
            if frontier < 0 and cell != start and seen[nr, nc] == _UNKNOWN:
                frontier = cell
            neighbour = nr * width + nc
            if parent[neighbour] < 0 and _WALKABLE[seen[nr, nc]]:
                parent[neighbour] = d
                queue[tail] = neighbour
                tail += 1
    if target < 0:
        target = frontier if frontier >= 0 else farthest
    if target < 0:
        plan[0] = chance
        return
    length = 0
    cell = target
    while cell != start:
        length += 1
        cell -= _DR[parent[cell]] * width + _DC[parent[cell]]
    cell = target
    for i in range(length - 1, -1, -1):
        if i < plan.shape[0]:
            plan[i] = parent[cell]
        cell -= _DR[parent[cell]] * width + _DC[parent[cell]]


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
        seen = seen_terrain(observations["glyphs"])
        position = observations["position"].astype(np.int64)
        chance = (observations["step"] * 7919 + position[:, 0] * 31 + position[:, 1]) % _CARDINALS
        plans = np.empty((len(seen), plan_horizon), np.int8)
        end = end_token(NUM_ACTIONS)
        for i in range(len(seen)):
            _label_seen(seen[i], position[i, 0], position[i, 1], chance[i], end, plans[i])
        return plans, np.ones(len(seen), np.float32)


def seen_terrain(glyphs: np.ndarray) -> np.ndarray:
    """Terrain shown now, uint8 like `glyphs`; a gridworld's symbols are terrain codes already."""
    if glyphs.max(initial=0) < NUM_TERRAINS:
        return glyphs.astype(np.uint8)
    from remdm.envs.minihack import GLYPH_TERRAIN

    return GLYPH_TERRAIN[glyphs]
