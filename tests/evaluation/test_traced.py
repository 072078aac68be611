"""Watching an agent's sampler changes no plan and finds the calls behind each of them."""

import numpy as np
import pytest
import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy, OraclePolicy
from remdm.evaluation.recording import record_episode
from remdm.evaluation.traced import plan_strip, trace_policy
from remdm.oracles.random_policy import RandomPolicy
from remdm.policy_agent import PolicyAgent

ENV = "Gridworld-Room-9x9-v0"


def policy_of(kind: type, **options: object) -> AgentPolicy:
    torch.manual_seed(0)
    envs = make_vec_env([ENV])
    agent = kind(envs.observation_spec, envs.num_actions, **options).eval()
    envs.close()
    return AgentPolicy(agent, torch.Generator().manual_seed(1))


def play(policy: AgentPolicy):
    envs = make_vec_env([ENV])
    try:
        return record_episode(policy, envs, 3, max_steps=6)
    finally:
        envs.close()


@pytest.fixture
def played():
    policy = policy_of(DiffusionPlannerAgent)
    traced = trace_policy(policy)
    return policy, traced, play(policy)


def test_watched_episodes_are_the_same_episodes(played):
    _, traced, recording = played
    alone = play(policy_of(DiffusionPlannerAgent))
    assert len(recording.moments) == len(alone.moments)
    for seen, wanted in zip(recording.moments, alone.moments, strict=True):
        assert np.array_equal(seen.plan, wanted.plan)
    assert len(traced.samples) == recording.moments[-1].plan_index + 1


def test_strip_is_that_of_the_plan_asked_for(played):
    policy, traced, recording = played
    for number in range(1, len(traced.samples) + 1):
        strip = plan_strip(traced, recording, number, policy.replan_every)
        plan = next(m.plan for m in recording.moments if m.plan_index == number - 1)
        assert strip.plan.tolist() == plan.tolist()
        assert strip.nfe == len(strip.calls) > 0


@pytest.mark.parametrize("number", [0, 99])
def test_plans_that_the_episode_had_not_are_refused(played, number):
    policy, traced, recording = played
    with pytest.raises(ValueError, match=r"--plan must be in 1\.\."):
        plan_strip(traced, recording, number, policy.replan_every)


def test_policies_that_do_not_denoise_are_refused():
    for policy in (policy_of(PolicyAgent), OraclePolicy(RandomPolicy())):
        with pytest.raises(ValueError, match="only a diffusion planner"):
            trace_policy(policy)
