"""The autoregressive twin: as large as the denoiser, blind to the right, and honest about calls."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.envs.maze_paths import END, NUM_MOVES, draw_maze_paths, maze_spec, path_horizon
from remdm.nets.attention import DecoderLayer
from remdm.nets.causal import CausalLayer, moved_right, plan_left_to_right, teacher_forcing_loss
from remdm.nets.denoiser import Context, num_parameters
from remdm.nets.grid import GridDenoiser
from remdm.tokens import mask_token

SIDE, HORIZON = 3, path_horizon(3)
MASK = mask_token(NUM_MOVES)


def made(layer_type: type[DecoderLayer]) -> GridDenoiser:
    torch.manual_seed(0)
    return GridDenoiser(maze_spec(SIDE), NUM_MOVES, HORIZON, layer_type=layer_type)


def mazes(count: int) -> tuple[dict[str, Tensor], Tensor]:
    arrays, plans = draw_maze_paths(count, SIDE, np.random.default_rng(0))
    return {key: torch.from_numpy(value) for key, value in arrays.items()}, torch.from_numpy(plans)


def test_twins_have_the_same_parameters_and_start_with_the_same_numbers():
    net, twin = made(DecoderLayer), made(CausalLayer)
    assert num_parameters(net) == num_parameters(twin)
    for (name, ours), (other, theirs) in zip(
        net.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert name == other
        assert torch.equal(ours, theirs)


@torch.no_grad()
@pytest.mark.parametrize(("layer_type", "sees_later"), [(CausalLayer, False), (DecoderLayer, True)])
def test_a_causal_net_does_not_see_later_tokens(layer_type, sees_later):
    net, (observations, plans) = made(layer_type).eval(), mazes(4)
    context = net.encode(observations)
    before = net.denoise(context, plans)
    changed = plans.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % NUM_MOVES
    after = net.denoise(context, changed)
    assert (not torch.allclose(before[:, :5], after[:, :5], atol=1e-6)) == sees_later
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-6)


def test_the_input_of_each_token_is_the_one_before_it():
    assert moved_right(torch.tensor([[3, 1, END]]), NUM_MOVES).tolist() == [[MASK, 3, 1]]


class Fixed:
    """Says the same logits whatever it is shown, and counts its calls."""

    num_actions, plan_horizon = NUM_MOVES, 3

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.shown = logits, []

    def denoise(self, context: Context, zt: Tensor, t: Tensor | float | None = None) -> Tensor:
        self.shown.append(zt.tolist())
        return self.logits


def test_teacher_forcing_counts_tokens_up_to_the_first_end():
    logits = torch.zeros(1, 3, NUM_MOVES + 1)
    logits[0, 0, 2] = math.log(4)  # action 2 has probability 1 / 2, all else is 1 / 5
    plans = torch.tensor([[2, END, END]])
    loss = teacher_forcing_loss(Fixed(logits), (logits,), plans)
    assert float(loss) == pytest.approx((math.log(2) + math.log(5)) / 2, abs=1e-6)


def test_plans_take_a_call_per_token_and_end_at_end():
    logits = torch.zeros(2, 3, NUM_MOVES + 1)
    logits[0, 0, 1], logits[0, 1, NUM_MOVES] = 9.0, 9.0  # one move, END
    logits[1, :, 3] = 9.0  # three moves
    net = Fixed(logits)
    plans, calls = plan_left_to_right(net, (logits,))
    assert plans.tolist() == [[1, END, END], [3, 3, 3]]
    assert calls.tolist() == [2, 3]
    assert [row[1] for row in net.shown] == [[MASK, END, END], [MASK, 3, END], [MASK, 3, 3]]


def test_the_twin_learns_a_few_mazes_by_heart():
    """The loss of a net that knows nothing is ln 5 = 1.6 nats."""
    observations, plans = mazes(16)
    net = made(CausalLayer)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(80):
        loss = teacher_forcing_loss(net, net.encode(observations), plans)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    written, _ = plan_left_to_right(net.eval(), net.encode(observations))
    assert float((written == plans).all(1).double().mean()) > 0.9


def test_a_grid_net_refuses_observations_without_a_grid():
    with pytest.raises(ValueError, match='"passages" \\[rows, columns, 4\\]'):
        GridDenoiser({"marks": maze_spec(SIDE)["marks"]}, NUM_MOVES, HORIZON)


@torch.no_grad()
def test_several_draws_of_a_grid_share_one_encoding():
    net, (observations, plans) = made(DecoderLayer).eval(), mazes(4)
    context = net.encode(observations)
    draws = torch.stack([plans, plans.flip(0)])
    together = net.denoise(context, draws)
    for one, draw in zip(together, draws, strict=True):
        torch.testing.assert_close(one, net.denoise(context, draw), rtol=0, atol=1e-5)
