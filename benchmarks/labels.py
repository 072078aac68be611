"""Labels per second of the memory oracle, on one core, against the same search in plain Python.

The states are those that the oracle visits in the seven MiniHack maps when a tenth of its plans
is replaced by random actions, as while collecting. Collecting them is outside the clock. The
reference, `PlainLabeller`, is written here for the comparison: the same search over nested lists,
without NumPy or Numba. It labels a sample of the states, and its plans must be as long as ours.
"""

import time
import warnings
from collections import deque
from typing import Any

import numpy as np

from benchmarks.harness import measure, options, report
from remdm.envs.making import make_vec_env
from remdm.envs.minihack import HELD_OUT_ENVS, TRAINING_ENVS
from remdm.maps import DELTAS, NUM_ACTIONS, Action, Terrain
from remdm.oracles import search
from remdm.oracles.memory_oracle import MAP_KEYS, MemoryOracle
from remdm.tokens import end_token, plan_lengths

PLAN_HORIZON = 16
NOISE = 0.1
ROWS = 16  # episodes played side by side while collecting
STEPS_PER_PLAN = 4
END = end_token(NUM_ACTIONS)

Observations = dict[str, np.ndarray]
Grid = list[list[int]]
# Plain numbers: looking up an enum member costs more than the search step around it.
STEPS = [(int(dr), int(dc)) for dr, dc in DELTAS]
UNKNOWN, WALL, CORRIDOR = int(Terrain.UNKNOWN), int(Terrain.WALL), int(Terrain.CORRIDOR)
OPEN, SHUT, LOCKED = int(Terrain.OPEN_DOOR), int(Terrain.CLOSED_DOOR), int(Terrain.LOCKED_DOOR)
GOAL, KICK, SEARCH = int(Terrain.GOAL), int(Action.KICK), int(Action.SEARCH)
IMPASSABLE = {UNKNOWN, WALL, SHUT, LOCKED, int(Terrain.HAZARD)}
ROUND = (0, 4, 1, 5, 2, 6, 3, 7)  # the directions in the order they lie around a cell


def visited_states(name: str, count: int) -> Observations:
    """Remembered maps of the first `count` states the noisy oracle visits, by key [count, ...]."""
    oracle, rng = MemoryOracle(), np.random.default_rng(0)
    envs = make_vec_env([name] * ROWS)
    seen = envs.reset(range(ROWS))
    next_seed, filled = ROWS, 0
    states = {k: np.empty((count, *seen[k].shape[1:]), seen[k].dtype) for k in MAP_KEYS}
    while filled < count:
        plans = oracle.plan(seen, PLAN_HORIZON, rng)
        noisy = rng.random(ROWS) < NOISE
        plans[noisy] = rng.integers(NUM_ACTIONS, size=plans[noisy].shape)
        chunk = envs.execute(plans, STEPS_PER_PLAN, stop_when_blocked=True)
        stop = min(count, filled + int(chunk.valid.sum()))
        for key, array in states.items():
            array[filled:stop] = chunk.observations[key][chunk.valid][: stop - filled]
        filled = stop
        seen = chunk.final_observations
        over = np.flatnonzero(chunk.done).tolist()
        if over:
            seen = envs.reset(range(next_seed, next_seed + len(over)), over)
            next_seed += len(over)
    envs.close()
    return states


