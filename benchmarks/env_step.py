"""Steps per second of our MiniHack environment against `gym.make`, resets not counted.

Both play random cardinal moves on the seven maps in turns. Ours also copies the observation out
and keeps the agent's memory up to date; gym's is asked for `glyphs` and `blstats` only.
"""

import time
import warnings
from typing import Any

import numpy as np

from benchmarks.harness import geometric_mean, options, report, summarize
from remdm.envs.minihack import HELD_OUT_ENVS, TRAINING_ENVS, MiniHackEnv, make_stock_env
from remdm.maps import empty_observations

NUM_CARDINAL = 4


def our_seconds(env: MiniHackEnv, actions: list[int], first_seed: int) -> float:
    """Seconds spent in `step` and `observe` for all of `actions`."""
    out = empty_observations(env.observation_spec, ())
    clock, total, seed = time.perf_counter, 0.0, first_seed
    position, end = 0, len(actions)
    while position < end:
        env.reset(seed)
        seed += 1
        start = clock()
        while position < end:
            result = env.step(actions[position])
            env.observe(out)
            position += 1
            if result.terminated or result.truncated:
                break
        total += clock() - start
    return total


def gym_seconds(env: Any, actions: list[int], first_seed: int) -> float:
    """Seconds spent in `step` of a gym environment for all of `actions`."""
    clock, total, seed = time.perf_counter, 0.0, first_seed
    position, end = 0, len(actions)
    while position < end:
        env.unwrapped.seed(core=seed, disp=seed, reseed=False)
        env.reset()
        seed += 1
        start = clock()
        while position < end:
            _, _, terminated, truncated, _ = env.step(actions[position])
            position += 1
            if terminated or truncated:
                break
        total += clock() - start
    return total


def compare(name: str, num_steps: int, repeats: int) -> dict[str, Any]:
    """One row: both environments in turns on the same actions and level seeds."""
    ours = MiniHackEnv(name)
    theirs = make_stock_env(name, observation_keys=("glyphs", "blstats"))
    rng = np.random.default_rng(0)
    our_times, gym_times = [], []
    our_seconds(ours, [0] * 10, 0)
    gym_seconds(theirs, [0] * 10, 0)
    for repeat in range(repeats):
        actions = rng.integers(NUM_CARDINAL, size=num_steps).tolist()
        our_times.append(our_seconds(ours, actions, 1000 * repeat) / num_steps)
        gym_times.append(gym_seconds(theirs, actions, 1000 * repeat) / num_steps)
    ours.close()
    theirs.close()
    mine, reference = summarize(our_times), summarize(gym_times)
    return {
        "env": name,
        "ours, steps/s": 1 / mine.median,
        "gym, steps/s": 1 / reference.median,
        "ratio": reference.median / mine.median,
        "ours us (quartiles)": f"{1e6 * mine.lower:.2f}-{1e6 * mine.upper:.2f}",
    }


def main() -> None:
    """Run the comparison and print it."""
    args = options(__doc__)
    warnings.filterwarnings("ignore", module="gymnasium")
    num_steps, repeats = (1000, 3) if args.quick else (4000, 5)
    rows = [compare(name, num_steps, repeats) for name in TRAINING_ENVS + HELD_OUT_ENVS]
    ours = geometric_mean([row["ours, steps/s"] for row in rows])
    reference = geometric_mean([row["gym, steps/s"] for row in rows])
    line = {
        "name": "env_step",
        "value": round(ours),
        "unit": "steps/s",
        "reference": "gym.make(id, observation_keys=('glyphs', 'blstats'))",
        "reference_value": round(reference),
        "ratio": round(ours / reference, 2),
        "envs": {row["env"]: round(row["ratio"], 2) for row in rows},
    }
    report(rows, line, args.json)


if __name__ == "__main__":
    main()
