"""A small world in numpy: MiniHack's observation and actions without NetHack.

Rules, a simple part of NetHack's:

- Eight moves. No diagonal move into or out of a cell with a door in it, open or closed.
- Walking into a closed door opens it; that takes the turn. A locked one stays shut and says so.
- OPEN and KICK ask for a direction. A kick breaks a closed or locked door with `kick_chance`.
- SEARCH finds each hidden corridor cell next to the agent with probability 1/7.
- The map shown keeps what was seen once. In a lit room the whole room is seen with its walls.
  Elsewhere the eight neighbours, and (not in the dark) straight along rows and columns up to the
  first cell that stops a walker. A hidden cell shows nothing.
- Stepping on the goal wins: reward 1, all other rewards are 0.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import gin
import numpy as np

from remdm.envs.contract import PlannerEnv, StepResult
from remdm.envs.memory import EpisodeMemory
from remdm.maps import (
    ACTION_NAMES,
    DELTAS,
    NUM_ACTIONS,
    NUM_DIRECTIONS,
    Action,
    Terrain,
    map_observation_spec,
)
from remdm.registry import unknown_name_message

_SEARCH_CHANCE = 1 / 7
# Plain numbers: comparing a NumPy scalar with an enum member costs microseconds.
_UNKNOWN, _FLOOR, _WALL = int(Terrain.UNKNOWN), int(Terrain.FLOOR), int(Terrain.WALL)
_CORRIDOR, _DOORWAY, _GOAL = int(Terrain.CORRIDOR), int(Terrain.DOORWAY), int(Terrain.GOAL)
_OPEN_DOOR, _CLOSED_DOOR = int(Terrain.OPEN_DOOR), int(Terrain.CLOSED_DOOR)
_DOORS = (_OPEN_DOOR, _CLOSED_DOOR)
_SOLID = (_UNKNOWN, _WALL, _CLOSED_DOOR)
_STEPS = tuple((int(row), int(column)) for row, column in DELTAS)
_COMPASS = _STEPS[:4]

Cell = tuple[int, int]


@dataclass(slots=True)
class Level:
    """One level as it is, whether seen or not.

    Attributes:
        cells: int16 [height, width] of `Terrain`; the goal is a cell of its own kind.
        start: Where the agent begins.
        rooms: (first row, first column, last row, last column) of each lit room, walls included.
        locked: Closed doors that only a kick opens.
        hidden: Corridor cells that a search has to find.
        dark: Whether nothing beyond the neighbours is ever seen.
    """

    cells: np.ndarray
    start: Cell
    rooms: list[tuple[int, int, int, int]] = field(default_factory=list)
    locked: set[Cell] = field(default_factory=set)
    hidden: set[Cell] = field(default_factory=set)
    dark: bool = False


def room_level(height: int, width: int, rng: np.random.Generator, *, dark: bool = False) -> Level:
    """One room; start and goal anywhere in it."""
    cells = np.full((height, width), _WALL, np.int16)
    cells[1:-1, 1:-1] = _FLOOR
    start, goal = _two_floor_cells(cells, rng)
    cells[goal] = _GOAL
    rooms = [] if dark else [(0, 0, height - 1, width - 1)]
    return Level(cells, start, rooms, dark=dark)


def dark_room_level(height: int, width: int, rng: np.random.Generator) -> Level:
    """One room in which only neighbours are seen."""
    return room_level(height, width, rng, dark=True)


def maze_level(height: int, width: int, rng: np.random.Generator) -> Level:
    """A perfect maze, carved depth first; one way between any two cells (diagonals cut corners).

    Height and width must be odd: cells lie on odd rows and columns.
    """
    cells = np.full((height, width), _WALL, np.int16)
    path = [(1, 1)]
    cells[1, 1] = _FLOOR
    while path:
        row, column = path[-1]
        closed = [
            (dr, dc)
            for dr, dc in _COMPASS
            if 0 < row + 2 * dr < height
            and 0 < column + 2 * dc < width
            and cells[row + 2 * dr, column + 2 * dc] == _WALL
        ]
        if not closed:
            path.pop()
            continue
        dr, dc = closed[rng.integers(len(closed))]
        cells[row + dr, column + dc] = cells[row + 2 * dr, column + 2 * dc] = _FLOOR
        path.append((row + 2 * dr, column + 2 * dc))
    start, goal = _two_floor_cells(cells, rng)
    cells[goal] = _GOAL
    return Level(cells, start)


def doors_level(height: int, width: int, rng: np.random.Generator) -> Level:
    """Two lit rooms. Between them a closed door, a locked one, or a hidden corridor cell.

    Half of the levels have a closed door, the other half is shared evenly by the rest. The agent
    starts in one room, left or right, and the goal is in the other.
    """
    cells = np.full((height, width), _WALL, np.int16)
    middle, row = width // 2, int(rng.integers(1, height - 1))
    kind = rng.choice(("closed", "locked", "hidden"), p=(0.5, 0.25, 0.25))
    gap = 1 if kind == "hidden" else 0  # the corridor cell lies between two walls
    left_wall, right_wall = middle - gap, middle + gap
    cells[1:-1, 1:left_wall] = _FLOOR
    cells[1:-1, right_wall + 1 : -1] = _FLOOR
    locked: set[Cell] = set()
    hidden: set[Cell] = set()
    if kind == "hidden":
        cells[row, left_wall] = cells[row, right_wall] = _DOORWAY
        cells[row, middle] = _CORRIDOR
        hidden.add((row, middle))
    else:
        cells[row, middle] = _CLOSED_DOOR
        if kind == "locked":
            locked.add((row, middle))
    floor = np.argwhere(cells == _FLOOR)
    halves = [floor[floor[:, 1] < middle], floor[floor[:, 1] > middle]]
    first = int(rng.integers(2))
    start, goal = (_pick(halves[i], rng) for i in (first, 1 - first))
    cells[goal] = _GOAL
    rooms = [(0, 0, height - 1, left_wall), (0, right_wall, height - 1, width - 1)]
    return Level(cells, start, rooms, locked, hidden)


def _pick(cells: np.ndarray, rng: np.random.Generator) -> Cell:
    row, column = cells[rng.integers(len(cells))]
    return int(row), int(column)


def _two_floor_cells(cells: np.ndarray, rng: np.random.Generator) -> tuple[Cell, Cell]:
    floor = np.argwhere(cells == _FLOOR)
    first, second = rng.choice(len(floor), 2, replace=False)
    return _pick(floor[first : first + 1], rng), _pick(floor[second : second + 1], rng)


@dataclass(frozen=True, slots=True)
class _Kind:
    build: Callable[[int, int, np.random.Generator], Level]
    height: int
    width: int
    max_episode_steps: int


LEVEL_KINDS = {
    "Gridworld-Room-9x9-v0": _Kind(room_level, 9, 9, 50),
    "Gridworld-DarkRoom-9x9-v0": _Kind(dark_room_level, 9, 9, 100),
    "Gridworld-Maze-9x9-v0": _Kind(maze_level, 9, 9, 100),
    "Gridworld-Maze-15x15-v0": _Kind(maze_level, 15, 15, 300),
    "Gridworld-Doors-9x13-v0": _Kind(doors_level, 9, 13, 300),
}


@gin.configurable(module="remdm", denylist=["name"])
class GridworldEnv(PlannerEnv):
    """The gridworld as a `PlannerEnv`; `glyphs` are `Terrain` codes of the map shown."""

    def __init__(
        self, name: str, *, max_episode_steps: int | None = None, kick_chance: float = 0.35
    ) -> None:
        """Args:
        name: One of `LEVEL_KINDS`.
        max_episode_steps: Steps until truncation; the level's own number when None.
        kick_chance: Probability that a kick breaks a door.

        Raises:
            ValueError: If the name is unknown or a number makes no sense.
        """
        if name not in LEVEL_KINDS:
            raise ValueError(unknown_name_message("environment", name, LEVEL_KINDS))
        kind = LEVEL_KINDS[name]
        limit = kind.max_episode_steps if max_episode_steps is None else max_episode_steps
        if not 1 <= limit < 2**15:
            raise ValueError(
                f"max_episode_steps must be in 1..{2**15 - 1} (steps are stored as int16), got "
                f"{limit}; set GridworldEnv.max_episode_steps"
            )
        if not 0.0 < kick_chance <= 1.0:
            raise ValueError(
                f"kick_chance must be in (0, 1], got {kick_chance}; set GridworldEnv.kick_chance"
            )
        self.name = name
        self.num_actions = NUM_ACTIONS
        self.action_names = ACTION_NAMES
        self.observation_spec = map_observation_spec(kind.height, kind.width)
        self.max_episode_steps = limit
        self.kick_chance = kick_chance
        self._kind = kind
        self._memory = EpisodeMemory(kind.height, kind.width)
        self._shown = np.zeros((kind.height, kind.width), np.int16)
        self._running = False
        self._asking: int | None = None

    def reset(self, seed: int) -> None:
        """See `PlannerEnv.reset`. The layout and the luck are separate streams of the seed."""
        layout, self._luck = (np.random.default_rng([seed, stream]) for stream in range(2))
        self._level = self._kind.build(self._kind.height, self._kind.width, layout)
        self._cell = self._level.start
        self._asking = None
        self._shown.fill(_UNKNOWN)
        self._look()
        self._memory.reset()
        self._memory.begin(self._shown, self._cell)
        self._running = True

    def step(self, action: int) -> StepResult:
        """See `PlannerEnv.step`.

        Raises:
            RuntimeError: If the episode is over or was never started.
            ValueError: If the action is unknown.
        """
        if not self._running:
            raise RuntimeError(f"no episode of {self.name!r} is under way; call reset(seed) first")
        if not 0 <= action < self.num_actions:
            raise ValueError(f"actions are 0..{self.num_actions - 1}, got {action}")
        asked, self._asking = self._asking, None
        says_locked = False
        if asked is not None:
            says_locked = self._answer(asked, action)
        elif action < NUM_DIRECTIONS:
            says_locked = self._move(action)
        elif action in (Action.OPEN, Action.KICK):
            self._asking = action
        elif action == Action.SEARCH:
            self._search()
        self._look()
        blocked = self._memory.update(
            self._shown, self._cell, action, locked=says_locked, answering=asked is not None
        )
        won = self._level.cells[self._cell] == _GOAL
        truncated = not won and self._memory.step >= self.max_episode_steps
        self._running = not (won or truncated)
        return StepResult(float(won), bool(won), truncated, bool(won), blocked)

    def observe(self, out: dict[str, np.ndarray]) -> None:
        """See `PlannerEnv.observe`."""
        out["glyphs"][...] = self._shown
        self._memory.write(out)

    @property
    def pending(self) -> bool:
        """See `PlannerEnv.pending`."""
        return self._asking is not None

    def cancel(self) -> None:
        """See `PlannerEnv.cancel`."""
        self._asking = None

    def _facing(self, direction: int) -> Cell:
        row, column = _STEPS[direction]
        return self._cell[0] + row, self._cell[1] + column

    def _move(self, direction: int) -> bool:
        """Walk or open a door by walking into it; returns whether the door said it is locked."""
        level, target = self._level, self._facing(direction)
        terrain = int(level.cells[target])
        diagonal = direction >= len(_COMPASS)
        if target in level.hidden or terrain == _WALL:
            return False
        if diagonal and (terrain in _DOORS or int(level.cells[self._cell]) in _DOORS):
            return False
        if terrain == _CLOSED_DOOR:
            return self._open(target)
        self._cell = target
        return False

    def _open(self, target: Cell) -> bool:
        if target in self._level.locked:
            return True
        self._level.cells[target] = _OPEN_DOOR
        return False

    def _answer(self, asked: int, direction: int) -> bool:
        """Open or kick towards `direction`; anything but a direction gives the action up."""
        if direction >= NUM_DIRECTIONS:
            return False
        target = self._facing(direction)
        if self._level.cells[target] != _CLOSED_DOOR:
            return False
        if asked == Action.OPEN:
            return self._open(target)
        if self._luck.random() < self.kick_chance:
            self._level.cells[target] = _DOORWAY
            self._level.locked.discard(target)
        return False

    def _search(self) -> None:
        row, column = self._cell
        for cell in sorted(self._level.hidden):
            near = abs(cell[0] - row) <= 1 and abs(cell[1] - column) <= 1
            if near and self._luck.random() < _SEARCH_CHANCE:
                self._level.hidden.remove(cell)

    def _look(self) -> None:
        """Show what is seen from where the agent stands."""
        level, (row, column) = self._level, self._cell
        self._show(row - 1, column - 1, row + 1, column + 1)
        if level.dark:
            return
        for top, left, bottom, right in level.rooms:
            if top < row < bottom and left < column < right:
                self._show(top, left, bottom, right)
                return
        for dr, dc in _COMPASS:
            r, c = row + dr, column + dc
            while int(self._shown[r, c]) not in _SOLID:
                r, c = r + dr, c + dc
                self._show(r, c, r, c)

    def _show(self, top: int, left: int, bottom: int, right: int) -> None:
        area = slice(top, bottom + 1), slice(left, right + 1)
        self._shown[area] = self._level.cells[area]
        for cell in self._level.hidden:
            self._shown[cell] = _UNKNOWN
