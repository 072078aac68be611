import numpy as np
import pytest
import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy, OraclePolicy
from remdm.evaluation.rollout import evaluate_policy
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.oracles.random_policy import RandomPolicy

ENV = "Gridworld-Maze-9x9-v0"


@pytest.fixture(scope="module")
def agent():
    torch.manual_seed(0)
    return DiffusionPlannerAgent(map_observation_spec(9, 9), NUM_ACTIONS).eval()


@pytest.fixture
def observations():
    return {k: v.copy() for k, v in make_vec_env([ENV] * 3).reset([1, 2, 3]).items()}


def play(agent, seed, **options):
    policy = AgentPolicy(agent, torch.Generator().manual_seed(seed), **options)
    return evaluate_policy(
        policy,
        [ENV],
        episodes=4,
        first_seed=0,
        make_vec_env=make_vec_env,
        rows=2,
        max_episode_steps=20,
    )


def test_agent_with_the_same_generator_plays_the_same_episodes(agent):
    assert play(agent, 1) == play(agent, 1)
    assert play(agent, 1) != play(agent, 2)


def test_agent_policy_counts_the_calls_of_its_network(agent):
    row = play(agent, 1).rows[0]
    assert 1 <= row.nfe_per_plan <= agent.plan_horizon
    assert row.policy == "planner"


def test_agent_policy_runs_as_many_actions_as_told(agent):
    often, seldom = play(agent, 1, replan_every=1), play(agent, 1, replan_every=8)
    assert often.rows[0].plans_per_episode > seldom.rows[0].plans_per_episode


def test_constraints_are_on_for_the_constrained_policy_only(agent, observations):
    generator = torch.Generator().manual_seed(0)
    plain = AgentPolicy(agent, generator)
    constrained = AgentPolicy(agent, generator, constrained=True)
    rows = np.arange(3)
    # Close around every agent but for one way out: all constrained plans must take it.
    for row in range(3):
        observations["terrain"][row] = 2
        r, c = observations["position"][row]
        observations["terrain"][row, r, c + 1 if c < 7 else c - 1] = 1
    observations["searched"][:] = 200
    way = np.where(observations["position"][:, 1] < 7, 1, 3)
    for _ in range(5):
        first = constrained.plan(observations, rows).tokens[:, 0]
        assert ((first == way) | (first == 11)).all()  # WAIT is never ruled out
    assert not agent.action_constraints
    assert not agent.loop_breaker
    free = np.concatenate([plain.plan(observations, rows).tokens[:, 0] for _ in range(10)])
    assert ((free != np.tile(way, 10)) & (free != 11)).any()


def test_oracle_policy_runs_whole_plans_unless_told_otherwise():
    assert OraclePolicy(MemoryOracle(), plan_horizon=7).replan_every == 7
    assert OraclePolicy(MemoryOracle(), replan_every=3).replan_every == 3


@pytest.mark.parametrize("replan_every", [0, 17])
def test_replan_every_outside_the_plan_is_refused(agent, replan_every):
    with pytest.raises(ValueError, match=r"replan_every must be in 1\.\.plan_horizon=16"):
        OraclePolicy(MemoryOracle(), replan_every=replan_every)
    with pytest.raises(ValueError, match=r"replan_every must be in 1\.\.plan_horizon=16"):
        AgentPolicy(agent, torch.Generator(), replan_every=replan_every)


def test_random_plans_of_an_episode_depend_on_its_level_only(observations):
    def plans(rows, names, seeds):
        policy = OraclePolicy(RandomPolicy())
        policy.begin(np.array(rows), names, seeds)
        part = {k: v[: len(rows)] for k, v in observations.items()}
        return policy.plan(part, np.array(rows)).tokens

    three = plans([0, 1, 2], [ENV] * 3, [7, 8, 9])
    one = plans([5], [ENV], [8])
    np.testing.assert_array_equal(one[0], three[1])
    assert (three[0] != three[1]).any()
    assert (plans([5], ["other"], [8]) != one).any()
