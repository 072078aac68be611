"""Classifier-free guidance on an enumerated mixture of two classes (method table, test 33)."""

import itertools
from collections.abc import Callable

import gin
import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.diffusion.decode import Decoder
from remdm.diffusion.exact import ExactDenoiser
from remdm.diffusion.grids import UniformTime
from remdm.diffusion.guidance import Guidance, tilted
from remdm.diffusion.interface import Denoise
from remdm.diffusion.order import PositionOrder
from remdm.diffusion.reveal import CountReveal
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.step import Step
from tests.diffusion.enumerated import random_joint, sequential_law, total_variation

V, L = 3, 3
PRIOR = 0.4
GIVEN = random_joint(V, L, seed=1)
OTHER = random_joint(V, L, seed=2)
MIXTURE = PRIOR * GIVEN + (1 - PRIOR) * OTHER


def conditional() -> ExactDenoiser:
    return ExactDenoiser.over_all(GIVEN, V, L)


def unconditional() -> ExactDenoiser:
    return ExactDenoiser.over_all(MIXTURE, V, L)


def guided(scale: float) -> Denoise:
    return Guidance(scale=scale)(conditional(), unconditional())


def tilted_law(scale: float, order: tuple[int, ...]) -> np.ndarray:
    """Product over positions in `order` of normalised tilts, from sums over the two joints."""
    joints = GIVEN.reshape((V,) * L), MIXTURE.reshape((V,) * L)
    law = np.ones((V,) * L)
    for sequence in itertools.product(range(V), repeat=L):
        known: list[int | slice] = [slice(None)] * L
        for position in order:
            options = np.empty((2, V))
            for symbol in range(V):
                known[position] = symbol
                options[:, symbol] = [joint[tuple(known)].sum() for joint in joints]
            options /= options.sum(1, keepdims=True)
            tilt = options[0] ** scale * options[1] ** (1 - scale)
            law[sequence] *= tilt[sequence[position]] / tilt.sum()
            known[position] = sequence[position]
    return law.ravel()


def law_of(denoise: Denoise, choose: Callable[[Step], Tensor]) -> Tensor:
    """The exact law of one-token-per-call sampling; the nets here do not read the time."""

    def log_probs(tokens: Tensor, _time: object, _rows: object) -> Tensor:
        return denoise(tokens, torch.ones(1), None).log_softmax(-1)

    return sequential_law(log_probs, V, L, choose)


def leftmost(step: Step) -> Tensor:
    return (step.masked & (step.masked.cumsum(-1) == 1)).double()


def at_random(step: Step) -> Tensor:
    return step.masked.double() / step.masked.sum(-1, keepdim=True)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_guided_steps_sample_the_product_of_tilted_conditionals(scale: float) -> None:
    # Test 33: p(x|c)^s p(x)^(1-s) per position, exact to 1e-12 at one token per call.
    expected = torch.from_numpy(tilted_law(scale, (0, 1, 2)))
    assert total_variation(law_of(guided(scale), leftmost), expected) <= 1e-12


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_in_random_order_the_law_is_the_mean_over_orders(scale: float) -> None:
    # Test 33; unlike exact conditionals, tilted ones give each order a law of its own.
    laws = [tilted_law(scale, order) for order in itertools.permutations(range(L))]
    expected = torch.from_numpy(np.mean(laws, 0))
    assert total_variation(law_of(guided(scale), at_random), expected) <= 1e-12
    assert np.abs(laws[0] - laws[-1]).sum() > 0.01


def test_scale_one_is_the_conditional_law_and_scale_zero_the_unconditional_one() -> None:
    # Test 33: gamma = 1 and gamma = 0.
    for scale, law in ((1.0, GIVEN), (0.0, MIXTURE)):
        found = law_of(guided(scale), at_random)
        assert total_variation(found, torch.from_numpy(law)) <= 1e-12


def test_scales_one_and_zero_ask_one_net_only() -> None:
    given, without = conditional(), unconditional()
    assert Guidance(scale=1.0)(given, without) is given
    assert Guidance(scale=1.0, ramp="rising")(given, without) is given
    assert Guidance(scale=0.0)(given, without) is without
    Guidance(scale=2.0)(given, without)(torch.full((4, L), V), torch.ones(4), None)
    assert (given.calls, without.calls) == (1, 1)


