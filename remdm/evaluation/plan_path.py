"""Where a plan leads, and what it says in words.

The path is a prediction from the remembered map: a plan is drawn before it is executed, and a
door that turns out to be locked is not foreseen.
"""

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, Action, Terrain

DIRECTION_WORDS = tuple(action.name.lower() for action in Action)[:NUM_DIRECTIONS]
_SOLID = (Terrain.WALL, Terrain.LOCKED_DOOR)

Cell = tuple[int, int]


class Deed(Enum):
    """What a part of a plan does."""

    MOVE = "move"
    BUMP = "bump"  # a move that the map says will fail, or that only opens a door
    KICK = "kick"
    OPEN = "open"
    SEARCH = "search"
    WAIT = "wait"


class PlanStep(NamedTuple):
    """One deed of a plan.

    Attributes:
        deed: What is done.
        start: (row, column) where the agent then stands.
        target: The cell it concerns: entered, bumped into, kicked; `start` for SEARCH and WAIT.
        first_token: Index of its first token in the plan.
    """

    deed: Deed
    start: Cell
    target: Cell
    first_token: int


def plan_actions(plan: Sequence[int] | np.ndarray) -> list[int]:
    """The plan's tokens up to the first that is not an action (END or MASK)."""
    actions: list[int] = []
    for token in plan:
        if not 0 <= int(token) < NUM_ACTIONS:
            break
        actions.append(int(token))
    return actions


def plan_path(
    position: Sequence[int] | np.ndarray,
    plan: Sequence[int] | np.ndarray,
    terrain: np.ndarray | None = None,
) -> list[PlanStep]:
    """Follow a plan over the remembered map.

    Args:
        position: (row, column) of the agent.
        plan: Tokens; read up to the first that is not an action.
        terrain: `Terrain` [height, width]; nothing is in the way when None.

    Returns:
        The deeds in order. A direction after KICK or OPEN belongs to it; doors kicked, opened or
        bumped into count as open from then on.
    """
    here: Cell = (int(position[0]), int(position[1]))
    actions = plan_actions(plan)
    opened: set[Cell] = set()
    steps: list[PlanStep] = []
    index = 0
    while index < len(actions):
        action, first = actions[index], index
        index += 1
        if action in (Action.SEARCH, Action.WAIT):
            steps.append(PlanStep(Deed(Action(action).name.lower()), here, here, first))
        elif action in (Action.KICK, Action.OPEN):
            target = here
            if index < len(actions) and actions[index] < NUM_DIRECTIONS:
                target = _neighbour(here, actions[index])
                opened.add(target)
                index += 1
            steps.append(PlanStep(Deed(Action(action).name.lower()), here, target, first))
        else:
            target = _neighbour(here, action)
            deed = _move_or_bump(target, terrain, opened)
            steps.append(PlanStep(deed, here, target, first))
            if deed is Deed.MOVE:
                here = target
    return steps


def _neighbour(cell: Cell, direction: int) -> Cell:
    return cell[0] + int(DELTAS[direction, 0]), cell[1] + int(DELTAS[direction, 1])


def _move_or_bump(target: Cell, terrain: np.ndarray | None, opened: set[Cell]) -> Deed:
    if terrain is None or target in opened:
        return Deed.MOVE
    height, width = terrain.shape
    if not (0 <= target[0] < height and 0 <= target[1] < width):
        return Deed.BUMP
    what = terrain[target]
    if what == Terrain.CLOSED_DOOR:
        opened.add(target)  # bumping opens it, the move after goes through
        return Deed.BUMP
    return Deed.BUMP if what in _SOLID else Deed.MOVE


def plan_words(plan: Sequence[int] | np.ndarray) -> str:
    """A plan in words: "east x3, kick north, search x5"; "nothing" for an empty plan."""
    actions = plan_actions(plan)
    phrases: list[str] = []
    index = 0
    while index < len(actions):
        phrase = Action(actions[index]).name.lower()
        index += 1
        if phrase in ("kick", "open") and index < len(actions) and actions[index] < NUM_DIRECTIONS:
            phrase += " " + DIRECTION_WORDS[actions[index]]
            index += 1
        phrases.append(phrase)
    words: list[str] = []
    start = 0
    for stop in range(1, len(phrases) + 1):
        if stop == len(phrases) or phrases[stop] != phrases[start]:
            count = stop - start
            words.append(phrases[start] + (f" x{count}" if count > 1 else ""))
            start = stop
    return ", ".join(words) or "nothing"
