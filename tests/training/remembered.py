"""Memories of real episodes, for tests that alter them."""

import numpy as np

from remdm.data.batch import Window
from remdm.envs.making import make_vec_env
from remdm.maps import NUM_ACTIONS
from remdm.oracles.memory_oracle import MemoryOracle

MAZE, DOORS = "Gridworld-Maze-9x9-v0", "Gridworld-Doors-9x13-v0"
PLAN_HORIZON = 16


def noisy_states(env: str, count: int, *, rows: int = 8) -> dict[str, np.ndarray]:
    """What is observed while a memory oracle plays whose plans are random in one case of five."""
    rng, envs = np.random.default_rng(0), make_vec_env([env] * rows)
    seen, level, parts, steps = envs.reset(range(rows)), rows, [], 0
    while steps < count:
        plans = MemoryOracle().label(seen, PLAN_HORIZON)[0]
        noisy = rng.random(rows) < 0.2
        plans[noisy] = rng.integers(NUM_ACTIONS, size=plans[noisy].shape)
        chunk = envs.execute(plans, 4, stop_when_blocked=True)
        parts.append({k: v[chunk.valid] for k, v in chunk.observations.items()})
        steps += int(chunk.valid.sum())
        over = np.flatnonzero(chunk.done).tolist()
        seen = envs.reset(range(level, level + len(over)), over)
        level += len(over)
    envs.close()
    return {k: np.concatenate([part[k] for part in parts])[:count] for k in seen}


def window(observations: dict[str, np.ndarray]) -> Window:
    """The observations as a batch with the oracle's labels."""
    plans, weights = MemoryOracle().label(observations, PLAN_HORIZON)
    return Window(observations, plans, weights, np.zeros(len(plans), np.int16))


def copied(observations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays that can be altered without altering these."""
    return {k: v.copy() for k, v in observations.items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether all arrays are equal."""
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
