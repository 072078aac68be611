"""What the agent remembers of an episode: one small set of maps, kept up by compiled kernels.

The memory is part of the observation, so whoever reads an observation (oracle, net, picture)
knows all that the agent knows. It is fed with what the game shows now: any integer map plus a
table that translates its symbols into `Terrain`.
"""

from collections.abc import Sequence

import numpy as np
from numba import njit

from remdm.maps import DELTAS, NUM_DIRECTIONS, NUM_TERRAINS, Action, Terrain

_UNKNOWN = int(Terrain.UNKNOWN)
_FLOOR = int(Terrain.FLOOR)
_WALL = int(Terrain.WALL)
_OPEN = int(Terrain.OPEN_DOOR)
_BOULDER = int(Terrain.BOULDER)
_CLOSED = int(Terrain.CLOSED_DOOR)
_LOCKED = int(Terrain.LOCKED_DOOR)
_MONSTER = int(Terrain.MONSTER)
_SEARCH = int(Action.SEARCH)
_DELTAS = tuple((int(dr), int(dc)) for dr, dc in DELTAS)
_MOVES = NUM_DIRECTIONS
_MAX_COUNT = 255


class EpisodeMemory:
    """The remembered maps of one episode; arrays as in `remdm.maps.map_observation_spec`.

    Attributes:
        terrain: uint8 [height, width], `Terrain` of every cell.
        visited: int16 [height, width], 1 + step of the last visit.
        searched: uint8 [height, width], searches made within reach of the cell.
        blocked: uint8 [height, width], bit `d`: a move in direction `d` failed here.
        position: uint8 [2], (row, column) of the agent.
        step: Actions taken in this episode.
    """

    def __init__(self, height: int, width: int, symbols: np.ndarray | None = None) -> None:
        """Args:
        height: Rows of the map, at most 255.
        width: Columns of the map, at most 255.
        symbols: uint8 table from what the game shows to `Terrain`; None if it shows `Terrain`.
        """
        self.symbols = (
            np.arange(NUM_TERRAINS, dtype=np.uint8) if symbols is None else symbols.astype(np.uint8)
        )
        # One array for the byte maps, because every array costs time at the kernels' door. The
        # fourth, what a cell was before a monster or boulder came, is not in the observation.
        self._maps = np.zeros((4, height, width), np.uint8)
        self.terrain, self.searched, self.blocked, self._under = self._maps
        self.visited = np.zeros((height, width), np.int16)
        self.position = np.zeros(2, np.uint8)
        self.step = 0
        self._shown = np.zeros((height, width), np.int16)  # the frame seen last
        self._written = (
            ("terrain", self.terrain),
            ("visited", self.visited),
            ("searched", self.searched),
            ("blocked", self.blocked),
            ("position", self.position),
        )

    @property
    def place(self) -> tuple[int, int]:
        """(row, column) of the agent."""
        return int(self.position[0]), int(self.position[1])

    def reset(self) -> None:
        """Forget everything and count steps from zero."""
        self.step = 0
        self._forget()

    def _forget(self) -> None:
        self._maps.fill(0)
        self.visited.fill(0)
        self.position.fill(0)

    def begin(self, seen: np.ndarray, position: Sequence[int]) -> None:
        """First look at a map. Forgets earlier maps; the step count goes on (see `reset`).

        Args:
            seen: What the game shows, [height, width] indices into `symbols`.
            position: (row, column) of the agent.
        """
        self._forget()
        self._shown.fill(-1)
        self.look(seen, position)

    def look(self, seen: np.ndarray, position: Sequence[int]) -> None:
        """Take in what is shown, without an action."""
        row, column = position
        _look(
            seen, self._shown, self.symbols, self._maps, self.visited, self.position,
            int(row), int(column), self.step,
        )  # fmt: skip

    def update(
        self,
        seen: np.ndarray,
        position: Sequence[int],
        action: int,
        *,
        locked: bool = False,
        held: bool = False,
        answering: bool = False,
    ) -> bool:
        """Take in what one action did.

        Args:
            seen: What the game shows after the action, [height, width] indices into `symbols`.
            position: (row, column) of the agent after the action.
            action: The `Action` taken.
            locked: The game said that the door in front is locked.
            held: The game said that something holds the agent, so that a failed move says
                nothing about the map.
            answering: The action gave the direction that an earlier one had asked for.

        Returns:
            Whether the action was a move that neither moved the agent nor changed the door or
            monster it faces.
        """
        self.step += 1
        row, column = position
        return _update(
            seen, self._shown, self.symbols, self._maps, self.visited, self.position,
            int(row), int(column), self.step, int(action), locked, held, answering,
        )  # fmt: skip

    def write(self, out: dict[str, np.ndarray]) -> None:
        """Copy the memory into `out`, every array of an observation except `glyphs`."""
        for name, array in self._written:
            out[name][...] = array
        out["step"][...] = self.step


