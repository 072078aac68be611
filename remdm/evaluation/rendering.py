"""Pictures of an episode: the remembered map, the agent, and its current plan as arrows.

`render_episode` turns a `Recording` into frames of one size, cropped to the part of the map that
the episode uses. Only NumPy and Pillow are needed. Lives in Craftax, where there is no map of the
whole, are drawn by `craftax_pictures`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remdm.evaluation.craftax_pictures import render_life
from remdm.evaluation.craftax_scene import is_life
from remdm.evaluation.gif import write_gif
from remdm.evaluation.overlay import draw_plan
from remdm.evaluation.plan_path import Cell, plan_path
from remdm.evaluation.recording import Recording
from remdm.evaluation.sheet import Sheet
from remdm.evaluation.tables import short_env_name
from remdm.evaluation.tiles import DARK, Theme, map_image
from remdm.maps import Terrain

MAP_KEYS = ("terrain", "visited", "searched", "position", "step")
_BORDER = 10  # pixels around the map
_MIN_WIDTH = 420


@dataclass(frozen=True, slots=True)
class Viewport:
    """The part of the map that is shown, and how large.

    Attributes:
        rows: Half-open range of map rows.
        columns: Half-open range of map columns.
        size: Pixels of a tile's side.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    size: int

    @property
    def origin(self) -> Cell:
        """First cell shown."""
        return self.rows[0], self.columns[0]

    def crop(self, cells: np.ndarray) -> np.ndarray:
        """The shown part of a map [height, width]."""
        return cells[slice(*self.rows), slice(*self.columns)]


def can_be_drawn(names: Iterable[str]) -> bool:
    """Whether `render_episode` can draw observations with arrays of these names."""
    names = set(names)
    return is_map(names) or is_life(names)


def is_map(names: Iterable[str]) -> bool:
    """Whether observations with arrays of these names are maps."""
    return set(MAP_KEYS) <= set(names)


def fit_viewport(
    observations: Sequence[dict[str, np.ndarray]],
    *,
    margin: int = 1,
    max_width: int = 840,
    max_height: int = 380,
    tile_sizes: tuple[int, int] = (10, 28),
) -> Viewport:
    """The smallest part of the map that shows everything an episode ever knew.

    Args:
        observations: Those of the episode.
        margin: Cells of unknown around it.
        max_width: Pixels that the map should not exceed while tiles can shrink.
        max_height: Likewise.
        tile_sizes: Smallest and largest side of a tile in pixels.

    Raises:
        ValueError: If the observations are not those of a map environment.
    """
    if not observations or not all(is_map(o) for o in observations):
        raise ValueError(
            "only observations with the arrays of a map can be drawn "
            f"({', '.join(MAP_KEYS)}; see remdm.maps), got "
            f"{sorted(observations[0]) if observations else 'no observation'}."
        )
    known = np.zeros(observations[0]["terrain"].shape, bool)
    for observation in observations:
        known |= observation["terrain"] != Terrain.UNKNOWN
        known[tuple(observation["position"])] = True
    rows, columns = _used(known.max(1), margin), _used(known.max(0), margin)
    fitting = min(max_width // (columns[1] - columns[0]), max_height // (rows[1] - rows[0]))
    return Viewport(rows, columns, int(np.clip(fitting, *tile_sizes)))


def _used(known: np.ndarray, margin: int) -> tuple[int, int]:
    """Half-open range that holds all of `known` [n] and a margin around it."""
    places = np.flatnonzero(known)
    return max(0, int(places[0]) - margin), min(len(known), int(places[-1]) + 1 + margin)


def render_map(
    observation: dict[str, np.ndarray],
    view: Viewport,
    *,
    plan: np.ndarray | None = None,
    committed: int = 10**6,
    shade: bool = True,
    theme: Theme = DARK,
) -> np.ndarray:
    """The map of one observation with agent and plan.

    Args:
        observation: By name, arrays without batch axis.
        view: What to show.
        plan: Tokens to draw as a path; none when None.
        committed: Tokens that run before the next plan; later ones are darker.
        shade: Tint the trail of visited cells and what has been searched.
        theme: Colours.

    Returns:
        uint8 [rows * size, columns * size, 3].
    """
    picture = map_image(
        view.crop(observation["terrain"]),
        view.size,
        visited=view.crop(observation["visited"]) if shade else None,
        searched=view.crop(observation["searched"]) if shade else None,
        step=int(observation["step"]),
        theme=theme,
    )
    position = observation["position"]
    here = int(position[0]), int(position[1])
    steps = [] if plan is None else plan_path(position, plan, observation["terrain"])
    return draw_plan(
        picture, steps, here, view.size, origin=view.origin, committed=committed, theme=theme
    )


def render_episode(
    recording: Recording,
    *,
    max_frames: int | None = 300,
    shade: bool = True,
    theme: Theme = DARK,
) -> list[np.ndarray]:
    """Frames of an episode, all of one size: one per action and one that shows the end.

    Args:
        recording: The episode.
        max_frames: With more moments than that, only every n-th is shown, and the picture says so.
        shade: Tint visited and searched cells.
        theme: Colours.

    Returns:
        uint8 [height, width, 3] each.

    Raises:
        ValueError: If the observations are neither of a map environment nor of Craftax.
    """
    if shows_life(recording):
        return render_life(recording, max_frames=max_frames, theme=theme)
    view = fit_viewport([moment.observation for moment in recording.moments])
    stride, shown = recording.thinned(max_frames)
    return [
        _compose(recording, index, view, stride=stride, shade=shade, theme=theme) for index in shown
    ]


def draw_gif(path: Path, recording: Recording, *, max_frames: int | None = 300) -> None:
    """Write an episode as a GIF; see `render_episode` and `write_gif` for what they raise.

    Args:
        path: File to write; its folder is made if need be.
        recording: The episode.
        max_frames: See `render_episode`.
    """
    frames = render_episode(recording, max_frames=max_frames)
    write_gif(path, frames, vivid=shows_life(recording))


def shows_life(recording: Recording) -> bool:
    """Whether an episode is a life in Craftax."""
    return all(is_life(moment.observation) for moment in recording.moments)


def _compose(
    recording: Recording, index: int, view: Viewport, *, stride: int, shade: bool, theme: Theme
) -> np.ndarray:
    """One frame: header, map, and below it the plan or, at the end, the verdict."""
    moment = recording.moments[index]
    last = index == len(recording.moments) - 1
    board = render_map(
        moment.observation,
        view,
        plan=None if last else moment.plan,
        committed=moment.committed,
        shade=shade,
        theme=theme,
    )
    width = max(_MIN_WIDTH, board.shape[1] + 2 * _BORDER)
    sheet = Sheet(width, board.shape[0] + 2 * _BORDER, theme)
    sheet.paste(board)
    sheet.header(
        short_env_name(recording.env),
        f"{recording.policy}, level {recording.seed}",
        _step_text(index, recording.max_episode_steps, stride),
    )
    if last:
        sheet.verdict(*describe_end(recording))
    else:
        sheet.plan(moment.plan, moment.committed, f"plan {moment.plan_index + 1}: ")
    return sheet.pixels()


def _step_text(index: int, cap: int, stride: int) -> str:
    text = f"step {index} of {cap}"
    return text if stride == 1 else f"{text}, 1 in {stride} shown"


def describe_end(recording: Recording) -> tuple[str, bool]:
    """What the last frame says, and whether it is good news."""
    if recording.won:
        return f"won in {recording.num_steps} steps", True
    how = "lost after" if recording.over else "not finished after"
    return f"{how} {recording.num_steps} steps", False
