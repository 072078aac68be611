"""Which samplers are worth their net calls: the Pareto front of success against calls.

A row is what `benchmarks.inputs.sampler_tasks.measure` returns.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from remdm.evaluation.statistics import Rate, paired_difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = dict[str, Any]

FEWER = 0.9  # a sampler is clearly cheaper below this share of the calls
CONFIDENCE = 0.99  # of saying that one is better; there are dozens of comparisons
_INK, _FAINT, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_GREY = "#9ca3af"
# Presets by kin, so that the legend is short enough to read.
FAMILIES = {
    "default": "#2563eb",
    "greedy": "#0891b2",
    "threshold": "#059669",
    "readme": "#ea580c",
    "head": "#db2777",
    "paper": _GREY,
    "count": "#9333ea",
    "swap": "#ca8a04",
    "path": "#4b5563",
    "balanced": "#dc2626",
}


def family(sampler: str) -> str:
    """The word that a sampler's name begins with."""
    return sampler.split(" ")[0].split("_")[0]


def is_compared(row: Row) -> bool:
    """False where a model's plans are all the same one: right or wrong by luck."""
    return not row.get("always_same", False)


def front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in calls or success without losing in the other, by calls."""
    best: list[Row] = []
    for row in sorted(filter(is_compared, rows), key=lambda r: (r["calls"], -r["rate"])):
        if not best or row["rate"] > best[-1]["rate"]:
            best.append(row)
    return best


def beaten_by(rows: Sequence[Row], row: Row) -> list[Row]:
    """Rows that are clearly better than `row`: more success for no more calls (with 99 %
    confidence), or clearly fewer calls for no less success.
    """
    return [
        other
        for other in rows
        if other is not row
        and is_compared(other)
        and (
            (other["calls"] <= row["calls"] and _surely_higher(other, row))
            or (other["calls"] <= FEWER * row["calls"] and other["rate"] >= row["rate"])
        )
    ]


def _surely_higher(first: Row, second: Row) -> bool:
    """Whether the first row's success is higher: paired by level where levels were played."""
    if "won" in first and "won" in second:
        one, two = (
            {env: np.array(list(text)) == "1" for env, text in row["won"].items()}
            for row in (first, second)
        )
        return paired_difference(one, two, CONFIDENCE).low > 0
    rates = [Rate.of(row["wins"], row["samples"], CONFIDENCE) for row in (first, second)]
    spread = math.hypot(rates[0].rate - rates[0].low, rates[1].high - rates[1].rate)
    return rates[0].rate - rates[1].rate > spread


def draw_fronts(tables: dict[str, list[Row]], path: Path) -> None:
    """One panel per task: success against net calls, the front as a line.

    Args:
        tables: Rows by task; the default's has "default": True.
        path: PNG to write; its folder is made if need be.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(tables), 3)
    lines = -(-len(tables) // columns)
    size = (5.4 * columns, 4.2 * lines + 0.9)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (task, rows) in zip(panels, tables.items(), strict=False):
        _draw_task(axes, task, rows)
    for axes in panels[len(tables) :]:
        axes.set_axis_off()
    found: dict[str, Any] = {}
    for axes in panels[: len(tables)]:
        handles, labels = axes.get_legend_handles_labels()
        found = dict(zip(labels, handles, strict=True)) | found
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=7, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor="white")


def _draw_task(axes: "Axes", task: str, rows: list[Row]) -> None:
    axes.set_title(task, loc="left", fontsize=12, fontweight="bold", color=_INK)
    shown = [row for row in rows if is_compared(row)]
    for row in shown:
        colour = FAMILIES.get(family(row["sampler"]), _GREY)
        axes.errorbar(
            row["calls"],
            row["rate"],
            [[max(row["rate"] - row["low"], 0.0)], [max(row["high"] - row["rate"], 0.0)]],
            fmt="s" if "best of" in row["sampler"] else "o",
            color=colour,
            markersize=5,
            elinewidth=1,
            alpha=0.85,
            label=family(row["sampler"]),
        )
    edge = front(rows)
    if edge:
        calls, rates = [r["calls"] for r in edge], [r["rate"] for r in edge]
        most = max(row["calls"] for row in shown)
        axes.step([*calls, most], [*rates, rates[-1]], where="post", color=_INK, lw=1)
    for row in (row for row in shown if row.get("default")):
        axes.plot(
            row["calls"],
            row["rate"],
            "*",
            color="#2563eb",
            markersize=17,
            markeredgecolor="white",
            zorder=5,
            label="the default",
        )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("net calls per plan", color=_FAINT)
    axes.set_ylabel("success", color=_FAINT)
    axes.set_ylim(-0.03, 1.05)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(True, which="major", color=_GRID, linewidth=0.8)
    axes.tick_params(which="both", colors=_FAINT, length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
