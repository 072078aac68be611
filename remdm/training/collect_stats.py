"""What collecting adds up to, for logs and for whoever goes on after an interruption."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class CollectStats:
    """What one stretch of collecting did.

    Attributes:
        env_steps: Steps taken.
        episodes: Finished episodes, by environment.
        wins: Won episodes, by environment.
        returns: Sum of the returns of finished episodes, by environment.
        plans: Plans the agent made.
        nfe: Network calls of those plans.
        levels: Levels played by planner and oracle, or by the oracle instead of both.
        pairs: Those played by both.
        sums: What pairs add up to, by name.
        means: What is averaged over pairs, by name: the sum.
    """

    env_steps: int = 0
    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wins: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    returns: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    plans: int = 0
    nfe: float = 0.0
    levels: int = 0
    pairs: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)

    def add(self, sums: Mapping[str, float], means: Mapping[str, float]) -> None:
        """Add what a pair comes to; see `sums` and `means`."""
        for total, values in ((self.sums, sums), (self.means, means)):
            for name, value in values.items():
                total[name] = total.get(name, 0.0) + value

    def counts(self) -> dict[str, float]:
        """What the log adds up over processes."""
        return {
            "collect/env_steps": self.env_steps,
            "collect/episodes": sum(self.episodes.values()),
            **{f"collect/{name}": value for name, value in self.sums.items()},
        }

    def rates(self) -> dict[str, float]:
        """What the log averages; an environment without a finished episode has no rate."""
        rates = {f"collect/win_rate/{e}": self.wins[e] / n for e, n in self.episodes.items()}
        rates |= {f"collect/return/{e}": self.returns[e] / n for e, n in self.episodes.items()}
        if self.plans:
            rates["collect/nfe_per_plan"] = self.nfe / self.plans
        if self.pairs:
            rates |= {f"collect/{name}": x / self.pairs for name, x in self.means.items()}
        return rates

    def score(self, metric: str) -> tuple[str, float]:
        """A short name and the mean of "win_rate" or "return" over all finished episodes."""
        sums: dict[str, Any] = {"win_rate": self.wins, "return": self.returns}
        total = sum(sums[metric].values())
        return metric.removesuffix("_rate"), total / max(sum(self.episodes.values()), 1)
