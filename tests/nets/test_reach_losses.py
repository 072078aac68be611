"""What it costs an encoder to be wrong about where plans lead, and which way first."""

import math

import pytest
import torch

from remdm.maps import Action, Terrain, empty_observations, map_observation_spec
from remdm.nets.reach_losses import END_SHARPNESS, WORST, end_loss, way_loss
from remdm.ranks import ALONE
from tests.nets.states import tensors

END = 12
N, E = Action.NORTH, Action.EAST


def rooms(positions: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """Visited floor of 4 x 5 cells, one room for each place of the agent."""
    states = tensors(empty_observations(map_observation_spec(4, 5), (len(positions),)))
    states["terrain"][:] = Terrain.FLOOR
    states["visited"][:] = 1
    states["position"][:] = torch.tensor(positions)
    return states


def test_the_end_loss_is_the_cross_entropy_over_all_places_averaged_over_fields():
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand((3, 2, 4, 5), generator=generator) * 3
    states = rooms([(1, 1), (2, 3), (0, 0)])
    plans = torch.tensor([[E, END, END], [N, N, END], [Action.SEARCH, END, END]])
    weights = torch.tensor([1.0, 0.5, 2.0])
    ends = [(1, 2), (0, 3), (0, 0)]
    nats = []
    for row, (r, c) in enumerate(ends):
        likely = (-END_SHARPNESS * costs[row]).flatten(1).exp()
        shares = likely[:, r * 5 + c] / likely.sum(1)
        nats.append(-float(shares.log().mean()))
    expected = sum(w * n for w, n in zip([1.0, 0.5, 2.0], nats, strict=True)) / 3.5
    assert float(end_loss(costs, states, plans, weights, ALONE)) == pytest.approx(expected)


def test_plans_that_are_cut_or_lead_off_the_map_have_no_end_loss():
    costs = torch.rand(2, 1, 4, 5)
    plans = torch.tensor([[E, E, E], [N, N, END]])
    loss = end_loss(costs, rooms([(1, 1), (1, 1)]), plans, torch.ones(2), ALONE)
    assert loss == 0


def test_an_end_out_of_all_proportion_is_left_alone():
    costs = torch.zeros(1, 1, 4, 5)
    costs[0, 0, 1, 2] = 1000.0
    costs.requires_grad_()
    plan = torch.tensor([[E, END]])
    loss = end_loss(costs, rooms([(1, 1)]), plan, torch.ones(1), ALONE)
    loss.backward()
    assert loss == WORST
    assert costs.grad.abs().sum() == 0


def test_losses_are_means_over_what_they_speak_of():
    worse = torch.zeros(2, 3, 8)
    plans = torch.tensor([[E, END], [Action.SEARCH, END]])
    assert float(way_loss(worse, plans, torch.ones(2), ALONE)) == pytest.approx(math.log(8))
