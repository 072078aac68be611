"""One agent that plans otherwise, as a row of its own."""

import copy
from functools import partial

import pytest
import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.envs.making import make_vec_env
from remdm.evaluation.suite import evaluate_suite
from remdm.evaluation.variants import sweep_of, variant_policy
from remdm.maps import NUM_ACTIONS
from remdm.nets.ego import EgoDenoiser
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.policy_agent import PolicyAgent

ROOM = "Gridworld-Room-9x9-v0"
SMALL = partial(EgoDenoiser, width=16, num_layers=1, num_heads=2, hidden=16)


@pytest.fixture(scope="module")
def agents():
    spec = make_vec_env([ROOM]).observation_spec
    torch.manual_seed(0)
    return {
        "planner": DiffusionPlannerAgent(
            spec, NUM_ACTIONS, plan_horizon=6, replan_every=3, denoiser_type=SMALL
        ).eval(),
        "single_step": PolicyAgent(spec, NUM_ACTIONS, plan_horizon=6, denoiser_type=SMALL).eval(),
    }


def test_a_variant_has_the_same_weights_and_other_choices(agents) -> None:
    name = "planner:replan=2,sampler=balanced,temperature=0.7"
    policy = variant_policy(name, agents, torch.Generator())
    assert (policy.name, policy.replan_every) == (name, 2)
    planner = agents["planner"]
    assert policy.agent.denoiser is planner.denoiser
    assert type(policy.agent.sampler.reveal) is not type(planner.sampler.reveal)
    assert policy.agent.sampler.decoder.temperature == 0.7
    assert planner.replan_every == 3
    assert planner.sampler.decoder.temperature == 0.5


def test_planning_more_often_decides_fewer_tokens_and_costs_more_calls(agents) -> None:
    rows = evaluate_suite(
        agents,
        MemoryOracle(),
        [ROOM],
        policies=["planner:replan=1", "planner", "single_step:replan=1"],
        episodes=4,
        first_seed=0,
        rows=4,
        seed=0,
        make_vec_env=make_vec_env,
        max_episode_steps=12,
        shown=False,
    )
    often, seldom, single = rows
    assert [row.policy for row in rows] == ["planner:replan=1", "planner", "single_step:replan=1"]
    per_plan = [row.mean_steps / row.plans_per_episode for row in (often, seldom)]
    assert per_plan[0] < per_plan[1]
    assert often.nfe_per_plan < seldom.nfe_per_plan  # two tokens instead of four
    assert single.nfe_per_plan == 1


def test_a_sweep_doubles_the_actions_per_plan_and_names_samplers(agents) -> None:
    swept = sweep_of("planner", agents["planner"])
    assert swept[:3] == ["planner:replan=1", "planner:replan=2", "planner:replan=4"]
    assert all(name.startswith("planner:sampler=") for name in swept[3:])
    assert sweep_of("single_step", agents["single_step"])[-1] == "single_step:replan=4"
    for name in swept:
        variant_policy(name, agents, torch.Generator())


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("planer:replan=1", "unknown policy 'planer': did you mean 'planner'"),
        ("planner:replan", "written like planner:replan=1"),
        ("planner:plan=1", "choices among replan, sampler, temperature"),
        ("planner:replan=7", r"in 1\.\.plan_horizon=6, got 7"),
        ("planner:sampler=balance", "unknown sampler 'balance': did you mean 'balanced'"),
        ("single_step:sampler=greedy", "PolicyAgent has none"),
        ("single_step:temperature=0", "temperature must be a number above 0"),
        ("planner:temperature=hot", "a number above 0 in 'planner:temperature=hot', got 'hot'"),
    ],
)
def test_choices_that_make_no_sense_are_refused(agents, name: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        variant_policy(name, agents, torch.Generator())


def test_a_head_draws_at_the_temperature_of_its_row_and_keeps_its_own(agents) -> None:
    head = copy.deepcopy(agents["single_step"]).requires_grad_(False)
    torch.nn.init.normal_(head.denoiser.head.weight, generator=torch.Generator().manual_seed(0))
    cold = variant_policy("one:temperature=1e-6", {"one": head}, torch.Generator()).agent
    seen = make_vec_env([ROOM] * 32).reset(range(32))
    likeliest = head.plan(seen, torch.Generator(), greedy=True).tokens
    assert torch.equal(cold.plan(seen, torch.Generator().manual_seed(1)).tokens, likeliest)
    assert not torch.equal(head.plan(seen, torch.Generator().manual_seed(1)).tokens, likeliest)
    assert head.temperature == 0.5
