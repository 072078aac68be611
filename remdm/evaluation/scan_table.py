"""A scan of MiniHack tasks as tables for people and as JSON for programs."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from remdm.evaluation.scan_task import TaskReport
from remdm.evaluation.tables import short_env_name

SCHEMA_VERSION = 1
LEGEND = (
    "Actions: the task's own set beside the 12 that our environment plays every task with. "
    "SUPERSET (+n): it has n more; SUBSET (-n): it lacks n of ours, which work all the same; "
    "CONFLICT: both. Rates: won levels, with Wilson 95 % intervals."
)
_SHOWN = 2  # of the actions that ours lack


def counts(reports: Sequence[TaskReport]) -> dict[str, int]:
    """How many tasks there are, load and play, and how many action sets agree how."""
    agreements = Counter(r.agreement.split(" ")[0] for r in reports if r.loads)
    return {
        "tasks": len(reports),
        "load": sum(r.loads for r in reports),
        "play": sum(r.plays for r in reports),
        **{name.lower(): agreements[name] for name in ("EXACT", "SUPERSET", "SUBSET", "CONFLICT")},
    }


def summary(reports: Sequence[TaskReport]) -> str:
    """`counts` in a sentence or two."""
    found = counts(reports)
    sets = ", ".join(
        f"{found[name.lower()]} {name}" for name in ("EXACT", "SUPERSET", "SUBSET", "CONFLICT")
    )
    return (
        f"{found['tasks']} tasks: {found['load']} load as their authors made them, {found['play']} "
        f"play in our environment. Action sets of those that load: {sets}."
    )


def by_family(reports: Sequence[TaskReport]) -> dict[str, list[TaskReport]]:
    """Reports by family; families and tasks in the order of their names."""
    families: dict[str, list[TaskReport]] = {}
    for report in sorted(reports, key=lambda r: (r.family, r.task)):
        families.setdefault(report.family, []).append(report)
    return families


def _lacking(report: TaskReport) -> str:
    shown = ", ".join(report.lacking[:_SHOWN])
    more = len(report.lacking) - _SHOWN
    return f"{shown}, +{more}" if more > 0 else shown


def _rate(played: dict[str, Any] | None) -> str:
    if played is None:
        return "-"
    low, high = played["ci_low"], played["ci_high"]
    return f"{played['win_rate']:.2f} [{low:.2f}, {high:.2f}]"


def _columns(reports: Sequence[TaskReport], *, narrow: bool = False) -> list[str]:
    """Names of the columns; a narrow table with a planner has no room for the lacking actions."""
    columns = ["task", "steps", "actions", "ours lack", "oracle"]
    if any(r.planner is not None for r in reports):
        columns += ["planner", "plans/s", "steps/s"]
        if narrow:
            columns.remove("ours lack")
    return columns


def _cells(report: TaskReport, columns: Sequence[str]) -> list[str]:
    planner = report.planner or {}
    cells = {
        "task": short_env_name(report.task),
        "steps": str(report.max_steps),
        "actions": report.agreement or "-",
        "ours lack": _lacking(report),
        "oracle": _rate(report.oracle),
        "planner": _rate(report.planner),
        "plans/s": f"{planner['plans_per_second']:.0f}" if planner else "-",
        "steps/s": f"{planner['steps_per_second']:.0f}" if planner else "-",
    }
    return [cells[column] for column in columns]


def rich_scan(reports: Sequence[TaskReport]) -> Group:
    """The scan for a terminal, a section per family."""
    columns = _columns(reports, narrow=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column in ("steps", "plans/s", "steps/s")
        table.add_column(
            column,
            justify="right" if right else "left",
            overflow="fold",
            min_width=20 if column == "task" else None,
        )
    for family in by_family([r for r in reports if r.plays]).values():
        for report in family:
            cells = [Text(cell.replace(" [", "\n[")) for cell in _cells(report, columns)]
            cells[0].stylize("cyan")
            table.add_row(*cells, end_section=report is family[-1])
    parts: list[Any] = [table]
    parts += [Text(line, style="yellow") for line in _troubles(reports)]
    return Group(*parts, Text(summary(reports)), Text(LEGEND, style="dim"))


def _troubles(reports: Sequence[TaskReport]) -> list[str]:
    """What went wrong, a line per reason."""
    reasons: dict[str, list[str]] = {}
    for report in sorted(reports, key=lambda r: r.task):
        if report.trouble:
            kind = "plays" if report.plays else "loads" if report.loads else "does not load"
            reasons.setdefault(f"{kind}: {report.trouble}", []).append(short_env_name(report.task))
    return [f"{len(tasks)} {why} ({', '.join(tasks)})" for why, tasks in reasons.items()]


def markdown_scan(reports: Sequence[TaskReport], *, title: str | None = None) -> str:
    """The scan as GitHub markdown: the tasks that play, and why the others do not."""
    columns = _columns(reports)
    lines = [f"# {title}", ""] if title else []
    lines += [summary(reports), "", LEGEND, ""]
    lines += ["| family | " + " | ".join(columns) + " |", "|:--" * (len(columns) + 1) + "|"]
    for family, members in by_family([r for r in reports if r.plays]).items():
        for report in members:
            name = family if report is members[0] else ""
            lines.append(f"| {name} | " + " | ".join(_cells(report, columns)) + " |")
    troubles = _troubles(reports)
    if troubles:
        lines += ["", "## What does not", "", *(f"- {line}" for line in troubles)]
    return "\n".join(lines) + "\n"


def scan_document(reports: Sequence[TaskReport], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything of a scan as JSON types."""
    ordered = [report for family in by_family(reports).values() for report in family]
    return {
        "schema_version": SCHEMA_VERSION,
        "settings": settings,
        "counts": counts(reports),
        "tasks": [report.to_dict() for report in ordered],
    }
