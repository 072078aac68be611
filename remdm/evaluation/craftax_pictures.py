"""Pictures of a Craftax life: what the player sees and carries, its needs, and the plan beside it.

Drawn from packed observations alone, in the game's own pictures where they are installed.
"""

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from remdm.evaluation.craftax_scene import Scene, read_scene
from remdm.evaluation.craftax_textures import assets_folder, icon, item_tile, kind_tile
from remdm.evaluation.plan_column import PlanLine, When, plan_lines
from remdm.evaluation.recording import Recording
from remdm.evaluation.sheet import EDGE, HEADER, Sheet
from remdm.evaluation.tables import short_env_name
from remdm.evaluation.tiles import DARK, Colour, Theme

TILE_SIZES = {"craftax_classic": 48, "craftax": 32}
"""Pixels of a tile's side: whole multiples of the textures' 16, so that these stay sharp."""
_BODY = 356
_ITEMS_WIDTH, _PLAN_WIDTH, _PLAN_ROW = 180, 172, 17
_ICON, _ICON_STEP, _LINE = 32, 36, 16
_NIGHT: Colour = (10, 14, 44)
_NIGHT_STRENGTH, _SLEEP_STRENGTH = 0.6, 0.4
_SHADES = 5  # few shades of dusk instead of a smooth one: a picture that keeps its shade packs well
_FRESH = 12  # steps for which an achievement is bright
_LOW = 3  # a need that presses
_KEPT = 3  # lines of the plan that stay above the next one


def view_image(
    scene: Scene, size: int, *, textures: Path | None = None, theme: Theme = DARK
) -> np.ndarray:
    """What the player sees, the player in the middle, and a frame around what it faces.

    Args:
        scene: From `read_scene`.
        size: Pixels of a tile's side.
        textures: Folder of the game's pictures; None for coloured tiles with letters.
        theme: Colours.

    Returns:
        uint8 [rows * size, columns * size, 3].
    """
    rows, columns = scene.tiles.shape
    view = Image.new("RGB", (columns * size, rows * size), theme.background)
    for row in range(rows):
        for column in range(columns):
            view.paste(
                kind_tile(scene.block(row, column), textures, size), (column * size, row * size)
            )
    player = icon(scene.look, textures, size)
    row, column = scene.player
    view.paste(player, (column * size, row * size), player)
    for (row, column), kinds in scene.things.items():
        for kind in kinds:
            picture = kind_tile(kind, textures, size)
            view.paste(picture, (column * size, row * size), picture)
    dusk = round((1 - scene.light) * _SHADES) / _SHADES
    view = Image.blend(view, Image.new("RGB", view.size, _NIGHT), dusk * _NIGHT_STRENGTH)
    if scene.state == "asleep":
        view = Image.blend(view, Image.new("RGB", view.size), _SLEEP_STRENGTH)
    _mark_faced(ImageDraw.Draw(view), scene, size, theme)
    return np.asarray(view)


def _mark_faced(draw: ImageDraw.ImageDraw, scene: Scene, size: int, theme: Theme) -> None:
    row, column = (a + b for a, b in zip(scene.player, scene.facing, strict=True))
    left, top, reach = column * size, row * size, size // 4
    for x, dx in ((left, 1), (left + size - 2, -1)):
        for y, dy in ((top, 1), (top + size - 2, -1)):
            end_x, end_y = x + dx * reach, y + dy * reach
            draw.rectangle((min(x, end_x), y, max(x, end_x), y + 1), theme.agent)
            draw.rectangle((x, min(y, end_y), x + 1, max(y, end_y)), theme.agent)


def render_life(
    recording: Recording, *, max_frames: int | None = 300, theme: Theme = DARK
) -> list[np.ndarray]:
    """Frames of a life, all of one size: one per action and one that shows the end.

    Args:
        recording: Of either Craftax game.
        max_frames: With more moments than that, only every n-th is shown, and the picture says so.
        theme: Colours.

    Returns:
        uint8 [height, width, 3] each.

    Raises:
        ValueError: If the observations are not packed Craftax observations.
    """
    page = _Page(recording, theme)
    stride, shown = recording.thinned(max_frames)
    return [page.frame(index, stride) for index in shown]


