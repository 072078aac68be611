"""Planning in bfloat16 asks for the same plans.

Number 37 of method.md 5; its other half, compiled code, is in test_compiled.py.
"""

import pytest
import torch
from torch import Tensor

from remdm.diffusion import CountMasking, LinearSchedule, MaskedLoss
from remdm.maps import map_observation_spec
from remdm.nets.autocast import InferencePrecision
from remdm.nets.denoiser import Denoiser
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.nets.ego import EgoDenoiser
from remdm.tokens import end_token
from tests.nets.states import random_states, tensors

ACTIONS, HORIZON, STATES = 12, 8, 32
SPEC = map_observation_spec(21, 79)
NETS = {
    "ego": lambda: EgoDenoiser(SPEC, ACTIONS, HORIZON, width=64, hidden=128),
    "prefix": lambda: DualStreamDenoiser(
        SPEC, ACTIONS, HORIZON, width=64, hidden=128, num_layers=2, attention="prefix"
    ),
}


def labels(states: dict[str, Tensor]) -> Tensor:
    """Plans that the observation decides: some steps in one of four directions, then END."""
    rows, columns = states["position"].long().unbind(1)
    lengths = 1 + rows % (HORIZON - 1)
    plans = (columns % 4)[:, None].expand(-1, HORIZON).clone()
    plans[torch.arange(HORIZON) >= lengths[:, None]] = end_token(ACTIONS)
    return plans


def trained(net: Denoiser, states: dict[str, Tensor], updates: int) -> Denoiser:
    """The net after learning the labels of a few states by heart."""
    generator = torch.Generator().manual_seed(0)
    corruption, masked_loss = CountMasking(ACTIONS, draws=2), MaskedLoss(ACTIONS)
    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    plans = labels(states)
    for _ in range(updates):
        corrupted = corruption(plans, LinearSchedule(), generator)
        logits = net(states, corrupted.tokens, corrupted.time)
        loss, _ = masked_loss(logits, plans, corrupted, None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("make", NETS.values(), ids=NETS.keys())
def test_bfloat16_believes_what_float32_believes_on_a_trained_net(make):
    """Mean KL(float32 || bfloat16) below 1e-3 nats, the same likeliest class above 99 %."""
    torch.manual_seed(0)
    states = tensors(random_states(STATES))
    net = trained(make(), states, updates=40)
    generator = torch.Generator().manual_seed(1)
    corrupted = CountMasking(ACTIONS)(labels(states), LinearSchedule(), generator)
    zt, time = corrupted.tokens[0], corrupted.time[0]
    exact = net(states, zt, time).double().log_softmax(-1)
    precision = InferencePrecision("bfloat16", torch.device("cpu"))
    with precision.encoding():
        context = net.encode(states)
    with precision.denoising(zt.numel()):
        low = net.denoise(context, zt, time).double().log_softmax(-1)
    divergence = (exact.exp() * (exact - low)).sum(-1)
    assert float(divergence.mean()) < 1e-3
    assert float((exact.argmax(-1) == low.argmax(-1)).double().mean()) > 0.99
    # It has learnt something: otherwise all classes are alike and nothing is compared.
    assert float(exact.exp().amax(-1).mean()) > 0.5
