"""Memories: a stretch gives the same in one call as in many, and episodes never mix."""

from functools import partial

import gin
import numpy as np
import pytest
import torch

from remdm.maps import ArraySpec, map_observation_spec
from remdm.nets.causal import CausalEgoDenoiser
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.nets.ego import EgoDenoiser
from remdm.nets.grid import GridDenoiser
from remdm.nets.memory import GRUMemory, lone_steps
from remdm.nets.memory_transformer import TransformerXLMemory
from remdm.nets.reach import ReachEncoder
from remdm.nets.sequence import SequenceDenoiser
from remdm.nets.tiles import TileDenoiser
from remdm.stretch import Stretch
from tests.nets.states import random_states, tensors

CHANNELS, ROWS, STEPS, MEM_STEPS = 8, 5, 12, 4
CORES = {
    "gru": partial(GRUMemory, width=16),
    "two_grus": partial(GRUMemory, width=16, num_layers=2, longest=5),
    "transformer": partial(TransformerXLMemory, width=16, hidden=16, mem_steps=MEM_STEPS),
    "far_sight": partial(TransformerXLMemory, width=16, hidden=16, num_layers=1, mem_steps=30),
}
SMALL = partial(GRUMemory, width=16)


@pytest.fixture(params=CORES.values(), ids=CORES.keys())
def core(request):
    torch.manual_seed(0)
    return request.param(CHANNELS)


