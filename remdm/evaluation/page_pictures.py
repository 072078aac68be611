"""Curves and bars as SVG that stands inside a page and takes its colours from it.

Text stays text. Names are drawn as they are: a dollar sign in one begins no formula. Matplotlib is
imported when something is drawn, and never opens a window.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from remdm.evaluation.html_parts import Html, text
from remdm.evaluation.run_groups import Band

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins for the page's own colours, which follow light and dark.
_INK, _GRID = "#010203", "#040506"
_PAGE_COLOURS = {_INK: "currentColor", _GRID: "var(--line)"}
# These show on white and on black.
COLOURS = ("#3b82f6", "#ea580c", "#059669", "#a855f7", "#db2777", "#0891b2", "#b45309", "#64748b")
_DASHES = ("-", "--", "-.", ":")
_WIDTH = 4.6  # inches; small enough for a phone without shrinking the text much
_LABEL = 44  # characters
_FEW = 20  # points that are marked one by one


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of a chart.

    Attributes:
        label: In the legend.
        band: What is drawn.
        style: Number of its colour and dashes.
    """

    label: str
    band: Band
    style: int


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart.

    Attributes:
        label: Beside it.
        value: Its length.
        low: Lower end of its interval.
        high: Upper end.
        style: Number of its colour.
        points: Values of single runs, drawn as dots.
    """

    label: str
    value: float
    low: float
    high: float
    style: int
    points: Sequence[float] = ()


def shortened(name: str, length: int = _LABEL) -> str:
    """A name that fits into a chart."""
    return name if len(name) <= length else f"{name[: length - 3]}..."


def time_scale(most: float) -> tuple[float, str]:
    """The unit for times up to so many seconds: how many seconds it has, and its name."""
    for size, name in ((3600.0, "hours"), (60.0, "minutes")):
        if most >= 2 * size:
            return size, name
    return 1.0, "seconds"


def draw_curves(
    curves: Sequence[Curve],
    *,
    title: str,
    x_label: str,
    alt: str,
    number: int,
    x_size: float = 1.0,
    limits: tuple[float, float] | None = None,
    logarithmic: bool = False,
) -> Html:
    """A chart of lines with their bands.

    Args:
        curves: At least one.
        title: Above it.
        x_label: Below it.
        alt: What it shows, for those who do not see it.
        number: Of the picture in its page, each its own.
        x_size: What one unit of the x axis counts.
        limits: Of the y axis; None for those of the curves.
        logarithmic: Whether the y axis is, where all values are above 0.
    """
    with _drawing() as (figure, axes):
        from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

        figure.set_size_inches(_WIDTH, 3.3 + 0.2 * len(curves))
        axes.set_title(shortened(title, 52), loc="left", fontsize=11, color=_INK)
        axes.set_xlabel(x_label, color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(True, color=_GRID, linewidth=0.8)
        for curve in curves:
            _draw_curve(axes, curve, x_size)
        lowest = min(float(s.y.min()) for c in curves for s in c.band.runs)
        if logarithmic and lowest > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
        if limits is not None:
            axes.set_ylim(*limits)
        figure.legend(loc="outside lower left", frameon=False, labelcolor=_INK, fontsize=9)
        return _as_svg(figure, alt, number)


def _draw_curve(axes: "Axes", curve: Curve, x_size: float) -> None:
    band, colour = curve.band, COLOURS[curve.style % len(COLOURS)]
    dashes = _DASHES[curve.style // len(COLOURS) % len(_DASHES)]
    if len(band.runs) > 1:
        for run in band.runs:
            axes.plot(run.x / x_size, run.y, color=colour, linewidth=0.7, alpha=0.5)
        if len(band.x):
            axes.fill_between(
                band.x / x_size, band.low, band.high, color=colour, alpha=0.2, linewidth=0
            )
    mark = "o" if len(band.x) <= _FEW else None
    axes.plot(
        band.x / x_size,
        band.mean,
        dashes,
        color=colour,
        linewidth=2,
        marker=mark,
        markersize=4,
        label=_legend(curve.label),
    )


def _legend(label: str) -> str:
    """Matplotlib hides labels that begin with an underscore."""
    return shortened(f"\u200b{label}" if label.startswith("_") else label)


def draw_bars(
    bars: Sequence[Bar],
    *,
    title: str,
    x_label: str,
    alt: str,
    number: int,
    limits: tuple[float, float] | None = None,
) -> Html:
    """A chart of bars that lie, each with its interval.

    Args:
        bars: From top to bottom, at least one.
        title: See `draw_curves`.
        x_label: See `draw_curves`.
        alt: See `draw_curves`.
        number: See `draw_curves`.
        limits: Of the x axis; None for those of the bars.
    """
    with _drawing() as (figure, axes):
        figure.set_size_inches(_WIDTH, 1.0 + 0.3 * len(bars))
        axes.set_title(shortened(title, 52), loc="left", fontsize=11, color=_INK)
        axes.set_xlabel(x_label, color=_INK)
        axes.grid(True, axis="x", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        for place, bar in enumerate(bars):
            colour = COLOURS[bar.style % len(COLOURS)]
            ends = [[max(0.0, bar.value - bar.low)], [max(0.0, bar.high - bar.value)]]
            axes.barh(place, bar.value, height=0.66, color=colour, alpha=0.75)
            axes.errorbar(bar.value, place, xerr=ends, color=_INK, capsize=3, linewidth=1.2)
            for point in bar.points if len(bar.points) > 1 else ():
                axes.plot(point, place, "o", markersize=3, color=_INK, alpha=0.6)
        axes.set_yticks(range(len(bars)), [shortened(bar.label, 30) for bar in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        if limits is not None:
            axes.set_xlim(*limits)
        return _as_svg(figure, alt, number)


@contextmanager
def _drawing() -> "Iterator[tuple[Figure, Axes]]":
    """A figure with one panel in the look of the page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "remdm",
                "text.parse_math": False,
                "font.family": ["sans-serif"],
                "axes.unicode_minus": False,
            }
        )
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.tick_params(which="both", colors=_INK, length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GRID)
        yield figure, axes


def _as_svg(figure: "Figure", alt: str, number: int) -> Html:
    """The figure as an element of a page, with names that no other picture has."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Names are letters and digits; text in the picture has no plain quotes before a name.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1p{number}-", svg)
    for stand_in, colour in _PAGE_COLOURS.items():
        svg = svg.replace(stand_in, colour)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[-0-9. ]+"', head)
    shape = box[0] if box else ""
    links = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    return Html(f'<svg {shape} {links} role="img" aria-label="{text(alt)}">{rest.strip()}')


def overall_limits(values: Sequence[float]) -> tuple[float, float] | None:
    """Limits of an axis that begins at 0 and holds all values; None where they are all 0."""
    low, high = min(0.0, *values), max(0.0, *values)
    margin = 0.03 * (high - low)
    return (low - margin * (low < 0), high + margin) if np.isfinite(margin) and margin else None
