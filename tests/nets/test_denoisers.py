"""What every denoiser promises, and what each one is made of."""

from functools import partial

import pytest
import torch

from remdm.maps import map_observation_spec
from remdm.nets.attention import DecoderLayer
from remdm.nets.causal import CausalEgoDenoiser
from remdm.nets.denoiser import Denoiser, num_parameters, select_rows
from remdm.nets.dual_stream import NEVER, DualStreamDenoiser, goal_position
from remdm.nets.ego import CellEmbedding, EgoDenoiser, EgoEncoder
from remdm.nets.egocentric import NUM_BLOCKED, NUM_CELL_CODES, NUM_SEARCH_BUCKETS
from remdm.nets.reach import ReachEncoder
from remdm.nets.sequence import SequenceDenoiser
from remdm.tokens import vocabulary_size
from tests.nets.states import nothing_to_explore, random_states, tensors

ACTIONS = 12
HORIZON = 8
SPEC = map_observation_spec(21, 79)
NETS = {
    "ego": EgoDenoiser,
    "reach": partial(EgoDenoiser, encoder_type=ReachEncoder),
    "causal": CausalEgoDenoiser,
    "sequence": partial(SequenceDenoiser, num_layers=2),
    "dual_stream": partial(DualStreamDenoiser, num_layers=2),
    "prefix": partial(DualStreamDenoiser, num_layers=2, attention="prefix"),
    "local_only": partial(DualStreamDenoiser, num_layers=2, use_global_stream=False),
}


@pytest.fixture(params=NETS.values(), ids=NETS.keys())
def net(request) -> Denoiser:
    torch.manual_seed(0)
    made = request.param(SPEC, ACTIONS, HORIZON).eval()
    # A head of zeros would make every comparison of logits empty.
    torch.nn.init.normal_(made.head.weight, std=0.1)
    return made


def plans(*leading: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocabulary_size(ACTIONS), (*leading, HORIZON), generator=generator)


def test_ego_net_has_about_two_thirds_of_a_million_parameters():
    assert num_parameters(EgoDenoiser(SPEC, ACTIONS, 16)) == 631_821


@pytest.mark.parametrize(
    ("use_global_stream", "parameters", "count"), [(True, 5_241_935, 72), (False, 4_956_012, 60)]
)
def test_dual_stream_net_has_the_seeds_parameters(use_global_stream, parameters, count):
    net = DualStreamDenoiser(
        SPEC, ACTIONS, 64, predict_end=False, use_global_stream=use_global_stream
    )
    assert num_parameters(net) == parameters
    assert len(list(net.parameters())) == count
    assert not list(net.buffers())


def test_end_class_costs_one_row_of_the_head():
    with_end = DualStreamDenoiser(SPEC, ACTIONS, 64)
    assert num_parameters(with_end) == 5_241_935 + 256 + 1


def test_net_without_end_class_never_plans_end():
    net = DualStreamDenoiser(SPEC, ACTIONS, HORIZON, num_layers=1, predict_end=False)
    logits = net(tensors(random_states(2)), plans(2), 1.0)
    assert (logits[..., ACTIONS] == NEVER).all()
    assert logits.softmax(-1)[..., ACTIONS].sum() == 0


@torch.inference_mode()
def test_logits_have_one_class_per_action_and_one_for_end(net):
    logits = net(tensors(random_states(3)), plans(3), 0.5)
    assert logits.shape == (3, HORIZON, ACTIONS + 1)
    assert logits.dtype == torch.float32


@torch.inference_mode()
def test_encoding_once_equals_encoding_at_every_step(net):
    states = tensors(random_states(4))
    context = net.encode(states)
    for step in range(3):
        zt = plans(step + 1, 4)[step]
        assert torch.equal(net.denoise(context, zt, 0.5), net(states, zt, 0.5))