def made_up(seed=0):
    """Steps of five rows: episodes begin anywhere, and rows are filled up anywhere."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(ROWS, STEPS, CHANNELS, generator=generator)
    first = torch.rand(ROWS, STEPS, generator=generator) < 0.2
    real = torch.ones(ROWS, STEPS, dtype=torch.bool)
    real[0, :3] = real[1, 9:] = real[2, 5:7] = False
    real[3, :2] = real[3, 10:] = False
    real[4] = False  # nothing but filling
    first[0, 1] = first[1, 10] = True  # of no step
    return seen, Stretch(first, real)


def part(seen, stretch, steps):
    return seen[:, steps], Stretch(stretch.first[:, steps], stretch.real[:, steps])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("cuts", [range(1, STEPS), (5,), (1, 2, 9)])
def test_a_stretch_gives_the_same_in_one_call_as_in_many(core, cuts):
    seen, stretch = made_up()
    before = core(*made_up(1), None)[1]
    whole, after = core(seen, stretch, before)
    state, pieces = before, []
    for begin, stop in zip((0, *cuts), (*cuts, STEPS), strict=True):
        piece, state = core(*part(seen, stretch, slice(begin, stop)), state)
        pieces.append(piece)
    close(torch.cat(pieces, 1)[stretch.real], whole[stretch.real])
    close(state, after)
    assert state.shape == (ROWS, core.size)
    assert state.dtype == torch.float32


@torch.inference_mode()
def test_an_episode_remembers_nothing_of_the_one_before_in_its_row(core):
    seen, stretch = made_up()
    stretch.first[:, 6], stretch.real[:, 6:] = True, True
    told, after = core(seen, stretch, core(*made_up(1), None)[1])
    alone, end = core(*part(seen, stretch, slice(6, None)), None)
    close(told[:, 6:], alone)
    close(after, end)


@torch.inference_mode()
def test_what_fills_a_row_neither_counts_nor_is_remembered(core):
    seen, stretch = made_up()
    told, after = core(seen, stretch, None)
    other = torch.where(stretch.real[..., None], seen, 7.0)
    told_other, after_other = core(other, stretch, None)
    close(told_other[stretch.real], told[stretch.real])
    close(after_other, after)
    for row in range(ROWS - 1):
        steps = stretch.real[row]
        short = Stretch(stretch.first[row, steps][None], stretch.real[row, steps][None])
        alone, end = core(seen[row, steps][None], short, None)
        close(told[row, steps], alone[0])
        close(after[row], end[0])
    assert not after[ROWS - 1].any()


@torch.inference_mode()
def test_zeros_are_the_memory_of_nothing(core):
    seen, stretch = made_up()
    nothing = core(seen, stretch, torch.zeros(ROWS, core.size))
    for found, expected in zip(core(seen, stretch, None), nothing, strict=True):
        assert torch.equal(found, expected)


@torch.inference_mode()
def test_steps_before_are_remembered_and_steps_behind_are_not_known(core):
    seen, _ = made_up()
    stretch = Stretch(torch.zeros(ROWS, STEPS).bool(), torch.ones(ROWS, STEPS).bool())
    told = core(seen, stretch, None)[0]
    seen[:, 5] += 1.0
    changed = (core(seen, stretch, None)[0] - told).abs().amax((0, 2)) > 1e-6
    assert not changed[:5].any()
    assert changed[5:7].all()


@torch.inference_mode()
def test_a_transformer_looks_back_over_so_many_steps_in_each_layer():
    torch.manual_seed(0)
    core = TransformerXLMemory(CHANNELS, width=16, num_layers=2, mem_steps=3)
    stretch = Stretch(torch.zeros(1, STEPS).bool(), torch.ones(1, STEPS).bool())
    seen = torch.randn(1, STEPS, CHANNELS)
    told = core(seen, stretch, None)[0]
    seen[:, 2] += 1.0
    changed = (core(seen, stretch, None)[0] - told).abs().amax((0, 2)) > 1e-7
    assert changed.nonzero()[:, 0].tolist() == list(range(2, 2 + 2 * 3 + 1))


def test_no_gradient_reaches_what_a_transformer_remembers(core):
    seen, stretch = made_up()
    state = core(*made_up(1), None)[1].detach().requires_grad_(True)
    told, after = core(seen, stretch, state)
    told[stretch.real].sum().backward()
    if isinstance(core, TransformerXLMemory):
        assert state.grad is None
        assert not after.requires_grad
    else:  # whoever carries it cuts it off
        assert state.grad.any()


def test_units_of_a_gru_begin_by_keeping_what_they_hold():
    torch.manual_seed(0)
    slow, fast = (GRUMemory(CHANNELS, width=64, longest=n) for n in (200, 2))
    seen, (_, stretch) = torch.zeros(1, 60, CHANNELS), made_up()
    stretch = Stretch(torch.zeros(1, 60).bool(), torch.ones(1, 60).bool())
    left = []
    for core in (slow, fast):
        one, none = (core(seen, stretch, torch.full((1, 64), v))[1] for v in (1.0, 0.0))
        left.append(float((one - none).detach().abs().mean()))
    assert left[0] > 0.1
    assert left[1] < 0.01


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(GRUMemory, width=0), "GRUMemory.width"),
        (partial(GRUMemory, longest=1), "GRUMemory.longest"),
        (partial(TransformerXLMemory, width=10), "TransformerXLMemory.num_heads"),
        (partial(TransformerXLMemory, mem_steps=0), "TransformerXLMemory.mem_steps"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_their_gin_names(make, words):
    with pytest.raises(ValueError, match=words):
        make(CHANNELS)


def test_a_memory_of_other_rows_or_of_another_net_is_refused(core):
    with pytest.raises(ValueError, match=f"memory of {core.size} numbers in each of {ROWS} rows"):
        core(*made_up(), torch.zeros(ROWS + 1, core.size))


# In nets

SPEC = map_observation_spec(21, 79)
TILES = {
    "tiles": ArraySpec((3, 5), np.dtype(np.uint8)),
    "flags": ArraySpec((3, 5, 1), np.dtype(np.uint8)),
    "scalars": ArraySpec((4,), np.dtype(np.float32)),
}
GRID = {
    "passages": ArraySpec((3, 3, 4), np.dtype(np.uint8)),
    "marks": ArraySpec((3, 3, 2), np.dtype(np.uint8)),
}
FLAT = {"scalars": ArraySpec((6,), np.dtype(np.float32))}
NETS = {
    "ego": (EgoDenoiser, SPEC),
    "reach": (partial(EgoDenoiser, encoder_type=ReachEncoder), SPEC),
    "tiles": (TileDenoiser, TILES),
    "grid": (GridDenoiser, GRID),
    "sequence": (partial(SequenceDenoiser, num_layers=1), FLAT),
}


def observations(spec, count):
    if spec is SPEC:
        return tensors(random_states(count))
    rng = np.random.default_rng(0)
    return {
        name: torch.from_numpy((rng.random((count, *array.shape)) * 3).astype(array.dtype))
        for name, array in spec.items()
    }


def contexts_equal(found, expected):
    for own, other in zip(found, expected, strict=True):
        close(own, other)


@pytest.fixture(params=NETS.values(), ids=NETS.keys())
def net_and_spec(request):
    make, spec = request.param
    torch.manual_seed(0)
    return make(spec, 12, 4, memory_type=SMALL).eval(), spec


@pytest.mark.parametrize(("make", "spec"), NETS.values(), ids=NETS.keys())
def test_a_memory_leaves_the_start_of_everything_else_as_it_was(make, spec):
    nets = []
    for memory_type in (None, SMALL):
        torch.manual_seed(0)
        nets.append(make(spec, 12, 4, memory_type=memory_type))
    plain, net = nets
    assert [net.memory_size for net in nets] == [0, 16]
    held = net.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(held[name], value)
    seen, alone = observations(spec, 2), lone_steps(2, torch.device("cpu"))
    context, after = plain.encode_stretch(seen, alone, None)
    assert after is None
    assert plain.remember(seen, alone, None) is None
    contexts_equal(context, plain.encode(seen))


@torch.inference_mode()
def test_a_net_knows_at_every_step_of_a_stretch_what_it_knows_step_by_step(net_and_spec):
    net, spec = net_and_spec
    rows, steps = 2, 3
    seen = observations(spec, rows * steps)
    first = torch.tensor([[False, False, False], [False, True, False]])
    stretch = Stretch(first, torch.ones_like(first))
    whole, after = net.encode_stretch(seen, stretch, None)
    state = None
    for step in range(steps):
        here = torch.arange(rows) * steps + step
        now = {name: array[here] for name, array in seen.items()}
        one = Stretch(first[:, step : step + 1], torch.ones(rows, 1).bool())
        known = net.remember(now, one, state)
        context, state = net.encode_stretch(now, one, state)
        close(known, state)
        contexts_equal(context, tuple(piece[here] for piece in whole))
    close(state, after)
    alone = net.encode({name: array[[0, 4]] for name, array in seen.items()})
    contexts_equal(alone, tuple(piece[[0, 4]] for piece in whole))  # where episodes begin


@torch.inference_mode()
def test_what_was_before_changes_the_plan_and_nothing_else_does(net_and_spec):
    net, spec = net_and_spec
    torch.nn.init.normal_(net.head.weight, std=0.3)
    seen = observations(spec, 4)
    stretch = Stretch(torch.zeros(1, 4).bool(), torch.ones(1, 4).bool())
    tokens = torch.full((4, 4), 12)
    logits = net.denoise(net.encode_stretch(seen, stretch, None)[0], tokens, 1.0)
    alone = net(seen, tokens, 1.0)
    close(logits[0], alone[0])
    assert ((logits - alone).abs().amax((1, 2)) > 1e-4).tolist() == [False, True, True, True]


def test_every_number_of_a_memory_learns(net_and_spec):
    net, spec = net_and_spec
    stretch = Stretch(torch.zeros(1, 4).bool(), torch.ones(1, 4).bool())
    context, _ = net.encode_stretch(observations(spec, 4), stretch, None)
    net.denoise(context, torch.full((4, 4), 12), 1.0).square().sum().backward()
    still = [n for n, p in net.named_parameters() if "past" in n and not p.grad.any()]
    assert not still


@pytest.mark.parametrize("name", ["ego", "tiles", "grid", "sequence"])
def test_mixed_precision_keeps_a_memory_in_full(name):
    make, spec = NETS[name]
    net = make(spec, 12, 4, memory_type=SMALL)
    stretch = Stretch(torch.zeros(1, 4).bool(), torch.ones(1, 4).bool())
    with torch.autocast("cpu", torch.bfloat16):
        context, after = net.encode_stretch(observations(spec, 4), stretch, torch.zeros(1, 16))
        logits = net.denoise(context, torch.full((4, 4), 12), 1.0)
    assert after.dtype == torch.float32
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_a_causal_net_takes_the_memory_of_the_net_that_it_is_made_like():
    gin.bind_parameter("EgoDenoiser.memory_type", SMALL)
    net = CausalEgoDenoiser(SPEC, 12, 4)
    assert net.memory_size == 16


def test_a_net_that_cannot_have_a_memory_has_no_such_knob():
    with pytest.raises(TypeError, match="memory_type"):
        DualStreamDenoiser(SPEC, 12, 4, memory_type=SMALL)