@njit(cache=True)
def _look(seen, shown, symbols, maps, visited, position, row, column, step):  # type: ignore[no-untyped-def]
    """Merge one frame and put the agent on its cell."""
    terrain, under = maps[0], maps[3]
    for r in range(terrain.shape[0]):
        # Merging an unchanged row changes nothing, unless the agent is or was in it.
        difference = 0
        for c in range(terrain.shape[1]):
            difference |= seen[r, c] ^ shown[r, c]
        if difference != 0 or r == row or r == position[0]:
            for c in range(terrain.shape[1]):
                shown[r, c] = seen[r, c]
                code, old = symbols[seen[r, c]], terrain[r, c]
                if code == old or (r == row and c == column):
                    continue
                if _comes_and_goes(code) and not _comes_and_goes(old):
                    under[r, c] = old
                terrain[r, c] = _merged(code, old, under[r, c])
    # Whatever was there, the agent stands on it now.
    here = terrain[row, column]
    if _comes_and_goes(here):
        here = under[row, column]
    if here in (_UNKNOWN, _WALL):
        here = _FLOOR
    elif here in (_CLOSED, _LOCKED):
        here = _OPEN
    terrain[row, column] = here
    visited[row, column] = step + 1
    position[0] = row
    position[1] = column


@njit(cache=True)
def _comes_and_goes(code):  # type: ignore[no-untyped-def]
    """Whether something movable hides what the cell is."""
    return code in (_MONSTER, _BOULDER)


@njit(cache=True)
def _merged(code, old, under):  # type: ignore[no-untyped-def]
    """What is remembered of a cell that shows `code`; a blank teaches only that a monster left."""
    if code == _UNKNOWN:
        if old != _MONSTER:
            return old
        return under if under != _UNKNOWN else np.uint8(_FLOOR)
    if code == _CLOSED and old == _LOCKED:
        return old
    return code


@njit(cache=True)
def _update(  # type: ignore[no-untyped-def]
    seen, shown, symbols, maps, visited, position,
    row, column, step, action, locked, held, answering,
):  # fmt: skip
    """Merge one frame and account for the action; returns whether it was a failed move."""
    terrain, searched, blocked = maps[0], maps[1], maps[2]
    height, width = terrain.shape
    old_row, old_column = np.int64(position[0]), np.int64(position[1])
    stayed = old_row == row and old_column == column
    faced_row, faced_column = np.int64(-1), np.int64(-1)
    if action < _MOVES:
        dr, dc = _DELTAS[action]
        faced_row, faced_column = old_row + dr, old_column + dc
    inside = 0 <= faced_row < height and 0 <= faced_column < width
    before = terrain[faced_row, faced_column] if inside else np.uint8(_UNKNOWN)
    _look(seen, shown, symbols, maps, visited, position, row, column, step)
    after = terrain[faced_row, faced_column] if inside else np.uint8(_UNKNOWN)
    if locked and stayed and after == _CLOSED:
        terrain[faced_row, faced_column] = _LOCKED
    if answering:
        return False
    if action == _SEARCH:
        _count_search(searched, row, column)
    if action >= _MOVES:
        return False
    bit = np.uint8(1 << action)
    if not stayed:
        if row == faced_row and column == faced_column:
            blocked[old_row, old_column] &= np.uint8(255 - bit)
        return False
    if _gives_way(before) and after != before:
        return False
    if not held and not _gives_way(before) and not _gives_way(after):
        blocked[row, column] |= bit
    return True


@njit(cache=True)
def _count_search(searched, row, column):  # type: ignore[no-untyped-def]
    """Add one within reach of a search, the cell and its eight neighbours."""
    height, width = searched.shape
    for r in range(max(row - 1, 0), min(row + 2, height)):
        for c in range(max(column - 1, 0), min(column + 2, width)):
            if searched[r, c] < _MAX_COUNT:
                searched[r, c] += 1


@njit(cache=True)
def _gives_way(code):  # type: ignore[no-untyped-def]
    """Whether the cell can be another after the next attempt."""
    return code in (_CLOSED, _LOCKED, _MONSTER)
