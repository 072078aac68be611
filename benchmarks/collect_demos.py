"""Demonstrations per second of `remdm collect` against collecting with oracles in plain Python.

All in one process, with the making of environments outside the clock, in turns on the same levels.

*   The same loop: both sides run the code behind `remdm collect`, which plays whole episodes, keeps
    them as shards and labels every step; only the oracle differs. The plain memory oracle is the
    search of benchmarks/labels.py. The plain seed oracle is the published one as it was written: a
    search that carries the path to every cell.
*   The published way: one stock environment after the other, the plain seed oracle at every step,
    episodes kept in memory and not labelled.
*   The bare game: NetHack alone, started with the same levels and given the same keys. No loop can
    collect faster, so this over the plain loop is the most that any oracle can gain.
"""

import contextlib
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import options, report, summarize
from benchmarks.labels import PlainLabeller
from remdm.envs.making import make_env
from remdm.envs.minihack import HELD_OUT_ENVS, TRAINING_ENVS, MiniHackEnv, make_stock_env
from remdm.maps import DELTAS, NUM_ACTIONS, Action, Terrain
from remdm.oracles.contract import Oracle
from remdm.oracles.memory_oracle import MAP_KEYS, MemoryOracle
from remdm.oracles.seed_oracle import SeedOracle, seen_terrain
from remdm.tokens import end_token
from remdm.training.demonstration_pieces import Manner, demonstration_seed
from remdm.training.demonstrations import Demonstrations, total
from remdm.training.solo_play import SoloPlay

PLAN_HORIZON = 16
WARM_UP = 32  # episodes
Clock = Callable[[], float]
# The processor's own time is the fair one on a crowded machine; it counts all threads.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}
MAX_STEPS = 500
OURS, PLAIN, PUBLISHED, BARE = SIDES = (
    "ours, episodes/s", "plain oracle", "published way", "bare game",
)  # fmt: skip
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


def step_limit(env: str) -> int:
    """Cap of an episode."""
    with contextlib.closing(make_env(env)) as one:
        return min(MAX_STEPS, one.max_episode_steps)


def episodes_per_second(
    oracle: Oracle, env: str, episodes: int, seed: int, clock: Clock
) -> tuple[float, int]:
    """Collect and label the first episodes of a seed; also the env steps."""
    began: list[float] = []

    def tell(ended: int, won: int) -> bool:
        if not began:  # all is made when the first episode has ended
            began.append(clock())
        return False

    manner = Manner(max_steps=MAX_STEPS, keep_lost=True)
    limit = step_limit(env)
    with (
        tempfile.TemporaryDirectory() as folder,
        Demonstrations(
            Path(folder), oracle, seed, manner, label_horizon=PLAN_HORIZON
        ) as demonstrations,
    ):
        demonstrations.collect(env, episodes, tell, max_episode_steps=limit)
        seconds = clock() - began[0]
        return (episodes - 1) / seconds, int(total(demonstrations.records.records, "steps"))


class KeyRecorder:
    """Stands before a game and notes the keys it is given."""

    def __init__(self, game: Any) -> None:
        self.game, self.done = game, game.done
        self.keys: list[int] = []

    def step(self, key: int) -> None:
        """Note a key and hand it on."""
        self.keys.append(key)
        self.game.step(key)


def bare_game(oracle: Oracle, name: str, episodes: int, seed: int, clock: Clock) -> float:
    """Episodes per second of NetHack alone, playing what the oracle plays."""
    with contextlib.closing(MiniHackEnv(name, max_episode_steps=step_limit(name))) as env:
        game, stock = env._game, env._env
        levels = [demonstration_seed(seed, name, number) for number in range(episodes)]
        env._game = recorder = KeyRecorder(game)
        tape = (
            play := SoloPlay(
                oracle,
                env,
                levels.__getitem__,
                seed=seed,
                plan_horizon=PLAN_HORIZON,
                replan_every=1,
                keep_lost=False,
            )
        ).tape(1)
        keys = []
        for number in range(episodes):
            recorder.keys = []
            list(play.episodes([number], tape))
            keys.append(recorder.keys)
        env._game = game
        began = clock()
        for level, pressed in zip(levels, keys, strict=True):
            if not game.done():
                stock._quit_game(stock.last_observation, False)
            stock.seed(core=level, disp=level, reseed=False)
            stock.reset()
            for key in pressed:
                game.step(key)
        return episodes / (clock() - began)


