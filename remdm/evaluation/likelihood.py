"""How well a planner knows its oracle: the NELBO of the oracle's plans on levels of its own.

Win rates say what a planner does; this says what it believes. The negative ELBO of masked diffusion
(MDLM, arXiv 2406.07524, in its any-order form) bounds `-log p(plan | observation)` from above, in
nats, and is what the planner was trained to lower. The plans are those of the oracle at the states
that it meets where the planner would plan, so every planner with the same `replan_every` is asked
about the same states.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table

from remdm.agent import DiffusionPlannerAgent
from remdm.data.batch import Batch, Window
from remdm.envs.contract import PlanVecEnv
from remdm.evaluation.policies import OraclePolicy, Plans
from remdm.evaluation.rollout import evaluate_policy
from remdm.evaluation.tables import short_env_name
from remdm.oracles.contract import Oracle
from remdm.tokens import end_token

BATCH_SIZE = 256
MAX_STATES = 2000


@dataclass(frozen=True, slots=True)
class Nelbo:
    """The NELBO of a set of plans.

    Attributes:
        per_plan: Mean in nats.
        error: Its standard error: of the choice of plans and of the masks that were drawn.
        per_token: Nats per real token: actions, and the END that closes them.
        plans: Number of plans; those of weight 0 are none.
    """

    per_plan: float
    error: float
    per_token: float
    plans: int


def nelbo_of(
    agent: DiffusionPlannerAgent,
    window: Window,
    generator: torch.Generator,
    *,
    draws: int = 16,
) -> Nelbo:
    """The NELBO of labelled observations, as `RLDataset.sample` or `oracle_windows` give them.

    Args:
        agent: Its label smoothing and loss weighting play no part.
        window: B labelled observations.
        generator: Draws the masks.
        draws: Masks per plan.

    Raises:
        ValueError: If no plan has a weight above 0.
    """
    real = np.flatnonzero(window.weights > 0)
    if not len(real):
        raise ValueError(
            "a NELBO needs at least one plan, and the oracle has none at these states; choose "
            "other environments or more episodes."
        )
    found = torch.cat([agent.nelbo(b, generator, draws=draws) for b in _batches(window, real)])
    end = end_token(agent.num_actions)
    tokens = np.minimum((window.plans[real] != end).sum(1) + 1, window.plans.shape[1])
    spread = float(found.std()) if len(real) > 1 else 0.0
    return Nelbo(
        per_plan=float(found.mean()),
        error=spread / len(real) ** 0.5,
        per_token=float(found.sum()) / int(tokens.sum()),
        plans=len(real),
    )


def _batches(window: Window, rows: np.ndarray) -> Iterator[Batch]:
    for start in range(0, len(rows), BATCH_SIZE):
        part = rows[start : start + BATCH_SIZE]
        observations = {key: array[part] for key, array in window.observations.items()}
        arrays = window.plans[part], window.weights[part], window.env_ids[part]
        yield Batch.from_window(Window(observations, *arrays))


class _Labelled:
    """An oracle's policy that keeps what the agent reads of every state, and the oracle's plan."""

    def __init__(self, policy: OraclePolicy, agent: DiffusionPlannerAgent) -> None:
        self.name, self.replan_every = policy.name, policy.replan_every
        self.policy, self.agent = policy, agent
        self.windows: list[Window] = []

    def accompany(self, vec_env: PlanVecEnv) -> PlanVecEnv:
        """See `Policy.accompany`."""
        return self.policy.accompany(vec_env)

    def begin(self, rows: np.ndarray, env_names: Sequence[str], level_seeds: Sequence[int]) -> None:
        """See `Policy.begin`."""
        self.policy.begin(rows, env_names, level_seeds)

    def plan(self, observations: dict[str, np.ndarray], rows: np.ndarray) -> Plans:
        """See `Policy.plan`."""
        seen = {key: observations[key].copy() for key in self.agent.observation_keys}
        plans, weights = self.policy.oracle.label(observations, self.agent.plan_horizon)
        self.windows.append(Window(seen, plans, weights, np.zeros(len(rows), np.int16)))
        return self.policy.plan(observations, rows)

    def ran(self, rows: np.ndarray, actions: np.ndarray, lengths: np.ndarray) -> None:
        """See `Policy.ran`."""
        self.policy.ran(rows, actions, lengths)


def oracle_window(
    agent: DiffusionPlannerAgent,
    oracle: Oracle,
    env: str,
    *,
    episodes: int,
    first_seed: int,
    rows: int,
    make_vec_env: Callable[[Sequence[str]], PlanVecEnv],
    max_states: int = MAX_STATES,
) -> Window:
    """The oracle's plans at the states of its own episodes.

    Args:
        agent: Says what to keep, how long plans are and how often they are made.
        oracle: Plays and labels.
        env: Environment.
        episodes: Levels.
        first_seed: Seed of the first level.
        rows: Most episodes played at once.
        make_vec_env: Makes the rows, given one name per row.
        max_states: Of more states, so many evenly spread ones are kept.
    """
    policy = OraclePolicy(
        oracle, plan_horizon=agent.plan_horizon, replan_every=agent.replan_every, seed=first_seed
    )
    labelled = _Labelled(policy, agent)
    evaluate_policy(
        labelled,
        [env],
        episodes=episodes,
        first_seed=first_seed,
        make_vec_env=make_vec_env,
        rows=rows,
    )
    count = sum(len(window.weights) for window in labelled.windows)
    kept = np.unique(np.linspace(0, count - 1, min(count, max_states)).astype(np.int64))

    def whole(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(arrays)[kept]

    return Window(
        {
            key: whole([window.observations[key] for window in labelled.windows])
            for key in agent.observation_keys
        },
        whole([window.plans for window in labelled.windows]),
        whole([window.weights for window in labelled.windows]),
        whole([window.env_ids for window in labelled.windows]),
    )


def nelbo_rows(found: dict[str, Nelbo]) -> list[dict[str, Any]]:
    """The figures by environment as JSON types."""
    return [{"env": env, **asdict(nelbo)} for env, nelbo in found.items()]


def nelbo_table(found: dict[str, Nelbo], oracle: str) -> Table:
    """The figures by environment for a terminal."""
    table = Table(
        title=f"NELBO of the {oracle} oracle's plans",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        pad_edge=False,
    )
    table.add_column("environment", style="cyan", overflow="fold")
    for column in ("plans", "nats per plan", "standard error", "nats per token"):
        table.add_column(column, justify="right")
    for env, nelbo in found.items():
        table.add_row(
            short_env_name(env),
            str(nelbo.plans),
            f"{nelbo.per_plan:.3f}",
            f"{nelbo.error:.3f}",
            f"{nelbo.per_token:.4f}",
        )
    return table
