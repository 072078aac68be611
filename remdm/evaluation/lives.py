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

    def summary(self, names: Sequence[str], max_return: float) -> dict[str, Any]:
        """The figures of a table row, as JSON types.

        Args:
            names: Of the achievements.
            max_return: Return of a life that achieves everything.

        Returns:
            Means of `return` (with `ci_low`, `ci_high`, the normal 95 % interval), `length` and
            `achievements`; `percent_of_max`; `crafter_score`, the geometric mean of 1 + unlock
            rates in percent, less 1 (Crafter, arXiv 2109.06780); `unlock_rates` with Wilson
            intervals; `lives` and `ended`.
        """
        count = len(self.returns)
        mean = float(self.returns.mean())
        spread = float(self.returns.std(ddof=1)) / count**0.5 if count > 1 else 0.0
        unlocked = self.achievements.sum(0)
        rates = {name: Rate.of(int(n), count) for name, n in zip(names, unlocked, strict=True)}
        percent = 100.0 * unlocked / count
        return {
            "lives": count,
            "ended": int(self.ended.sum()),
            "return": mean,
            "ci_low": mean - Z_95 * spread,
            "ci_high": mean + Z_95 * spread,
            "percent_of_max": 100.0 * mean / max_return,
            "length": float(self.steps.mean()),
            "achievements": float(self.achievements.sum(1).mean()),
            "crafter_score": float(np.exp(np.log1p(percent).mean()) - 1.0),
            "unlock_rates": {
                name: {"rate": r.rate, "ci_low": r.low, "ci_high": r.high}
                for name, r in rates.items()
            },
        }


def lives_table(summaries: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """A terminal table: one column per policy, first the means, then every achievement.

    Args:
        summaries: From `FirstLives.summary`, by policy.
        title: Above it.
    """
    table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", pad_edge=False)
    table.add_column("", style="cyan")
    for policy in summaries:
        table.add_column(policy, justify="right")
    rows = list(summaries.values())
    table.add_row("return", *(f"{row['return']:.2f}" for row in rows))
    table.add_row("  95 %", *(f"{row['ci_low']:.2f} to {row['ci_high']:.2f}" for row in rows))
    table.add_row("% of max", *(f"{row['percent_of_max']:.1f}" for row in rows))
    table.add_row("achievements", *(f"{row['achievements']:.2f}" for row in rows))
    table.add_row("Crafter score", *(f"{row['crafter_score']:.1f}" for row in rows))
    table.add_row("length", *(f"{row['length']:.0f}" for row in rows))
    table.add_row("lives (ended)", *(f"{row['lives']} ({row['ended']})" for row in rows))
    table.add_section()
    for name in rows[0]["unlock_rates"]:
        rates = [row["unlock_rates"][name]["rate"] for row in rows]
        if any(rates):  # what nobody unlocked is in the JSON
            table.add_row(name, *(f"{rate:.3f}" for rate in rates))
    return table