@torch.inference_mode()
def test_draws_share_one_encoding(net):
    states = tensors(random_states(4))
    zt = plans(3, 4)
    time = torch.rand(3, 4)
    together = net(states, zt, time)
    for draw in range(3):
        alone = net(states, zt[draw], time[draw])
        torch.testing.assert_close(together[draw], alone, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_rows_do_not_see_each_other(net):
    states = tensors(random_states(5))
    zt = plans(5)
    together = net(states, zt, 0.5)
    rows = torch.tensor([3, 1])
    alone = net({key: value[rows] for key, value in states.items()}, zt[rows], 0.5)
    torch.testing.assert_close(together[rows], alone, rtol=1e-4, atol=1e-5)
    selected = net.denoise(select_rows(net.encode(states), rows), zt[rows], 0.5)
    torch.testing.assert_close(together[rows], selected, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(net):
    states = random_states(4)
    nothing_to_explore(states, 3)
    states = tensors(states)
    states["glyphs"][0, 3, 4] = 2383
    context = net.encode(states)
    logits = net.denoise(context, plans(4), torch.rand(4))
    extra = net.auxiliary_loss(context, states, plans(4), torch.ones(4))
    loss = logits.square().sum() + sum(extra.values())
    loss.backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@torch.inference_mode()
def test_ego_net_ignores_the_time_and_dual_stream_reads_it():
    states, zt = tensors(random_states(2)), plans(2)
    ego = EgoDenoiser(SPEC, ACTIONS, HORIZON)
    assert torch.equal(ego(states, zt, 0.1), ego(states, zt, 0.9))
    seed = DualStreamDenoiser(SPEC, ACTIONS, HORIZON, num_layers=1)
    assert not torch.equal(seed(states, zt, 0.1), seed(states, zt, 0.9))
    assert torch.equal(seed(states, zt, 0.29), seed(states, zt, 0.2999))
    assert torch.equal(seed(states, zt, 1.0), seed(states, zt, 0.99))
    with pytest.raises(ValueError, match="pass t"):
        seed(states, zt)


def test_cell_embedding_is_the_sum_of_its_four_tables():
    torch.manual_seed(0)
    embedding = CellEmbedding(5)
    codes = torch.arange(NUM_CELL_CODES, dtype=torch.int32)
    made = embedding(codes)
    made.square().sum().backward()
    gradients = [table.grad.clone() for table in embedding.tables]
    embedding.zero_grad()
    rest, blocked = codes // NUM_BLOCKED, codes % NUM_BLOCKED
    rest, search = rest // NUM_SEARCH_BUCKETS, rest % NUM_SEARCH_BUCKETS
    parts = (rest // 8, rest % 8, search, blocked)
    summed = sum(table[part] for table, part in zip(embedding.tables, parts, strict=True))
    torch.testing.assert_close(made, summed)
    summed.square().sum().backward()
    for gradient, table in zip(gradients, embedding.tables, strict=True):
        torch.testing.assert_close(gradient, table.grad, rtol=1e-4, atol=1e-4)


def test_ego_net_works_on_small_maps():
    spec = map_observation_spec(7, 9)
    net = EgoDenoiser(spec, ACTIONS, HORIZON)
    assert net(tensors(random_states(2, height=7, width=9)), plans(2)).isfinite().all()


def test_decoder_layer_agrees_with_torch_attention():
    """Self- and cross-attention against torch's own module with the same weights."""
    torch.manual_seed(0)
    layer = DecoderLayer(8, 2, 16)
    plan, memory = torch.randn(3, 1, 4, 8), torch.randn(3, 5, 8)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(layer.self_in.weight)
        reference.in_proj_bias.copy_(layer.self_in.bias)
        reference.out_proj.weight.copy_(layer.self_out.weight)
        reference.out_proj.bias.copy_(layer.self_out.bias)
    wanted = reference(plan[:, 0], plan[:, 0], plan[:, 0])[0]
    torch.testing.assert_close(layer._self_attention(plan)[:, 0], wanted, rtol=1e-4, atol=1e-5)

    keys = values = memory.view(3, 5, 2, 4).transpose(1, 2)
    with torch.no_grad():
        reference.in_proj_weight[:8].copy_(layer.cross_in.weight)
        reference.in_proj_bias[:8].copy_(layer.cross_in.bias)
        reference.in_proj_weight[8:].copy_(torch.eye(8).repeat(2, 1))
        reference.in_proj_bias[8:].zero_()
        reference.out_proj.weight.copy_(layer.cross_out.weight)
        reference.out_proj.bias.copy_(layer.cross_out.bias)
    wanted = reference(plan[:, 0], memory, memory)[0]
    made = layer._cross_attention(plan, keys, values)[:, 0]
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)


def test_goal_position_is_that_of_the_first_goal():
    glyphs = torch.zeros(3, 5, 9, dtype=torch.int16)
    glyphs[0, 2, 4] = glyphs[0, 3, 1] = 2383
    glyphs[1, 4, 8] = 2383
    target, visible = goal_position(glyphs, 2383)
    assert target.tolist() == [[0.5, 0.5], [1.0, 1.0], [0.0, 0.0]]
    assert visible.tolist() == [1.0, 1.0, 0.0]


def test_goal_loss_is_the_weighted_error_where_the_goal_is_in_view():
    net = DualStreamDenoiser(SPEC, ACTIONS, HORIZON, num_layers=1)
    states = tensors(random_states(2))
    states["glyphs"][:] = 0
    states["glyphs"][0, 10, 39] = 2383
    guess = torch.tensor([[1.0, 0.5], [9.0, 9.0]])
    loss = net.auxiliary_loss((torch.zeros(2, 9, 256), guess), states, plans(2), torch.ones(2))
    assert loss["goal_loss"].item() == pytest.approx(0.5 * 0.125)
    states["glyphs"][:] = 0
    assert (
        net.auxiliary_loss((torch.zeros(2, 9, 256), guess), states, plans(2), torch.ones(2))[
            "goal_loss"
        ]
        == 0
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EgoDenoiser({}, ACTIONS, HORIZON), "terrain"),
        (lambda: DualStreamDenoiser({}, ACTIONS, HORIZON), "glyphs"),
        (lambda: EgoDenoiser(SPEC, ACTIONS, HORIZON, num_heads=5), r"EgoDenoiser\.num_heads"),
        (lambda: EgoEncoder(SPEC, 8, crop_size=20), r"EgoEncoder\.crop_size"),
        (lambda: EgoEncoder(SPEC, 8, coarse_rows=8), r"EgoEncoder\.coarse_rows"),
        (lambda: EgoEncoder(SPEC, 8, block_size=4), r"EgoEncoder\.block_size"),
        (
            lambda: DualStreamDenoiser(SPEC, ACTIONS, HORIZON, num_heads=7),
            r"DualStreamDenoiser\.num_heads",
        ),
    ],
    ids=["ego arrays", "seed arrays", "heads", "crop", "coarse", "block", "seed heads"],
)
def test_sizes_that_do_not_fit_are_refused_with_the_name_to_change(make, message):
    with pytest.raises(ValueError, match=message):
        make()
