"""Steps per second of two worker processes that run plans against gymnasium's AsyncVectorEnv.

Both play the same random compass moves in MiniHack, in turns. Resets are inside the clock on both
sides and only steps that reached the game count. Both leave copies of all observations in the
parent: gymnasium copies them out of shared memory after every step, we after every chunk.
"""

import time
import warnings
from typing import Any

import numpy as np

from benchmarks.harness import geometric_mean, options, report, summarize
from remdm.envs.contract import PlanVecEnv
from remdm.envs.making import make_vec_env
from remdm.envs.minihack import make_stock_env
from remdm.maps import NUM_DIRECTIONS

ENVS = ("MiniHack-Room-Random-15x15-v0", "MiniHack-MazeWalk-9x9-v0")
NUM_GYM_ENVS = 8
NUM_WORKERS = 2


class Collector:
    """Our side: plans of random moves, finished rows started again, every step copied out."""

    def __init__(self, envs: PlanVecEnv, plan_steps: int) -> None:
        self.envs = envs
        self.plan_steps = plan_steps
        self.rng = np.random.default_rng(0)
        self.next_seed = envs.num_envs
        self.seconds = {"execute": 0.0, "copy": 0.0, "reset": 0.0}
        envs.reset(range(envs.num_envs))

    def run(self, seconds: float) -> float:
        """Collect for about so long; returns steps per second."""
        clock, steps = time.perf_counter, 0
        start = now = clock()
        shape = (self.envs.num_envs, self.plan_steps)
        while now < start + seconds:
            chunk = self.envs.execute(
                self.rng.integers(NUM_DIRECTIONS, size=shape), self.plan_steps
            )
            executed = clock()
            kept = {name: array[chunk.valid] for name, array in chunk.observations.items()}
            steps += len(kept["glyphs"])
            copied = clock()
            rows = np.flatnonzero(chunk.done)
            if rows.size:
                self.envs.reset(range(self.next_seed, self.next_seed + rows.size), rows.tolist())
                self.next_seed += rows.size
            self.seconds["execute"] += executed - now
            self.seconds["copy"] += copied - executed
            now = clock()
            self.seconds["reset"] += now - copied
        return steps / (now - start)


class GymCollector:
    """Their side: one action a message, autoreset, observations copied (their default)."""

    def __init__(self, name: str) -> None:
        import gymnasium

        def make() -> Any:
            return make_stock_env(name, observation_keys=("glyphs", "blstats"))

        self.envs = gymnasium.vector.AsyncVectorEnv([make] * NUM_GYM_ENVS)
        self.rng = np.random.default_rng(0)
        self.over = np.zeros(NUM_GYM_ENVS, bool)
        self.envs.reset()

    def run(self, seconds: float) -> float:
        """Collect for about so long; returns steps per second."""
        clock, steps = time.perf_counter, 0
        start = now = clock()
        while now < start + seconds:
            actions = self.rng.integers(NUM_DIRECTIONS, size=NUM_GYM_ENVS)
            _, _, terminated, truncated, _ = self.envs.step(actions)
            # The step after an episode's end is the autoreset and no step of the game.
            steps += NUM_GYM_ENVS - int(self.over.sum())
            self.over = terminated | truncated
            now = clock()
        return steps / (now - start)


def compare(name: str, rows_per_worker: int, plan_steps: int, repeats: int, seconds: float) -> Any:
    """One row: both sides in turns."""
    num_envs = NUM_WORKERS * rows_per_worker
    ours = make_vec_env([name] * num_envs, env_mode="async", num_workers=NUM_WORKERS)
    collector, gym_collector = Collector(ours, plan_steps), GymCollector(name)
    collector.run(seconds / 2)
    gym_collector.run(seconds / 2)
    collector.seconds = dict.fromkeys(collector.seconds, 0.0)
    rates, gym_rates = [], []
    for _ in range(repeats):
        rates.append(collector.run(seconds))
        gym_rates.append(gym_collector.run(seconds))
    ours.close()
    gym_collector.envs.close()
    total = sum(collector.seconds.values())
    mine, theirs = summarize(rates), summarize(gym_rates)
    return {
        "env": name,
        "ours, steps/s": mine.median,
        "quartiles": f"{mine.lower:,.0f}-{mine.upper:,.0f}",
        "gym, steps/s": theirs.median,
        "gym quartiles": f"{theirs.lower:,.0f}-{theirs.upper:,.0f}",
        "ratio": mine.median / theirs.median,
        **{f"{part} %": 100 * spent / total for part, spent in collector.seconds.items()},
    }


def main() -> None:
    arguments = options(__doc__, rows_per_worker=32, plan_steps=16)
    warnings.filterwarnings("ignore")
    repeats, seconds = (3, 0.5) if arguments.quick else (7, 1.5)
    rows = [
        compare(name, arguments.rows_per_worker, arguments.plan_steps, repeats, seconds)
        for name in ENVS
    ]
    line = {
        "name": "collect",
        "value": geometric_mean([row["ours, steps/s"] for row in rows]),
        "unit": "env steps/s",
        "reference": f"gymnasium.vector.AsyncVectorEnv, {NUM_GYM_ENVS} of the same envs",
        "reference_value": geometric_mean([row["gym, steps/s"] for row in rows]),
        "ratio": geometric_mean([row["ratio"] for row in rows]),
        "num_workers": NUM_WORKERS,
        "rows_per_worker": arguments.rows_per_worker,
        "plan_steps": arguments.plan_steps,
        "ratios": {row["env"]: row["ratio"] for row in rows},
    }
    report(rows, line, arguments.json)


if __name__ == "__main__":
    main()
