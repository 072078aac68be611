"""How one plan came to be, as a strip: a row per net call, a column per position of the plan.

A cell shows its token: an arrow for a direction, an initial for another action, a square for END.
Where the plan is still MASK, the picture shows the net's likeliest token faintly, and the terminal
a dot. The colour says how sure the net was: of a token, in the call that revealed it; of an open
position, in this call. A light frame (a plus in the terminal) marks what a call revealed, a red
one (an x) what it masked again. The last row is the plan that was handed out.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.text import Text

from remdm.diffusion import PlanSample
from remdm.evaluation.overlay import Pen
from remdm.evaluation.tiles import DARK, SUPERSAMPLE, Colour, Theme
from remdm.maps import DELTAS, NUM_ACTIONS, NUM_DIRECTIONS, Action
from remdm.tokens import end_token, mask_token

MAX_ROWS = 40
_CELL, _GAP, _LEFT, _TOP, _BOTTOM, _EDGE = 26, 3, 54, 56, 34, 12  # pixels
_MIN_WIDTH = 520
# Of 0, 0.5 and 1, the confidences that colours are given for.
_RAMP = np.array([(238, 92, 110), (240, 178, 84), (92, 230, 134)], float)
_ARROWS = "\u2191\u2192\u2193\u2190\u2197\u2198\u2199\u2196"  # in the order of `Action`
_DOT, _SQUARE = "\u00b7", "\u25a0"


@dataclass(frozen=True, slots=True)
class Strip:
    """The making of one plan, ready to be drawn.

    Attributes:
        calls: int64 [S]: numbers of the net calls shown, from 1.
        tokens: int64 [S, H] after each.
        believed: int64 [S, H]: the likeliest tokens.
        confidence: float64 [S, H]: in what the cell shows, in [0, 1].
        revealed: bool [S, H]: became a token since the row above.
        remasked: bool [S, H]: became MASK since the row above.
        plan: int64 [H]: what was handed out.
        num_actions: Size of the action set.
        window: Leading tokens that run before the next plan is made.
        nfe: Net calls in all.
    """

    calls: np.ndarray
    tokens: np.ndarray
    believed: np.ndarray
    confidence: np.ndarray
    revealed: np.ndarray
    remasked: np.ndarray
    plan: np.ndarray
    num_actions: int
    window: int
    nfe: int

    @classmethod
    def of(
        cls,
        sample: PlanSample,
        num_actions: int,
        window: int,
        *,
        row: int = 0,
        max_rows: int = MAX_ROWS,
    ) -> "Strip":
        """The strip of one row of a sample.

        Calls that changed nothing are left out; of more than `max_rows` that did, evenly spread
        ones are shown.

        Args:
            sample: Drawn with a trace.
            num_actions: Size of the action set.
            window: Leading tokens that run before the next plan is made.
            row: Which plan.
            max_rows: Most calls to show, at least 2.

        Raises:
            ValueError: If the sample has no trace.
        """
        if sample.trace is None:
            raise ValueError(
                "a strip needs a plan with its trace, got one without; draw it with "
                "Sampler.sample(..., trace=True)."
            )
        nfe = int(sample.nfe[row])
        steps = sample.trace[:nfe]
        plan = sample.tokens[row].cpu().numpy()
        shape = (len(steps), len(plan))

        def stacked(name: str) -> np.ndarray:
            rows = [getattr(step, name)[row].cpu().numpy() for step in steps]
            return np.stack(rows) if rows else np.zeros(shape)

        tokens, confidence = stacked("tokens").astype(np.int64), stacked("confidence").astype(float)
        revealed, remasked = stacked("revealed").astype(bool), stacked("remasked").astype(bool)
        shown = _shown((revealed | remasked).any(1), max_rows)
        held = _held(confidence, revealed, tokens == mask_token(num_actions))
        revealed, remasked = _marks(tokens, revealed, remasked, mask_token(num_actions), shown)
        return cls(
            calls=shown + 1,
            tokens=tokens[shown],
            believed=stacked("believed").astype(np.int64)[shown],
            confidence=held[shown],
            revealed=revealed,
            remasked=remasked,
            plan=plan,
            num_actions=num_actions,
            window=window,
            nfe=nfe,
        )


def _shown(changed: np.ndarray, max_rows: int) -> np.ndarray:
    """Numbers of the calls to show, int64 [S]."""
    calls = np.flatnonzero(changed)
    if len(calls) <= max_rows:
        return calls
    return calls[np.linspace(0, len(calls) - 1, max_rows).round().astype(np.int64)]


def _marks(
    tokens: np.ndarray, revealed: np.ndarray, remasked: np.ndarray, mask: int, shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What became a token and what became MASK from shown row to shown row, bool [S, H]."""
    page = tokens[shown]
    changed, is_open = page[1:] != page[:-1], page[1:] == mask
    return (
        np.concatenate([revealed[shown][:1], changed & ~is_open]),
        np.concatenate([remasked[shown][:1], changed & is_open]),
    )


