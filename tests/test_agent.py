"""Agents: they learn, they plan, and the same generator gives the same plan."""

import gin
import numpy as np
import pytest
import torch

from remdm.agent import BaseAgent, DiffusionPlannerAgent
from remdm.data.batch import Batch, Window
from remdm.maps import NUM_ACTIONS, Action, map_observation_spec
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.policy_agent import PolicyAgent
from remdm.tokens import end_token
from tests.nets.states import random_states, tensors

SPEC = map_observation_spec(21, 79)
END = end_token(NUM_ACTIONS)
TINY_NET = """
EgoEncoder.crop_size = 3
EgoEncoder.coarse_rows = 3
EgoEncoder.coarse_columns = 3
EgoDenoiser.num_layers = 1
EgoDenoiser.width = 16
EgoDenoiser.hidden = 16
"""
AGENTS = {"planner": DiffusionPlannerAgent, "single_step": PolicyAgent}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled_batch(count: int = 12, horizon: int = 16) -> Batch:
    """Random states; the plan is the row's own number as moves, then END."""
    plans = np.full((count, horizon), END, np.int8)
    plans[:, 0] = np.arange(count) % NUM_ACTIONS
    plans[::2, 1] = plans[::2, 0]
    window = Window(
        random_states(count), plans, np.ones(count, np.float32), np.zeros(count, np.int16)
    )
    return Batch.from_window(window)


def train(agent: BaseAgent, batch: Batch, updates: int, **autocast: bool) -> list[float]:
    optimiser = torch.optim.AdamW(agent.parameters(), lr=3e-3)
    losses, source = [], generator()
    for _ in range(updates):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast.get("low", False)):
            loss, metrics = agent(batch, source)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        assert all(not value.requires_grad for value in metrics.values())
    return losses


@pytest.fixture(params=AGENTS.values(), ids=AGENTS.keys())
def agent(request) -> BaseAgent:
    torch.manual_seed(0)
    made = request.param(SPEC, NUM_ACTIONS).eval()
    # A fresh head gives all actions the same chance; plans should differ by state.
    torch.nn.init.normal_(made.denoiser.head.weight, std=0.1)
    return made


@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("agent_type", AGENTS.values(), ids=AGENTS.keys())
def test_agent_learns_a_few_labels_by_heart(agent_type, low):
    torch.manual_seed(0)
    agent, batch = agent_type(SPEC, NUM_ACTIONS), labelled_batch()
    losses = train(agent, batch, 60, low=low)
    assert losses[-1] < 0.2 * losses[0]
    plans = agent.plan(batch.observations, generator(), greedy=True).tokens
    assert torch.equal(plans[:, 0], batch.plans[:, 0])


def test_seed_net_learns_a_few_labels_by_heart():
    torch.manual_seed(0)
    agent = DiffusionPlannerAgent(
        SPEC, NUM_ACTIONS, plan_horizon=8, denoiser_type=DualStreamDenoiser
    )
    batch = labelled_batch(6, 8)
    batch.observations["glyphs"][0, 3, 3] = 2383
    optimiser = torch.optim.AdamW(agent.parameters(), lr=5e-4)
    source = generator()
    losses = []
    for _ in range(25):
        loss, metrics = agent(batch, source)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert "goal_loss" in metrics
    assert losses[-1] < 0.5 * losses[0]
    assert (agent.plan(batch.observations, generator()).tokens[:, 0] < NUM_ACTIONS).all()


def test_same_generator_gives_the_same_loss_and_gradient(agent):
    batch = labelled_batch()
    results = []
    for _ in range(2):
        agent.zero_grad()
        loss, _ = agent.loss(batch, generator(3))
        loss.backward()
        results.append((loss.detach(), agent.denoiser.plan_tokens.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_plans_without_weight_teach_nothing(agent):
    batch = labelled_batch()
    batch.weights.zero_()
    loss, _ = agent.loss(batch, generator())
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in agent.parameters())


def test_same_generator_gives_the_same_plan(agent):
    states = random_states(8)
    first = agent.plan(states, generator(1))
    again = agent.plan(states, generator(1))
    other = agent.plan(states, generator(2))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.log_prob, again.log_prob)
    assert not torch.equal(first.tokens, other.tokens)


def test_planning_leaves_the_global_generator_alone(agent):
    before = torch.get_rng_state()
    agent.plan(random_states(2), generator())
    agent.loss(labelled_batch(), generator())
    assert torch.equal(before, torch.get_rng_state())


def test_plans_are_actions_and_then_end(agent):
    sample = agent.plan(random_states(32), generator())
    assert sample.tokens.shape == (32, agent.plan_horizon)
    assert sample.tokens.dtype == torch.int64
    lengths = sample.lengths[:, None]
    ended = torch.arange(agent.plan_horizon) >= lengths
    assert ((sample.tokens == END) == ended).all()
    assert (sample.lengths >= 1).all()
    assert (sample.nfe >= 1).all()
    assert (sample.log_prob <= 0).all()


def test_single_step_agent_plans_one_action():
    sample = PolicyAgent(SPEC, NUM_ACTIONS).plan(random_states(4), generator())
    directed = torch.isin(sample.tokens[:, 0], torch.tensor([Action.OPEN, Action.KICK]))
    assert (sample.lengths == 1 + directed.int()).all()
    assert (sample.nfe == 1).all()


