"""Remembered maps as drawings, and a walker that judges plans by the rules of movement."""

from collections import deque

import numpy as np

from remdm.maps import (
    DELTAS,
    NUM_ACTIONS,
    NUM_DIRECTIONS,
    Action,
    Terrain,
    empty_observations,
    map_observation_spec,
)
from remdm.tokens import end_token

END = end_token(NUM_ACTIONS)
SYMBOLS = {
    " ": Terrain.UNKNOWN,
    "?": Terrain.UNKNOWN,  # where a blank would be lost
    ".": Terrain.FLOOR,
    "#": Terrain.CORRIDOR,
    "W": Terrain.WALL,
    "-": Terrain.DOORWAY,
    "|": Terrain.OPEN_DOOR,
    "+": Terrain.CLOSED_DOOR,
    "L": Terrain.LOCKED_DOOR,
    ">": Terrain.GOAL,
    "~": Terrain.HAZARD,
    # Visited before:
    ",": Terrain.FLOOR,
    "%": Terrain.CORRIDOR,
    "!": Terrain.OPEN_DOOR,
    # The agent, on the floor or in a corridor:
    "@": Terrain.FLOOR,
    "&": Terrain.CORRIDOR,
}
VISITED = ",%!@&"
IMPASSABLE = {
    Terrain.UNKNOWN,
    Terrain.WALL,
    Terrain.CLOSED_DOOR,
    Terrain.LOCKED_DOOR,
    Terrain.HAZARD,
}
Cell = tuple[int, int]


def drawn(drawing: str, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """One observation [1, ...] of a map drawn in `SYMBOLS`.

    Every line but an empty first one is a row; short rows are filled up with the unknown.
    """
    lines = drawing.strip("\n").split("\n")
    width = max(map(len, lines))
    rows = [list(line.ljust(width)) for line in lines]
    observation = empty_observations(map_observation_spec(len(rows), width), (1,))
    for r, row in enumerate(rows):
        for c, symbol in enumerate(row):
            observation["terrain"][0, r, c] = SYMBOLS[symbol]
            observation["visited"][0, r, c] = symbol in VISITED
            if symbol in "@&":
                observation["position"][0] = r, c
    observation["glyphs"][:] = observation["terrain"]
    for key, value in arrays.items():
        observation[key][0] = value
    return observation


def words(plan: np.ndarray) -> str:
    """A plan in words, without the END tokens that close it."""
    tokens = plan.tolist()
    length = tokens.index(END) if END in tokens else len(tokens)
    assert all(t == END for t in tokens[length:])
    short = {"NORTH": "N", "EAST": "E", "SOUTH": "S", "WEST": "W"}
    for diagonal in ("NORTHEAST", "SOUTHEAST", "SOUTHWEST", "NORTHWEST"):
        short[diagonal] = diagonal[0] + diagonal[5].upper()
    names = [Action(t).name for t in tokens[:length]]
    return " ".join(short.get(name, name) for name in names)


class Remembered:
    """One map of a batch, with the rules of movement written out slowly."""

    def __init__(self, observations: dict[str, np.ndarray], index: int = 0) -> None:
        self.terrain = observations["terrain"][index]
        self.visited = observations["visited"][index]
        self.blocked = observations["blocked"][index]
        row, column = observations["position"][index].tolist()
        self.start = (row, column)

    def at(self, cell: Cell) -> int:
        inside = all(0 <= x < size for x, size in zip(cell, self.terrain.shape, strict=True))
        return int(self.terrain[cell]) if inside else int(Terrain.WALL)

    def tried(self, cell: Cell, direction: int) -> bool:
        return bool(self.blocked[cell] >> direction & 1)

    def next_to(self, cell: Cell, direction: int) -> Cell:
        return cell[0] + int(DELTAS[direction, 0]), cell[1] + int(DELTAS[direction, 1])

    def can_step(self, cell: Cell, direction: int) -> bool:
        target = self.next_to(cell, direction)
        door = Terrain.OPEN_DOOR in (self.at(cell), self.at(target))
        free = self.at(target) not in IMPASSABLE and not self.tried(cell, direction)
        return free and not (door and direction >= 4)

    def distances(self) -> dict[Cell, int]:
        """Steps to every cell that can be reached."""
        steps, queue = {self.start: 0}, deque([self.start])
        while queue:
            cell = queue.popleft()
            for direction in range(NUM_DIRECTIONS):
                target = self.next_to(cell, direction)
                if target not in steps and self.can_step(cell, direction):
                    steps[target] = steps[cell] + 1
                    queue.append(target)
        return steps

    def is_frontier(self, cell: Cell) -> bool:
        around = [self.next_to(cell, d) for d in range(NUM_DIRECTIONS)]
        inside = [c for c in around if min(c) >= 0 and np.all(np.less(c, self.terrain.shape))]
        unseen = any(self.at(c) == Terrain.UNKNOWN for c in inside)
        return cell != self.start and self.visited[cell] == 0 and unseen

    def shut_doors(self, cell: Cell) -> list[tuple[int, int]]:
        """(direction, terrain) of the shut doors straight beside a cell, if not tried in vain."""
        beside = [(d, self.at(self.next_to(cell, d))) for d in range(4)]
        doors = (Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR)
        return [(d, t) for d, t in beside if t in doors and not self.tried(cell, d)]

    def walk(self, plan: np.ndarray) -> tuple[Cell, list[int]]:
        """Walk as far as the plan moves freely; where that ends, and the actions left over."""
        tokens = [t for t in plan.tolist() if t != END]
        cell = self.start
        while tokens and tokens[0] < NUM_DIRECTIONS and self.can_step(cell, tokens[0]):
            cell = self.next_to(cell, tokens.pop(0))
        return cell, tokens


def random_maps(count: int, seed: int, *, goals: bool) -> dict[str, np.ndarray]:
    """Maps of scattered terrain, visits, searches and failed moves, [count, 8, 12]."""
    rng = np.random.default_rng(seed)
    shape = (count, 8, 12)
    observations = empty_observations(map_observation_spec(*shape[1:]), (count,))
    kinds = np.array([t for t in Terrain if goals or t != Terrain.GOAL])
    chances = np.full(len(kinds), 0.03)
    chances[[Terrain.UNKNOWN, Terrain.FLOOR, Terrain.WALL, Terrain.CORRIDOR]] = 0.12, 0.4, 0.2, 0.1
    chances[kinds == Terrain.GOAL] = 0.01
    observations["terrain"][:] = rng.choice(kinds, p=chances / chances.sum(), size=shape)
    seen = rng.random((count, 1, 1))  # some maps are hardly explored, some are through and through
    observations["visited"][:] = rng.random(shape) < seen
    # In half of the maps nothing borders the unknown and no door is shut: only searching is left.
    explored = rng.random(count) < 0.5
    observations["visited"][explored] = 1
    doors = np.isin(observations["terrain"], (Terrain.CLOSED_DOOR, Terrain.LOCKED_DOOR))
    observations["terrain"][explored[:, None, None] & doors] = Terrain.DOORWAY
    observations["searched"][:] = rng.integers(0, 30, shape) * (rng.random(shape) < 0.3)
    observations["blocked"][:] = rng.integers(0, 256, shape) * (rng.random(shape) < 0.1)
    position = np.stack([rng.integers(0, shape[1], count), rng.integers(0, shape[2], count)], 1)
    observations["position"][:] = position
    here = (np.arange(count), *position.T)
    observations["terrain"][here], observations["visited"][here] = Terrain.FLOOR, 1
    return observations
