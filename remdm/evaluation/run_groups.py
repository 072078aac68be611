"""Runs of one recipe, which differ in their seeds alone, and what they say together.

Runs belong to one group if their saved configurations are the same but for the seed and for names
and places that change no number. Numbers of a group are means over its runs; bands and ranges are
the lowest and the highest run, which is all that a few seeds can honestly say.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from remdm.evaluation.bootstrap import IQM, bootstrap_iqm
from remdm.evaluation.curves import Series, metric_series
from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.run_record import RunRecord, read_run
from remdm.evaluation.statistics import Rate
from remdm.training.comfort_settings import MAY_CHANGE

SEED = "Experiment.seed"
_SAME_NUMBERS = {f"Experiment.{name}" for name in (*MAY_CHANGE, "buffer_dir")} - {
    "Experiment.test_episodes",
    "Experiment.test_step_cap",
}
VALIDATED = "val/win_rate"
RETURNED = "val/return"
REACHED = (0.5, 0.8, 0.9, 0.95)
"""Validation rates whose first reaching is told."""
NO_VALUE = "(default)"


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs of one recipe.

    Attributes:
        name: What pages call it; no two groups have the same.
        runs: At least one, in the order given.
    """

    name: str
    runs: list[RunRecord]

    @property
    def seeds(self) -> int:
        """Different seeds among its runs."""
        return len({run.seed for run in self.runs})


def read_groups(roots: Sequence[Path]) -> list[RunGroup]:
    """Read runs and put those of one recipe together.

    Raises:
        ValueError: If a folder holds no run, one is named twice, or there are none.
    """
    if not roots:
        raise ValueError("a report needs at least one run folder, got none.")
    found: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    seen: set[Path] = set()
    for root in roots:
        run = read_run(root)
        if run.root in seen:
            raise ValueError(f"each run must be named once, got {root} again.")
        seen.add(run.root)
        found.setdefault(tuple(sorted(recipe(run).items())), []).append(run)
    groups: list[RunGroup] = []
    for runs in found.values():
        name = _common_name([run.name for run in runs])
        taken = {group.name for group in groups}
        tries = [name, *(f"{name} ({number})" for number in range(2, len(groups) + 3))]
        groups.append(RunGroup(next(free for free in tries if free not in taken), runs))
    return groups


def recipe(run: RunRecord) -> dict[str, str]:
    """The bindings that decide the numbers of a run, but for its seed."""
    return {n: v for n, v in run.config.items() if n != SEED and n not in _SAME_NUMBERS}


def _common_name(names: Sequence[str]) -> str:
    """What runs are called without the number of their seed, or the first and how many more."""
    if len(names) == 1:
        return names[0]
    bare = {re.sub(r"[-_. ]+(seed|s)?[-_. ]*[0-9]+$", "", name) for name in names}
    return bare.pop() if len(bare) == 1 else f"{names[0]} and {len(names) - 1} more"


