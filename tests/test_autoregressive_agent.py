"""The left-to-right twin as an agent: what it learns, how it plans, and what it costs."""

import gin
import numpy as np
import pytest
import torch

from remdm.agent import DiffusionPlannerAgent
from remdm.autoregressive_agent import AutoregressiveAgent
from remdm.data.batch import Batch, Window
from remdm.maps import NUM_ACTIONS, Action, map_observation_spec
from remdm.nets.causal import CausalEgoDenoiser, TokenByToken, moved_right
from remdm.nets.denoiser import num_parameters
from remdm.nets.ego import EgoDenoiser, EgoEncoder
from remdm.nets.reach import ReachEncoder
from remdm.tokens import end_token, mask_token
from tests.nets.states import random_states, tensors

SPEC = map_observation_spec(21, 79)
END, MASK = end_token(NUM_ACTIONS), mask_token(NUM_ACTIONS)
HORIZON = 8
TINY_NET = """
EgoEncoder.crop_size = 3
EgoEncoder.coarse_rows = 3
EgoEncoder.coarse_columns = 3
EgoDenoiser.width = 16
EgoDenoiser.hidden = 16
EgoDenoiser.num_heads = 2
"""


@pytest.fixture(autouse=True)
def tiny_net() -> None:
    gin.parse_config(TINY_NET)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(**knobs) -> AutoregressiveAgent:
    torch.manual_seed(0)
    agent = AutoregressiveAgent(SPEC, NUM_ACTIONS, plan_horizon=HORIZON, **knobs).eval()
    torch.nn.init.normal_(agent.denoiser.head.weight, std=0.5)
    return agent


def batch_of(plans: list[list[int]], weights: list[float] | None = None) -> Batch:
    tokens = np.full((len(plans), HORIZON), END, np.int8)
    for row, plan in enumerate(plans):
        tokens[row, : len(plan)] = plan
    count = len(plans)
    given = np.ones(count, np.float32) if weights is None else np.array(weights, np.float32)
    return Batch.from_window(Window(random_states(count), tokens, given, np.zeros(count, np.int16)))