def published_way(env: Any, name: str, episodes: int, seed: int, clock: Clock) -> float:
    """Episodes per second of the published loop, in one stock environment."""
    kept, began = [], clock()
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
    return len(kept) / (clock() - began)


def compare(
    pair: tuple[Oracle, Oracle], env: str, episodes: int, repeats: int, clock: Clock
) -> dict[str, Any]:
    """One row: all sides in turns, on levels of the same seeds."""
    ours, plain = pair
    episodes_per_second(ours, env, WARM_UP, 0, clock)  # pays for compiling
    stock = make_stock_env(env, observation_keys=("glyphs", "blstats"))
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    steps = 0
    for seed in range(1, repeats + 1):
        rate, taken = episodes_per_second(ours, env, episodes, seed, clock)
        rates[OURS].append(rate)
        rates[PLAIN].append(episodes_per_second(plain, env, episodes, seed, clock)[0])
        rates[PUBLISHED].append(published_way(stock, env, episodes, seed, clock))
        rates[BARE].append(bare_game(ours, env, episodes, seed, clock))
        steps += taken
    stock.close()
    found = {side: summarize(values) for side, values in rates.items()}
    mine = found[OURS]
    return {
        "oracle": ours.name,
        "env": env,
        "steps/episode": steps / (episodes * repeats),
        "quartiles": f"{mine.lower:,.0f}-{mine.upper:,.0f}",
        **{side: found[side].median for side in SIDES},
        "ratio": mine.median / found[PLAIN].median,
        "ratio to published": mine.median / found[PUBLISHED].median,
        "most": found[BARE].median / found[PLAIN].median,
    }


def together(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Rates over all rows: equally many episodes of each, so they are harmonic means."""
    return {side: len(rows) / sum(1 / row[side] for row in rows) for side in SIDES}


def main() -> None:
    arguments = options(__doc__, episodes=128, repeats=3, clock="wall")
    warnings.filterwarnings("ignore")
    clock = CLOCKS[arguments.clock]
    sizes = (32, 1) if arguments.quick else (arguments.episodes, arguments.repeats)
    few = (8, 1) if arguments.quick else (arguments.episodes // 8, arguments.repeats)
    seed, memory = (SeedOracle(), PlainSeedOracle()), (MemoryOracle(), PlainMemoryOracle())
    groups = {
        "seed, training": [compare(seed, env, *sizes, clock) for env in TRAINING_ENVS],
        "memory, held-out": [compare(memory, env, *few, clock) for env in HELD_OUT_ENVS],
        "memory, training": [compare(memory, env, *sizes, clock) for env in TRAINING_ENVS],
    }
    by_group = {name: together(rows) for name, rows in groups.items()}
    main_rates = by_group["memory, training"]
    line = {
        "name": "collect_demos",
        "value": main_rates[OURS],
        "unit": f"episodes/s in one process, {arguments.clock} time",
        "reference": "the published oracle in plain Python, one stock environment after the other",
        "reference_value": main_rates[PUBLISHED],
        "ratio": main_rates[OURS] / main_rates[PUBLISHED],
        "ratio_same_loop": {name: r[OURS] / r[PLAIN] for name, r in by_group.items()},
        "most_same_loop": {name: r[BARE] / r[PLAIN] for name, r in by_group.items()},
        "by_group": by_group,
    }
    report([row for rows in groups.values() for row in rows], line, arguments.json)


if __name__ == "__main__":
    main()
