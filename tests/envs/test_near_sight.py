"""The local-only ablation: what is far is unknown, what is near is as it was."""

from contextlib import closing

import numpy as np
import pytest

from remdm.envs.history import HistoryVecEnv
from remdm.envs.making import make_vec_env
from remdm.envs.near_sight import NearSightVecEnv, blank_symbol
from remdm.maps import Action, Terrain

MAZE = "Gridworld-Maze-15x15-v0"
MAPS = {"terrain": Terrain.UNKNOWN, "visited": 0, "searched": 0, "blocked": 0}


def square(seen: dict[str, np.ndarray], row: int, side: int) -> np.ndarray:
    """bool [height, width]: the cells that stay in sight of one row's agent."""
    near = np.zeros(seen["terrain"].shape[1:], bool)
    r, c = seen["position"][row].astype(int)
    half = side // 2
    near[max(0, r - half) : r + half + 1, max(0, c - half) : c + half + 1] = True
    return near


def check(blind: dict[str, np.ndarray], whole: dict[str, np.ndarray], side: int, blank: int) -> int:
    """Compare a cut observation with the whole one; returns how many known cells are hidden."""
    hidden = 0
    for row in range(len(whole["terrain"])):
        near = square(whole, row, side)
        for name, unseen in {**MAPS, "glyphs": blank}.items():
            np.testing.assert_array_equal(blind[name][row][near], whole[name][row][near])
            assert (blind[name][row][~near] == unseen).all()
        hidden += int((whole["terrain"][row][~near] != Terrain.UNKNOWN).sum())
    for name in ("position", "step"):
        np.testing.assert_array_equal(blind[name], whole[name])
    assert all(blind[name].dtype == whole[name].dtype for name in whole)
    return hidden


def walk(env: str, side: int, steps: int) -> int:
    """Walk at random in a cut set and a whole one; returns how much was hidden on the way."""
    blank = blank_symbol([env])
    cut = NearSightVecEnv(make_vec_env([env] * 3), side)
    with closing(cut), closing(make_vec_env([env] * 3)) as whole:
        hidden = check(cut.reset([1, 2, 3]), whole.reset([1, 2, 3]), side, blank)
        rng = np.random.default_rng(0)
        for _ in range(steps):
            plans = rng.integers(0, 8, (3, 4))
            one, other = cut.execute(plans, 4), whole.execute(plans, 4)
            np.testing.assert_array_equal(one.won, other.won)
            hidden += check(one.final_observations, other.final_observations, side, blank)
            for slot in range(4):
                ran = other.valid[:, slot]
                check(
                    {k: v[ran, slot] for k, v in one.observations.items()},
                    {k: v[ran, slot] for k, v in other.observations.items()},
                    side,
                    blank,
                )
    return hidden


def test_what_is_far_is_unknown_and_what_is_near_as_it_was() -> None:
    assert walk(MAZE, 5, 12) > 0


@pytest.mark.minihack
def test_far_cells_of_nethack_look_like_stone() -> None:
    assert blank_symbol(["MiniHack-Room-15x15-v0"]) == 2359
    assert walk("MiniHack-Room-15x15-v0", 7, 3) > 0


def test_a_square_as_large_as_the_map_hides_nothing() -> None:
    assert walk(MAZE, 31, 4) == 0


def test_what_was_hidden_is_remembered_when_it_is_near_again() -> None:
    with closing(NearSightVecEnv(make_vec_env(["Gridworld-Room-9x9-v0"]), 3)) as envs:
        before = {k: v.copy() for k, v in envs.reset([0]).items()}
        start = tuple(before["position"][0].astype(int))
        away = Action.EAST if start[1] < 4 else Action.WEST
        back = Action.WEST if away == Action.EAST else Action.EAST
        far = envs.execute(np.array([[away] * 2]), 2).final_observations
        assert far["terrain"][0][start] == Terrain.UNKNOWN
        near = envs.execute(np.array([[back] * 2]), 2).final_observations
        assert near["visited"][0][start] > 0
        assert near["terrain"][0][start] == Terrain.FLOOR


def test_histories_are_cut_around_where_the_agent_was_then() -> None:
    with closing(HistoryVecEnv(NearSightVecEnv(make_vec_env([MAZE]), 3), 1)) as envs:
        first = {k: v.copy() for k, v in envs.reset([0]).items()}
        later = envs.execute(np.tile(np.arange(8), (1, 1)), 1).final_observations
        np.testing.assert_array_equal(later["history/terrain"][:, 0], first["terrain"])
        assert (first["terrain"][0] != Terrain.UNKNOWN).sum() <= 9


@pytest.mark.parametrize("side", [0, 4, -3])
def test_square_without_a_middle_is_refused(side: int) -> None:
    with closing(make_vec_env([MAZE])) as envs, pytest.raises(ValueError, match="odd number"):
        NearSightVecEnv(envs, side)
