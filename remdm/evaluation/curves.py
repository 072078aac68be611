"""Learning curves from the metrics of a run: loss, and win rates with their Wilson bands.

A line of them is one JSON object with the counters `epoch`, `env_steps`, `updates` and any
metrics; one that a separate process wrote has its name as `role`. Two kinds of names are drawn:

- losses: names that are `loss` or end in `/loss`, such as `train/planner/loss`;
- win rates: `<group>/win_rate/<env>`. Their bands need the number of episodes behind each point:
  `<group>/episodes/<env>`, or for the group `val` also `val/episodes`, the number per environment.

Matplotlib is imported when a curve is drawn, and never opens a window.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from remdm.evaluation.statistics import wilson_interval
from remdm.evaluation.tables import short_env_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUP_TITLES = {
    "val": "Win rate on validation levels",
    "collect": "Win rate while collecting",
}
X_LABELS = {
    "env_steps": "environment steps",
    "updates": "updates",
    "epoch": "epoch",
    "seconds": "seconds of training",
}
_INK, _FAINT, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_COLOURS = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#db2777", "#0891b2", "#ca8a04", "#4b5563")
_MIN_SMOOTHED = 20  # points from which a running mean is drawn over the raw curve


@dataclass(frozen=True, slots=True)
class Series:
    """One metric over time.

    Attributes:
        name: Name in the metrics file.
        x: float64 [n], increasing.
        y: float64 [n].
        episodes: int64 [n], for win rates; zeros where the number is not known.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    episodes: np.ndarray


def loss_series(metrics: Sequence[Mapping[str, Any]], *, x: str = "updates") -> list[Series]:
    """All losses in the metrics."""
    return metric_series(metrics, [n for n in _names(metrics) if n.split("/")[-1] == "loss"], x)


def win_rate_series(metrics: Sequence[Mapping[str, Any]], *, x: str = "env_steps") -> list[Series]:
    """All win rates in the metrics."""
    return metric_series(metrics, [n for n in _names(metrics) if "/win_rate/" in n], x)


def return_series(metrics: Sequence[Mapping[str, Any]], *, x: str = "env_steps") -> list[Series]:
    """All mean returns in the metrics."""
    return metric_series(metrics, [n for n in _names(metrics) if "/return/" in n], x)


def _names(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for line in metrics for name in line))


def metric_series(
    metrics: Sequence[Mapping[str, Any]], names: Sequence[str], x: str
) -> list[Series]:
    """The metrics of these names, in this order; those that no line has are left out.

    Raises:
        ValueError: If there is no such x axis.
    """
    if x not in X_LABELS:
        raise ValueError(f"the x axis must be one of {sorted(X_LABELS)}, got {x!r}.")
    found = []
    for name in names:
        by_role: dict[Any, list[tuple[float, float, int]]] = {}
        for line in metrics:
            at, value = line.get(x), line.get(name)
            if not _is_finite(at) or not _is_finite(value):
                continue
            points = by_role.setdefault(line.get("role"), [])
            # A run resumed from an older checkpoint goes over the same ground again.
            while points and points[-1][0] >= at:
                points.pop()
            points.append((at, value, _episodes(line, name)))
        # Several collectors, of which some are behind; of those at one place, one is drawn.
        places = {point[0]: point for points in by_role.values() for point in points}
        if places:
            columns = np.array([places[at] for at in sorted(places)], float).T
            found.append(Series(name, columns[0], columns[1], columns[2].astype(np.int64)))
    return found


def _is_finite(value: Any, most: float = 1e300) -> TypeGuard[float]:
    """Whether it is a number that can be drawn: a file may hold anything."""
    return isinstance(value, (int, float)) and abs(value) <= most


def _episodes(line: Mapping[str, Any], name: str) -> int:
    """Episodes behind a win rate; 0 for other metrics and where nobody noted them."""
    group, rate, env = name.partition("/win_rate/")
    if not rate:
        return 0
    shared = line.get("val/episodes") if group == "val" else None
    count = line.get(f"{group}/episodes/{env}") or shared
    return max(0, int(count)) if count is not None and _is_finite(count, 2**53) else 0


