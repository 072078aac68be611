"""The agent and its plan, drawn over a map picture: arrows for moves, signs for the rest."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from remdm.evaluation.plan_path import Cell, Deed, PlanStep
from remdm.evaluation.tiles import DARK, SUPERSAMPLE, Colour, Theme


def draw_plan(
    picture: np.ndarray,
    steps: Sequence[PlanStep],
    position: Cell,
    size: int,
    *,
    origin: Cell = (0, 0),
    committed: int = 10**6,
    theme: Theme = DARK,
) -> np.ndarray:
    """Draw the agent and the path of its plan.

    Args:
        picture: uint8 [height, width, 3], a crop of `map_image`.
        steps: What `plan_path` says.
        position: (row, column) of the agent.
        size: Pixels of a tile's side.
        origin: (row, column) of the picture's first cell.
        committed: Tokens that run before the next plan; what comes later is drawn darker.
        theme: Colours.

    Returns:
        A new picture of the same shape.
    """
    # Only the part around the plan is magnified: drawing large and shrinking smooths all edges.
    top, left, bottom, right = _surroundings(steps, position, size, origin, picture.shape)
    part = Image.fromarray(picture[top:bottom, left:right])
    large = part.resize((part.width * SUPERSAMPLE, part.height * SUPERSAMPLE), Image.Resampling.BOX)
    corner = (origin[0] + top / size, origin[1] + left / size)
    pen = Pen(ImageDraw.Draw(large), size * SUPERSAMPLE, corner)
    # Later parts first, so that the way ahead lies on top where a path crosses itself.
    for step in reversed(steps):
        now = step.first_token < committed
        if step.deed is Deed.MOVE:
            pen.arrow(step.start, step.target, theme.plan if now else theme.plan_later)
        elif step.deed is Deed.BUMP:
            pen.bump(step.start, step.target, theme.strike)
    pen.agent(position, theme)
    for step in steps:
        if step.deed in (Deed.KICK, Deed.OPEN):
            colour = theme.strike if step.deed is Deed.KICK else theme.door
            pen.strike(step.start, step.target, colour)
    for cell, count in Counter(s.start for s in steps if s.deed is Deed.SEARCH).items():
        pen.rings(cell, count, theme.search)
    for cell in {s.start for s in steps if s.deed is Deed.WAIT}:
        pen.dots(cell, theme.text)
    result = picture.copy()
    result[top:bottom, left:right] = np.asarray(large.reduce(SUPERSAMPLE))
    return result


def _surroundings(
    steps: Sequence[PlanStep],
    position: Cell,
    size: int,
    origin: Cell,
    shape: tuple[int, ...],
) -> tuple[int, int, int, int]:
    """Pixel box (top, left, bottom, right) of all cells concerned, with two cells of margin."""
    cells = np.array([position, *(s.start for s in steps), *(s.target for s in steps)])
    low = np.clip((cells.min(0) - 2 - origin) * size, 0, shape[:2])
    high = np.clip((cells.max(0) + 3 - origin) * size, 0, shape[:2])
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


Point = tuple[float, float]


class Pen:
    """Draws signs on cells; lengths are fractions of a tile."""

    def __init__(self, draw: ImageDraw.ImageDraw, tile: int, origin: tuple[float, float]) -> None:
        self.draw, self.tile, self.origin = draw, tile, origin

    def centre(self, cell: Point) -> tuple[float, float]:
        """(x, y) of a cell's centre."""
        x = (cell[1] - self.origin[1] + 0.5) * self.tile
        return x, (cell[0] - self.origin[0] + 0.5) * self.tile

    def arrow(self, start: Point, target: Point, colour: Colour) -> None:
        """A shaft from centre to centre with its head on the target."""
        (x0, y0), (x1, y1) = self.centre(start), self.centre(target)
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        tip, back, half = 0.2 * self.tile, 0.22 * self.tile, 0.26 * self.tile
        foot = (x1 - ux * back, y1 - uy * back)
        self.draw.line([(x0, y0), foot], fill=colour, width=round(0.16 * self.tile))
        head = [
            (x1 + ux * tip, y1 + uy * tip),
            (foot[0] - uy * half, foot[1] + ux * half),
            (foot[0] + uy * half, foot[1] - ux * half),
        ]
        self.draw.polygon(head, fill=colour)

    def bump(self, start: Cell, target: Cell, colour: Colour) -> None:
        """A bar across the border between two cells."""
        (x0, y0), (x1, y1) = self.centre(start), self.centre(target)
        length = math.hypot(x1 - x0, y1 - y0)
        ux, uy = (x1 - x0) / length, (y1 - y0) / length
        x, y, half = (x0 + x1) / 2, (y0 + y1) / 2, 0.34 * self.tile
        ends = [(x - uy * half, y + ux * half), (x + uy * half, y - ux * half)]
        self.draw.line(ends, fill=colour, width=round(0.2 * self.tile))

    def strike(self, start: Cell, target: Cell, colour: Colour) -> None:
        """A burst on the target, tied to the agent's cell by a line."""
        width = round(0.13 * self.tile)
        x, y = self.centre(target)
        if start != target:
            self.draw.line([self.centre(start), (x, y)], fill=colour, width=width)
        for turn in range(8):
            angle = turn * math.pi / 4
            reach = (0.46 if turn % 2 else 0.4) * self.tile
            inner = 0.16 * self.tile
            ends = [
                (x + math.cos(angle) * inner, y + math.sin(angle) * inner),
                (x + math.cos(angle) * reach, y + math.sin(angle) * reach),
            ]
            self.draw.line(ends, fill=colour, width=width)

    def rings(self, cell: Cell, count: int, colour: Colour) -> None:
        """One ring per search, at most three; they reach over the eight neighbours."""
        x, y = self.centre(cell)
        for ring in range(min(count, 3)):
            radius = (1.4 - 0.28 * ring) * self.tile
            box = (x - radius, y - radius, x + radius, y + radius)
            self.draw.ellipse(box, outline=colour, width=round((0.1 - 0.02 * ring) * self.tile))

    def dots(self, cell: Cell, colour: Colour) -> None:
        """Three dots above the agent: it waits."""
        x, y = self.centre(cell)
        for k in (-1, 0, 1):
            cx, cy, r = x + k * 0.3 * self.tile, y - 0.72 * self.tile, 0.1 * self.tile
            self.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)

    def agent(self, cell: Cell, theme: Theme) -> None:
        """A bright disc with a dark rim."""
        x, y = self.centre(cell)
        for radius, colour in ((0.46, theme.background), (0.36, theme.agent)):
            r = radius * self.tile
            self.draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        r = 0.13 * self.tile
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=theme.background)
