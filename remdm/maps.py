"""The language every map-like environment speaks: actions, directions, terrain, observation arrays.

Environments translate their own symbols into `Terrain`; the oracle, the encoders and the pictures
read nothing else. Rows grow southwards, columns grow eastwards.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Action(IntEnum):
    """The one action set of all map environments. The first eight move or give a direction."""

    NORTH = 0
    EAST = 1
    SOUTH = 2
    WEST = 3
    NORTHEAST = 4
    SOUTHEAST = 5
    SOUTHWEST = 6
    NORTHWEST = 7
    OPEN = 8
    KICK = 9
    SEARCH = 10
    WAIT = 11


NUM_ACTIONS = len(Action)
NUM_DIRECTIONS = 8
ACTION_NAMES = tuple(action.name for action in Action)
# (row, column) change of each direction, in the order of `Action`.
DELTAS = np.array(
    [(-1, 0), (0, 1), (1, 0), (0, -1), (-1, 1), (1, 1), (1, -1), (-1, -1)], dtype=np.int64
)


class Terrain(IntEnum):
    """What the agent remembers of a cell."""

    UNKNOWN = 0
    FLOOR = 1
    WALL = 2
    CORRIDOR = 3
    DOORWAY = 4  # no door, or a broken one: diagonal moves are allowed
    OPEN_DOOR = 5
    CLOSED_DOOR = 6
    LOCKED_DOOR = 7  # learnt from the message after a bump; only kicking helps
    GOAL = 8
    OBJECT = 9
    BOULDER = 10
    MONSTER = 11
    HAZARD = 12  # water, lava, bars, trees: never walked into on purpose


NUM_TERRAINS = len(Terrain)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape (without batch axis) and dtype of one observation array."""

    shape: tuple[int, ...]
    dtype: np.dtype


# Arrays of an observation that repeat earlier steps; see `remdm.envs.history`. They are made again
# from those steps when a window is drawn, and never stored.
HISTORY_PREFIX = "history/"
HISTORY_ACTIONS = HISTORY_PREFIX + "actions"


def history_spec(spec: dict[str, ArraySpec], history: int) -> dict[str, ArraySpec]:
    """The arrays that `history` earlier steps add to an observation; none when 0.

    Args:
        spec: Arrays to look back at.
        history: Steps to look back.
    """
    if not history:
        return {}
    past = {HISTORY_PREFIX + k: ArraySpec((history, *s.shape), s.dtype) for k, s in spec.items()}
    return past | {HISTORY_ACTIONS: ArraySpec((history,), np.dtype(np.int8))}


def map_observation_spec(height: int, width: int) -> dict[str, ArraySpec]:
    """The arrays of one observation of a map environment.

    - `glyphs` int16 [height, width]: the symbols the game shows now.
    - `position` uint8 [2]: (row, column) of the agent.
    - `step` int16 []: actions taken in this episode.
    - `terrain` uint8 [height, width]: `Terrain` of every cell as the agent remembers it.
    - `visited` int16 [height, width]: 1 + step of the last visit; 0 where it never was.
    - `searched` uint8 [height, width]: searches made within reach of the cell, at most 255.
    - `blocked` uint8 [height, width]: bit `d` is set where a move in direction `d` from this
      cell failed.
    """
    cells = (height, width)
    return {
        "glyphs": ArraySpec(cells, np.dtype(np.int16)),
        "position": ArraySpec((2,), np.dtype(np.uint8)),
        "step": ArraySpec((), np.dtype(np.int16)),
        "terrain": ArraySpec(cells, np.dtype(np.uint8)),
        "visited": ArraySpec(cells, np.dtype(np.int16)),
        "searched": ArraySpec(cells, np.dtype(np.uint8)),
        "blocked": ArraySpec(cells, np.dtype(np.uint8)),
    }


def empty_observations(
    spec: dict[str, ArraySpec], leading: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Zeroed arrays of `spec` with `leading` axes in front, for an environment to write into."""
    return {name: np.zeros(leading + s.shape, s.dtype) for name, s in spec.items()}
