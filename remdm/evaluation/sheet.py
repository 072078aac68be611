"""The sheet that a map is laid on: a header above, and below it the plan as cards and words."""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from remdm.evaluation.overlay import Pen
from remdm.evaluation.plan_path import plan_actions, plan_words
from remdm.evaluation.tiles import DARK, SUPERSAMPLE, Colour, Theme
from remdm.maps import DELTAS, NUM_DIRECTIONS, Action

HEADER, FOOTER, EDGE = 30, 48, 10  # pixels
_CARD, _GAP = 17, 3


class Sheet:
    """A picture being composed."""

    def __init__(self, width: int, body: int, theme: Theme = DARK) -> None:
        """Args:
        width: Pixels.
        body: Height between header and footer in pixels.
        theme: Colours.
        """
        self.width, self.body, self.theme = width, body, theme
        self.image = Image.new("RGB", (width, HEADER + body + FOOTER), theme.panel)
        self.draw = ImageDraw.Draw(self.image)
        box = (0, HEADER, width, HEADER + body - 1)
        self.draw.rectangle(box, fill=theme.background)

    def paste(self, board: np.ndarray) -> None:
        """Lay a picture uint8 [height, width, 3] into the middle of the body."""
        left = (self.width - board.shape[1]) // 2
        top = HEADER + (self.body - board.shape[0]) // 2
        self.image.paste(Image.fromarray(board), (left, top))

    def header(self, title: str, detail: str, right: str) -> None:
        """What is played, by whom, and how far it is."""
        middle = HEADER // 2
        self._text((EDGE, middle), title, 15, self.theme.text)
        start = EDGE + round(_width(title, 15)) + 10
        room = self.width - start - EDGE - _width(right, 12) - 10
        self._text((start, middle + 1), _shortened(detail, 12, room), 12, self.theme.dim)
        place = (self.width - EDGE, middle + 1)
        self.draw.text(place, right, self.theme.dim, _font(12), anchor="rm")

    def plan(self, tokens: np.ndarray, committed: int, prefix: str) -> None:
        """The plan: a card per token, dark where a new plan comes first, and a line of words."""
        top = HEADER + self.body + 7
        actions = plan_actions(tokens)
        for slot in range(len(tokens)):
            left = EDGE + slot * (_CARD + _GAP)
            if left + _CARD > self.width - EDGE:
                break
            if slot < len(actions):
                picture = _card(actions[slot], slot < committed, _CARD, self.theme)
                self.image.paste(Image.fromarray(picture), (left, top))
            else:  # END: nothing more to do
                x, y = left + _CARD // 2, top + _CARD // 2
                self.draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=self.theme.wall_dark)
        words = _shortened(prefix + plan_words(tokens), 12, self.width - 2 * EDGE)
        self._text((EDGE, HEADER + self.body + 37), words, 12, self.theme.dim)

    def verdict(self, text: str, good: bool) -> None:
        """How it ended, in place of the plan."""
        colour = self.theme.won if good else self.theme.lost
        middle = HEADER + self.body + FOOTER // 2
        dot = Image.new("RGB", (12 * SUPERSAMPLE,) * 2, self.theme.panel)
        ImageDraw.Draw(dot).ellipse((0, 0, dot.width - 1, dot.height - 1), fill=colour)
        self.image.paste(dot.reduce(SUPERSAMPLE), (EDGE, middle - 6))
        self._text((EDGE + 20, middle), text, 17, colour)

    def pixels(self) -> np.ndarray:
        """The picture, uint8 [height, width, 3]."""
        return np.asarray(self.image)

    def _text(self, place: tuple[int, int], text: str, size: int, colour: Colour) -> None:
        self.draw.text(place, text, colour, _font(size), anchor="lm")


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _width(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _shortened(text: str, size: int, room: float) -> str:
    """`text`, cut and closed with dots where it is wider than `room` pixels."""
    if _width(text, size) <= room:
        return text
    while text and _width(text + "...", size) > room:
        text = text[:-1]
    return text.rstrip(", ") + "..." if text else ""


@functools.lru_cache(maxsize=64)
def _card(token: int, now: bool, side: int, theme: Theme) -> np.ndarray:
    """An action as a small card: an arrow for a direction, else its initial."""
    colour = _card_colour(token, theme)
    if not now:
        colour = theme.plan_later if token < NUM_DIRECTIONS else theme.dim
    large = Image.new("RGB", (side * SUPERSAMPLE,) * 2, theme.panel)
    draw = ImageDraw.Draw(large)
    end = side * SUPERSAMPLE - 1
    ground = theme.floor if now else theme.background
    draw.rounded_rectangle((0, 0, end, end), 3 * SUPERSAMPLE, fill=ground)
    if token < NUM_DIRECTIONS:
        pen = Pen(draw, side * SUPERSAMPLE, (0, 0))
        row, column = 0.26 * DELTAS[token]
        pen.arrow((-row, -column), (row * 0.8, column * 0.8), colour)
    else:
        middle = (side * SUPERSAMPLE / 2, side * SUPERSAMPLE / 2)
        letter = Action(token).name[0]
        draw.text(middle, letter, colour, _font(12 * SUPERSAMPLE), anchor="mm")
    return np.asarray(large.reduce(SUPERSAMPLE))


def _card_colour(token: int, theme: Theme) -> Colour:
    special = {Action.KICK: theme.strike, Action.OPEN: theme.door, Action.SEARCH: theme.search}
    return theme.plan if token < NUM_DIRECTIONS else special.get(Action(token), theme.text)