@pytest.mark.parametrize("encoder_type", [EgoEncoder, ReachEncoder])
def test_its_net_begins_as_the_planners_and_learns_through_either_encoder(encoder_type):
    gin.bind_parameter("EgoDenoiser.encoder_type", encoder_type)
    nets = []
    for net_type in (EgoDenoiser, CausalEgoDenoiser):
        torch.manual_seed(0)
        nets.append(net_type(SPEC, NUM_ACTIONS, HORIZON))
    assert type(nets[1].encoder) is encoder_type
    assert num_parameters(nets[0]) == num_parameters(nets[1])
    for (name, ours), (other, theirs) in zip(
        nets[0].named_parameters(), nets[1].named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(ours, theirs)
    agent = made()
    loss, _ = agent.loss(batch_of([[i, i] for i in range(8)]), generator())
    loss.backward()
    assert bool(agent.denoiser.encoder.stem.weight.grad.any())
    assert (agent.plan(random_states(3), generator()).nfe >= 1).all()


@torch.inference_mode()
def test_token_by_token_it_says_what_it_says_of_whole_plans():
    agent, states = made(), tensors(random_states(5))
    plans = torch.randint(NUM_ACTIONS, (5, HORIZON), generator=generator())
    context = agent.denoiser.encode(states)
    whole = agent.denoiser.denoise(context, moved_right(plans, NUM_ACTIONS))
    net, last, rows = TokenByToken(agent.denoiser, context), plans[:, 0] * 0 + MASK, torch.arange(5)
    for position in range(HORIZON):
        torch.testing.assert_close(net(last), whole[rows, position], rtol=1e-4, atol=1e-4)
        last = plans[rows, position]
        if position == 3:  # two plans are finished, the others go on in another order
            kept = torch.tensor([4, 0, 2])
            net.keep(kept)
            rows, last = rows[kept], last[kept]


def test_a_net_that_sees_the_whole_plan_is_refused():
    net = EgoDenoiser(SPEC, NUM_ACTIONS, HORIZON)
    context = net.encode(tensors(random_states(1)))
    with pytest.raises(ValueError, match=r"set AutoregressiveAgent\.denoiser_type"):
        TokenByToken(net, context)


def test_its_loss_is_the_mean_over_tokens_up_to_the_first_end_by_weight():
    agent = made()
    batch = batch_of([[3, 4], [1] * HORIZON, [2]], weights=[1.0, 0.5, 0.0])
    loss, metrics = agent.loss(batch, generator())
    seen = agent.on_device(batch.observations)
    logits = agent.denoiser(seen, moved_right(batch.plans, NUM_ACTIONS)).log_softmax(-1)
    short = logits[0, 0, 3] + logits[0, 1, 4] + logits[0, 2, NUM_ACTIONS]
    long = logits[1, :, 1].sum()
    wanted = -(short + 0.5 * long) / (3 + 0.5 * HORIZON)
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(metrics["nll"], -(short + long).detach() / 2)


def test_it_learns_a_few_labels_by_heart_and_plans_them():
    agent = made()
    batch = batch_of([[i % NUM_ACTIONS, (3 * i) % 8] for i in range(12)])
    optimiser, source = torch.optim.AdamW(agent.parameters(), lr=1e-2), generator()
    for _ in range(80):
        loss, metrics = agent(batch, source)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert metrics["token_accuracy"] == 1.0
    sample = agent.plan(batch.observations, generator(), greedy=True)
    assert torch.equal(sample.tokens, batch.plans)
    # Two moves and END, a call each.
    directed = torch.isin(batch.plans[:, 1], torch.tensor([Action.KICK, Action.OPEN]))
    assert not directed.any()
    assert sample.nfe.tolist() == [3] * 12
    assert sample.lengths.tolist() == [2] * 12


@pytest.mark.parametrize("replan_every", [1, 4, HORIZON])
def test_it_draws_as_many_tokens_as_are_played_and_a_direction_where_one_is_needed(replan_every):
    agent = made(replan_every=replan_every, temperature=3.0)
    sample = agent.plan(random_states(200), generator())
    played = sample.tokens[:, :replan_every]
    last = played[:, -1]
    needs = torch.isin(last, torch.tensor([Action.KICK, Action.OPEN]))
    assert (played[:, 0] < NUM_ACTIONS).all()
    ended = played == END
    drawn = torch.where(ended.any(1), ended.int().argmax(1) + 1, replan_every)
    if replan_every < HORIZON:
        drawn += needs
        assert needs.any()
        assert (sample.tokens[~needs, replan_every:] == END).all()
    assert torch.equal(sample.nfe, drawn)
    assert (sample.token_log_probs[sample.tokens < END] < 0).all()


def test_a_plan_depends_on_its_row_and_the_generator_alone():
    agent, states = made(temperature=2.0), random_states(6)
    one, again = (agent.plan(states, generator(3)) for _ in range(2))
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, agent.plan(states, generator(4)).tokens)


def test_its_temperature_makes_it_surer():
    hot, cold = made(temperature=5.0), made(temperature=0.05)
    states = random_states(30)
    greedy = cold.plan(states, generator(), greedy=True).tokens[:, 0]
    shares = [
        float((agent.plan(states, generator()).tokens[:, 0] == greedy).float().mean())
        for agent in (hot, cold)
    ]
    assert shares[0] < 0.5 < 0.9 < shares[1]


def test_its_constraints_bar_first_tokens():
    agent = made(action_constraints=True, temperature=3.0)
    states = random_states(64)
    mask = agent.first_token_mask(states, torch.device("cpu"))
    first = agent.plan(states, generator()).tokens[:, 0]
    assert mask is not None
    assert bool(mask.gather(1, first[:, None]).all())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"temperature": 0.0}, r"AutoregressiveAgent\.temperature"),
        ({"replan_every": 9}, r"AutoregressiveAgent\.replan_every"),
        ({"replan_every_collect": 9}, r"AutoregressiveAgent\.replan_every"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_name_to_change(knobs, message):
    with pytest.raises(ValueError, match=message):
        made(**knobs)


def test_weights_that_are_not_finite_are_told_with_their_place():
    agent = made()
    with torch.no_grad():
        agent.denoiser.head.weight[2, 2] = torch.nan
    with pytest.raises(ValueError, match=r"row 0 of the batch.*head"):
        agent.plan(random_states(2), generator())


def test_it_and_the_planner_take_each_others_weights():
    planner = DiffusionPlannerAgent(SPEC, NUM_ACTIONS, plan_horizon=HORIZON)
    made().load_state_dict(planner.state_dict())