def _held(confidence: np.ndarray, revealed: np.ndarray, is_open: np.ndarray) -> np.ndarray:
    """Confidences in what the cells show: tokens keep the one of the call that revealed them."""
    held = confidence.copy()
    for step in range(1, len(held)):
        keeps = ~is_open[step] & ~revealed[step]
        held[step, keeps] = held[step - 1, keeps]
    return held


def token_symbol(token: int, num_actions: int) -> str:
    """One or two characters for a token.

    Args:
        token: 0 .. num_actions + 1.
        num_actions: Size of the action set; that of the maps has arrows and initials, others have
            numbers.
    """
    if token == mask_token(num_actions):
        return _DOT
    if token == end_token(num_actions):
        return _SQUARE
    if num_actions != NUM_ACTIONS:
        return str(token)
    return _ARROWS[token] if token < NUM_DIRECTIONS else Action(token).name[0]


# ------------------------------------------------------------------------------------- terminal


def strip_text(strip: Strip) -> Text:
    """The strip as coloured text; legible without colours, too."""
    text = Text(no_wrap=True)
    text.append(f"net call  {strip.nfe} in all; + revealed, x masked again\n", style="dim")
    for index, call in enumerate(strip.calls):
        text.append(f"{call:>8}  ", style="dim")
        for column, token in enumerate(strip.tokens[index]):
            colour = "rgb({},{},{})".format(*_ramp(strip.confidence[index, column]))
            mark = "+" if strip.revealed[index, column] else " "
            mark = "x" if strip.remasked[index, column] else mark
            style = f"bold {colour}" if mark == "+" else colour
            text.append(mark, style="bold red" if mark == "x" else "dim")
            text.append(f"{token_symbol(int(token), strip.num_actions):<2}", style=style)
        text.append("\n")
    text.append("    plan  ", style="dim")
    for column, token in enumerate(strip.plan):
        style = "bold cyan" if column < strip.window else "dim cyan"
        text.append(f" {token_symbol(int(token), strip.num_actions):<2}", style=style)
    return text


# ------------------------------------------------------------------------------------- picture


