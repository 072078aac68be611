"""Evaluation rows as tables for people and as JSON for programs.

A table has one line per environment and one column per policy. Environments come in named groups
(training, held-out), each closed by its mean; groups are never averaged together, because a mean
over seen and unseen environments answers no question.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from remdm.evaluation.lives import lives_markdown, lives_table
from remdm.evaluation.returns_table import returns_markdown, returns_table, scored_by_return
from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.statistics import Rate, mean_rate

SCHEMA_VERSION = 1
Cell = tuple[Rate, float | None]
"""A win rate and the mean steps of won episodes."""
OTHER_GROUP = "other"
DARK_ROOM_NOTE = (
    "The shorter-sight augmentation makes dark rooms out of lit training rooms, "
    "so for a policy trained with it this environment is not fully unseen."
)
ENV_NOTES = {"MiniHack-Room-Dark-15x15-v0": DARK_ROOM_NOTE}
"""Footnotes by environment, for tables that have a row of a trained network."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table.

    Attributes:
        label: Environment id as shown, or the name of a mean.
        cells: By policy; policies that did not play
            all of the line's environments are missing.
        mark: Footnote number, or 0.
        is_mean: Whether the line closes a group.
    """

    label: str
    cells: dict[str, Cell]
    mark: int
    is_mean: bool


@dataclass(frozen=True, slots=True)
class ResultTable:
    """A table before it is drawn.

    Attributes:
        policies: Column names, in order of first appearance.
        sections: Group name and its lines.
        footnotes: Numbered from 1.
        caption: What was played.
    """

    policies: list[str]
    sections: list[tuple[str, list[Line]]]
    footnotes: list[str]
    caption: str


def short_env_name(env: str) -> str:
    """The id without what all ids of the suite share."""
    return env.removeprefix("MiniHack-").removesuffix("-v0")


def default_notes(rows: Iterable[EvalRow]) -> dict[str, str]:
    """The entries of `ENV_NOTES` that concern these rows."""
    rows = list(rows)
    trained = any(row.nfe_per_plan > 0 for row in rows)
    played = {row.env for row in rows}
    return {env: note for env, note in ENV_NOTES.items() if trained and env in played}


def build_table(
    rows: Iterable[EvalRow],
    groups: Mapping[str, Sequence[str]],
    *,
    notes: Mapping[str, str] | None = None,
) -> ResultTable:
    """Arrange rows by group and policy.

    Args:
        rows: Results; a later row of the same environment and policy replaces an earlier one.
        groups: Environments by group name, in the order to show; environments with rows that are
            in no group follow as a group of their own. Those without rows are left out.
        notes: Footnotes by environment; `default_notes` when None.

    Raises:
        ValueError: If there are no rows.
    """
    by_key = {(row.env, row.policy): row for row in rows}
    if not by_key:
        raise ValueError("a table needs at least one evaluation row, got none.")
    notes = default_notes(by_key.values()) if notes is None else notes
    policies = list(dict.fromkeys(policy for _, policy in by_key))
    played = list(dict.fromkeys(env for env, _ in by_key))
    grouped = {env for envs in groups.values() for env in envs}
    members = {name: [e for e in envs if e in played] for name, envs in groups.items()}
    members[OTHER_GROUP] = [e for e in played if e not in grouped]
    footnotes: list[str] = []
    sections = []
    for name, envs in members.items():
        if envs:
            lines = [_env_line(env, policies, by_key, notes, footnotes) for env in envs]
            mean = Line(f"mean, {name}", _mean_cells(envs, policies, by_key), 0, True)
            sections.append((name, [*lines, mean]))
    return ResultTable(policies, sections, footnotes, _caption(by_key.values()))


def _env_line(
    env: str,
    policies: Sequence[str],
    by_key: Mapping[tuple[str, str], EvalRow],
    notes: Mapping[str, str],
    footnotes: list[str],
) -> Line:
    mark = 0
    if env in notes:
        if notes[env] not in footnotes:
            footnotes.append(notes[env])
        mark = footnotes.index(notes[env]) + 1
    rows = {p: by_key[env, p] for p in policies if (env, p) in by_key}
    cells = {p: (Rate.of(r.wins, r.episodes), r.mean_steps_won) for p, r in rows.items()}
    return Line(short_env_name(env), cells, mark, False)


def _mean_cells(
    envs: Sequence[str], policies: Sequence[str], by_key: Mapping[tuple[str, str], EvalRow]
) -> dict[str, Cell]:
    """A mean for each policy that played all of `envs`; the steps only if it won in all."""
    cells: dict[str, Cell] = {}
    for policy in policies:
        rows = [by_key[env, policy] for env in envs if (env, policy) in by_key]
        if len(rows) == len(envs):
            steps = [r.mean_steps_won for r in rows if r.mean_steps_won is not None]
            mean_steps = sum(steps) / len(steps) if len(steps) == len(rows) else None
            cells[policy] = mean_rate([Rate.of(r.wins, r.episodes) for r in rows]), mean_steps
    return cells


def _caption(rows: Iterable[EvalRow]) -> str:
    rows = list(rows)
    counts = sorted({r.episodes for r in rows})
    firsts = sorted({r.first_seed for r in rows})
    count = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    seeds = f", level seeds from {firsts[0]}" if len(firsts) == 1 else ""
    return (
        f"Win rates with Wilson 95 % intervals, {count} episodes per environment{seeds}. "
        "Means weigh environments equally."
    )


def format_rate(rate: Rate) -> str:
    """A rate with its interval, three decimals."""
    return f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def format_steps(steps: float | None) -> str:
    """Mean steps, one decimal below 100; a dash without a won episode."""
    if steps is None:
        return "-"
    return f"{steps:.1f}" if steps < 99.95 else f"{steps:.0f}"


def markdown_table(table: ResultTable, *, title: str | None = None) -> str:
    """The table as GitHub markdown: win rates, then steps per won episode."""
    parts = [f"# {title}\n"] if title else []
    parts.append("## Win rate\n")
    parts.append(_markdown_grid(table, lambda cell: format_rate(cell[0])))
    parts.append("\n## Steps per won episode\n")
    parts.append(_markdown_grid(table, lambda cell: format_steps(cell[1])))
    parts.append(f"\n{table.caption}\n")
    parts += [f"[{i}] {note}\n" for i, note in enumerate(table.footnotes, 1)]
    return "\n".join(parts)


def _markdown_grid(table: ResultTable, text: Callable[[Cell], str]) -> str:
    lines = [
        "| environment | " + " | ".join(table.policies) + " |",
        "|:--|" + "--:|" * len(table.policies),
    ]
    for _, section in table.sections:
        for line in section:
            strong = "**" if line.is_mean else ""
            mark = f" [{line.mark}]" if line.mark else ""
            cells = [
                f"{strong}{text(line.cells[p])}{strong}" if p in line.cells else ""
                for p in table.policies
            ]
            lines.append(f"| {strong}{line.label}{strong}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rich_table(table: ResultTable, *, title: str | None = None) -> Group:
    """The table for a terminal; four policies fit into 80 columns."""
    grid = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    grid.add_column("environment", style="cyan", overflow="fold")
    for policy in table.policies:
        grid.add_column(policy, justify="right", overflow="fold")
    for _, section in table.sections:
        for line in section:
            label = Text(line.label, style="bold" if line.is_mean else "")
            if line.mark:
                label.append(f" [{line.mark}]", style="yellow")
            cells = [
                _rich_cell(*line.cells[p], line.is_mean) if p in line.cells else Text("")
                for p in table.policies
            ]
            grid.add_row(label, *cells, end_section=line.is_mean)
    legend = "In a cell: win rate / steps per won episode, and below them the interval."
    notes = [Text(f"{table.caption} {legend}", style="dim")]
    notes += [Text(f"[{i}] {note}", style="yellow") for i, note in enumerate(table.footnotes, 1)]
    return Group(grid, *notes)


def _rich_cell(rate: Rate, steps: float | None, is_mean: bool) -> Text:
    colour = "green" if rate.rate >= 0.9 else "yellow" if rate.rate >= 0.5 else "red"
    cell = Text(f"{rate.rate:.3f}", style=f"bold {colour}" if is_mean else colour)
    cell.append(f" /{format_steps(steps):>5}", style="default")
    return cell.append(f"\n{rate.low:.3f}-{rate.high:.3f}", style="dim")


def results_document(
    rows: Iterable[EvalRow],
    groups: Mapping[str, Sequence[str]],
    *,
    notes: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything of a table as JSON types: `rows`, `means`, `notes` and whatever `extra` adds."""
    rows = list(rows)
    table = build_table(rows, groups, notes=notes)
    means = [
        {
            "group": name,
            "policy": policy,
            "win_rate": rate.rate,
            "ci_low": rate.low,
            "ci_high": rate.high,
            "mean_steps_won": steps,
        }
        for name, lines in table.sections
        for policy, (rate, steps) in lines[-1].cells.items()
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "rows": [row.to_dict() for row in rows],
        "means": means,
        "notes": default_notes(rows) if notes is None else dict(notes),
        **(extra or {}),
    }