def test_stronger_guidance_makes_the_class_more_certain() -> None:
    posterior = PRIOR * GIVEN / MIXTURE
    laws = [law_of(guided(s), leftmost).numpy() for s in (0.0, 0.5, 1.0, 2.0, 4.0)]
    found = [float(law @ posterior) for law in laws]
    assert found[0] == pytest.approx(PRIOR)
    assert found == sorted(set(found))


def test_a_sampler_draws_the_guided_law() -> None:
    sampler = Sampler(
        V,
        reveal=CountReveal(),
        order=PositionOrder(),
        grid=UniformTime(num_steps=L),
        decoder=Decoder(),
        window_first=False,
    )
    count = 20_000
    generator = torch.Generator().manual_seed(0)
    sample = sampler.sample(guided(2.0), count, L, generator, allow_end=False)
    index = (sample.tokens * torch.tensor([9, 3, 1])).sum(-1)
    counts = index.bincount(minlength=V**L).double()
    law = torch.from_numpy(tilted_law(2.0, (0, 1, 2)))
    likely = law * count >= 5
    excess = ((counts - law * count) ** 2 / (law * count))[likely].sum()
    # chi-square with at most 26 degrees of freedom exceeds 75 with probability 1e-6.
    assert float(excess) < 75


def test_rising_guidance_goes_from_one_to_the_scale() -> None:
    time = torch.tensor([1.0, 0.75, 0.5, 0.0])
    assert Guidance(scale=3.0, ramp="rising").scales(time).tolist() == [1.0, 1.5, 2.0, 3.0]
    assert Guidance(scale=3.0).scales(time).tolist() == [3.0] * 4


def test_rising_guidance_is_taken_row_by_row() -> None:
    denoise = Guidance(scale=3.0, ramp="rising")(conditional(), unconditional())
    tokens = torch.tensor([[V, 0, V], [V, 0, V]])
    logits = denoise(tokens, torch.tensor([1.0, 0.5]), None).softmax(-1)
    for row, scale in enumerate((1.0, 2.0)):
        alone = tilted(
            conditional()(tokens[:1], None), unconditional()(tokens[:1], None), scale
        ).softmax(-1)
        assert torch.allclose(logits[row], alone[0], atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.001, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_impossible_stays_impossible_and_finite(scale: float, dtype: torch.dtype) -> None:
    never = -torch.inf
    given = torch.tensor([0.0, 1.0, never, never], dtype=dtype)
    without = torch.tensor([0.5, 0.0, 2.0, never], dtype=dtype)
    probs = tilted(given, without, scale).softmax(-1)
    assert bool(probs.isfinite().all())
    assert float(probs[3]) == 0.0
    assert (float(probs[2]) == 0.0) == (scale > 0)


def test_a_class_impossible_without_the_condition_only_wins_above_scale_one() -> None:
    given, without = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -torch.inf])
    assert tilted(given, without, 2.0).softmax(-1).tolist() == [0.0, 1.0]
    assert tilted(given, without, 0.5).softmax(-1).tolist() == [1.0, 0.0]


def test_nan_of_either_net_is_not_hidden() -> None:
    bad, good = torch.tensor([float("nan"), 0.0]), torch.zeros(2)
    assert bool(tilted(bad, good, 2.0).isnan()[0])
    assert bool(tilted(good, bad, 2.0).isnan()[0])


@pytest.mark.parametrize("scale", [-0.1, float("inf"), float("nan")])
def test_scale_out_of_range_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=r"Guidance\.scale must be at least 0"):
        Guidance(scale=scale)


def test_unknown_ramp_names_the_nearest_and_gin_reaches_guidance() -> None:
    with pytest.raises(ValueError, match="did you mean 'rising'"):
        Guidance(ramp="raising")
    gin.parse_config("Guidance.scale = 1.5\nGuidance.ramp = 'rising'")
    guidance = Guidance()
    assert (guidance.scale, guidance.ramp) == (1.5, "rising")
