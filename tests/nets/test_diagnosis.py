"""The layer in which numbers stop being finite is named, by planner, baseline and on its own."""

import numpy as np
import pytest
import torch
from torch import nn

from remdm.agent import DiffusionPlannerAgent
from remdm.maps import NUM_ACTIONS, map_observation_spec
from remdm.nets.diagnosis import first_fault
from remdm.policy_agent import PolicyAgent
from tests.nets.states import random_states

SPEC = map_observation_spec(21, 79)


def stack(*layers):
    return nn.Sequential(*layers)


class Divide(nn.Module):
    """Divides by its input."""

    def forward(self, x):
        return 1.0 / x


class Outer(nn.Module):
    """Makes an infinity between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.second(self.first(x) / 0.0)


def fault_of(net, x):
    return str(first_fault(net, lambda: net(x)))


def test_finite_nets_have_no_fault_and_lose_their_hooks():
    net = stack(nn.Linear(2, 3), nn.ReLU())
    assert first_fault(net, lambda: net(torch.ones(1, 2))) is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_first_place_is_named_in_the_order_in_which_layers_run():
    ones, bad = torch.ones(1, 2), torch.tensor([[1.0, torch.nan]])
    assert fault_of(stack(nn.ReLU()), bad) == "the input of layer net (Sequential)"
    assert fault_of(stack(nn.ReLU(), Divide(), nn.ReLU()), -ones) == (
        "the output of layer 1 (Divide)"
    )
    assert fault_of(Outer(), ones) == "the input of layer second (Linear)"
    net = stack(nn.ReLU(), nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        net[2].bias[0] = torch.inf
    assert fault_of(net, ones) == "the weight bias of layer 2 (Linear)"


def test_a_call_that_breaks_off_still_tells():
    net = stack(Divide(), nn.Linear(3, 3))
    assert fault_of(net, torch.zeros(1, 2)) == "the output of layer 0 (Divide)"


@pytest.mark.parametrize("agent_type", [DiffusionPlannerAgent, PolicyAgent])
def test_planning_with_a_broken_weight_names_its_layer_and_the_row(agent_type):
    agent = agent_type(SPEC, NUM_ACTIONS).eval()
    with torch.no_grad():
        agent.denoiser.layers[1].self_norm.weight[3] = torch.nan
    with pytest.raises(
        ValueError, match=r"row 0 of the batch.*weight.*of layer layers\.1\.self_norm"
    ):
        agent.plan(random_states(2), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("agent_type", [DiffusionPlannerAgent, PolicyAgent])
def test_the_row_is_the_one_whose_numbers_overflow(agent_type):
    """Only row 2 knows stairs, and the embedding of stairs is infinite."""
    agent = agent_type(SPEC, NUM_ACTIONS, autocast_inference="off").eval()
    states = random_states(3)
    states["terrain"][states["terrain"] == 8] = 1
    states["terrain"][2] = 8
    with torch.no_grad():
        agent.denoiser.encoder.cells.tables[0][8] = torch.inf
    with pytest.raises(ValueError, match=r"row 2 of the batch.*encoder\.cells"):
        agent.plan({k: np.ascontiguousarray(v) for k, v in states.items()}, torch.Generator())