def lives_by_env(rows: Iterable[EvalRow]) -> dict[str, dict[str, dict[str, Any]]]:
    """By environment and policy what `FirstLives.summary` says; only where there are lives."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row.lives is not None:
            found.setdefault(row.env, {})[row.policy] = row.lives
    return found


def _kinds(rows: Sequence[EvalRow]) -> tuple[list[EvalRow], list[EvalRow]]:
    """Rows that count returns, and those that count wins; without those of first lives."""
    without = [row for row in rows if row.lives is None]
    scored = [row for row in without if scored_by_return(row)]
    return scored, [row for row in without if not scored_by_return(row)]


def report_markdown(
    rows: Sequence[EvalRow], groups: Mapping[str, Sequence[str]], *, title: str | None = None
) -> str:
    """All that rows say: first lives where there are achievements, returns where nothing else is
    known, win rates elsewhere.
    """
    lives, scored, won = lives_by_env(rows), *_kinds(rows)
    parts = [f"# {title}\n"] if title else []
    parts += [lives_markdown(by_policy, lives_title(env)) for env, by_policy in lives.items()]
    if scored:
        parts.append(returns_markdown(scored))
    if won:
        parts.append(markdown_table(build_table(won, groups)))
    return "\n".join(parts)


def report_table(rows: Sequence[EvalRow], groups: Mapping[str, Sequence[str]]) -> Group:
    """`report_markdown` for a terminal."""
    lives, scored, won = lives_by_env(rows), *_kinds(rows)
    parts: list[Any] = [lives_table(by, lives_title(env)) for env, by in lives.items()]
    if scored:
        parts.append(returns_table(scored))
    if won:
        parts.append(rich_table(build_table(won, groups)))
    return Group(*parts)


def lives_title(env: str) -> str:
    """Above a table of first lives."""
    return f"{env}: the first life in each world"


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file whole or not at all.

    Raises:
        ValueError: If the document holds NaN or infinity, which JSON does not know.
    """
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