def describe_life(recording: Recording) -> tuple[str, bool]:
    """How a life ended, and whether that is good news."""
    steps = f"{recording.num_steps} steps"
    if recording.won:
        return f"beat the game in {steps}", True
    if recording.over and not recording.truncated:
        return f"died after {steps}", False
    return f"alive after {steps}", True


def achieved(recording: Recording, index: int) -> list[tuple[int, str]]:
    """What had been unlocked by a moment: the step after which, and the name; newest first."""
    found = [
        (step, name)
        for step, moment in enumerate(recording.moments[: index + 1])
        for name in moment.unlocked
    ]
    return found[::-1]


def time_text(recording: Recording, index: int) -> str:
    """Return and step of a moment."""
    earned = recording.moments[index].earned
    return f"return {earned:.1f}, step {index} of {recording.max_episode_steps}"


class _Page:
    """The layout of one life: view, inventory and achievements, plan; needs in the footer."""

    def __init__(self, recording: Recording, theme: Theme) -> None:
        self.recording, self.theme = recording, theme
        first = read_scene(recording.moments[0].observation)
        self.textures = assets_folder(first.assets)
        self.size = TILE_SIZES[first.assets]
        rows, columns = first.tiles.shape
        self.body = max(_BODY, rows * self.size + 2 * EDGE)
        self.board = columns * self.size, rows * self.size
        self.items_left = self.board[0] + 2 * EDGE + 4
        self.plan_left = self.items_left + _ITEMS_WIDTH + EDGE
        self.width = self.plan_left + _PLAN_WIDTH + EDGE

    def frame(self, index: int, stride: int) -> np.ndarray:
        moment = self.recording.moments[index]
        scene = read_scene(moment.observation)
        sheet = Sheet(self.width, self.body, self.theme)
        view = view_image(scene, self.size, textures=self.textures, theme=self.theme)
        top = HEADER + (self.body - self.board[1]) // 2
        sheet.image.paste(Image.fromarray(view), (EDGE, top))
        shown = "" if stride == 1 else f", 1 in {stride} shown"
        sheet.header(
            short_env_name(self.recording.env),
            f"{self.recording.policy}, level {self.recording.seed}",
            time_text(self.recording, index) + shown,
        )
        below = self._items(sheet, scene)
        self._achievements(sheet, index, below)
        if index < self.recording.num_steps:
            self._plan(sheet, plan_lines(self.recording, index), moment.plan_index)
        else:
            self._end(sheet)
        self._needs(sheet, scene)
        return sheet.pixels()

    def _items(self, sheet: Sheet, scene: Scene) -> int:
        """Draw the inventory; returns the y coordinate below it."""
        top = HEADER + EDGE
        _write(sheet, (self.items_left, top + 6), "carries", 12, self.theme.dim)
        top += _LINE + 2
        across = _ITEMS_WIDTH // _ICON_STEP
        for place, item in enumerate(scene.carried):
            x = self.items_left + place % across * _ICON_STEP
            y = top + place // across * _ICON_STEP
            picture = item_tile(item, self.textures, _ICON)
            sheet.image.paste(picture, (x, y), picture)
            if item.number > 1:
                corner = (x + _ICON, y + _ICON)
                _write(sheet, corner, str(item.number), 13, self.theme.text, "rs", rim=2)
        if not scene.carried:
            _write(sheet, (self.items_left, top + 8), "nothing", 12, self.theme.wall)
        rows = max(1, -(-len(scene.carried) // across))
        return top + rows * _ICON_STEP + 4

    def _achievements(self, sheet: Sheet, index: int, top: int) -> None:
        """What has been unlocked, the newest on top, as much as there is room for."""
        found = achieved(self.recording, index)
        _write(sheet, (self.items_left, top + 8), f"achieved {len(found)}", 12, self.theme.dim)
        top += _LINE + 2
        room = (HEADER + self.body - EDGE - top) // _LINE
        for place, (step, name) in enumerate(found[:room]):
            middle = top + place * _LINE + _LINE // 2
            fresh = index - step < _FRESH
            colour = self.theme.won if fresh else self.theme.dim
            words = f"+ {name.replace('_', ' ')}"
            _write(sheet, (self.items_left, middle), words, 12, colour)
            right = (self.items_left + _ITEMS_WIDTH - 6, middle)
            _write(sheet, right, str(step), 11, self.theme.wall, "rm")

    def _plan(self, sheet: Sheet, lines: list[PlanLine], plan_index: int) -> None:
        """The plan as a column that scrolls when it is longer than the page."""
        top, left = HEADER + EDGE, self.plan_left
        done = sum(line.when is When.DONE for line in lines)
        _write(sheet, (left, top + 6), f"plan {plan_index + 1}", 12, self.theme.dim)
        top += _LINE + 4
        room = (HEADER + self.body - EDGE - top) // _PLAN_ROW
        start = min(max(0, done - _KEPT), max(0, len(lines) - room))
        below = len(lines) - start - room
        visible = lines[start : start + room - (below > 0)]
        for line in visible:
            self._plan_line(sheet, top, line)
            top += _PLAN_ROW
        if below > 0:
            _write(sheet, (left + 6, top + 8), f"and {below + 1} more", 12, self.theme.wall)

    def _plan_line(self, sheet: Sheet, top: int, line: PlanLine) -> None:
        left, middle, theme = self.plan_left, top + _PLAN_ROW // 2, self.theme
        colours = {
            When.DONE: theme.wall,
            When.NEXT: theme.background,
            When.SOON: theme.plan,
            When.LATER: theme.plan_later,
        }
        if line.when is When.NEXT:
            box = (left, top, left + _PLAN_WIDTH - 1, top + _PLAN_ROW - 2)
            sheet.draw.rounded_rectangle(box, 4, fill=theme.agent)
        _write(sheet, (left + 6, middle), line.text, 13, colours[line.when])
        if line.when is When.DONE:
            end = left + 6 + round(_font(13).getlength(line.text))
            sheet.draw.line((left + 6, middle + 1, end, middle + 1), theme.wall, 1)

    def _end(self, sheet: Sheet) -> None:
        """The verdict, where the plan was."""
        last = len(self.recording.moments) - 1
        words, good = describe_life(self.recording)
        colour = self.theme.won if good else self.theme.lost
        top = HEADER + EDGE
        lines = (
            (words, 15, colour),
            (f"return {self.recording.moments[last].earned:.1f}", 13, self.theme.text),
            (f"{len(achieved(self.recording, last))} achievements", 13, self.theme.text),
        )
        for text, size, ink in lines:
            _write(sheet, (self.plan_left, top + 10), text, size, ink)
            top += 24

    def _needs(self, sheet: Sheet, scene: Scene) -> None:
        """Needs and skills as icons with their levels, then what the player is up to."""
        levels = [*scene.needs, *scene.skills]
        notes = [scene.state] if scene.state else []
        notes += [] if scene.floor is None else [f"floor {scene.floor}"]
        step = min(78, (self.width - 2 * EDGE - 110) // len(levels))
        middle = HEADER + self.body + (sheet.image.height - HEADER - self.body) // 2
        for place, (name, level) in enumerate(levels):
            left = EDGE + place * step
            picture = icon(name, self.textures, _ICON)
            sheet.image.paste(picture, (left, middle - _ICON // 2), picture)
            presses = place < len(scene.needs) and level <= _LOW
            colour = self.theme.lost if presses else self.theme.text
            _write(sheet, (left + _ICON + 5, middle), str(level), 16, colour)
        right = (self.width - EDGE, middle)
        _write(sheet, right, ", ".join(notes), 14, self.theme.search, "rm")


def _write(
    sheet: Sheet,
    place: tuple[int, int],
    text: str,
    size: int,
    colour: Colour,
    anchor: str = "lm",
    *,
    rim: int = 0,
) -> None:
    """Write with a rim of `rim` pixels in the colour of the ground."""
    sheet.draw.text(
        place,
        text,
        colour,
        _font(size),
        anchor=anchor,
        stroke_width=rim,
        stroke_fill=sheet.theme.background,
    )


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
