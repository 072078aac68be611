"""Compiled denoising: the same logits, and plans go on where compiling fails."""

import copy
import warnings

import pytest
import torch

from remdm.maps import map_observation_spec
from remdm.nets.compiled import CompiledDenoise
from remdm.nets.denoiser import Context, Denoiser
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.tokens import vocabulary_size
from tests.nets.states import random_states, tensors

ACTIONS, HORIZON = 12, 8
SPEC = map_observation_spec(21, 79)


class Undecided(Denoiser):
    """A net that asks for a number on its way, which compiled code in one piece cannot do."""

    num_actions, plan_horizon = ACTIONS, HORIZON

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(vocabulary_size(ACTIONS), ACTIONS + 1)

    def encode(self, observations: dict[str, torch.Tensor]) -> Context:
        return (observations["position"],)

    def denoise(self, context: Context, zt: torch.Tensor, t=None) -> torch.Tensor:
        if float(self.table.weight.sum()) > 1e9:
            raise ValueError("too much")
        return self.table(zt)


def case(rows: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    zt = torch.randint(vocabulary_size(ACTIONS), (rows, HORIZON), generator=generator)
    return tensors(random_states(rows)), zt, torch.rand(rows, generator=generator)


@torch.inference_mode()
def test_a_net_that_cannot_be_compiled_plans_uncompiled_with_one_warning():
    net, compiled = Undecided().eval(), CompiledDenoise()
    states, zt, time = case(3)
    context = net.encode(states)
    with pytest.warns(RuntimeWarning, match="compile_denoise = False"):
        first = compiled(net, context, zt, time)
    assert compiled.failure is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = compiled(net, context, zt, time)
    assert torch.equal(first, net.denoise(context, zt, time))
    assert torch.equal(second, first)


@torch.inference_mode()
def test_a_wrong_call_raises_the_nets_own_error():
    """And is not taken for a failure of the compiler."""
    net = DualStreamDenoiser(SPEC, ACTIONS, HORIZON, num_layers=1, width=16, num_heads=2)
    states, zt, _ = case(2)
    compiled = CompiledDenoise()
    with pytest.raises(ValueError, match="pass t"):
        compiled(net, net.encode(states), zt, None)
    assert compiled.failure is None


@pytest.mark.slow
@torch.inference_mode()
def test_compiled_logits_are_those_of_the_net_for_any_number_of_plans():
    """method.md 5, test 37: at most 1e-4 apart. One compilation serves all sizes above one."""
    torch.manual_seed(0)
    net = DualStreamDenoiser(
        SPEC, ACTIONS, HORIZON, num_layers=1, width=16, num_heads=2, attention="prefix"
    ).eval()
    compiled = CompiledDenoise()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        check(compiled, net, 4)
    if compiled.failure is not None:
        pytest.skip(f"no working compiler: {compiled.failure}")
    for rows in (3, 7):
        check(compiled, net, rows)
    # A copy has weights of its own, and its plans must be made with those.
    twin = copy.deepcopy((net, compiled))
    twin[0].head.bias.add_(1.0)
    check(twin[1], twin[0], 4)


def check(compiled: CompiledDenoise, net: Denoiser, rows: int) -> None:
    states, zt, time = case(rows)
    context = net.encode(states)
    made = compiled(net, context, zt, time)
    torch.testing.assert_close(made, net.denoise(context, zt, time), rtol=0, atol=1e-4)
