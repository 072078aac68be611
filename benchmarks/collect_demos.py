"""Demonstrations per second of `remdm collect` against collecting with oracles in plain Python.

Two comparisons, all in one process, with the making of environments outside the clock.

*   The same loop: both sides run the code behind `remdm collect`, which plays whole episodes, keeps
    them as shards and labels every step; only the oracle differs. The plain memory oracle is the
    search of benchmarks/labels.py. The plain seed oracle is the published one as it was written: a
    search that carries the path to every cell.
*   The published way: one stock environment after the other, the plain seed oracle at every step,
    episodes kept in memory and not labelled.
"""

import contextlib
import tempfile
import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import options, report, summarize
from benchmarks.labels import PlainLabeller
from remdm.envs.making import make_env, make_vec_env
from remdm.envs.minihack import TRAINING_ENVS, make_stock_env
from remdm.maps import DELTAS, NUM_ACTIONS, Action, Terrain
from remdm.oracles.contract import Oracle
from remdm.oracles.memory_oracle import MAP_KEYS, MemoryOracle
from remdm.oracles.seed_oracle import SeedOracle, seen_terrain
from remdm.tokens import end_token
from remdm.training.demonstrations import Demonstrations, Manner, demonstration_seed, total

PLAN_HORIZON = 16
ROWS = 32
MAX_STEPS = 500
OURS, PLAIN, PUBLISHED = "ours, episodes/s", "plain oracle", "published way"
END = end_token(NUM_ACTIONS)
CARDINALS = [(int(dr), int(dc)) for dr, dc in DELTAS[:4]]
UNKNOWN, SHUT, GOAL = int(Terrain.UNKNOWN), int(Terrain.CLOSED_DOOR), int(Terrain.GOAL)
KICK, HAZARD = int(Action.KICK), int(Terrain.HAZARD)
SOLID = {UNKNOWN, int(Terrain.WALL), int(Terrain.OPEN_DOOR), SHUT, HAZARD}


