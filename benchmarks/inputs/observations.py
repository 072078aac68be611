"""Made-up but plausible observations, so that nets can be measured without a game installed.

Each is a walled room with inner walls and a few doors, seen along a random walk with the sight of
a lit room, with visits, searches and failed moves remembered.
"""

import numpy as np
import torch

from remdm.maps import DELTAS, Action, Terrain, empty_observations, map_observation_spec

# What NetHack draws for each terrain (nle.nethack.GLYPH_CMAP_OFF + symbol).
GLYPHS = np.array(
    [2359, 2378, 2360, 2380, 2371, 2372, 2374, 2374, 2383, 1910, 2353, 50, 2391], np.int16
)
SIGHT = 4  # cells


def _level(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """The true terrain of one level, uint8 [height, width]."""
    terrain = np.full((height, width), Terrain.UNKNOWN, np.uint8)
    tall = int(rng.integers(7, height - 1))
    wide = int(rng.integers(7, min(40, width - 1)))
    top = int(rng.integers(0, height - tall))
    left = int(rng.integers(0, width - wide))
    room = terrain[top : top + tall, left : left + wide]
    room[:] = Terrain.WALL
    room[1:-1, 1:-1] = np.where(rng.random((tall - 2, wide - 2)) < 0.2, Terrain.WALL, Terrain.FLOOR)
    doors = rng.integers(1, wide - 1, 3)
    room[0, doors] = rng.choice([Terrain.OPEN_DOOR, Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR], 3)
    room[rng.integers(1, tall - 1), rng.integers(1, wide - 1)] = Terrain.GOAL
    return terrain


def make_observations(
    count: int, seed: int = 0, height: int = 21, width: int = 79
) -> dict[str, np.ndarray]:
    """Observations of `remdm.maps.map_observation_spec(height, width)`, [count, ...]."""
    rng = np.random.default_rng(seed)
    out = empty_observations(map_observation_spec(height, width), (count,))
    for i in range(count):
        terrain = _level(rng, height, width)
        free = np.argwhere(terrain == Terrain.FLOOR)
        place = free[rng.integers(len(free))]
        steps = int(rng.integers(1, 80))
        known = np.zeros_like(terrain, np.bool_)
        for step in range(steps):
            row, column = place
            out["visited"][i, row, column] = step + 1
            known[max(0, row - SIGHT) : row + SIGHT + 1, max(0, column - SIGHT) : column + 5] = True
            direction = int(rng.integers(8))
            target = place + DELTAS[direction]
            if terrain[tuple(target)] in (Terrain.FLOOR, Terrain.OPEN_DOOR, Terrain.GOAL):
                inside = (target >= 0).all() and (target < (height, width)).all()
                place = target if inside else place
            elif rng.random() < 0.1:
                out["blocked"][i, row, column] |= 1 << direction
        if rng.random() < 0.3:
            searched = out["searched"][
                i, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2
            ]
            searched += np.uint8(rng.integers(1, 25))
        out["terrain"][i] = np.where(known, terrain, Terrain.UNKNOWN)
        out["glyphs"][i] = GLYPHS[out["terrain"][i]]
        out["position"][i] = row, column
        out["step"][i] = steps - 1
    return out


def make_plans(count: int, plan_horizon: int, seed: int = 0) -> np.ndarray:
    """Plans of one to `plan_horizon` moves and END, int8 [count, plan_horizon]."""
    rng = np.random.default_rng(seed)
    plans = rng.integers(0, len(Action), (count, plan_horizon)).astype(np.int8)
    lengths = np.minimum(rng.geometric(0.25, count), plan_horizon)
    plans[np.arange(plan_horizon) >= lengths[:, None]] = len(Action) + 1
    return plans


def as_tensors(observations: dict[str, np.ndarray], count: int) -> dict[str, torch.Tensor]:
    """The first `count` observations as tensors."""
    return {key: torch.from_numpy(value[:count].copy()) for key, value in observations.items()}