def test_single_step_agent_draws_from_its_tempered_distribution():
    """20000 draws of one state; each share within 5 standard deviations (fails 1e-5 of times)."""
    torch.manual_seed(0)
    gin.parse_config(TINY_NET)
    agent = PolicyAgent(SPEC, NUM_ACTIONS, temperature=2.0, autocast_inference="off").eval()
    torch.nn.init.normal_(agent.denoiser.head.weight, std=0.5)
    one = {key: value[:1] for key, value in random_states(2).items()}
    with torch.inference_mode():
        logits = agent.action_logits(agent.denoiser.encode(tensors(one)))
    wanted = (logits[0] / 2.0).softmax(-1)
    many = {key: value.repeat(2500, 0) for key, value in one.items()}
    source = generator()
    actions = torch.cat([agent.plan(many, source).tokens[:, 0] for _ in range(8)])
    share = torch.bincount(actions, minlength=NUM_ACTIONS) / 20_000
    deviation = (wanted * (1 - wanted) / 20_000).sqrt()
    assert ((share - wanted).abs() < 5 * deviation).all()


def test_plan_and_loss_take_what_environments_hand_out(agent):
    """Read-only, strided and superfluous arrays."""
    states = random_states(6)
    plain = agent.plan({k: v[::2].copy() for k, v in states.items()}, generator()).tokens
    states["extra"] = np.zeros(6)
    for value in states.values():
        value.flags.writeable = False
    strided = agent.plan({k: v[::2] for k, v in states.items()}, generator()).tokens
    assert torch.equal(plain, strided)


def test_observation_without_an_array_is_refused_by_name(agent):
    states = random_states(1)
    del states["visited"]
    with pytest.raises(ValueError, match="lacks visited"):
        agent.plan(states, generator())


@pytest.mark.parametrize("replan_every", [0, 17])
def test_replan_every_outside_the_plan_is_refused_with_its_gin_name(replan_every):
    with pytest.raises(ValueError, match=r"1\.\.plan_horizon=16.*DiffusionPlannerAgent"):
        DiffusionPlannerAgent(SPEC, NUM_ACTIONS, replan_every=replan_every)


def test_policy_temperature_of_zero_is_refused_with_its_gin_name():
    with pytest.raises(ValueError, match=r"PolicyAgent\.temperature"):
        PolicyAgent(SPEC, NUM_ACTIONS, temperature=0.0)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="autocast_inference"):
        DiffusionPlannerAgent(SPEC, NUM_ACTIONS, autocast_inference="fp8")


def test_knobs_come_from_gin_and_inferred_arguments_do_not():
    gin.parse_config("DiffusionPlannerAgent.plan_horizon = 8\nEgoDenoiser.width = 64")
    agent = DiffusionPlannerAgent(SPEC, NUM_ACTIONS)
    assert agent.plan(random_states(1), generator()).tokens.shape == (1, 8)
    assert agent.denoiser.plan_positions.shape == (8, 64)
    with pytest.raises(ValueError, match="num_actions"):
        gin.parse_config("DiffusionPlannerAgent.num_actions = 3")


def test_sampler_options_change_the_sampler():
    agent = DiffusionPlannerAgent(SPEC, NUM_ACTIONS, sampler_options={"temperature": 0.9})
    assert agent.sampler.decoder.temperature == 0.9
    with pytest.raises(ValueError, match="temprature"):
        DiffusionPlannerAgent(SPEC, NUM_ACTIONS, sampler_options={"temprature": 0.9})


@pytest.mark.parametrize("mode", ["off", "bfloat16", "auto"])
def test_precision_changes_plans_little(agent, mode):
    """Greedy first actions of 64 states; bfloat16 may turn a few near-ties."""
    states = random_states(64)
    agent.autocast_inference = "off"
    exact = agent.plan(states, generator(), greedy=True).tokens[:, 0]
    agent.autocast_inference = mode
    made = agent.plan(states, generator(), greedy=True).tokens[:, 0]
    assert (made == exact).float().mean() >= 0.9


def test_training_precision_needs_no_casts_by_the_caller(agent):
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = agent(labelled_batch(), generator())
    assert loss.dtype == torch.float32


@pytest.mark.parametrize("agent_type", AGENTS.values(), ids=AGENTS.keys())
def test_constrained_first_actions_are_allowed_ones(agent_type):
    agent = agent_type(SPEC, NUM_ACTIONS, action_constraints=True)
    states = random_states(64)
    allowed = agent.first_token_mask(states, torch.device("cpu"))
    first = agent.plan(states, generator()).tokens[:, 0]
    assert allowed[torch.arange(64), first].all()
    assert not allowed[:, : Action.WAIT].all()


@pytest.mark.parametrize("agent_type", AGENTS.values(), ids=AGENTS.keys())
def test_loop_breaker_flattens_the_choice_in_states_seen_often(agent_type):
    """One sharp state 400 times: after many repeats the favourite is chosen less often."""
    torch.manual_seed(0)
    agent = agent_type(SPEC, NUM_ACTIONS, loop_breaker=True)
    torch.nn.init.normal_(agent.denoiser.head.weight, std=0.2)
    states = {key: value[2:3].repeat(400, 0) for key, value in random_states(3).items()}
    shares = []
    for repeats in (0, 50):
        plans = agent.plan(states, generator(), repeats=np.full(400, repeats)).tokens[:, 0]
        shares.append(torch.bincount(plans, minlength=NUM_ACTIONS).max().item() / 400)
    assert shares[1] < shares[0] - 0.1