def written(plans: list[list[int]], plan_horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Plans of any length as an oracle's answer."""
    tokens = np.full((len(plans), plan_horizon), END, np.int8)
    for row, plan in zip(tokens, plans, strict=True):
        row[: len(plan)] = plan[:plan_horizon]
    return tokens, np.ones(len(plans), np.float32)


class PlainMemoryOracle(Oracle):
    """The memory oracle's search in plain Python."""

    name = "plain memory"

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.label`."""
        maps = zip(*(observations[key].tolist() for key in MAP_KEYS), strict=True)
        plans = [PlainLabeller(*grids).plan(*position) for *grids, position in maps]
        return written(plans, plan_horizon)


class PlainSeedOracle(Oracle):
    """The published oracle in plain Python."""

    name = "plain seed"

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.label`."""
        seen = seen_terrain(observations["glyphs"]).tolist()
        places = zip(observations["position"].tolist(), observations["step"].tolist(), strict=True)
        plans = [plain_seed_plan(g, *place, s) for g, (place, s) in zip(seen, places, strict=True)]
        return written(plans, plan_horizon)


def plain_seed_plan(grid: list[list[int]], row: int, col: int, step: int) -> list[int]:
    """Kick, stairs, frontier, farthest cell, random."""
    height, width = len(grid), len(grid[0])

    def around(r: int, c: int) -> list[tuple[int, int, int]]:
        cells = [(d, r + dr, c + dc) for d, (dr, dc) in enumerate(CARDINALS)]
        return [x for x in cells if 0 <= x[1] < height and 0 <= x[2] < width]

    for d, r, c in around(row, col):
        if grid[r][c] == SHUT:
            return [KICK, d]
    queue: deque[tuple[int, int, list[int]]] = deque([(row, col, [])])
    visited, reachable = {(row, col)}, []
    while queue:
        r, c, path = queue.popleft()
        if grid[r][c] == GOAL and path:
            return path
        reachable.append((r, c, path))
        for d, y, x in around(r, c):
            if (y, x) not in visited and grid[y][x] not in SOLID:
                visited.add((y, x))
                queue.append((y, x, [*path, d]))
    others = [(r, c, path) for r, c, path in reachable if path]
    frontier = [p for r, c, p in others if any(grid[y][x] == UNKNOWN for _, y, x in around(r, c))]
    if frontier:
        return min(frontier, key=len)
    if others:
        return max((path for _, _, path in others), key=len)
    return [(step * 7919 + row * 31 + col) % 4]


def episodes_per_second(oracle: Oracle, env: str, episodes: int, seed: int) -> tuple[float, int]:
    """Collect and label the first episodes of a seed; also the env steps."""
    manner = Manner(max_steps=MAX_STEPS, keep_lost=True)
    with contextlib.closing(make_env(env)) as one:
        limit = min(MAX_STEPS, one.max_episode_steps)
    with (
        tempfile.TemporaryDirectory() as folder,
        Demonstrations(Path(folder), oracle, seed, manner) as demonstrations,
    ):

        def make(most: int) -> Any:
            return make_vec_env([env] * min(ROWS, most), max_episode_steps=limit)

        demonstrations.collect(env, episodes, make, lambda _: False)
        began = time.perf_counter()
        demonstrations.label(PLAN_HORIZON, lambda _: False)
        seconds = time.perf_counter() - began + total(demonstrations.records.records, "seconds")
        return episodes / seconds, int(total(demonstrations.records.records, "steps"))


def published_way(env: Any, name: str, episodes: int, seed: int) -> float:
    """Episodes per second of the published loop, in one stock environment."""
    kept, began = [], time.perf_counter()
    for number in range(episodes):
        level = demonstration_seed(seed, name, number)
        env.unwrapped.seed(core=level, disp=level, reseed=False)
        seen, _ = env.reset()
        crops, maps, actions = [], [], []
        for step in range(MAX_STEPS):
            glyphs = seen["glyphs"]
            col, row = (int(x) for x in seen["blstats"][:2])
            maps.append(glyphs.copy())
            crops.append(np.pad(glyphs, 4)[row : row + 9, col : col + 9].copy())
            plan = plain_seed_plan(seen_terrain(glyphs).tolist(), row, col, step)
            actions.append(min(plan[0], env.action_space.n - 1))
            seen, _, terminated, truncated, _ = env.step(actions[-1])
            if terminated or truncated:
                break
        kept.append((np.stack(crops), np.stack(maps), np.array(actions)))
    return len(kept) / (time.perf_counter() - began)


def compare(ours: Oracle, plain: Oracle, env: str, episodes: int, repeats: int) -> dict[str, Any]:
    """One row: all sides in turns, on levels of the same seeds."""
    episodes_per_second(ours, env, ROWS, 0)  # pays for compiling
    stock = make_stock_env(env, observation_keys=("glyphs", "blstats"))
    rates, plain_rates, stock_rates, steps = [], [], [], 0
    for seed in range(1, repeats + 1):
        rate, taken = episodes_per_second(ours, env, episodes, seed)
        rates.append(rate)
        plain_rates.append(episodes_per_second(plain, env, episodes, seed)[0])
        stock_rates.append(published_way(stock, env, episodes, seed))
        steps += taken
    stock.close()
    mine, theirs, published = (summarize(x) for x in (rates, plain_rates, stock_rates))
    return {
        "oracle": ours.name,
        "env": env,
        "steps/episode": steps / (episodes * repeats),
        OURS: mine.median,
        "quartiles": f"{mine.lower:,.0f}-{mine.upper:,.0f}",
        PLAIN: theirs.median,
        "ratio": mine.median / theirs.median,
        PUBLISHED: published.median,
        "ratio to it": mine.median / published.median,
    }


def main() -> None:
    arguments = options(__doc__, episodes=128, repeats=3)
    warnings.filterwarnings("ignore")
    sizes = (32, 1) if arguments.quick else (arguments.episodes, arguments.repeats)
    pairs: list[tuple[Oracle, Oracle]] = [
        (SeedOracle(), PlainSeedOracle()),
        (MemoryOracle(), PlainMemoryOracle()),
    ]
    rows = [compare(*pair, env, *sizes) for pair in pairs for env in TRAINING_ENVS]
    by_oracle = {}
    for name in dict.fromkeys(row["oracle"] for row in rows):
        mine = [row for row in rows if row["oracle"] == name]
        # Of each environment equally many episodes, so the rate over all is the harmonic mean.
        by_oracle[name] = {
            column: len(mine) / sum(1 / row[column] for row in mine)
            for column in (OURS, PLAIN, PUBLISHED)
        }
    memory = by_oracle["memory"]
    line = {
        "name": "collect_demos",
        "value": memory[OURS],
        "unit": "episodes/s in one process",
        "reference": "the published oracle in plain Python, one stock environment after the other",
        "reference_value": memory[PUBLISHED],
        "ratio": memory[OURS] / memory[PUBLISHED],
        "ratio_same_loop": {name: rate[OURS] / rate[PLAIN] for name, rate in by_oracle.items()},
        "by_oracle": by_oracle,
    }
    report(rows, line, arguments.json)


if __name__ == "__main__":
    main()
