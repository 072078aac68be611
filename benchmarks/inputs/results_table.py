"""The rows of `benchmarks.minihack_results`: reading, averaging over training seeds, printing."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import t as student_t

from remdm.evaluation.statistics import Rate, mean_rate

GROUPS = {
    "training": {
        "MiniHack-Room-Random-5x5-v0": "5x5",
        "MiniHack-Room-Random-15x15-v0": "15x15",
        "MiniHack-Corridor-R2-v0": "R2",
        "MiniHack-MazeWalk-9x9-v0": "Maze9",
    },
    "held-out": {
        "MiniHack-Room-Dark-15x15-v0": "Dark",
        "MiniHack-Corridor-R5-v0": "R5",
        "MiniHack-MazeWalk-45x19-v0": "Maze45",
    },
}


CALLED = "held-out"  # the group whose net calls are shown


class Played(NamedTuple):
    """The test levels of one environment.

    Attributes:
        won: How many of them.
        calls: Net calls per env step.
    """

    won: Rate
    calls: float


@dataclass(slots=True)
class Row:
    """One row of the table.

    Attributes:
        name: As shown.
        runs: For each run that was trained (one where nothing was), what it played.
    """

    name: str
    runs: list[dict[str, Played]] = field(default_factory=list)

    def env_rate(self, env: str) -> float | None:
        """Mean over the runs; None where it was not played."""
        return _mean([run[env].won.rate for run in self.runs if env in run])

    def group_rate(self, group: str) -> float | None:
        """Mean over environments, then over runs."""
        return _mean(self._group_means(group))

    def group_calls(self, group: str) -> float | None:
        """Net calls per env step, likewise."""
        return _mean(
            [
                sum(run[env].calls for env in GROUPS[group]) / len(GROUPS[group])
                for run in self._whole(group)
            ]
        )

    def group_interval(self, group: str) -> tuple[float, float] | None:
        """95 % interval of `group_rate`.

        Over several runs Student's t over their means: chance in training and in levels. With one
        run it says how far the levels could move it, and nothing about training.
        """
        means = self._group_means(group)
        if not means:
            return None
        if len(means) == 1:
            (run,) = self._whole(group)
            rate = mean_rate([run[env].won for env in GROUPS[group]])
            return rate.low, rate.high
        mean = sum(means) / len(means)
        spread = (sum((m - mean) ** 2 for m in means) / (len(means) - 1)) ** 0.5
        half = float(student_t.ppf(0.975, len(means) - 1)) * spread / len(means) ** 0.5
        return max(mean - half, 0.0), min(mean + half, 1.0)

    def _group_means(self, group: str) -> list[float]:
        envs = GROUPS[group]
        return [sum(run[env].won.rate for env in envs) / len(envs) for run in self._whole(group)]

    def _whole(self, group: str) -> list[dict[str, Played]]:
        """The runs that played all of a group."""
        return [run for run in self.runs if all(env in run for env in GROUPS[group])]


def read_rows(path: Path, shown: Mapping[str, str]) -> list[Row]:
    """The rows of one file that are shown, each with the run of that file; none without it."""
    if not shown or not path.exists():
        return []
    found: dict[str, dict[str, Played]] = {}
    for row in json.loads(path.read_text(encoding="utf-8")).get("rows", []):
        name = shown.get(row["policy"])
        if name is not None:
            played = Played(Rate.of(row["wins"], row["episodes"]), row["nfe_per_step"])
            found.setdefault(name, {})[row["env"]] = played
    return [Row(name, [run]) for name, run in found.items()]


def together(rows: Iterable[Row]) -> list[Row]:
    """Rows of the same name as one, in the order they first come up."""
    merged: dict[str, Row] = {}
    for row in rows:
        merged.setdefault(row.name, Row(row.name)).runs.extend(row.runs)
    return list(merged.values())


def table_text(rows: Sequence[Row]) -> str:
    """A Markdown table; a group's mean stands behind its environments, with its interval.

    Last come the net calls per env step on the held-out environments.
    """
    heads = ["policy", "runs"]
    for group, envs in GROUPS.items():
        heads += [*envs.values(), f"**{group}**"]
    heads.append("calls")
    lines = ["| " + " | ".join(heads) + " |", "|:--|" + "--:|" * (len(heads) - 1)]
    for row in rows:
        cells = [row.name, str(len(row.runs))]
        for group, envs in GROUPS.items():
            cells += [_number(row.env_rate(env)) for env in envs]
            interval = row.group_interval(group)
            limits = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
            cells.append(f"**{_number(row.group_rate(group))}**{limits}")
        cells.append(_number(row.group_calls(CALLED), 2))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """All numbers of the table, and those of every run."""
    return [
        {
            "policy": row.name,
            "runs": [
                {env: (p.won.wins, p.won.episodes) for env, p in run.items()} for run in row.runs
            ],
            **{group: row.group_rate(group) for group in GROUPS},
            **{f"{group} interval": row.group_interval(group) for group in GROUPS},
            **{f"{group} calls": row.group_calls(group) for group in GROUPS},
        }
        for row in rows
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
