"""The numbers of "where planning pays": by planner, by map, and against the head."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from remdm.evaluation.statistics import PairedDifference, Rate, mean_rate, paired_difference
from remdm.evaluation.tables import format_rate, format_steps, short_env_name, write_text

HELD_OUT = "held-out"
BEGIN, END = "<!-- where_planning_pays: begin -->", "<!-- where_planning_pays: end -->"

Measured = Mapping[str, Any]
"""What one cell played with one `replan`: `cell`, `study`, `labels`, `agent`, `head`, `replan`,
`ms_per_plan`, and `maps`: by training seed what `planning_play.played` gives."""


def rate_of(measured: Measured, env: str) -> Rate:
    """Win rate of one map over all training seeds."""
    won = "".join(maps[env]["won"] for maps in measured["maps"])
    return Rate.of(won.count("1"), len(won))


def per_step(measured: Measured, env: str, what: str) -> float:
    """`plans` or `nfe` per env step in one map."""
    steps = sum(sum(maps[env]["steps"]) for maps in measured["maps"])
    return float(sum(maps[env][what] for maps in measured["maps"])) / max(steps, 1)


def steps_won(measured: Measured, env: str) -> float | None:
    """Mean steps of won episodes in one map."""
    steps = [
        count
        for maps in measured["maps"]
        for count, won in zip(maps[env]["steps"], maps[env]["won"], strict=True)
        if won == "1"
    ]
    return float(np.mean(steps)) if steps else None


def difference_to_head(measured: Measured, head: Measured, envs: Sequence[str]) -> PairedDifference:
    """Planner minus head, on the same levels and training seeds."""
    return paired_difference(_won(measured, envs), _won(head, envs))


def _won(measured: Measured, envs: Sequence[str]) -> dict[str, np.ndarray]:
    """By map, bool [training seeds * episodes]."""
    return {
        env: np.array([digit == "1" for maps in measured["maps"] for digit in maps[env]["won"]])
        for env in envs
    }


def row_of(
    measured: Measured, head: Measured | None, groups: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """One line of a table, and of the JSON.

    Win rates are means over the maps of a group; steps, net calls and time are means over the
    held-out maps, each of which counts alike. `difference` is planner minus head there.
    """
    envs = groups[HELD_OUT]
    rates = {name: mean_rate([rate_of(measured, e) for e in maps]) for name, maps in groups.items()}
    steps = [steps_won(measured, env) for env in envs]
    plans = float(np.mean([per_step(measured, env, "plans") for env in envs]))
    row: dict[str, Any] = {
        "labels": measured["labels"],
        "agent": measured["agent"],
        "replan": measured["replan"],
    }
    for name, rate in rates.items():
        row |= {name: rate.rate, f"{name} low": rate.low, f"{name} high": rate.high}
    found = [s for s in steps if s is not None]
    row["steps won"] = float(np.mean(found)) if len(found) == len(steps) else None
    row["calls/step"] = float(np.mean([per_step(measured, env, "nfe") for env in envs]))
    row["ms/step"] = plans * measured["ms_per_plan"]
    paired = None
    if head is not None and head["cell"] != measured["cell"]:
        paired = difference_to_head(measured, head, envs)
    for name in ("difference", "low", "high", "p_value"):
        row[name] = None if paired is None else getattr(paired, name)
    row["by map"] = {
        env: {
            "win_rate": rate_of(measured, env).rate,
            "ci_low": rate_of(measured, env).low,
            "ci_high": rate_of(measured, env).high,
            "steps_won": steps_won(measured, env),
            "calls_per_step": per_step(measured, env, "nfe"),
        }
        for maps in groups.values()
        for env in maps
    }
    return row


def shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns for a terminal."""
    names = ("training", HELD_OUT, f"{HELD_OUT} low", f"{HELD_OUT} high", "steps won")
    names += ("calls/step", "ms/step", "difference", "low", "high", "p_value")
    label = f"{row['labels']} {row['agent']} / {row['replan']}"
    return {"labels, agent / replan": label, **{name: row[name] for name in names}}


def markdown(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> str:
    """Two tables of one study: means with the comparison, and win rates by map."""
    columns = ("labels", "agent", "replan", *groups, "steps won", "calls/step", "ms/step")
    lines = _header((*columns, "minus head, held-out", "p"), left=2)
    for row in rows:
        cells = [row["labels"], row["agent"], row["replan"]]
        cells += [_interval(row[g], row[f"{g} low"], row[f"{g} high"]) for g in groups]
        cells += [format_steps(row["steps won"]), f"{row['calls/step']:.2f}"]
        cells.append(f"{row['ms/step']:.2f}")
        if row["difference"] is None:
            cells += ["", ""]
        else:
            low, high = row["low"], row["high"]
            cells += [
                f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]",
                f"{row['p_value']:.3g}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    envs = [env for maps in groups.values() for env in maps]
    lines += ["", *_header(("labels", "agent", "replan", *map(short_env_name, envs)), left=2)]
    for row in rows:
        by_map = [row["by map"][env] for env in envs]
        cells = [row["labels"], row["agent"], row["replan"]]
        cells += [f"{m['win_rate']:.2f} / {format_steps(m['steps_won'])}" for m in by_map]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _interval(rate: float, low: float, high: float) -> str:
    return format_rate(Rate(rate, low, high, 0, 0))


def _header(columns: Sequence[str], left: int) -> list[str]:
    rule = ["|:--"] * left + ["|--:"] * (len(columns) - left)
    return ["| " + " | ".join(columns) + " |", "".join(rule) + "|"]


def fulfilled(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Diffusion planners that win at least as often as the head, for half its calls at most.

    A head makes one call per env step.
    """
    return [
        f"{row['labels']} / {row['replan']}"
        for row in rows
        if row["agent"] == "diffusion"
        and row["difference"] is not None
        and row["difference"] >= 0
        and row["calls/step"] <= 0.5
    ]


def rewrite(document: Path, tables: str) -> None:
    """Put tables between the two markers of a document.

    Raises:
        ValueError: If the document has no such markers.
    """
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} must have a line {BEGIN!r} and below it {END!r}")
    write_text(document, f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}")
