"""First lives in worlds without an end: returns, lengths and what was achieved.

Every world's first life counts, also one that lives on when the cap comes: counting only lives that
end within a window would prefer those that die young.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from remdm.evaluation.statistics import Rate

Z_95 = 1.959964
REFERENCE = "expert"  # the policy that others are measured by, where it has a column


@dataclass(frozen=True, slots=True)
class FirstLives:
    """The first life in each of N worlds.

    Attributes:
        returns: float32 [N]: sums of rewards.
        steps: int64 [N].
        achievements: bool [N, achievements]: unlocked, also by the last step.
        ended: bool [N]: it was over before the cap.
    """

    returns: np.ndarray
    steps: np.ndarray
    achievements: np.ndarray
    ended: np.ndarray

    @property
    def return_interval(self) -> tuple[float, float]:
        """The normal 95 % interval of the mean return."""
        count, mean = len(self.returns), float(self.returns.mean())
        spread = float(self.returns.std(ddof=1)) / count**0.5 if count > 1 else 0.0
        return mean - Z_95 * spread, mean + Z_95 * spread

    def summary(self, names: Sequence[str], max_return: float | None) -> dict[str, Any]:
        """The figures of a table row, as JSON types.

        Args:
            names: Of the achievements.
            max_return: Return of a life that achieves everything, if there is such.

        Returns:
            Means of `return` (with `ci_low`, `ci_high`, the normal 95 % interval), `length` and
            `achievements`; `percent_of_max` where that is known; `crafter_score`, the geometric
            mean of 1 + unlock rates in percent, less 1 (Crafter, arXiv 2109.06780);
            `unlock_rates` with Wilson intervals; `lives` and `ended`.
        """
        count = len(self.returns)
        mean = float(self.returns.mean())
        low, high = self.return_interval
        unlocked = self.achievements.sum(0)
        rates = {name: Rate.of(int(n), count) for name, n in zip(names, unlocked, strict=True)}
        percent = 100.0 * unlocked / count
        return {
            "lives": count,
            "ended": int(self.ended.sum()),
            "return": mean,
            "ci_low": low,
            "ci_high": high,
            "percent_of_max": 100.0 * mean / max_return if max_return else None,
            "length": float(self.steps.mean()),
            "achievements": float(self.achievements.sum(1).mean()),
            "crafter_score": float(np.exp(np.log1p(percent).mean()) - 1.0),
            "unlock_rates": {
                name: {"rate": r.rate, "ci_low": r.low, "ci_high": r.high}
                for name, r in rates.items()
            },
        }


def return_ratio(
    part: Mapping[str, Any], whole: Mapping[str, Any]
) -> tuple[float, float, float] | None:
    """How much of `whole`'s mean return `part` reaches, with a 95 % interval (delta method).

    Args:
        part: From `FirstLives.summary`; lives of other chances, so independent of `whole`'s.
        whole: The same.

    Returns:
        The ratio and its limits; None where `whole` earns nothing.
    """
    if whole["return"] <= 0:
        return None
    ratio = part["return"] / whole["return"]
    reach = [(row["ci_high"] - row["ci_low"]) / 2 for row in (part, whole)]
    spread = (reach[0] ** 2 + (ratio * reach[1]) ** 2) ** 0.5 / whole["return"]
    return ratio, ratio - spread, ratio + spread


def _ratio_cells(summaries: Mapping[str, Mapping[str, Any]], reference: str) -> list[str]:
    ratios = [return_ratio(row, summaries[reference]) for row in summaries.values()]
    return ["-" if r is None else f"{r[0]:.2f} [{r[1]:.2f}, {r[2]:.2f}]" for r in ratios]


def lives_lines(summaries: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The lines of a table: a label, and a cell for each policy.

    First the means, then what anybody achieved; the rest is in the JSON.

    Args:
        summaries: From `FirstLives.summary`, by policy.
    """
    rows = list(summaries.values())
    lines = [
        ("return", [f"{row['return']:.2f}" for row in rows]),
        ("  95 %", [f"{row['ci_low']:.2f} to {row['ci_high']:.2f}" for row in rows]),
    ]
    if REFERENCE in summaries and len(rows) > 1:
        lines.append((f"share of {REFERENCE}", _ratio_cells(summaries, REFERENCE)))
    if rows[0]["percent_of_max"] is not None:
        lines.append(("% of max", [f"{row['percent_of_max']:.1f}" for row in rows]))
    lines += [
        ("achievements", [f"{row['achievements']:.2f}" for row in rows]),
        ("Crafter score", [f"{row['crafter_score']:.1f}" for row in rows]),
        ("length", [f"{row['length']:.0f}" for row in rows]),
        ("lives (ended)", [f"{row['lives']} ({row['ended']})" for row in rows]),
    ]
    if any(row.get("nfe_per_step") for row in rows):
        calls = [row.get("nfe_per_step", 0.0) for row in rows]
        lines.append(("net calls per step", [f"{count:.2f}" if count else "-" for count in calls]))
    for name in rows[0]["unlock_rates"]:
        rates = [row["unlock_rates"][name]["rate"] for row in rows]
        if any(rates):
            lines.append((name, [f"{rate:.3f}" for rate in rates]))
    return lines


def lives_table(summaries: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A terminal table: one column per policy; see `lives_lines`.

    Args:
        summaries: From `FirstLives.summary`, by policy.
        title: Above it.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    table.add_column("", style="cyan")
    for policy in summaries:
        table.add_column(policy, justify="right")
    for label, cells in lives_lines(summaries):
        table.add_row(label, *cells, end_section=label.startswith("lives"))
    return table


def lives_markdown(summaries: Mapping[str, Mapping[str, Any]], title: str) -> str:
    """The same table as GitHub markdown."""
    lines = [
        f"## {title}",
        "",
        "| | " + " | ".join(summaries) + " |",
        "|:--|" + "--:|" * len(summaries),
        *(f"| {label.strip()} | {' | '.join(cells)} |" for label, cells in lives_lines(summaries)),
    ]
    return "\n".join(lines) + "\n"
