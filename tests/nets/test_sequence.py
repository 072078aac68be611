"""The published Craftax planner's net, number for number, and what it reads."""

import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.envs.craftax.tiles import TileCodec
from remdm.maps import ArraySpec
from remdm.nets.denoiser import OFFSET_KEY, num_parameters, select_rows
from remdm.nets.dual_stream import NEVER
from remdm.nets.flat_tiles import FlatTiles, flattener
from remdm.nets.sequence import SequenceDenoiser, wave_frequencies, waves
from remdm.tokens import end_token, mask_token, vocabulary_size

CODECS = {"classic": TileCodec(7, 9, 17, 4, 22), "full": TileCodec(9, 11, 37, 46, 51)}
ACTIONS = {"classic": 17, "full": 43}
HORIZON = 8
SMALL = {"width": 16, "num_layers": 2, "num_heads": 2, "hidden": 32, "encoder_width": 24}
BOX = {
    "observation": ArraySpec((2, 3), np.dtype(np.float64)),
    "lives": ArraySpec((), np.dtype(np.int64)),
}


def packed_views(codec: TileCodec, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Any blocks and unseen tiles, any flags, and scalars that are hard to copy by arithmetic."""
    rng = np.random.default_rng(seed)
    cells = (count, codec.rows, codec.columns)
    bits = rng.integers(0, 2, (*cells, codec.num_flags), np.uint8)
    scalars = rng.normal(size=(count, codec.num_scalars)).astype(np.float32)
    scalars[:, :3] = -0.0, 1e-42, np.float32(1) / 3
    return {
        "tiles": rng.integers(0, codec.num_blocks + 1, cells, np.uint8),
        "flags": np.packbits(bits, axis=-1),
        "scalars": scalars,
    }


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def made(game: str = "classic", **knobs) -> SequenceDenoiser:
    torch.manual_seed(0)
    return SequenceDenoiser(CODECS[game].spec, ACTIONS[game], HORIZON, **SMALL | knobs)


def case(count: int = 3, game: str = "classic", draws: tuple[int, ...] = ()):
    """Views, plans with every token there is, and times."""
    generator = torch.Generator().manual_seed(1)
    size = (*draws, count, HORIZON)
    zt = torch.randint(vocabulary_size(ACTIONS[game]), size, generator=generator)
    zt[..., 0, 0], zt[..., 1, 0] = mask_token(ACTIONS[game]), end_token(ACTIONS[game])
    time = torch.rand(size[:-1], generator=generator)
    return tensors(packed_views(CODECS[game], count)), zt, time


# What it reads


@pytest.mark.parametrize("game", CODECS)
def test_views_become_the_games_own_vectors_bit_for_bit(game):
    codec = CODECS[game]
    packed = packed_views(codec, 32)
    flat = flattener(codec.spec, None, None)
    vectors = flat(tensors(packed))
    assert vectors.dtype == torch.float32
    assert vectors.shape == (32, flat.size) == (32, codec.flat_size)
    assert vectors.numpy().tobytes() == codec.decode(packed).tobytes()


def test_sizes_of_an_unknown_game_are_given():
    codec = TileCodec(3, 5, 200, 9, 2)
    packed = packed_views(TileCodec(3, 5, 200, 9, 3), 4)
    packed["scalars"] = packed["scalars"][:, :2]
    vectors = flattener(codec.spec, 200, 9)(tensors(packed))
    assert vectors.numpy().tobytes() == codec.decode(packed).tobytes()


@pytest.mark.craftax
@pytest.mark.parametrize(
    ("game", "name"),
    [("classic", "Craftax-Classic-Symbolic-v1"), ("full", "Craftax-Symbolic-v1")],
)
def test_sizes_taken_from_a_view_are_those_of_the_game(game, name):
    pytest.importorskip("craftax")
    from remdm.envs.craftax.game import load_game

    real = load_game(name)
    assert real.codec == CODECS[game]
    assert len(real.action_names) == ACTIONS[game]
    assert (
        flattener(real.codec.spec, None, None).size
        == real.env.observation_space(real.params).shape[0]
    )


def test_other_arrays_are_read_behind_each_other():
    observations = {
        "lives": torch.tensor([3, -1]),
        "observation": torch.arange(12, dtype=torch.float64).view(2, 2, 3),
    }
    flat = flattener(BOX | {OFFSET_KEY: ArraySpec((), np.dtype(np.int64))}, None, None)
    assert flat.observation_keys == ("observation", "lives")
    assert flat(observations).tolist() == [[0, 1, 2, 3, 4, 5, 3], [6, 7, 8, 9, 10, 11, -1]]
    net = SequenceDenoiser(BOX, 4, HORIZON, **SMALL)
    logits = net(observations, torch.full((2, HORIZON), mask_token(4)), 1.0)
    assert logits.shape == (2, HORIZON, 5)
    assert logits.isfinite().all()


# What it is made of


@pytest.mark.parametrize(
    ("game", "width", "heads", "layers", "hidden", "encoder_width", "encoder_layers", "count"),
    [
        ("classic", 384, 8, 6, 768, 768, 2, 9_334_289),
        ("full", 384, 8, 6, 768, 768, 2, 14_671_147),
        ("classic", 256, 4, 4, 512, 512, 2, 3_333_649),
        ("full", 256, 4, 4, 512, 512, 2, 6_891_563),
        ("classic", 128, 4, 3, 256, 256, 2, 878_993),
        ("full", 128, 4, 3, 256, 256, 2, 2_657_963),
        ("classic", 64, 2, 2, 128, 128, 1, 258_449),
        ("full", 64, 2, 2, 128, 128, 1, 1_147_947),
        ("classic", 32, 2, 1, 64, 64, 1, 100_209),
        ("full", 32, 2, 1, 64, 64, 1, 544_971),
        ("classic", 32, 2, 1, 32, 32, 1, 53_969),
    ],
)
def test_every_published_size_has_its_parameters(
    game, width, heads, layers, hidden, encoder_width, encoder_layers, count
):
    with torch.device("meta"):
        net = SequenceDenoiser(
            CODECS[game].spec,
            ACTIONS[game],
            32,
            width=width,
            num_heads=heads,
            num_layers=layers,
            hidden=hidden,
            encoder_width=encoder_width,
            num_encoder_layers=encoder_layers,
            predict_end=False,
        )
    assert num_parameters(net) == count


def test_default_is_the_seeds_size_and_end_costs_a_row_of_table_and_head():
    with torch.device("meta"):
        net = SequenceDenoiser(CODECS["classic"].spec, 17, 32)
    assert num_parameters(net) == 3_333_649 + 256 + 256 + 1
    assert {layer.drop.p for layer in net.layers} == {0.1}
    assert not net.state_dict().keys() - dict(net.named_parameters()).keys()


def test_initial_weights_are_orthogonal_and_biases_zero():
    net = made()
    layer = net.layers[0]
    blocks = [*layer.qkv.weight.chunk(3), layer.out.weight, layer.hidden_in.weight.T]
    for block in [*blocks, net.time[0].weight, net.encoder[0].weight]:
        torch.testing.assert_close(block @ block.T, 2.0 * torch.eye(len(block)), rtol=0, atol=1e-5)
    head = net.head.weight  # 18 classes of 16 channels
    torch.testing.assert_close(head.T @ head, 1e-4 * torch.eye(16), rtol=0, atol=1e-9)
    named = dict(net.named_parameters())
    assert not any(named[name].any() for name in named if name.endswith("bias"))
    assert {m.eps for m in net.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    # 19 x 16 normal numbers: the sample's deviation is within 5 of its standard errors.
    assert float(net.tokens.weight.std().detach()) == pytest.approx(0.25, rel=5 / (2 * 304) ** 0.5)


def test_waves_are_sines_then_cosines_of_slower_and_slower_clocks():
    frequencies = wave_frequencies(4)
    torch.testing.assert_close(frequencies, torch.tensor([1.0, 0.01]))
    wanted = torch.tensor([np.sin(3.0), np.sin(0.03), np.cos(3.0), np.cos(0.03)])
    torch.testing.assert_close(waves(torch.tensor(3.0), frequencies), wanted.float())


@torch.no_grad()
def test_layers_are_those_of_torchs_transformer():
    """torch's pre-norm layer with the same weights; in training, where nothing is dropped."""
    net = made(dropout=0.0)
    layer, x = net.layers[0], torch.randn(3, 10, 16)
    reference = torch.nn.TransformerEncoderLayer(
        16,
        2,
        32,
        dropout=0.0,
        activation=lambda h: torch.nn.functional.gelu(h, approximate="tanh"),
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    )
    for parameter in layer.parameters():  # norms and biases unlike their initial values, too
        parameter.normal_(std=0.3)
    pairs = {
        "self_attn.in_proj_": layer.qkv,
        "self_attn.out_proj.": layer.out,
        "linear1.": layer.hidden_in,
        "linear2.": layer.hidden_out,
        "norm1.": layer.norm,
        "norm2.": layer.hidden_norm,
    }
    reference.load_state_dict(
        {
            f"{name}{part}": getattr(ours, part)
            for name, ours in pairs.items()
            for part in ("weight", "bias")
        }
    )
    torch.testing.assert_close(layer(x), reference(x), rtol=0, atol=1e-5)


# What it promises


@torch.inference_mode()
@pytest.mark.parametrize("game", CODECS)
def test_logits_are_finite_for_every_token(game):
    net = made(game).eval()
    states, zt, time = case(3, game)
    logits = net(states, zt, time)
    assert logits.shape == (3, HORIZON, ACTIONS[game] + 1)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    unknown = torch.full_like(zt, mask_token(ACTIONS[game]))
    assert not torch.equal(net(states, unknown, time), logits)


@torch.inference_mode()
def test_a_net_without_end_reads_it_as_mask_and_never_plans_it():
    net = made(predict_end=False).eval()
    states, zt, time = case()
    logits = net(states, zt, time)
    assert (logits[..., 17] == NEVER).all()
    assert logits[..., :17].isfinite().all()
    assert torch.equal(logits, net(states, zt.masked_fill(zt == end_token(17), 17), time))
    with_end = made().eval()
    assert not torch.equal(
        with_end(states, zt, time),
        with_end(states, zt.masked_fill(zt == end_token(17), 17), time),
    )


@torch.no_grad()
def test_training_drops_what_layers_add_and_planning_does_not():
    net, (states, zt, time) = made(), case()
    assert not torch.equal(net(states, zt, time), net(states, zt, time))
    context = net.encode(states)
    assert torch.equal(context[0], net.encode(states)[0])  # the encoder drops nothing
    net.eval()
    assert torch.equal(net(states, zt, time), net(states, zt, time))
    certain = made(dropout=0.0).train()
    assert torch.equal(certain(states, zt, time), net(states, zt, time))


def test_every_parameter_learns():
    net, (states, zt, time) = made(), case()
    net(states, zt, time).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@torch.inference_mode()
def test_draws_equal_separate_calls_with_one_encoding():
    net = made().eval()
    states, zt, time = case(4, draws=(3,))
    context = net.encode(states)
    assert [tuple(part.shape) for part in context] == [(4, 1, 16)]
    together = net.denoise(context, zt, time)
    for draw in range(3):
        alone = net(states, zt[draw], time[draw])
        torch.testing.assert_close(together[draw], alone, rtol=0, atol=1e-6)
    assert float((together[0] - together[1]).abs().max()) > 1e-3
    # One time per state, or one for all, serves every draw.
    for some, all_times in ((time[0], time[0].expand(3, 4)), (0.3, torch.full((3, 4), 0.3))):
        torch.testing.assert_close(
            net.denoise(context, zt, some), net.denoise(context, zt, all_times), rtol=0, atol=1e-6
        )


@torch.inference_mode()
def test_rows_do_not_see_each_other():
    net = made().eval()
    states, zt, time = case(5)
    rows = torch.tensor([3, 1])
    context = select_rows(net.encode(states), rows)
    alone = net.denoise(context, zt[rows], time[rows])
    torch.testing.assert_close(net(states, zt, time)[rows], alone, rtol=0, atol=1e-6)
    assert float((alone[0] - alone[1]).abs().max()) > 1e-3


@torch.inference_mode()
def test_logits_depend_on_view_places_and_scaled_time():
    net, scaled = made().eval(), made(time_scale=1000.0).eval()
    states, zt, _ = case()
    one = torch.full_like(zt, 2)
    logits = net(states, one, 0.5)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-4  # by what is seen
    assert float((logits[0, 1] - logits[0, 5]).abs().max()) > 1e-4  # by the place in the plan
    torch.testing.assert_close(net(states, zt, 500.0), scaled(states, zt, 0.5), rtol=0, atol=1e-6)
    assert float((net(states, zt, 0.5) - scaled(states, zt, 0.5)).abs().max()) > 1e-4
    with pytest.raises(ValueError, match="pass t"):
        net(states, zt)


# What it refuses

SPEC = CODECS["classic"].spec


@pytest.mark.parametrize(
    ("spec", "knobs", "message"),
    [
        ({}, {}, "denoiser_type"),
        ({"name": ArraySpec((3,), np.dtype("U5"))}, {}, "real numbers"),
        ({OFFSET_KEY: ArraySpec((), np.dtype(np.int64))}, {}, "real numbers"),
        ({"tiles": SPEC["tiles"], "scalars": SPEC["scalars"]}, {}, '"flags" of bytes'),
        (SPEC | {"flags": ArraySpec((7, 8, 1), np.dtype(np.uint8))}, {}, '"flags" of bytes'),
        (SPEC | {"flags": ArraySpec((7, 9, 1), np.dtype(np.int8))}, {}, '"flags" of bytes'),
        (SPEC | {"tiles": ArraySpec((7, 9), np.dtype(np.float32))}, {}, "integers"),
        (TileCodec(7, 9, 17, 4, 23).spec, {}, r"SequenceDenoiser\.num_blocks"),
        (TileCodec(7, 9, 17, 4, 23).spec, {"num_blocks": 17}, r"SequenceDenoiser\.num_flags"),
        (SPEC, {"num_flags": 9}, "1 bytes of a tile"),
        (SPEC, {"num_blocks": 256}, r"1\.\.255"),
        (BOX, {"num_blocks": 17}, "unset"),
        (SPEC, {"num_heads": 3}, r"SequenceDenoiser\.num_heads"),
        (SPEC, {"width": 9, "num_heads": 3}, "even"),
        (SPEC, {"num_encoder_layers": 0}, r"SequenceDenoiser\.num_encoder_layers"),
        (SPEC, {"dropout": 1.0}, r"SequenceDenoiser\.dropout"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_name_to_change(spec, knobs, message):
    with pytest.raises(ValueError, match=message):
        SequenceDenoiser(spec, 17, HORIZON, **SMALL | knobs)


def test_tiles_are_read_as_tiles_even_beside_other_arrays():
    flat = flattener(SPEC | BOX, None, None)
    assert isinstance(flat, FlatTiles)
    assert flat.observation_keys == ("tiles", "flags", "scalars")
