"""The map, the agent and its plan as coloured text, for watching in a terminal."""

from collections.abc import Sequence

import numpy as np
from rich.console import Group
from rich.text import Text

from remdm.evaluation.plan_path import Cell, Deed, plan_path, plan_words
from remdm.evaluation.recording import Moment, Recording
from remdm.evaluation.rendering import Viewport, describe_end
from remdm.evaluation.tables import short_env_name
from remdm.maps import DELTAS, Terrain

_LIGHT_SHADE, _FULL_BLOCK, _DOT = "\u2591", "\u2588", "\u00b7"
_SYMBOLS: dict[Terrain, tuple[str, str]] = {
    Terrain.UNKNOWN: (" ", ""),
    Terrain.FLOOR: (_DOT, "grey42"),
    Terrain.WALL: (_FULL_BLOCK, "grey35"),
    Terrain.CORRIDOR: (_LIGHT_SHADE, "grey42"),
    Terrain.DOORWAY: (_DOT, "orange3"),
    Terrain.OPEN_DOOR: ("|", "orange3"),
    Terrain.CLOSED_DOOR: ("+", "orange1"),
    Terrain.LOCKED_DOOR: ("+", "bold red"),
    Terrain.GOAL: (">", "bold green"),
    Terrain.OBJECT: ("*", "light_sky_blue3"),
    Terrain.BOULDER: ("0", "grey70"),
    Terrain.MONSTER: ("m", "bold hot_pink"),
    Terrain.HAZARD: ("}", "blue"),
}
# In the order of `Action`: north, east, south, west, northeast, southeast, southwest, northwest.
_ARROWS = "\u2191\u2192\u2193\u2190\u2197\u2198\u2199\u2196"
_SIGNS = {
    Deed.BUMP: ("x", "bold red"),
    Deed.KICK: ("!", "bold red"),
    Deed.OPEN: ("o", "bold orange1"),
}


def map_text(
    observation: dict[str, np.ndarray], view: Viewport, plan: Sequence[int] | np.ndarray = ()
) -> Text:
    """One line of text per map row, the plan's moves as arrows on the cells they enter.

    Args:
        observation: By name, arrays without batch axis.
        view: What to show; its tile size does not matter.
        plan: Tokens of the plan.
    """
    position = observation["position"]
    here: Cell = (int(position[0]), int(position[1]))
    marks = _plan_marks(here, plan, observation["terrain"])
    marks[here] = ("@", "bold yellow")
    visited = observation["visited"]
    text = Text(no_wrap=True)
    for row in range(*view.rows):
        for column in range(*view.columns):
            symbol, style = _SYMBOLS[Terrain(observation["terrain"][row, column])]
            if visited[row, column] and style:
                style += " on grey11"
            text.append(*marks.get((row, column), (symbol, style)))
        text.append("\n")
    text.rstrip()
    return text


def _plan_marks(
    here: Cell, plan: Sequence[int] | np.ndarray, terrain: np.ndarray
) -> dict[Cell, tuple[str, str]]:
    """What a plan puts on the map, by cell; where a path crosses itself the first visit wins."""
    directions = {(int(row), int(column)): i for i, (row, column) in enumerate(DELTAS)}
    marks: dict[Cell, tuple[str, str]] = {}
    for step in plan_path(here, plan, terrain):
        change = step.target[0] - step.start[0], step.target[1] - step.start[1]
        if step.deed is Deed.MOVE:
            marks.setdefault(step.target, (_ARROWS[directions[change]], "bold cyan"))
        elif step.deed in _SIGNS and step.target != step.start:
            marks.setdefault(step.target, _SIGNS[step.deed])
    return marks


def moment_text(recording: Recording, index: int, view: Viewport) -> Group:
    """A whole screen: what is played, the map, and the plan in words or how it ended.

    Args:
        recording: The episode.
        index: Which of its moments.
        view: What to show, from `fit_viewport`.
    """
    moment: Moment = recording.moments[index]
    last = index == len(recording.moments) - 1
    head = Text(short_env_name(recording.env), style="bold")
    head.append(f"  {recording.policy}, level {recording.seed}", style="dim")
    head.append(f"  step {index} of {recording.max_episode_steps}", style="dim")
    if last:
        words, good = describe_end(recording)
        foot = Text(words, style="bold green" if good else "bold red")
    else:
        foot = Text(f"plan {moment.plan_index + 1}: {plan_words(moment.plan)}", style="cyan")
    body = map_text(moment.observation, view, () if last else moment.plan)
    return Group(head, Text(), body, Text(), foot)
