"""The look of the maps: colours, and one small antialiased picture per kind of cell.

Symbols follow NetHack where it has one (`>` stairs, `+` door, `#` corridor, `.` floor); they are
drawn as shapes, so that they stay sharp at 10 pixels and need no font.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from remdm.maps import Terrain

Colour = tuple[int, int, int]
SUPERSAMPLE = 4
_TRAIL_AGES = np.array([4, 16, 64])  # steps since the last visit at which the trail fades
_TRAIL_STRENGTHS = np.array([0.75, 0.6, 0.45, 0.3])


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a picture."""

    background: Colour = (13, 16, 23)
    panel: Colour = (22, 27, 36)
    text: Colour = (226, 232, 240)
    dim: Colour = (125, 137, 156)
    unknown: Colour = (13, 16, 23)
    floor: Colour = (32, 39, 51)
    floor_mark: Colour = (66, 78, 97)
    wall: Colour = (84, 98, 122)
    wall_light: Colour = (112, 128, 155)
    wall_dark: Colour = (58, 69, 88)
    corridor: Colour = (38, 34, 34)
    corridor_mark: Colour = (104, 88, 74)
    door: Colour = (240, 160, 60)
    door_tile: Colour = (61, 43, 24)
    locked: Colour = (248, 96, 96)
    locked_tile: Colour = (70, 28, 32)
    goal: Colour = (92, 230, 134)
    goal_tile: Colour = (20, 66, 42)
    item: Colour = (130, 170, 210)
    boulder: Colour = (150, 150, 155)
    boulder_light: Colour = (205, 205, 210)
    monster: Colour = (255, 120, 170)
    hazard: Colour = (86, 140, 255)
    hazard_tile: Colour = (22, 36, 84)
    trail: Colour = (46, 84, 108)
    searched: Colour = (120, 84, 190)
    agent: Colour = (255, 214, 74)
    plan: Colour = (64, 212, 255)
    plan_later: Colour = (44, 120, 160)
    strike: Colour = (255, 118, 84)
    search: Colour = (190, 150, 255)
    won: Colour = (92, 230, 134)
    lost: Colour = (248, 96, 96)


DARK = Theme()


@functools.lru_cache(maxsize=32)
def tile_atlas(size: int, theme: Theme = DARK) -> np.ndarray:
    """One tile per terrain, uint8 [terrains, size, size, 3], indexed by `Terrain`."""
    tiles = []
    for terrain in Terrain:
        big = Image.new("RGB", (size * SUPERSAMPLE,) * 2, tile_colour(terrain, theme))
        _draw_symbol(ImageDraw.Draw(big), terrain, size * SUPERSAMPLE, theme)
        tiles.append(np.asarray(big.reduce(SUPERSAMPLE)))
    return np.stack(tiles)


def tile_colour(terrain: Terrain, theme: Theme = DARK) -> Colour:
    """Ground colour of a terrain."""
    special = {
        Terrain.UNKNOWN: theme.unknown,
        Terrain.WALL: theme.wall,
        Terrain.CORRIDOR: theme.corridor,
        Terrain.DOORWAY: theme.door_tile,
        Terrain.OPEN_DOOR: theme.door_tile,
        Terrain.CLOSED_DOOR: theme.door_tile,
        Terrain.LOCKED_DOOR: theme.locked_tile,
        Terrain.GOAL: theme.goal_tile,
        Terrain.HAZARD: theme.hazard_tile,
    }
    return special.get(terrain, theme.floor)


class _Brush:
    """Draws on one tile of `side` pixels; places and widths are fractions of it."""

    def __init__(self, draw: ImageDraw.ImageDraw, side: int) -> None:
        self.draw, self.side = draw, side

    def line(self, *fractions: float, colour: Colour, width: float = 0.13) -> None:
        points = [f * self.side for f in fractions]
        self.draw.line(points, fill=colour, width=max(2, round(width * self.side)), joint="curve")

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        box = (x - radius, y - radius, x + radius, y + radius)
        self.draw.ellipse([f * self.side for f in box], fill=colour)

    def box(self, *fractions: float, colour: Colour) -> None:
        self.draw.rectangle([f * self.side for f in fractions], fill=colour)


def _draw_symbol(draw: ImageDraw.ImageDraw, terrain: Terrain, side: int, theme: Theme) -> None:
    painter = _PAINTERS.get(terrain)
    if painter is not None:
        painter(_Brush(draw, side), theme)


def _floor(brush: _Brush, theme: Theme) -> None:
    brush.disc(0.5, 0.5, 0.06, theme.floor_mark)


def _wall(brush: _Brush, theme: Theme) -> None:
    brush.box(0, 0, 1, 0.12, colour=theme.wall_light)
    brush.box(0, 0.84, 1, 1, colour=theme.wall_dark)


