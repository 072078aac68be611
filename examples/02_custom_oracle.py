"""An oracle of your own, and an `Experiment` of which one step is yours.

The oracle is a rook: it walks to the goal, or to the nearest place from which more can be seen,
and never diagonally. The step is `label_new_training_data`: before anything is learnt from the
teacher, it has to win the validation levels; the run stops if it does not.

    python examples/02_custom_oracle.py
    python examples/02_custom_oracle.py --bind "CheckedExperiment.least_win_rate = 1.1"   (refused)

What you should see: as in 00_gridworld.py, but the oracle is called "rook" and both take a few
steps more per won episode. The last line says how many of the planner's moves are diagonal: it
has learnt its teacher's manners, so none or nearly none. Time: 90 seconds on one CPU core.
"""

import argparse
import logging
from collections import deque
from typing import Any

import gin
import numpy as np

from remdm import Experiment, Oracle
from remdm.cli.commands import run_experiment
from remdm.cli.flags import add_common_flags, load_from_flags, role_from
from remdm.evaluation.policies import OraclePolicy
from remdm.evaluation.rollout import evaluate_in
from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, Terrain
from remdm.seeding import VALIDATION_SEEDS, numpy_generator, torch_generator
from remdm.tokens import end_token

WALKABLE = (Terrain.FLOOR, Terrain.CORRIDOR, Terrain.DOORWAY, Terrain.GOAL)
STRAIGHT = 4  # the first four directions are north, east, south, west


@gin.configurable
class RookOracle(Oracle):
    """Breadth-first search with four moves over what the agent remembers."""

    name = "rook"

    def label(
        self, observations: dict[str, np.ndarray], plan_horizon: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `Oracle.label`; weight 0, "no plan here", where there is nowhere to go."""
        count = len(observations["position"])
        plans = np.full((count, plan_horizon), end_token(NUM_ACTIONS), np.int8)
        for i in range(count):
            row, column = observations["position"][i].tolist()
            path = way(observations["terrain"][i], observations["visited"][i], (row, column))
            plans[i, : len(path)] = path[:plan_horizon]
        return plans, (plans[:, 0] < NUM_ACTIONS).astype(np.float32)


def way(terrain: np.ndarray, visited: np.ndarray, start: tuple[int, int]) -> list[int]:
    """Moves to the goal if one is known, else to the nearest new cell beside the unknown."""
    ways: dict[tuple[int, int], list[int]] = {start: []}
    queue, frontier = deque([start]), None
    while queue:
        row, column = queue.popleft()
        here = ways[row, column]
        if terrain[row, column] == Terrain.GOAL:
            return here
        around = terrain[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        if frontier is None and not visited[row, column] and (around == Terrain.UNKNOWN).any():
            frontier = here
        for direction, (down, right) in enumerate(DELTAS[:STRAIGHT].tolist()):
            cell = row + down, column + right
            if cell not in ways and terrain[cell] in WALKABLE:
                ways[cell] = [*here, direction]
                queue.append(cell)
    return frontier or []


@gin.configurable
class CheckedExperiment(Experiment):
    """Wants to see its oracle win before it learns from it."""

    def __init__(self, run_name: str, *, least_win_rate: float = 0.9, **arguments: Any) -> None:
        super().__init__(run_name, **arguments)
        self.least_win_rate = least_win_rate

    def label_new_training_data(self) -> dict[str, float]:
        """See `Experiment`; plays the validation levels by the oracle first, in the first epoch."""
        if self.progress.epoch > 0:
            return super().label_new_training_data()
        oracle = OraclePolicy(self.oracle, plan_horizon=self.agent.plan_horizon)
        first = VALIDATION_SEEDS.start
        played = evaluate_in(oracle, self.val_envs, episodes=self.val_episodes, first_seed=first)
        worst = min(played.rows, key=lambda row: row.win_rate)
        if worst.win_rate < self.least_win_rate:
            raise ValueError(
                f"{oracle.name} wins {worst.win_rate:.2f} of {worst.env}; mend it or lower "
                f"CheckedExperiment.least_win_rate, which is {self.least_win_rate}."
            )
        return super().label_new_training_data() | {"label/oracle_win_rate": worst.win_rate}


def main() -> int:
    parser = argparse.ArgumentParser(description="Learn from an oracle of your own.")
    add_common_flags(parser)
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("remdm").setLevel(logging.INFO)
    args.bind.insert(0, "Experiment.oracle_type = @RookOracle")  # first: the user's --bind wins
    load_from_flags(args, default_configs=["gridworld.gin"])
    experiment = CheckedExperiment(args.run_name or "custom_oracle")
    role = role_from(args)
    code = run_experiment(experiment, args.json, role)
    if code == 0 and role.alone:  # nobody stopped it
        seen = experiment.dataset.sample(500, numpy_generator(0, "states")).observations
        plans = experiment.policy.plan(seen, torch_generator(0, "plans")).tokens
        moves = plans[plans < NUM_DIRECTIONS]
        print(f"{(moves >= STRAIGHT).float().mean():.1%} of the planner's moves are diagonal")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
