"""What planning costs, beside what it wins: net calls, and milliseconds where measured."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from remdm.evaluation.policies import AgentPolicy, OraclePolicy, Policy
from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.timing import Timing, pooled


def describe(policy: Policy) -> dict[str, Any]:
    """What a row of a results file was played with, as JSON types.

    Returns:
        `kind` (class of the agent or oracle), `plan_horizon` and `replan_every`; of an agent also
        `temperature` (None where nothing is drawn by one), `constrained` and `near`.
    """
    facts: dict[str, Any] = {"replan_every": policy.replan_every}
    if isinstance(policy, OraclePolicy):
        return {"kind": type(policy.oracle).__name__, "plan_horizon": policy.plan_horizon, **facts}
    if not isinstance(policy, AgentPolicy):
        return {"kind": type(policy).__name__, **facts}
    agent: Any = policy.agent
    sampler = getattr(agent, "sampler", None)
    drawn = agent if sampler is None else sampler.decoder
    return {
        "kind": type(agent).__name__,
        "plan_horizon": agent.plan_horizon,
        **facts,
        "temperature": getattr(drawn, "temperature", None),
        "constrained": bool(policy.constrained or agent.action_constraints),
        "near": policy.near,
    }


def cost_table(rows: Sequence[EvalRow], timings: Sequence[Timing] = ()) -> Group:
    """Net calls, a line per policy; and milliseconds, a line per policy and batch.

    Args:
        rows: Of an evaluation; all environments of a policy are counted together.
        timings: Of the same policies, likewise; none where not measured.
    """
    net = _table("planning", "net calls a plan", "actions a plan", "net calls a step")
    for policy in dict.fromkeys(row.policy for row in rows):
        net.add_row(policy, *_net_calls([row for row in rows if row.policy == policy]))
    parts: list[Any] = [net]
    if timings:
        parts.append(_time_table(timings))
    return Group(*parts)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(columns[0], style="cyan", overflow="fold")
    for name in columns[1:]:
        table.add_column(name, justify="right")
    return table


def _net_calls(rows: Sequence[EvalRow]) -> list[str]:
    plans = sum(row.plans_per_episode * row.episodes for row in rows)
    steps = sum(row.mean_steps * row.episodes for row in rows)
    nfe = sum(row.nfe_per_plan * row.plans_per_episode * row.episodes for row in rows)
    ratios = nfe / max(plans, 1), steps / max(plans, 1), nfe / max(steps, 1)
    return [f"{ratio:.2f}" for ratio in ratios]


def _time_table(timings: Sequence[Timing]) -> Group:
    table = _table("ms a call", "plans", "median", "p95", "a step", "plans/s", "steps/s")
    for policy, count in dict.fromkeys((timing.policy, timing.rows) for timing in timings):
        all_envs = pooled([t for t in timings if (t.policy, t.rows) == (policy, count)])
        table.add_row(
            policy,
            str(count),
            f"{all_envs.median_ms:.2f}",
            f"{all_envs.p95_ms:.2f}",
            f"{all_envs.ms_per_step:.3f}",
            f"{all_envs.plans_per_second:.0f}",
            f"{all_envs.steps_per_second:.0f}",
        )
    legend = "Calls make so many plans at once and are warmed up; steps/s counts the game, too."
    return Group(table, Text(legend, style="dim"))


def timing_rows(timings: Iterable[tuple[str, Timing]]) -> list[dict[str, Any]]:
    """Timings by environment, as JSON types."""
    return [{"env": env, **timing.to_dict()} for env, timing in timings]
