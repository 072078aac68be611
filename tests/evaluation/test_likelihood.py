"""The NELBO as an evaluation figure, against an agent whose laws are known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.agent import DiffusionPlannerAgent
from remdm.data.batch import Batch, Window
from remdm.envs.making import make_vec_env
from remdm.evaluation.likelihood import nelbo_of, nelbo_rows, nelbo_table, oracle_window
from remdm.maps import ArraySpec
from remdm.nets.denoiser import Context, Denoiser
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.tokens import end_token

ACTIONS, HORIZON = 3, 4
END = end_token(ACTIONS)
SPEC = {"loaded": ArraySpec((), np.dtype(np.float32))}
MAZE = "Gridworld-Maze-9x9-v0"


class Coins(Denoiser):
    """Every position on its own: action 0 has the observation as its log-odds."""

    observation_keys = ("loaded",)

    def __init__(self, observation_spec, num_actions, plan_horizon):
        super().__init__()
        self.num_actions, self.plan_horizon = num_actions, plan_horizon
        self.unused = torch.nn.Parameter(torch.zeros(()))  # says where the agent is

    def encode(self, observations: dict[str, Tensor]) -> Context:
        return (observations["loaded"],)

    def denoise(self, context: Context, zt: Tensor, t: Tensor | float | None = None) -> Tensor:
        logits = torch.zeros(*zt.shape, self.num_actions + 1)
        logits[..., 0] = context[0][:, None]
        return logits


def agent() -> DiffusionPlannerAgent:
    return DiffusionPlannerAgent(
        SPEC, ACTIONS, plan_horizon=HORIZON, replan_every=2, denoiser_type=Coins
    )


def window(plans: list[list[int]], loaded: list[float], weights: list[float]) -> Window:
    return Window(
        {"loaded": np.array(loaded, np.float32)},
        np.array(plans, np.int8),
        np.array(weights, np.float32),
        np.zeros(len(plans), np.int16),
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_nelbo_of_independent_tokens_is_their_negative_log_likelihood():
    """Method 2.1: equality where the denoiser is exact; independent fair tokens cost ln 4 each."""
    plans = window([[0, 1, 2, 0], [2, END, END, END]], [0.0, 0.0], [1.0, 1.0])
    found = nelbo_of(agent(), plans, generator(), draws=2)
    assert found.per_plan == pytest.approx(HORIZON * math.log(4), abs=1e-5)
    assert found.error == pytest.approx(0.0, abs=1e-5)
    # 4 + 2 real tokens: the END tail of the second plan repeats its first END.
    assert found.per_token == pytest.approx(2 * HORIZON * math.log(4) / 6, abs=1e-5)
    assert found.plans == 2


def test_nelbo_depends_on_the_observation_and_leaves_out_plans_of_weight_zero():
    sure = math.log(3 * 0.9 / 0.1)  # action 0 has probability 0.9, the other three classes 1 / 30
    some = window([[0] * 4, [1] * 4, [2] * 4], [sure, sure, 0.0], [1.0, 0.5, 0.0])
    each = agent().nelbo(Batch.from_window(some), generator(), draws=3)
    wanted = [-4 * math.log(0.9), 4 * math.log(30), 4 * math.log(4)]
    assert each.tolist() == pytest.approx(wanted, abs=1e-4)
    found = nelbo_of(agent(), some, generator())
    assert found.plans == 2
    assert found.per_plan == pytest.approx((wanted[0] + wanted[1]) / 2, abs=1e-4)
    assert found.error == pytest.approx((wanted[1] - wanted[0]) / 2, abs=1e-4)  # of two values


def test_nothing_to_plan_is_refused():
    with pytest.raises(ValueError, match="needs at least one plan"):
        nelbo_of(agent(), window([[0] * 4], [0.0], [0.0]), generator())


def test_states_are_those_where_the_planner_would_plan_with_the_plans_of_the_oracle():
    class Seen(Coins):
        observation_keys = ("terrain", "position")

    vec_env = make_vec_env([MAZE])
    spec, actions = vec_env.observation_spec, vec_env.num_actions
    vec_env.close()
    planner = DiffusionPlannerAgent(
        spec, actions, plan_horizon=8, replan_every=2, denoiser_type=Seen
    )

    def states(max_states: int) -> Window:
        options = {"episodes": 3, "first_seed": 7, "rows": 2, "make_vec_env": make_vec_env}
        return oracle_window(planner, MemoryOracle(), MAZE, **options, max_states=max_states)

    found = states(1000)
    count = len(found.weights)
    assert count > 6  # three mazes take more than two plans of two steps each
    assert found.plans.shape == (count, 8)
    assert set(found.observations) == {"terrain", "position"}
    assert len(found.observations["terrain"]) == count
    few = states(5)
    assert len(few.weights) == 5
    assert (few.plans[0] == found.plans[0]).all()
    assert (few.plans[-1] == found.plans[-1]).all()


def test_figures_come_as_a_table_and_as_rows():
    found = {MAZE: nelbo_of(agent(), window([[0] * 4], [0.0], [1.0]), generator())}
    (row,) = nelbo_rows(found)
    assert (row["env"], row["plans"]) == (MAZE, 1)
    assert row["per_plan"] == pytest.approx(4 * math.log(4), abs=1e-5)
    assert nelbo_table(found, "memory").row_count == 1
