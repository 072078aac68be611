"""A player with a script, and observations of both Craftax games made by hand."""

from collections.abc import Sequence

import numpy as np

from remdm.envs.contract import PlanVecEnv
from remdm.envs.craftax.game import CLASSIC, FULL, load_game
from remdm.evaluation.policies import Plans
from remdm.tokens import end_token

END = end_token(17)
NOOP, LEFT, RIGHT, UP, DO, TABLE, FURNACE = 0, 1, 2, 3, 5, 8, 9


class Script:
    """Follows a fixed row of plans, again and again."""

    name, replan_every = "script", 4
    plans = (
        [NOOP, DO, DO, DO, DO, UP, TABLE, LEFT],
        [DO, TABLE, LEFT, END, END, END, END, END],
        [FURNACE, RIGHT, DO, DO, DO, LEFT, UP, NOOP],
    )

    def accompany(self, vec_env: PlanVecEnv) -> PlanVecEnv:
        return vec_env

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        self.made = 0
        self.told: list[list[int]] = []

    def plan(self, observations: dict[str, np.ndarray], rows: np.ndarray) -> Plans:
        self.made += 1
        return Plans(np.array([self.plans[(self.made - 1) % 3]]), np.zeros(1))

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        self.told.append(actions[0, : lengths[0]].tolist())


def classic_observation(**scalars: float) -> dict[str, np.ndarray]:
    """A meadow in Classic by day, facing up; scalars by number, as `s16=1.0`."""
    spec = load_game(CLASSIC).codec.spec
    made = {name: np.zeros(array.shape, array.dtype) for name, array in spec.items()}
    made["tiles"][:] = 1 + 2
    made["scalars"][[18, 20]] = 1.0
    for name, value in scalars.items():
        made["scalars"][int(name[1:])] = value
    return made


def full_observation(**scalars: float) -> dict[str, np.ndarray]:
    """A cave in the full game whose outer ring is dark."""
    spec = load_game(FULL).codec.spec
    made = {name: np.zeros(array.shape, array.dtype) for name, array in spec.items()}
    made["tiles"][1:-1, 1:-1] = 1 + 7
    made["scalars"][[33, 43]] = 1.0
    for name, value in scalars.items():
        made["scalars"][int(name[1:])] = value
    return made


def flag(observation: dict[str, np.ndarray], row: int, column: int, number: int) -> None:
    observation["flags"][row, column, number // 8] |= 128 >> number % 8