def differences(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Bindings in which groups differ: by name the value of each group, in their order."""
    recipes = [recipe(group.runs[0]) for group in groups]
    names = sorted({name for values in recipes for name in values})
    table = {name: [values.get(name, NO_VALUE) for values in recipes] for name in names}
    return {name: values for name, values in table.items() if len(set(values)) > 1}


@dataclass(frozen=True, slots=True)
class Band:
    """A metric of a group over time.

    Attributes:
        x: float64 [n]: where every run has got to; where one of them has a point.
        mean: float64 [n], over runs.
        low: float64 [n]: the lowest run.
        high: float64 [n]: the highest run.
        runs: The curves themselves.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: list[Series]


def band(group: RunGroup, name: str, x: str) -> Band | None:
    """A metric of all runs of a group that have it; None where none has.

    Between points a curve is straight.
    """
    found = [s for run in group.runs for s in metric_series(run.metrics, [name], x)]
    if not found:
        return None
    first = max(series.x[0] for series in found)
    last = min(series.x[-1] for series in found)
    places = np.unique(np.concatenate([series.x for series in found]))
    places = places[(places >= first) & (places <= last)]
    values = np.array([np.interp(places, series.x, series.y) for series in found])
    return Band(places, values.mean(0), values.min(0), values.max(0), found)


def validated_by(groups: Sequence[RunGroup]) -> str | None:
    """The metric that tells how good policies are: win rate, or return where nothing is won."""
    names = {name: _highest(groups, name) for name in (VALIDATED, RETURNED)}
    if (names[VALIDATED] or 0.0) > 0 or names[RETURNED] is None:
        return VALIDATED if names[VALIDATED] is not None else None
    return RETURNED


def _highest(groups: Sequence[RunGroup], name: str) -> float | None:
    runs = [run for group in groups for run in group.runs]
    found = [s.y.max() for run in runs for s in metric_series(run.metrics, [name], "epoch")]
    return max(found) if found else None


def first_reached(run: RunRecord, level: float, x: str) -> float | None:
    """Where a run's mean validation rate was at least `level` for the first time, or None."""
    for series in metric_series(run.metrics, [VALIDATED], x):
        above = np.flatnonzero(series.y >= level - 1e-12)
        if above.size:
            return float(series.x[above[0]])
    return None


@dataclass(frozen=True, slots=True)
class PlayedTogether:
    """One policy of a group in one environment, all runs together.

    Attributes:
        group: Name of the runs' group.
        policy: Name of the row.
        env: Environment id.
        rows: Of the runs that have it.
    """

    group: str
    policy: str
    env: str
    rows: list[EvalRow]

    @property
    def rate(self) -> Rate:
        """Win rate of all episodes together, with its Wilson interval."""
        return Rate.of(sum(r.wins for r in self.rows), sum(r.episodes for r in self.rows))

    @property
    def returned(self) -> tuple[float, float, float]:
        """Mean return of all episodes together, and its normal 95 % interval."""
        total = sum(r.episodes for r in self.rows)
        mean = sum(r.mean_return * r.episodes for r in self.rows) / total
        halves = [(r.return_high - r.return_low) / 2 * r.episodes for r in self.rows]
        half = math.hypot(*halves) / total
        return mean, mean - half, mean + half

    @property
    def nfe_per_plan(self) -> float:
        """Network evaluations per plan."""
        return _ratio(
            sum(r.nfe_per_plan * r.plans_per_episode * r.episodes for r in self.rows),
            sum(r.plans_per_episode * r.episodes for r in self.rows),
        )

    @property
    def nfe_per_env_step(self) -> float:
        """Network evaluations per env step."""
        return _ratio(
            sum(r.nfe_per_plan * r.plans_per_episode * r.episodes for r in self.rows),
            sum(r.mean_steps * r.episodes for r in self.rows),
        )


def _ratio(upper: float, lower: float) -> float:
    return upper / lower if lower else 0.0


def played(groups: Sequence[RunGroup]) -> list[PlayedTogether]:
    """All rows of all final tables, those of one group, policy and environment together.

    Runs whose rows are equal and cost no network evaluations count once.
    """
    found: dict[tuple[str, str, str], list[EvalRow]] = {}
    for group in groups:
        for row in (row for run in group.runs for row in run.rows):
            rows = found.setdefault((group.name, row.policy, row.env), [])
            # An oracle plays the same episodes in every run: they are no new evidence.
            if row.nfe_per_plan or row not in rows:
                rows.append(row)
    return [PlayedTogether(*key, rows) for key, rows in found.items()]


def env_groups(groups: Sequence[RunGroup]) -> dict[str, list[str]]:
    """Environments with rows by training, held-out and other, in their first order.

    One that some runs train on and others hold out is in both.
    """
    there = dict.fromkeys(r.env for g in groups for run in g.runs for r in run.rows)
    runs = [run for group in groups for run in group.runs]
    found = {
        name: list(dict.fromkeys(e for run in runs for e in run.groups.get(name, ()) if e in there))
        for name in ("training", "held-out")
    }
    named = {env for envs in found.values() for env in envs}
    found["other"] = [env for env in there if env not in named]
    return {name: envs for name, envs in found.items() if envs}


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of a policy by run and environment, and their interquartile mean.

    Attributes:
        group: Name of the runs' group.
        policy: Name of the row.
        envs: Which of `env_groups`.
        metric: `win_rate`, or `mean_return` where nobody ever wins.
        names: Its environments, those of the columns.
        scores: By run one per environment.
        iqm: Of these.
    """

    group: str
    policy: str
    envs: str
    metric: str
    names: list[str]
    scores: list[list[float]]
    iqm: IQM


def score_tables(
    groups: Sequence[RunGroup], generator: np.random.Generator, resamples: int
) -> list[ScoreTable]:
    """A table for each group, policy and group of environments.

    Only runs that played all environments of a group count.

    Args:
        groups: Runs.
        generator: Draws the bootstrap.
        resamples: How often.
    """
    tables = []
    for kind, envs in env_groups(groups).items():
        rows = [r for group in groups for run in group.runs for r in run.rows if r.env in envs]
        metric = "win_rate" if any(row.wins for row in rows) else "mean_return"
        for group in groups:
            by_run = [_scores(run, metric) for run in group.runs]
            for policy in dict.fromkeys(p for rates in by_run for p in rates):
                names = [e for e in envs if any(e in rates.get(policy, {}) for rates in by_run)]
                whole = [r[policy] for r in by_run if set(names) <= set(r.get(policy, {}))]
                if names and whole:
                    scores = [[rates[env] for env in names] for rates in whole]
                    iqm = bootstrap_iqm(scores, generator, resamples)
                    tables.append(ScoreTable(group.name, policy, kind, metric, names, scores, iqm))
    return tables


def _scores(run: RunRecord, metric: str) -> Mapping[str, dict[str, float]]:
    """A column of the final table by policy and environment."""
    found: dict[str, dict[str, float]] = {}
    for row in run.rows:
        found.setdefault(row.policy, {})[row.env] = getattr(row, metric)
    return found
