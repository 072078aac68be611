"""A reward that says "warmer": for learners that need more than a win at the end."""

import gin
import numpy as np
from numba import njit

from remdm.envs.memory import EpisodeMemory
from remdm.maps import DELTAS, NUM_DIRECTIONS, Terrain

_GOAL = int(Terrain.GOAL)
_IMPASSABLE = (int(Terrain.UNKNOWN), int(Terrain.WALL), int(Terrain.HAZARD))
_DOORS = (int(Terrain.OPEN_DOOR), int(Terrain.CLOSED_DOOR), int(Terrain.LOCKED_DOOR))
_DELTAS = tuple((int(dr), int(dc)) for dr, dc in DELTAS)
_NO_WAY = -1


@gin.configurable(module="remdm")
class ShapedReward:
    """A bonus for winning, for every cell nearer to the goal and for every new cell.

    The distance is the length of the shortest way over remembered cells (eight moves, none
    diagonal through a door). It counts from the first pair of steps in which a way is known.
    """

    def __init__(
        self,
        *,
        win: float = 20.0,
        nearer: float = 0.5,
        new_cell: float = 0.05,
        step: float = -0.01,
    ) -> None:
        """Args:
        win: For reaching the goal.
        nearer: Per cell that the way to the goal became shorter (longer: minus).
        new_cell: For the first visit of a cell.
        step: For every step.
        """
        self.win = win
        self.nearer = nearer
        self.new_cell = new_cell
        self.step_reward = step
        self._distance = _NO_WAY
        self._queue = np.zeros(0, np.int32)
        self._seen = np.zeros((0, 0), np.int32)
        self._cells = 0

    def reset(self, memory: EpisodeMemory) -> None:
        """Start an episode whose first look is in `memory`."""
        if self._seen.shape != memory.terrain.shape:
            self._queue = np.zeros(memory.terrain.size, np.int32)
            self._seen = np.zeros(memory.terrain.shape, np.int32)
        self._distance = self._measure(memory)
        self._cells = int(np.count_nonzero(memory.visited))

    def step(self, memory: EpisodeMemory, won: bool) -> float:
        """Reward of the step that led to `memory`."""
        reward = self.step_reward + self.win * won
        distance = self._measure(memory)
        if distance != _NO_WAY and self._distance != _NO_WAY:
            reward += self.nearer * (self._distance - distance)
        self._distance = distance
        cells = int(np.count_nonzero(memory.visited))
        reward += self.new_cell * (cells > self._cells)
        self._cells = cells
        return reward

    def _measure(self, memory: EpisodeMemory) -> int:
        row, column = memory.place
        return int(_distance_to_goal(memory.terrain, row, column, self._queue, self._seen))


@njit(cache=True)
def _is_door(code):  # type: ignore[no-untyped-def]
    return code == _DOORS[0] or code == _DOORS[1] or code == _DOORS[2]


@njit(cache=True)
def _distance_to_goal(terrain, row, column, queue, seen):  # type: ignore[no-untyped-def]
    """Breadth-first search; `queue` int32 [cells] and `seen` int32 [H, W] are scratch."""
    height, width = terrain.shape
    seen[:] = 0
    seen[row, column] = 1
    queue[0] = row * width + column
    head, tail = 0, 1
    while head < tail:
        r, c = queue[head] // width, queue[head] % width
        head += 1
        here = terrain[r, c]
        if here == _GOAL:
            return seen[r, c] - 1
        for direction in range(NUM_DIRECTIONS):
            dr, dc = _DELTAS[direction]
            nr, nc = r + dr, c + dc
            if nr < 0 or nc < 0 or nr >= height or nc >= width or seen[nr, nc] != 0:
                continue
            code = terrain[nr, nc]
            if code == _IMPASSABLE[0] or code == _IMPASSABLE[1] or code == _IMPASSABLE[2]:
                continue
            if dr != 0 and dc != 0 and (_is_door(here) or _is_door(code)):
                continue
            seen[nr, nc] = seen[r, c] + 1
            queue[tail] = nr * width + nc
            tail += 1
    return _NO_WAY
