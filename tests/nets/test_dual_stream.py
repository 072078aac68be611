"""The seed's net with an observation that is read but does not read: exact keys and values.

Number 31 of method.md 5.
"""

import pytest
import torch
from torch import Tensor

from remdm.diffusion import sampler_preset
from remdm.maps import map_observation_spec
from remdm.nets.autocast import InferencePrecision
from remdm.nets.denoiser import num_parameters, select_rows
from remdm.nets.dual_stream import DualStreamDenoiser
from remdm.tokens import vocabulary_size
from tests.nets.states import random_states, tensors

ACTIONS, HORIZON = 12, 8
SPEC = map_observation_spec(21, 79)


def made(attention: str, **sizes: int) -> DualStreamDenoiser:
    torch.manual_seed(0)
    net = DualStreamDenoiser(SPEC, ACTIONS, HORIZON, attention=attention, **sizes).eval()
    # Observation tokens at full size, so that what they read shows in the logits.
    torch.nn.init.constant_(net.gate, 3.0)
    return net


def plans(*leading: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary_size(ACTIONS), (*leading, HORIZON), generator=generator)


def observation_tokens(net: DualStreamDenoiser, states: dict[str, Tensor]) -> Tensor:
    """[B, 9, width]: what both kinds of attention start from."""
    net.attention = "joint"
    return net.encode(states)[0]


def recomputed(
    net: DualStreamDenoiser, seen: Tensor, zt: Tensor, time: Tensor, *, blind: bool
) -> Tensor:
    """Logits [B, H, A + 1] with all tokens in one transformer, each layer written out.

    Args:
        net: Gives the weights.
        seen: Observation tokens [B, M, width].
        zt: int64 [B, H].
        time: float32 [B].
        blind: Whether a mask keeps observation tokens from reading the plan.
    """
    bins = (time * net.time_bins + 1e-4).long().clamp(0, net.time_bins - 1)
    plan = net.tokens(zt) + net.times(bins)[:, None] + net.positions.weight
    x = torch.cat([seen, plan], 1)
    count = seen.shape[1]
    allowed = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
    if blind:
        allowed[:count, count:] = False
    for layer in net.layers:
        queries, keys, values = layer.project(x)
        mixed = torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=allowed, scale=1.0
        )
        x = x + layer.out(mixed.transpose(1, 2).flatten(2))
        hidden = torch.nn.functional.gelu(layer.hidden_in(layer.hidden_norm(x)))
        x = x + layer.hidden_out(hidden)
    return net.head(x[:, count:])


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["joint", "prefix"])
def test_denoising_equals_one_masked_transformer_over_all_tokens(attention):
    """The cached keys and values against a full recomputation at every step: at most 1e-5."""
    net, states = made(attention), tensors(random_states(4))
    context = net.encode(states)
    seen = observation_tokens(net, states)
    net.attention = attention
    for step in range(3):
        zt, time = plans(4, seed=step), torch.full((4,), 1.0 - 0.3 * step)
        wanted = recomputed(net, seen, zt, time, blind=attention == "prefix")
        torch.testing.assert_close(net.denoise(context, zt, time), wanted, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_reusing_keys_of_joint_attention_would_not_be_exact():
    """Why the seed's attention has no such cache: its observation tokens change with the plan."""
    net, states = made("joint"), tensors(random_states(4))
    zt, time = plans(4), torch.full((4,), 0.5)
    exact = net(states, zt, time)
    net.attention = "prefix"
    reused = net(states, zt, time)
    assert float((exact - reused).abs().max()) > 1e-3


def test_both_kinds_have_the_same_parameters():
    """5,241,935 in the seed's size, under the same names: checkpoints load into either."""
    nets = [
        DualStreamDenoiser(SPEC, ACTIONS, 64, predict_end=False, attention=attention)
        for attention in ("joint", "prefix")
    ]
    assert [num_parameters(net) for net in nets] == [5_241_935, 5_241_935]
    nets[1].load_state_dict(nets[0].state_dict())


@torch.inference_mode()
def test_context_of_prefix_attention_does_not_depend_on_plan_or_time():
    net, states = made("prefix", num_layers=2), tensors(random_states(3))
    context = net.encode(states)
    assert [tuple(part.shape) for part in context] == [(3, 4, 9, 64)] * 4 + [(3, 2)]
    kept = [part.clone() for part in context]
    net.denoise(context, plans(3), torch.rand(3))
    assert all(torch.equal(a, b) for a, b in zip(context, kept, strict=True))


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["joint", "prefix"])
def test_plans_from_one_encoding_equal_plans_that_encode_at_every_call(attention):
    """Encode-once against encode-every-step inside a sampler: bit-identical on a CPU."""
    net, states = made(attention, num_layers=2), tensors(random_states(3))
    context = net.encode(states)

    def once(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        return net.denoise(context if rows is None else select_rows(context, rows), tokens, time)

    def every_time(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        again = net.encode(states)
        return net.denoise(again if rows is None else select_rows(again, rows), tokens, time)

    sampler = sampler_preset("readme_minihack", ACTIONS)
    first, second = (
        sampler.sample(denoise, 3, HORIZON, torch.Generator().manual_seed(7))
        for denoise in (once, every_time)
    )
    assert torch.equal(first.tokens, second.tokens)
    assert torch.equal(first.token_log_probs, second.token_log_probs)


@torch.inference_mode()
def test_prefix_attention_plans_in_bfloat16_too():
    net, states = made("prefix", num_layers=2), tensors(random_states(3))
    precision = InferencePrecision("bfloat16", torch.device("cpu"))
    with precision.encoding():
        context = net.encode(states)
    with precision.denoising(3 * HORIZON):
        low = net.denoise(context, plans(3), torch.full((3,), 0.5))
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, net(states, plans(3), 0.5), rtol=0, atol=0.05)


def test_unknown_attention_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"DualStreamDenoiser\.attention.*prefix"):
        DualStreamDenoiser(SPEC, ACTIONS, HORIZON, attention="perfix")


@pytest.mark.parametrize("attention", ["joint", "prefix"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_asked_for_hidden_tokens_only_it_says_and_learns_the_same_about_them(attention, share):
    net, states = made(attention), tensors(random_states(3))
    zt, time = torch.stack([plans(3), plans(3, seed=1)]), torch.rand(2, 3)
    hidden = torch.rand(zt.shape, generator=torch.Generator().manual_seed(0)) < share
    results = []
    for only in (False, True):
        net.zero_grad()
        context = net.encode(states)
        logits = (
            net.denoise_hidden(context, zt, time, hidden)
            if only
            else net.denoise(context, zt, time)
        )
        assert torch.isfinite(logits).all()
        (logits.log_softmax(-1)[..., 0] * hidden).sum().backward()
        results.append((logits[hidden], {n: p.grad for n, p in net.named_parameters()}))
    (whole, gradients), (part, others) = results
    torch.testing.assert_close(part, whole, rtol=0, atol=1e-5)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        if gradient is not None:  # the goal head has none here
            torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-5)