def _corridor(brush: _Brush, theme: Theme) -> None:
    for f in (0.38, 0.62):
        brush.line(f, 0.24, f, 0.76, colour=theme.corridor_mark, width=0.08)
        brush.line(0.24, f, 0.76, f, colour=theme.corridor_mark, width=0.08)


def _doorway(brush: _Brush, theme: Theme) -> None:
    brush.disc(0.5, 0.5, 0.1, theme.door)


def _open_door(brush: _Brush, theme: Theme) -> None:
    brush.box(0.22, 0.22, 0.78, 0.78, colour=theme.door)
    brush.box(0.35, 0.35, 0.65, 0.65, colour=theme.door_tile)


def _plus(colour: str) -> Callable[[_Brush, Theme], None]:
    def paint(brush: _Brush, theme: Theme) -> None:
        brush.line(0.5, 0.2, 0.5, 0.8, colour=getattr(theme, colour))
        brush.line(0.2, 0.5, 0.8, 0.5, colour=getattr(theme, colour))

    return paint


def _goal(brush: _Brush, theme: Theme) -> None:
    brush.line(0.32, 0.2, 0.7, 0.5, 0.32, 0.8, colour=theme.goal, width=0.16)


def _object(brush: _Brush, theme: Theme) -> None:
    for dx, dy in ((0.26, 0), (0.13, 0.225), (-0.13, 0.225)):
        brush.line(0.5 - dx, 0.5 - dy, 0.5 + dx, 0.5 + dy, colour=theme.item, width=0.09)


def _boulder(brush: _Brush, theme: Theme) -> None:
    brush.disc(0.5, 0.5, 0.34, theme.boulder)
    brush.disc(0.39, 0.36, 0.11, theme.boulder_light)


def _monster(brush: _Brush, theme: Theme) -> None:
    brush.disc(0.5, 0.5, 0.32, theme.monster)
    for x in (0.38, 0.62):
        brush.disc(x, 0.46, 0.08, theme.background)


def _hazard(brush: _Brush, theme: Theme) -> None:
    for y in (0.38, 0.64):
        wave = (0.14, y, 0.32, y - 0.1, 0.5, y, 0.68, y + 0.1, 0.86, y)
        brush.line(*wave, colour=theme.hazard, width=0.09)


_PAINTERS: dict[Terrain, Callable[[_Brush, Theme], None]] = {
    Terrain.FLOOR: _floor,
    Terrain.WALL: _wall,
    Terrain.CORRIDOR: _corridor,
    Terrain.DOORWAY: _doorway,
    Terrain.OPEN_DOOR: _open_door,
    Terrain.CLOSED_DOOR: _plus("door"),
    Terrain.LOCKED_DOOR: _plus("locked"),
    Terrain.GOAL: _goal,
    Terrain.OBJECT: _object,
    Terrain.BOULDER: _boulder,
    Terrain.MONSTER: _monster,
    Terrain.HAZARD: _hazard,
}


def map_image(
    terrain: np.ndarray,
    size: int,
    *,
    visited: np.ndarray | None = None,
    searched: np.ndarray | None = None,
    step: int = 0,
    theme: Theme = DARK,
) -> np.ndarray:
    """A map as a picture, uint8 [height * size, width * size, 3].

    Args:
        terrain: `Terrain` [height, width].
        size: Pixels of a tile's side.
        visited: int [height, width]: 1 + step of the last visit; tints the trail, the fresher the
            stronger.
        searched: int [height, width]: searches in reach; tints what has been searched.
        step: The current step, for the trail.
        theme: Colours.
    """
    height, width = terrain.shape
    tiles = tile_atlas(size, theme)[terrain].astype(np.float32)  # [height, width, size, size, 3]
    if visited is not None:
        age = np.maximum(step + 1 - visited.astype(np.int64), 0)
        # Four shades instead of a smooth fade: a cell that keeps its shade costs a GIF nothing.
        shade = np.searchsorted(_TRAIL_AGES, age, side="right")
        _tint(tiles, np.where(visited > 0, _TRAIL_STRENGTHS[shade], 0.0), theme.trail)
    if searched is not None:
        seen = (searched > 0) & (terrain != Terrain.UNKNOWN)
        _tint(tiles, np.where(seen, 0.15 + 0.03 * np.minimum(searched, 12), 0.0), theme.searched)
    pixels = tiles.transpose(0, 2, 1, 3, 4).reshape(height * size, width * size, 3)
    return np.rint(pixels).astype(np.uint8)


def _tint(tiles: np.ndarray, strength: np.ndarray, colour: Colour) -> None:
    """Mix `colour` into the tiles in place; `strength` [height, width] in [0, 1]."""
    weight = strength[..., None, None, None].astype(np.float32)
    tiles += weight * (np.asarray(colour, np.float32) - tiles)
