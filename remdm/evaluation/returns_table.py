"""Environments without a notion of winning, compared by the sum of their rewards."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from remdm.envs.making import GYMNASIUM
from remdm.evaluation.rollout import EvalRow

CAPTION = "Mean return and steps per episode; intervals are normal 95 % ones."
TITLE = "Return"


def scored_by_return(row: EvalRow) -> bool:
    """Whether a row's environment knows no win, so that its returns are what counts."""
    return row.env.startswith(GYMNASIUM) and not row.wins


def _cells(rows: Sequence[EvalRow]) -> list[tuple[str, str, str, str]]:
    """Environment, policy, return and steps of each row."""
    return [
        (
            row.env,
            row.policy,
            f"{row.mean_return:.2f} [{row.return_low:.2f}, {row.return_high:.2f}]",
            f"{row.mean_steps:.1f}",
        )
        for row in rows
    ]


def returns_markdown(rows: Sequence[EvalRow]) -> str:
    """The rows as a table of GitHub markdown."""
    lines = ["| environment | policy | return | steps |", "|:--|:--|--:|--:|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(rows)]
    return "\n".join([f"## {TITLE}\n", *lines, f"\n{CAPTION}\n"])


def returns_table(rows: Sequence[EvalRow]) -> Table:
    """The rows as a table for a terminal."""
    table = Table(title=TITLE, box=box.SIMPLE_HEAD, pad_edge=False, caption=CAPTION)
    for name in ("environment", "policy"):
        table.add_column(name, overflow="fold")
    for name in ("return", "steps"):
        table.add_column(name, justify="right")
    for cells in _cells(rows):
        table.add_row(*cells)
    return table
