"""Agents whose nets remember: what they learn from, and what they know while they play."""

from dataclasses import replace

import gin
import numpy as np
import pytest
import torch

from remdm.continuation import RunningPlans
from remdm.data.batch import Batch
from remdm.diffusion.guidance import Guidance
from remdm.diffusion.warm_start import WarmStart
from remdm.envs.making import make_vec_env
from remdm.evaluation.policies import AgentPolicy
from remdm.evaluation.recording import record_episode
from remdm.evaluation.rollout import evaluate_policy
from remdm.evaluation.timing import time_policy
from remdm.maps import NUM_ACTIONS
from remdm.nets.denoiser import select_rows
from remdm.oracles.memory_oracle import MemoryOracle
from remdm.stretch import CarriedMemory, Stretch
from tests.remembering import HORIZON, KINDS, MEMORIES, SPEC, remembering
from tests.test_agent import TINY_NET
from tests.training.remembered import DOORS, MAZE, noisy_states


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=MEMORIES)
def memory(request):
    return request.param


# Learning

ROWS, STEPS = 3, 4


def stretched(**parts):
    """Three rows of four steps with labels, one row begun anew and one filled up."""
    seen = noisy_states(MAZE, ROWS * STEPS)
    plans, weights = MemoryOracle().label(seen, HORIZON)
    first, real = torch.zeros(ROWS, STEPS).bool(), torch.ones(ROWS, STEPS).bool()
    first[0, 2], real[1, 3] = True, False
    return Batch(
        {name: torch.from_numpy(array) for name, array in seen.items()},
        torch.from_numpy(plans).long(),
        torch.from_numpy(weights) * real.flatten(),
        torch.zeros(ROWS * STEPS, dtype=torch.int64),
        stretch=Stretch(first, real),
        **parts,
    )


def columns(batch, steps, memory):
    """Some steps of every row."""
    rows = torch.arange(ROWS * STEPS).view(ROWS, STEPS)[:, steps].flatten()
    return replace(
        batch,
        observations={name: array[rows] for name, array in batch.observations.items()},
        plans=batch.plans[rows],
        weights=batch.weights[rows],
        env_ids=batch.env_ids[rows],
        stretch=Stretch(batch.stretch.first[:, steps], batch.stretch.real[:, steps]),
        memory=memory,
    )


