"""What several seeds of a baseline say together."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.statistics import Rate
from remdm.evaluation.tables import results_document

RowsBySeed = Mapping[int, Sequence[EvalRow]]


def pooled(by_seed: RowsBySeed) -> list[EvalRow]:
    """One row per environment and policy: the episodes of all seeds together.

    The interval of a row is that of so many episodes. Every seed plays the same levels, so it says
    nothing about how seeds differ; `spread` does.
    """
    groups: dict[tuple[str, str], list[EvalRow]] = {}
    for rows in by_seed.values():
        for row in rows:
            groups.setdefault((row.env, row.policy), []).append(row)
    return [_pooled(rows) for rows in groups.values()]


def _pooled(rows: Sequence[EvalRow]) -> EvalRow:
    wins, episodes = sum(r.wins for r in rows), sum(r.episodes for r in rows)
    rate = Rate.of(wins, episodes)
    won_steps = sum(r.wins * r.mean_steps_won for r in rows if r.mean_steps_won is not None)
    plans = sum(r.plans_per_episode * r.episodes for r in rows)
    calls = sum(r.nfe_per_plan * r.plans_per_episode * r.episodes for r in rows)

    def mean(name: str) -> float:
        return sum(float(getattr(r, name)) * r.episodes for r in rows) / episodes

    return EvalRow(
        env=rows[0].env,
        episodes=episodes,
        wins=wins,
        win_rate=rate.rate,
        ci_low=rate.low,
        ci_high=rate.high,
        mean_steps_won=won_steps / wins if wins else None,
        policy=rows[0].policy,
        mean_steps=mean("mean_steps"),
        plans_per_episode=plans / episodes,
        nfe_per_plan=calls / plans if plans else 0.0,
        first_seed=min(r.first_seed for r in rows),
        mean_return=mean("mean_return"),
        return_low=mean("return_low"),
        return_high=mean("return_high"),
        max_steps=rows[0].max_steps,
        nfe_per_step=calls / max(sum(r.mean_steps * r.episodes for r in rows), 1),
    )


def spread(by_seed: RowsBySeed, groups: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """For every group of environments and policy: the mean win rate of each seed, and of all.

    Returns:
        `group`, `policy`, `seeds` (win rate by seed as text), `mean`, and `std` over seeds with
        n - 1 in the denominator, None for one seed.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    for seed, rows in by_seed.items():
        for line in results_document(rows, groups)["means"]:
            key = line["group"], line["policy"]
            found.setdefault(key, {})[str(seed)] = line["win_rate"]
    return [
        {
            "group": group,
            "policy": policy,
            "seeds": rates,
            "mean": statistics.fmean(rates.values()),
            "std": statistics.stdev(rates.values()) if len(rates) > 1 else None,
        }
        for (group, policy), rates in found.items()
    ]


def document(
    by_seed: RowsBySeed, groups: Mapping[str, Sequence[str]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All that is known of the seeds, as JSON types.

    Args:
        by_seed: Rows of each.
        groups: Environments by the group that tables show them in.
        facts: Algorithm, budget and the like, put in as they are.
    """
    extra = {
        **facts,
        "seeds": list(by_seed),
        "spread": spread(by_seed, groups),
        "per_seed": {str(s): results_document(rows, groups) for s, rows in by_seed.items()},
    }
    return results_document(pooled(by_seed), groups, extra=extra)
