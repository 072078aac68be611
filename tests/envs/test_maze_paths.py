"""Depth-first mazes are trees, and their plans are the only ways out."""

from itertools import pairwise

import numpy as np
import pytest

from remdm.envs.maze_paths import END, NUM_MOVES, draw_maze_paths, maze_spec, path_horizon
from remdm.maps import DELTAS

SIDES = [2, 3, 5]


def drawn(count: int, side: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return draw_maze_paths(count, side, np.random.default_rng(seed))


def walked(passages: np.ndarray, start: tuple[int, int], moves: list[int]) -> tuple[int, int]:
    """Where moves lead; through a wall they lead nowhere."""
    row, column = start
    for move in moves:
        assert passages[row, column, move]
        row, column = row + int(DELTAS[move, 0]), column + int(DELTAS[move, 1])
    return row, column


@pytest.mark.parametrize("side", SIDES)
def test_every_maze_is_a_tree(side: int) -> None:
    """Connected, with one passage fewer than cells, and every passage open from both sides."""
    observations, _ = drawn(8, side) if side > 2 else drawn(3, side)
    for passages in observations["passages"]:
        assert passages.sum() == 2 * (side * side - 1)
        reached, frontier = {(0, 0)}, [(0, 0)]
        while frontier:
            row, column = frontier.pop()
            for move in np.flatnonzero(passages[row, column]):
                target = row + int(DELTAS[move, 0]), column + int(DELTAS[move, 1])
                assert passages[target][(move + 2) % NUM_MOVES]
                if target not in reached:
                    reached.add(target)
                    frontier.append(target)
        assert len(reached) == side * side


def test_plans_lead_from_the_start_to_the_goal_without_a_step_back() -> None:
    """In a tree the one path without a step back is the only path."""
    observations, plans = drawn(200, 5)
    assert plans.shape == (200, path_horizon(5))
    for passages, marks, plan in zip(
        observations["passages"], observations["marks"], plans, strict=True
    ):
        assert marks.sum((0, 1)).tolist() == [1, 1]
        start, goal = (tuple(int(i) for i in np.argwhere(marks[..., k])[0]) for k in (0, 1))
        moves = plan[plan != END].tolist()
        assert len(moves) >= 1
        assert (plan[len(moves) :] == END).all()
        assert walked(passages, start, moves) == goal
        assert all(a != (b + 2) % NUM_MOVES for a, b in pairwise(moves))


def test_no_two_mazes_have_the_same_walls_and_seeds_decide_all() -> None:
    """So whatever is held out occurs nowhere in training. A room of 2 x 2 has four mazes."""
    observations, plans = drawn(60, 3)
    assert len(np.unique(observations["passages"].reshape(60, -1), axis=0)) == 60
    again, same = drawn(60, 3)
    assert (same == plans).all()
    assert all((again[key] == value).all() for key, value in observations.items())
    assert len(drawn(4, 2)[1]) == 4


def test_arrays_are_as_the_specification_says() -> None:
    observations, _ = drawn(3, 5)
    for key, spec in maze_spec(5).items():
        assert observations[key].shape[1:] == spec.shape
        assert observations[key].dtype == spec.dtype


def test_too_small_and_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 cells along each side, got side=1"):
        drawn(1, 1)
    with pytest.raises(ValueError, match="asked for 5 different mazes of side 2, found 4"):
        drawn(5, 2)