def draw_loss(metrics: Sequence[Mapping[str, Any]], path: Path, *, x: str = "updates") -> bool:
    """Write the loss curves as a PNG.

    Returns:
        Whether there was anything to draw.
    """
    series = loss_series(metrics, x=x)
    if not series:
        return False
    figure, (axes,) = _new_figure(["Training loss"], X_LABELS[x])
    for line, colour in zip(series, _COLOURS, strict=False):
        smooth = len(line.y) >= _MIN_SMOOTHED
        axes.plot(line.x, line.y, color=colour, alpha=0.25 if smooth else 1.0, linewidth=1)
        label = line.name.removeprefix("train/").removesuffix("/loss")
        shown = _running_mean(line.y, len(line.y) // 20) if smooth else line.y
        axes.plot(line.x, shown, color=colour, linewidth=2, label=label)
        _mark_last(axes, line.x, shown, colour, "{:.3f}")
    if all((line.y > 0).all() for line in series):
        _log_scale(axes)
    if len(series) > 1:
        axes.legend(frameon=False, labelcolor=_INK, loc="upper right")
    _save(figure, path)
    return True


def draw_win_rates(
    metrics: Sequence[Mapping[str, Any]], path: Path, *, x: str = "env_steps"
) -> bool:
    """Write the win-rate curves as a PNG: a line per environment with its Wilson 95 % band.

    Groups get panels of their own, validation first.

    Returns:
        Whether there was anything to draw.
    """
    groups: dict[str, list[Series]] = {group: [] for group in GROUP_TITLES}
    for line in win_rate_series(metrics, x=x):
        groups.setdefault(line.name.split("/win_rate/")[0], []).append(line)
    groups = {group: lines for group, lines in groups.items() if lines}
    if not any((line.y > 0).any() for lines in groups.values() for line in lines):
        return False  # nothing can be won here, or nothing was
    titles = [GROUP_TITLES.get(group, f"Win rate: {group}") for group in groups]
    figure, panels = _new_figure(titles, X_LABELS[x])
    envs = dict.fromkeys(_env_of(line) for lines in groups.values() for line in lines)
    colours = dict(zip(envs, itertools.cycle(_COLOURS), strict=False))
    for axes, lines in zip(panels, groups.values(), strict=True):
        for line in lines:
            _draw_win_rate(axes, line, colours[_env_of(line)])
        axes.set_ylim(-0.02, 1.03)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4, frameon=False, labelcolor=_INK
    )
    _save(figure, path)
    return True


def draw_returns(metrics: Sequence[Mapping[str, Any]], path: Path, *, x: str = "env_steps") -> bool:
    """Write the curves of mean returns as a PNG, where episodes are not won or lost.

    Returns:
        Whether there was anything to draw.
    """
    series = return_series(metrics, x=x)
    if not series or any((line.y > 0).any() for line in win_rate_series(metrics, x=x)):
        return False
    figure, (axes,) = _new_figure(["Mean return"], X_LABELS[x])
    for line, colour in zip(series, itertools.cycle(_COLOURS), strict=False):
        group, env = line.name.split("/return/")
        axes.plot(line.x, line.y, color=colour, linewidth=2, label=f"{group}: {env}")
        _mark_last(axes, line.x, line.y, colour, "{:.2f}")
    axes.legend(frameon=False, labelcolor=_INK, loc="upper left")
    _save(figure, path)
    return True


def _env_of(line: Series) -> str:
    return short_env_name(line.name.split("/win_rate/")[1])


def _draw_win_rate(axes: "Axes", line: Series, colour: str) -> None:
    if (line.episodes > 0).all():
        low, high = wilson_interval(np.rint(line.y * line.episodes), line.episodes)
        axes.fill_between(line.x, low, high, color=colour, alpha=0.13, linewidth=0)
    few = len(line.x) <= _MIN_SMOOTHED
    axes.plot(
        line.x,
        line.y,
        color=colour,
        linewidth=2 if few else 1.2,
        marker="o" if few else None,
        markersize=4,
        label=_env_of(line),
    )


def _new_figure(titles: Sequence[str], x_label: str) -> "tuple[Figure, list[Axes]]":
    """A figure with one panel per title, side by side, in the house look."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = Figure(figsize=(1.2 + 5.6 * len(titles), 4.3), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, len(titles), sharey=True, squeeze=False)[0])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK)
        axes.set_xlabel(x_label, color=_FAINT)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(True, which="major", color=_GRID, linewidth=0.8)
        axes.tick_params(which="both", colors=_FAINT, length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GRID)
    return figure, panels


def _mark_last(axes: "Axes", x: np.ndarray, y: np.ndarray, colour: str, form: str) -> None:
    axes.plot(x[-1:], y[-1:], "o", color=colour, markersize=5)
    axes.annotate(
        form.format(y[-1]),
        (x[-1], y[-1]),
        xytext=(7, 0),
        textcoords="offset points",
        va="center",
        color=colour,
        fontsize=10,
        annotation_clip=False,
    )


def _log_scale(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")


def _running_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """Mean over each value and up to `reach` neighbours on either side."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    start, stop = np.maximum(at - reach, 0), np.minimum(at + reach + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)


def _save(figure: "Figure", path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png", facecolor="white")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