class PlainLabeller:
    """The memory oracle's search for one state, in plain Python."""

    def __init__(self, terrain: Grid, visited: Grid, searched: Grid, blocked: Grid) -> None:
        self.terrain, self.visited = terrain, visited
        self.searched, self.blocked = searched, blocked
        self.height, self.width = len(terrain), len(terrain[0])

    def around(self, row: int, col: int) -> list[tuple[int, int, int]]:
        """(direction, row, column) of the neighbours inside the map."""
        cells = [(d, row + dr, col + dc) for d, (dr, dc) in enumerate(STEPS)]
        return [x for x in cells if 0 <= x[1] < self.height and 0 <= x[2] < self.width]

    def plan(self, row: int, col: int) -> list[int]:
        """Actions, without END and of any length."""
        terrain = self.terrain
        ways: dict[tuple[int, int], list[int]] = {(row, col): []}
        queue = deque([(row, col)])
        goal_known = any(GOAL in line for line in terrain)
        best, best_cost = None, 1 << 30
        while queue:
            r, c = queue.popleft()
            way, steps = ways[r, c], len(ways[r, c])
            if terrain[r][c] == GOAL and steps:
                return way
            if steps >= best_cost and not goal_known:
                break
            around = self.around(r, c)
            unseen = any(terrain[y][x] == UNKNOWN for _, y, x in around)
            if steps and steps < best_cost and not self.visited[r][c] and unseen:
                best, best_cost = way, steps
            for d, y, x in around:
                there = terrain[y][x]
                if self.blocked[r][c] >> d & 1 or (d >= 4 and OPEN in (terrain[r][c], there)):
                    continue
                if there in (SHUT, LOCKED) and d < 4:
                    cost = steps + 1 + (search.LOCKED_COST if there == LOCKED else 0)
                    if cost < best_cost:
                        best, best_cost = way + ([KICK, d] if there == LOCKED else [d]), cost
                elif there not in IMPASSABLE and (y, x) not in ways:
                    ways[y, x] = [*way, d]
                    queue.append((y, x))
        return best if best is not None else self.search_plan(ways)

    def search_plan(self, ways: dict[tuple[int, int], list[int]]) -> list[int]:
        """Walk to the best place and search there."""

        def value(cell: tuple[int, int]) -> float:
            return self.gain(*cell) / (len(ways[cell]) + search.SEARCH_OVERHEAD)

        return ways[max(ways, key=value)] + [SEARCH] * search.SEARCH_TURNS

    def gain(self, row: int, col: int) -> float:
        """Expected finds of one search."""
        dead_end, gain = self.ways_out(row, col) <= 1, 0.0
        for d, r, c in self.around(row, col):
            prior, there = 0.0, self.terrain[r][c]
            if there == WALL:
                if (d, r + STEPS[d][0], c + STEPS[d][1]) in self.around(r, c):
                    behind = self.terrain[r + STEPS[d][0]][c + STEPS[d][1]]
                    prior = search.PRIOR_WALL if behind == UNKNOWN else 0.0
            elif there == UNKNOWN:
                beside = [self.terrain[y][x] for e, y, x in self.around(r, c) if e < 4]
                if any(t in (OPEN, SHUT, LOCKED) for t in beside):
                    prior = search.PRIOR_DOOR
                elif dead_end:
                    prior = search.PRIOR_DEAD_END
                elif self.terrain[row][col] == CORRIDOR:
                    prior = search.PRIOR_CORRIDOR
            if prior:
                gain += prior * search.MISS ** self.searched[r][c]
        return gain

    def ways_out(self, row: int, col: int) -> int:
        """Separate ways that lead away from a cell."""
        around = {d: self.terrain[r][c] for d, r, c in self.around(row, col)}
        free = [around.get(d, WALL) in (SHUT, LOCKED) or self.passable(around, d) for d in ROUND]
        return sum(now and not before for before, now in zip([free[-1], *free], free, strict=False))

    def passable(self, around: dict[int, int], direction: int) -> bool:
        """Whether a neighbour can be entered."""
        return around.get(direction, WALL) not in IMPASSABLE


def plain_lengths(states: Observations) -> list[int]:
    """Lengths of the plain plans, cut at the horizon."""
    maps = zip(*(states[key].tolist() for key in MAP_KEYS), strict=True)
    return [
        min(PLAN_HORIZON, len(PlainLabeller(*grids).plan(*position))) for *grids, position in maps
    ]


def compare(name: str, count: int, sample: int, repeats: int) -> dict[str, Any]:
    """One row: both sides on the states of one environment."""
    states, oracle = visited_states(name, count), MemoryOracle()
    seconds = measure(lambda: oracle.label(states, PLAN_HORIZON), repeats=repeats, min_time_s=0.05)
    some = {k: v[:: max(1, count // sample)] for k, v in states.items()}
    start = time.perf_counter()
    theirs = plain_lengths(some)
    reference = (time.perf_counter() - start) / len(theirs)
    ours = plan_lengths(oracle.label(some, PLAN_HORIZON)[0], NUM_ACTIONS)
    if ours.tolist() != theirs:
        raise RuntimeError(f"{name}: the plain search finds plans of other lengths")
    return {
        "env": name,
        "states": count,
        "ours, labels/s": count / seconds.median,
        "quartiles": f"{count / seconds.upper:,.0f}-{count / seconds.lower:,.0f}",
        "plain Python, labels/s": 1 / reference,
        "ratio": reference * count / seconds.median,
    }


def main() -> None:
    arguments = options(__doc__, batch=65_536)
    warnings.filterwarnings("ignore")
    names = (*TRAINING_ENVS, *HELD_OUT_ENVS)
    batch, sample, repeats = (4096, 40, 5) if arguments.quick else (arguments.batch, 200, 11)
    rows = [compare(name, batch // len(names), sample, repeats) for name in names]
    # All environments have equally many states, so the rate over all is the harmonic mean.
    ours, plain = (
        len(rows) / sum(1 / row[column] for row in rows)
        for column in ("ours, labels/s", "plain Python, labels/s")
    )
    line = {
        "name": "labels",
        "value": ours,
        "unit": "labels/s per core",
        "reference": "the same search in plain Python, written in benchmarks/labels.py",
        "reference_value": plain,
        "ratio": ours / plain,
        "states": sum(row["states"] for row in rows),
        "plan_horizon": PLAN_HORIZON,
        "by_env": {row["env"]: row["ours, labels/s"] for row in rows},
    }
    report(rows, line, arguments.json)


if __name__ == "__main__":
    main()
