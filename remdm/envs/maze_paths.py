"""Depth-first mazes and the only path through each, drawn by the hundred thousand.

The task of arXiv 2412.05117 in its smallest size: the walls of a maze, a start and a goal in, all
moves out. A depth-first maze is a tree, so exactly one plan is right. Nothing is played here; this
is data for `examples/03_maze_paths.py`.
"""

import numpy as np

from remdm.maps import DELTAS, ArraySpec
from remdm.tokens import end_token

NUM_MOVES = 4  # north, east, south, west
END = end_token(NUM_MOVES)


def path_horizon(side: int) -> int:
    """Moves of the longest path that a maze can have: through all of its cells."""
    return side * side - 1


def maze_spec(side: int) -> dict[str, ArraySpec]:
    """The arrays of one maze.

    - `passages` bool [side, side, 4]: whether one can step north, east, south, west of a cell.
    - `marks` bool [side, side, 2]: the start, the goal.
    """
    flag = np.dtype(bool)
    return {
        "passages": ArraySpec((side, side, NUM_MOVES), flag),
        "marks": ArraySpec((side, side, 2), flag),
    }


def draw_maze_paths(
    count: int, side: int, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Mazes of which no two have the same walls, each with a start, a goal and its path.

    So whatever is split off these is disjoint from the rest.

    Args:
        count: Number of mazes.
        side: Cells along each side, at least 2.
        rng: Source of randomness.

    Returns:
        Observations as in `maze_spec`, [count, ...]; plans int64 [count, side ** 2 - 1]: moves,
        then END.

    Raises:
        ValueError: If `side` is below 2, or has too few different mazes.
    """
    if side < 2:
        raise ValueError(f"a maze needs at least 2 cells along each side, got side={side}")
    passages = _different_mazes(count, side, rng)
    cells = side * side
    start = rng.integers(cells, size=count)
    goal = (start + rng.integers(1, cells, size=count)) % cells
    marks = np.arange(cells)[:, None] == np.stack([start, goal], -1)[:, None]
    observations = {
        "passages": passages.reshape(count, side, side, NUM_MOVES),
        "marks": marks.reshape(count, side, side, 2),
    }
    return observations, _paths(passages, start, goal, side)


def draw_mazes(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Random depth-first mazes: walk to any new neighbour, or back if there is none.

    Args:
        count: Number of mazes.
        side: Cells along each side.
        rng: Source of randomness.

    Returns:
        bool [count, side ** 2, 4]: whether one can step north, east, south, west of a cell.
    """
    cells, around, every = side * side, _around(side), np.arange(count)
    passages = np.zeros((count, cells, NUM_MOVES), bool)
    visited = np.zeros((count, cells + 1), bool)
    visited[:, cells] = True  # beyond the edge
    walk, depth = np.zeros((count, cells), int), np.zeros(count, int)
    walk[:, 0] = rng.integers(cells, size=count)
    visited[every, walk[:, 0]] = True
    for _ in range(2 * cells - 2):  # every cell but the first is entered once and left once
        here = walk[every, depth]
        new = ~visited[every[:, None], around[here]]
        move = np.where(new, rng.random(new.shape), -1.0).argmax(1)
        goes = new.any(1)
        maze, source, move = every[goes], here[goes], move[goes]
        target = around[source, move]
        passages[maze, source, move] = True
        passages[maze, target, (move + 2) % NUM_MOVES] = True
        visited[maze, target] = True
        depth = np.maximum(depth + np.where(goes, 1, -1), 0)
        walk[maze, depth[goes]] = target
    return passages


def _around(side: int) -> np.ndarray:
    """Cell that each move leads to, int64 [side ** 2, 4]; side ** 2 stands for beyond the edge."""
    row, column = np.divmod(np.arange(side * side), side)
    row = row[:, None] + DELTAS[:NUM_MOVES, 0]
    column = column[:, None] + DELTAS[:NUM_MOVES, 1]
    inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
    return np.where(inside, row * side + column, side * side)


def _different_mazes(count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Mazes without repetitions, in the order of their first draw, as `draw_mazes` gives them."""
    mazes = draw_mazes(0, side, rng)
    while len(mazes) < count:
        known = len(mazes)
        mazes = np.concatenate([mazes, draw_mazes(count - known + 100, side, rng)])
        packed = np.packbits(mazes.reshape(len(mazes), -1), axis=1)
        _, first = np.unique(packed, axis=0, return_index=True)
        mazes = mazes[np.sort(first)]
        if len(mazes) == known:
            raise ValueError(f"asked for {count} different mazes of side {side}, found {known}")
    return mazes[:count]


def _paths(passages: np.ndarray, start: np.ndarray, goal: np.ndarray, side: int) -> np.ndarray:
    """Moves from each start to its goal, int64 [count, side ** 2 - 1], by a flood from the goal."""
    count, cells, _ = passages.shape
    around, every = _around(side), np.arange(count)
    away = np.full((count, cells + 1), cells)  # moves to the goal; more than there can be
    away[every, goal] = 0
    for _ in range(cells - 1):
        through = np.where(passages, away[:, around], cells).min(2) + 1
        away[:, :cells] = np.minimum(away[:, :cells], through)
    plans = np.full((count, path_horizon(side)), END)
    here = start
    for step in range(plans.shape[1]):
        nearer = away[every[:, None], around[here]] < away[every, here, None]
        nearer &= passages[every, here]
        goes, move = nearer.any(1), nearer.argmax(1)
        plans[:, step] = np.where(goes, move, END)
        here = np.where(goes, around[here, move], here)
    return plans