def strip_image(strip: Strip, title: str, theme: Theme = DARK) -> np.ndarray:
    """The strip as a picture.

    Args:
        strip: What to draw.
        title: Of what plan, by whom.
        theme: Colours.

    Returns:
        uint8 [height, width, 3].
    """
    rows, columns, step = len(strip.calls), len(strip.plan), _CELL + _GAP
    width = max(_LEFT + columns * step + _EDGE, _MIN_WIDTH)
    height = _TOP + (rows + 1) * step + _GAP + _BOTTOM
    page = Image.new("RGB", (width, height), theme.panel)
    draw = ImageDraw.Draw(page)
    draw.text((_EDGE, 17), title, theme.text, _font(14), anchor="lm")
    _header(draw, strip, theme)
    for index in range(rows + 1):
        top = _TOP + index * step + (_GAP if index == rows else 0)
        label = str(strip.calls[index]) if index < rows else "plan"
        place = (_LEFT - 10, top + _CELL // 2)
        draw.text(place, label, theme.dim, _font(12), anchor="rm")
        for column in range(columns):
            cell = _plan_cell(strip, column, theme)
            if index < rows:
                cell = _cell(strip, index, column, theme)
            page.paste(cell, (_LEFT + column * step, top))
    _legend(page, theme, height - _BOTTOM // 2)
    return np.asarray(page)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 [height, width, 3]; the folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(picture).save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _header(draw: ImageDraw.ImageDraw, strip: Strip, theme: Theme) -> None:
    """Positions, and a line over those that run before the next plan."""
    step = _CELL + _GAP
    draw.text((_LEFT - 10, _TOP - 12), "call", theme.dim, _font(11), anchor="rm")
    for column in range(0, len(strip.plan), 4):
        place = (_LEFT + column * step + _CELL // 2, _TOP - 12)
        draw.text(place, str(column), theme.dim, _font(11), anchor="mm")
    end = _LEFT + min(strip.window, len(strip.plan)) * step - _GAP
    draw.line((_LEFT, _TOP - 4, end, _TOP - 4), theme.plan, 2)


def _legend(page: Image.Image, theme: Theme, middle: int) -> None:
    draw = ImageDraw.Draw(page)
    words = (("net's confidence 0", None), ("", "ramp"), ("1", None), ("revealed", theme.text))
    x = _EDGE
    for word, sign in (*words, ("masked again", theme.lost), ("runs first", theme.plan)):
        if sign == "ramp":
            for offset in range(80):
                colour = _ramp(offset / 79)
                draw.line((x + offset, middle - 5, x + offset, middle + 5), colour)
            x += 86
            continue
        if sign == theme.plan:
            draw.line((x, middle, x + 12, middle), theme.plan, 2)
            x += 18
        elif sign is not None:
            draw.rectangle((x, middle - 6, x + 12, middle + 6), outline=sign, width=2)
            x += 18
        draw.text((x, middle), word, theme.dim, _font(12), anchor="lm")
        x += round(_font(12).getlength(word)) + (8 if sign is None else 16)


def _cell(strip: Strip, index: int, column: int, theme: Theme) -> Image.Image:
    token = int(strip.tokens[index, column])
    ink = _ramp(strip.confidence[index, column])
    is_open = token == mask_token(strip.num_actions)
    frame = theme.text if strip.revealed[index, column] else None
    frame = theme.lost if strip.remasked[index, column] else frame
    if is_open:
        shown = int(strip.believed[index, column])
        return _card(shown, strip.num_actions, _mixed(theme.background, ink, 0.45), theme, 0, frame)
    return _card(token, strip.num_actions, ink, theme, 0.28, frame)


def _plan_cell(strip: Strip, column: int, theme: Theme) -> Image.Image:
    colour = theme.plan if column < strip.window else theme.plan_later
    return _card(int(strip.plan[column]), strip.num_actions, colour, theme, 0.12, None)


def _card(
    token: int,
    num_actions: int,
    ink: Colour,
    theme: Theme,
    tint: float,
    frame: Colour | None,
) -> Image.Image:
    """A token on a ground tinted with its ink."""
    side = _CELL * SUPERSAMPLE
    large = Image.new("RGB", (side, side), theme.panel)
    draw = ImageDraw.Draw(large)
    ground = _mixed(theme.background, ink, tint)
    box = (0, 0, side - 1, side - 1)
    draw.rounded_rectangle(
        box, 4 * SUPERSAMPLE, ground, outline=frame, width=2 * SUPERSAMPLE if frame else 0
    )
    middle = side / 2
    if num_actions == NUM_ACTIONS and token < NUM_DIRECTIONS:
        row, column = 0.26 * DELTAS[token]
        Pen(draw, side, (0, 0)).arrow((-row, -column), (row * 0.8, column * 0.8), ink)
    elif token == end_token(num_actions):
        reach = 0.14 * side
        draw.rectangle((middle - reach, middle - reach, middle + reach, middle + reach), ink)
    elif token != mask_token(num_actions):
        symbol = token_symbol(token, num_actions)
        draw.text((middle, middle), symbol, ink, _font(14 * SUPERSAMPLE), anchor="mm")
    return large.reduce(SUPERSAMPLE)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _ramp(confidence: float) -> Colour:
    """Colour of a confidence in [0, 1]: red, amber, green."""
    levels = np.linspace(0, 1, len(_RAMP))
    red, green, blue = (round(float(np.interp(confidence, levels, c))) for c in _RAMP.T)
    return red, green, blue


def _mixed(ground: Colour, ink: Colour, share: float) -> Colour:
    """`share` of `ink` over `ground`."""
    red, green, blue = (round(g + (i - g) * share) for g, i in zip(ground, ink, strict=True))
    return red, green, blue