def test_what_is_carried_from_batch_to_batch_is_what_one_batch_would_know(kind, memory):
    agent, batch = remembering(kind, memory), stretched(memory=CarriedMemory())
    whole = agent.outputs(batch, generator())
    carried = CarriedMemory()
    parts = [
        agent.outputs(columns(batch, steps, carried), generator())
        for steps in (slice(0, 1), slice(1, None))
    ]
    assert parts[0].memory is None
    assert parts[1].memory.any()
    assert not carried.state.requires_grad
    torch.testing.assert_close(carried.state, batch.memory.state, rtol=1e-4, atol=1e-5)
    split = [part.view(ROWS, STEPS, *part.shape[1:]) for part in whole.context]
    for found, expected in zip(parts[1].context, split, strict=True):
        torch.testing.assert_close(found, expected[:, 1:].flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_another_agent_answers_from_the_same_memory(kind, memory):
    agent, carried = remembering(kind, memory), CarriedMemory()
    for _ in range(2):  # the second batch begins with a memory, and writes the next
        outputs = agent.outputs(stretched(memory=carried), generator())
    asked = outputs.real[..., None].expand_as(outputs.logits)
    found = agent.answer(outputs)
    torch.testing.assert_close(found[asked], outputs.logits[asked], rtol=1e-4, atol=1e-5)


def test_without_a_stretch_every_state_is_the_first_of_its_episode(kind):
    agent, batch = remembering(kind), stretched(memory=CarriedMemory())
    alone = agent.outputs(replace(batch, stretch=None), generator())
    assert batch.memory.state is None
    first = Stretch(torch.ones(ROWS, STEPS).bool(), torch.ones(ROWS, STEPS).bool())
    begun = agent.outputs(replace(batch, stretch=first), generator())
    torch.testing.assert_close(alone.context, begun.context, rtol=1e-4, atol=1e-5)
    loss, _ = agent.own_loss(batch, alone)
    loss.backward()


def test_a_net_without_memory_learns_from_stretches_as_from_single_states(kind):
    gin.parse_config(TINY_NET)
    agent, batch = KINDS[kind](SPEC, NUM_ACTIONS, plan_horizon=HORIZON), stretched()
    assert not agent.reads_continuation
    carried = CarriedMemory()
    losses = [
        agent.loss(replace(batch, stretch=stretch, memory=carried), generator())[0]
        for stretch in (batch.stretch, None)
    ]
    assert torch.equal(*losses)
    assert carried.state is None


def test_steps_that_fill_a_row_teach_nothing(kind, memory):
    agent, batch = remembering(kind, memory), stretched()
    losses = [agent.loss(batch, generator())[0]]
    filled = (~batch.stretch.real).flatten()
    for array in batch.observations.values():
        array[filled] = 1
    losses.append(agent.loss(batch, generator())[0])
    torch.testing.assert_close(*losses, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "knobs",
    [
        {"condition_dropout": 0.5, "guidance_type": Guidance},
        {"inpaint_anchor": "aligned"},
        {"soft_target_weight": 0.0, "loop_breaker": True},
    ],
    ids=["guidance", "aligned", "loop_breaker"],
)
def test_a_planner_with_memory_takes_what_else_it_can_be_conditioned_on(knobs):
    agent = remembering("planner", **knobs)
    past = torch.full((ROWS * STEPS, HORIZON - 1), NUM_ACTIONS)
    past[:, 0] = 1
    batch = stretched(memory=CarriedMemory(), past=past)
    loss, _ = agent.loss(batch, generator())
    loss.backward()
    gradients = [p.grad for p in agent.denoiser.past.parameters()]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    policy = AgentPolicy(agent, generator())
    recording = record_episode(policy, make_vec_env([MAZE]), 0, max_steps=9)
    assert recording.num_steps


def test_likelihoods_need_the_steps_before_a_state():
    agent, batch = remembering("planner"), stretched()
    assert torch.isfinite(agent.nelbo(batch, generator(), draws=4)).all()
    with pytest.raises(ValueError, match=r"EgoDenoiser\.memory_type = None"):
        agent.nelbo(replace(batch, stretch=None), generator())


# Playing


def greedy_plans(agent):
    """All that is planned from now on, by the likeliest tokens."""
    samples, plan = [], agent.plan

    def kept(*given, **named):
        samples.append(plan(*given, **named | {"greedy": True}))
        return samples[-1]

    agent.plan = kept
    return samples


@pytest.mark.parametrize("every", [1, 3])
def test_plans_in_play_are_those_of_one_look_at_the_whole_episode(kind, memory, every):
    agent = remembering(kind, memory)
    samples = greedy_plans(agent)
    policy = AgentPolicy(agent, generator(), replan_every=every)
    recording = record_episode(policy, make_vec_env([MAZE]), 3, max_steps=14)
    moments = recording.moments[:-1]
    _, starts = np.unique([moment.plan_index for moment in moments], return_index=True)
    seen = {
        key: torch.from_numpy(np.stack([moment.observation[key] for moment in moments]))
        for key in agent.observation_keys
    }
    one = torch.zeros(1, len(moments)).bool()
    with torch.inference_mode():
        context, _ = agent.denoiser.encode_stretch(seen, Stretch(one, ~one), None)
    agent.encode_now = lambda request, tensors: select_rows(context, torch.from_numpy(starts))
    whole = agent.plan({key: array[starts] for key, array in seen.items()}, generator())
    assert len(starts) > 3
    for name in ("tokens", "token_log_probs"):
        played = torch.cat([getattr(sample, name) for sample in samples[: len(starts)]])
        torch.testing.assert_close(played, getattr(whole, name), rtol=1e-3, atol=1e-4)


def test_who_may_not_remember_plans_as_if_the_episode_had_just_begun():
    agent = remembering()
    samples = greedy_plans(agent)
    policy = AgentPolicy(agent, generator(), remembers=False)
    recording = record_episode(policy, make_vec_env([MAZE]), 3, max_steps=6)
    for sample, moment in zip(samples.copy(), recording.moments, strict=False):
        now = {key: array[None] for key, array in moment.observation.items()}
        assert torch.equal(agent.plan(now, generator()).log_prob, sample.log_prob)


def test_episodes_in_a_row_do_not_remember_one_another(memory):
    found = []
    for rows in (1, 4):
        agent = remembering("single_step", memory, temperature=1e-6)
        played = evaluate_policy(
            AgentPolicy(agent, generator()),
            [DOORS],
            episodes=5,
            first_seed=0,
            make_vec_env=make_vec_env,
            rows=rows,
            max_episode_steps=12,
        )
        found.append(played.records)
    assert found[0] == found[1]


def test_planning_with_a_memory_is_timed():
    policy = AgentPolicy(remembering(), generator())
    rules = {"rows": 2, "calls": 3, "warmup": 1, "first_seed": 0, "make_vec_env": make_vec_env}
    assert time_policy(policy, MAZE, **rules).plans == 6


def test_an_agent_with_memory_is_not_to_play_where_it_is_not_told_what_happens():
    policy = AgentPolicy(remembering(), generator())
    with pytest.raises(RuntimeError, match=r"AgentPolicy\.accompany"):
        policy.begin(np.array([0]), [MAZE], [0])


@pytest.mark.parametrize("sampler", ["readme_minihack", "default"])
def test_a_warm_start_leaves_every_plan_its_own_memory(sampler):
    """Rows that begin and rows that go on are planned apart where the sampler has a grid."""
    agent = remembering("planner", warm_start_type=WarmStart, sampler_greedy=sampler)
    seen = {k: v[:3] for k, v in noisy_states(MAZE, 3).items()}
    running = RunningPlans(3, HORIZON, NUM_ACTIONS)
    running.planned(np.array([1]), np.arange(HORIZON)[None])
    memories = np.random.default_rng(0).normal(size=(3, agent.memory_size)).astype(np.float32)
    carried = replace(running.continuation(np.arange(3)), memory=memories)
    plans = agent.plan(seen, generator(), greedy=True, continuation=carried)
    memories[1] = 0.0  # a row that goes on with its plan
    memories[2] = 0.0  # one that begins one
    others = agent.plan(seen, generator(), greedy=True, continuation=carried)
    same_rows = (plans.token_log_probs == others.token_log_probs).all(1)
    assert same_rows.tolist() == [True, False, False]


def test_a_memory_that_does_not_fit_is_refused():
    running = RunningPlans(2, HORIZON, NUM_ACTIONS)
    state = running.state() | {"memory": np.zeros((3, 4), np.float32)}
    with pytest.raises(ValueError, match=r"float32 of shape \[2, size\]"):
        running.restore(state)
    running.restore(state | {"memory": np.zeros((2, 4), np.float32)})
    seen = {k: v[None, None] for k, v in stretched().observations.items()}
    with pytest.raises(ValueError, match="remembered in 4 numbers, and the net has 16"):
        running.remember(remembering(), np.array([0]), seen, np.ones((1, 1), np.bool_))
