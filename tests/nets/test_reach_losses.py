"""Where plans end, and what it costs to say so."""

import math

import pytest
import torch

from remdm.maps import Action
from remdm.nets.reach_losses import END_SHARPNESS, WORST, end_loss, plan_ends, way_loss
from remdm.ranks import ALONE

END = 12
N, E, S, NE = Action.NORTH, Action.EAST, Action.SOUTH, Action.NORTHEAST


@pytest.mark.parametrize(
    ("plan", "end", "told"),
    [
        ([E, E, NE, END, END, END], (4, 8), True),
        ([E, S, Action.SEARCH, Action.SEARCH, END, END], (6, 6), True),
        ([Action.SEARCH, E, E, E, E, E], (5, 5), True),
        ([E, Action.KICK, N, END, END, END], (4, 6), True),
        ([Action.KICK, E, E, E, END, END], (5, 8), True),
        ([E, E, E, E, E, E], (5, 11), False),
        ([END, END, END, END, END, END], (5, 5), False),
    ],
    ids=["walks", "searches", "searches-here", "kicks", "kicks-and-walks", "cut", "nothing"],
)
def test_a_plan_ends_where_its_moves_lead_before_it_stops_or_searches(plan, end, told):
    places, known = plan_ends(torch.tensor([[5, 5]], dtype=torch.uint8), torch.tensor([plan]))
    assert (tuple(places[0].tolist()), bool(known[0])) == (end, told)


def test_the_end_loss_is_the_cross_entropy_over_all_places_averaged_over_fields():
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand((3, 2, 4, 5), generator=generator) * 3
    position = torch.tensor([[1, 1], [2, 3], [0, 0]])
    plans = torch.tensor([[E, END, END], [N, N, END], [Action.SEARCH, END, END]])
    weights = torch.tensor([1.0, 0.5, 2.0])
    ends = [(1, 2), (0, 3), (0, 0)]
    nats = []
    for row, (r, c) in enumerate(ends):
        likely = (-END_SHARPNESS * costs[row]).flatten(1).exp()
        shares = likely[:, r * 5 + c] / likely.sum(1)
        nats.append(-float(shares.log().mean()))
    expected = sum(w * n for w, n in zip([1.0, 0.5, 2.0], nats, strict=True)) / 3.5
    assert float(end_loss(costs, position, plans, weights, ALONE)) == pytest.approx(expected)


def test_plans_that_are_cut_or_lead_off_the_map_have_no_end_loss():
    costs = torch.rand(2, 1, 4, 5)
    plans = torch.tensor([[E, E, E], [N, N, END]])
    loss = end_loss(costs, torch.tensor([[1, 1], [1, 1]]), plans, torch.ones(2), ALONE)
    assert loss == 0


def test_an_end_out_of_all_proportion_is_left_alone():
    costs = torch.zeros(1, 1, 4, 5)
    costs[0, 0, 1, 2] = 1000.0
    costs.requires_grad_()
    plan = torch.tensor([[E, END]])
    loss = end_loss(costs, torch.tensor([[1, 1]]), plan, torch.ones(1), ALONE)
    loss.backward()
    assert loss == WORST
    assert costs.grad.abs().sum() == 0


def test_losses_are_means_over_what_they_speak_of():
    worse = torch.zeros(2, 3, 8)
    plans = torch.tensor([[E, END], [Action.SEARCH, END]])
    assert float(way_loss(worse, plans, torch.ones(2), ALONE)) == pytest.approx(math.log(8))
