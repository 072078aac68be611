"""The numbers of a report for programs: one JSON document, and a CSV line per run and row."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from remdm._version import __version__
from remdm.evaluation.run_groups import (
    REACHED,
    RunGroup,
    ScoreTable,
    differences,
    env_groups,
    first_reached,
    played,
)
from remdm.evaluation.run_record import RunRecord

SCHEMA_VERSION = 1
COUNTERS = ("env_steps", "updates", "seconds")
CSV_COLUMNS = (
    "group",
    "run",
    "seed",
    "policy",
    "env",
    "env_group",
    "episodes",
    "wins",
    "win_rate",
    "ci_low",
    "ci_high",
    "mean_steps",
    "mean_steps_won",
    "mean_return",
    "return_low",
    "return_high",
    "plans_per_episode",
    "nfe_per_plan",
    "nfe_per_env_step",
    "first_seed",
)


def run_facts(run: RunRecord) -> dict[str, Any]:
    """What is known of one run as JSON types."""
    return {
        "run": run.name,
        "seed": run.seed,
        "remdm_version": run.version or None,
        "finished": run.finished,
        "epochs": run.epochs,
        **{name: run.last(name) for name in COUNTERS},
        "notes": run.notes,
    }


def efficiency(run: RunRecord) -> list[dict[str, Any]]:
    """Where a run's mean validation rate reached each of `REACHED`; None where it never did."""
    return [
        {"win_rate": level, **{name: first_reached(run, level, name) for name in COUNTERS}}
        for level in REACHED
    ]


def report_document(groups: Sequence[RunGroup], tables: Iterable[ScoreTable]) -> dict[str, Any]:
    """Everything of a report as JSON types.

    `scores` holds arrays [runs, environments] per policy, as the package rliable takes them.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "remdm_version": __version__,
        "env_groups": env_groups(groups),
        "differences": {
            name: dict(zip([g.name for g in groups], values, strict=True))
            for name, values in differences(groups).items()
        },
        "groups": [
            {
                "group": group.name,
                "runs": [
                    {**run_facts(run), "reached": efficiency(run), "config": run.config}
                    for run in group.runs
                ],
            }
            for group in groups
        ],
        "scores": [asdict(table) for table in tables],
        "together": [
            {
                "group": together.group,
                "policy": together.policy,
                "env": together.env,
                **asdict(together.rate),
                "nfe_per_plan": together.nfe_per_plan,
                "nfe_per_env_step": together.nfe_per_env_step,
            }
            for together in played(groups)
        ],
        "rows": list(table_lines(groups)),
    }


def table_lines(groups: Sequence[RunGroup]) -> Iterable[dict[str, Any]]:
    """One line per run and row of its final table, with the names of `CSV_COLUMNS`."""
    kinds = {env: kind for kind, envs in reversed(env_groups(groups).items()) for env in envs}
    for group in groups:
        for run in group.runs:
            for row in run.rows:
                known = {
                    **row.to_dict(),
                    "group": group.name,
                    "run": run.name,
                    "seed": run.seed,
                    "env_group": kinds[row.env],
                    "nfe_per_env_step": row.nfe_per_plan * row.plans_per_episode / row.mean_steps
                    if row.mean_steps
                    else 0.0,
                }
                yield {name: known[name] for name in CSV_COLUMNS}


def report_csv(groups: Sequence[RunGroup]) -> str:
    """`table_lines` as CSV; what is not known is empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for line in table_lines(groups):
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return file.getvalue()


def _cell(value: Any) -> Any:
    """A name that a spreadsheet would take for a formula is given a quote in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in set("=+-@\t") else value
