"""Samplers against the laws they claim, on an enumerated model (method table, 13-16 and 18-19)."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from remdm.diffusion import draws
from remdm.diffusion.decode import Decoder
from remdm.diffusion.exact import room_paths, small_sudokus
from remdm.diffusion.grids import UniformTime
from remdm.diffusion.order import (
    EntropyOrder,
    MarginOrder,
    MaxProbOrder,
    NoisyOrder,
    Order,
    PositionOrder,
    RandomOrder,
    SampledConfidenceOrder,
    positions_in_order,
)
from remdm.diffusion.remask import CapRemask, NoRemask, Remask
from remdm.diffusion.reveal import BernoulliReveal, CountReveal, EntropyBoundReveal, ThresholdReveal
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.step import Step
from tests.diffusion.enumerated import (
    ExactDenoiser,
    all_states,
    random_joint,
    sequential_law,
    state_index,
    step_of,
    total_variation,
)

V, L = 3, 3
JOINT = random_joint(V, L)


def exact_model() -> ExactDenoiser:
    return ExactDenoiser.over_all(JOINT, V, L)


def choose_by(order: Order) -> Callable[[Step], Tensor]:
    """One position per call, by the real order and the real count reveal."""

    def choose(step: Step) -> Tensor:
        if isinstance(order, RandomOrder):
            return step.masked.double() / step.masked.sum(-1, keepdim=True)
        positions = positions_in_order(step, order.scores(step), split=0)
        revealed = CountReveal()(step, positions, 0.0)
        assert (revealed.sum(-1) == 1).all()
        return revealed.double()

    return choose


@pytest.mark.parametrize(
    "order", [RandomOrder(), PositionOrder(), MaxProbOrder(), MarginOrder(), EntropyOrder()]
)
def test_one_token_per_call_in_any_order_by_distribution_is_exact(order: Order) -> None:
    # Method table, test 13 (chain rule).
    law = sequential_law(exact_model(), V, L, choose_by(order))
    assert total_variation(law, torch.from_numpy(JOINT)) <= 1e-12


def test_choosing_positions_by_the_sampled_token_is_biased() -> None:
    # Method table, test 14: MaskGIT's order, even at one token per call.
    law = sequential_law(exact_model(), V, L, choose_by(SampledConfidenceOrder()))
    assert total_variation(law, torch.from_numpy(JOINT)) == pytest.approx(0.362, abs=1e-3)


def test_random_order_takes_every_position_equally_often() -> None:
    states = torch.tensor([[V, 0, V, V]]).expand(30_000, -1)
    probs = torch.full((30_000, 4, V + 1), 0.25, dtype=torch.float64)
    step = step_of(states, probs, torch.zeros_like(states), 0.25, 0.5)
    keys = draws.row_keys(torch.Generator().manual_seed(0), 30_000, torch.device("cpu"))
    step.keys = keys
    first = positions_in_order(step, RandomOrder().scores(step), split=0)[:, 0]
    counts = first.bincount(minlength=4).double()
    assert float(counts[1]) == 0
    # chi-square with 2 degrees of freedom exceeds 23 with probability 1e-5.
    assert float(((counts[[0, 2, 3]] - 10_000) ** 2 / 10_000).sum()) < 23


def transition(denoiser: ExactDenoiser, remask: Remask, alpha_t: float, alpha_s: float) -> Tensor:
    """Exact kernel over partly masked states of one Bernoulli step."""
    states = all_states(V, L)
    probs = denoiser(states, None, None).exp()
    step = step_of(states, probs, torch.zeros_like(states), alpha_t, alpha_s)
    sigma = 0.0 if isinstance(remask, NoRemask) else remask.sigma(step)
    unmask = min(1.0, max(0.0, remask(step).unmask))
    masked = states == V
    stay = torch.nn.functional.one_hot(states, V + 1).double()
    visible = stay * (1 - sigma)
    visible[..., V] += sigma
    hidden = probs * unmask
    hidden[..., V] = 1 - unmask
    symbol = torch.where(masked[..., None], hidden, visible)
    kernel = torch.ones(len(states), len(states), dtype=torch.float64)
    for position in range(L):
        kernel *= symbol[:, position, states[:, position]]
    return kernel


def bernoulli_law(num_steps: int, remask: Remask) -> Tensor:
    """Exact law over sequences of a Bernoulli sampler on a uniform linear grid."""
    denoiser = exact_model()
    mass = torch.zeros((V + 1) ** L, dtype=torch.float64)
    mass[-1] = 1.0
    for k in range(num_steps):
        mass = mass @ transition(denoiser, remask, k / num_steps, (k + 1) / num_steps)
    sequences = torch.tensor(list(itertools.product(range(V), repeat=L)))
    return mass[state_index(sequences, V)]


def distance(num_steps: int, remask: Remask) -> float:
    return total_variation(bernoulli_law(num_steps, remask), torch.from_numpy(JOINT))


def test_bernoulli_sampling_converges_as_steps_get_finer() -> None:
    # Method table, test 15.
    distances = [distance(k, NoRemask()) for k in (1, 2, 4, 8, 16, 32, 64)]
    expected = [0.422, 0.249, 0.134, 0.069, 0.035, 0.018, 0.0089]
    np.testing.assert_allclose(distances, expected, atol=6e-4)
    assert 0.45 <= distances[-1] / distances[-2] <= 0.55


def test_a_constant_cap_leaves_an_error_that_steps_do_not_remove() -> None:
    # Method table, test 16; a regression figure, not a claim about quality.
    assert distance(64, CapRemask(eta=0.05)) == pytest.approx(0.023, abs=1e-3)
    assert distance(64, CapRemask(eta=0.3)) == pytest.approx(0.042, abs=1e-3)
    assert distance(64, CapRemask(eta=1 / 64)) == pytest.approx(0.013, abs=1e-3)


def float32_model(denoiser: ExactDenoiser):
    """The same model in the precision of a net, which lets the fused kernel run."""

    def denoise(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        states = all_states(V, L)
        table = denoiser(states, None, None).float().nan_to_num(neginf=-1e4)
        return table[state_index(tokens, V)]

    return denoise


# Whole samplers that should draw from the joint exactly, and one that has its own exact law.
EXACT_SAMPLERS = {
    "gamma 0": {"reveal": EntropyBoundReveal(gamma=0.0)},
    "gamma 0, margin, window first": {
        "reveal": EntropyBoundReveal(gamma=0.0),
        "order": MarginOrder(),
    },
    "tau 1": {"reveal": ThresholdReveal(tau=1.0)},
    "count, random": {
        "reveal": CountReveal(),
        "order": RandomOrder(),
        "grid": UniformTime(num_steps=L),
    },
    "count, margin with noise": {
        "reveal": CountReveal(),
        "order": NoisyOrder(scale=0.1),
        "grid": UniformTime(num_steps=L),
    },
    "bernoulli": {
        "reveal": BernoulliReveal(),
        "grid": UniformTime(num_steps=4),
        "window_first": False,
    },
    "bernoulli, cap": {
        "reveal": BernoulliReveal(),
        "grid": UniformTime(num_steps=4),
        "remask": CapRemask(eta=0.3),
        "window_first": False,
    },
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", EXACT_SAMPLERS)
def test_whole_samplers_draw_from_their_exact_law(name: str, fused: bool) -> None:
    parts = EXACT_SAMPLERS[name]
    sampler = Sampler(
        V, decoder=Decoder(), close_after_end=False, forbid_empty=False, fused=fused, **parts
    )
    count = 40_000
    sample = sampler.sample(
        float32_model(exact_model()), count, L, torch.Generator().manual_seed(5), allow_end=False
    )
    expected = torch.from_numpy(JOINT)
    if "bernoulli" in name:
        expected = bernoulli_law(4, parts.get("remask", NoRemask()))
    drawn = (sample.tokens * V ** torch.arange(L - 1, -1, -1)).sum(-1).bincount(minlength=V**L)
    enough = expected * count >= 10
    error = (drawn - expected * count)[enough]
    # chi-square with up to 26 degrees of freedom exceeds 66 with probability 2e-5; the seed is
    # fixed.
    assert float((error**2 / (expected * count)[enough]).sum()) < 66
    if "bernoulli" not in name:
        torch.testing.assert_close(
            sample.log_prob.double(),
            torch.from_numpy(JOINT).log()[
                (sample.tokens * V ** torch.arange(L - 1, -1, -1)).sum(-1)
            ],
            atol=1e-4,
            rtol=0,
        )


def constant_model(logits: Tensor):
    def denoise(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        return logits.expand(len(tokens), tokens.shape[1], -1)

    return denoise


@pytest.mark.parametrize("fused", [True, False])
def test_entropy_bound_needs_one_call_if_certain_or_unbounded_and_all_if_uniform(
    fused: bool,
) -> None:
    # Method table, test 19.
    certain = torch.tensor([100.0, 0, 0, 0, 0])
    uniform = torch.zeros(5)
    for logits, gamma, calls in ((certain, 0.0, 1), (uniform, float("inf"), 1), (uniform, 0.0, 9)):
        sampler = Sampler(4, reveal=EntropyBoundReveal(gamma=gamma), decoder=Decoder(), fused=fused)
        sample = sampler.sample(
            constant_model(logits), 3, 9, torch.Generator().manual_seed(0), allow_end=False
        )
        assert sample.nfe.tolist() == [calls] * 3


def test_entropy_bound_reveals_the_longest_prefix_within_gamma() -> None:
    # Sum of entropies minus the largest, in the order of the positions.
    probs = torch.tensor([[[0.5, 0.5], [1.0, 0.0], [0.9, 0.1], [0.5, 0.5]]], dtype=torch.float64)
    probs = torch.cat([probs, torch.zeros(1, 4, 1).double()], -1)
    states = torch.full((1, 4), 2)
    step = step_of(states, probs, torch.zeros_like(states), 0.0, 1.0)
    positions = positions_in_order(step, EntropyOrder().scores(step), split=0)
    assert positions.tolist() == [[1, 2, 0, 3]]
    small = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    for gamma, expected in (
        (0.0, [1, 2]),
        (small - 1e-6, [1, 2]),
        (small + 1e-6, [0, 1, 2]),
        (small + np.log(2) + 1e-6, [0, 1, 2, 3]),
    ):
        revealed = EntropyBoundReveal(gamma=gamma)(step, positions, 0.0)
        assert revealed[0].nonzero()[:, 0].tolist() == expected


def test_a_threshold_decides_what_is_sure_and_at_least_one() -> None:
    # Fast-dLLM (arXiv 2505.22618): every position above tau, else the first in order.
    probs = torch.tensor([[[0.5, 0.5], [0.95, 0.05], [0.9, 0.1], [0.4, 0.6]]], dtype=torch.float64)
    probs = torch.cat([probs, torch.zeros(1, 4, 1).double()], -1)
    states = torch.full((1, 4), 2)
    step = step_of(states, probs, torch.zeros_like(states), 0.0, 1.0)
    positions = positions_in_order(step, MaxProbOrder().scores(step), split=0)
    for tau, expected in ((0.97, [1]), (0.92, [1]), (0.85, [1, 2]), (0.55, [1, 2, 3])):
        revealed = ThresholdReveal(tau=tau)(step, positions, 1.0)
        assert revealed[0].nonzero()[:, 0].tolist() == expected
    for logits, tau, calls in (
        (torch.tensor([100.0, 0, 0, 0, 0]), 0.9, 1),
        (torch.zeros(5), 0.0, 1),
        (torch.zeros(5), 0.9, 9),
    ):
        sampler = Sampler(4, reveal=ThresholdReveal(tau=tau), decoder=Decoder())
        sample = sampler.sample(
            constant_model(logits), 3, 9, torch.Generator().manual_seed(0), allow_end=False
        )
        assert sample.nfe.tolist() == [calls] * 3


@pytest.mark.parametrize("fused", [True, False])
def test_deciding_all_at_once_mixes_plans_that_exclude_each_other(fused: bool) -> None:
    # Method table, test 17: the 252 shortest ways across a 6x6 room, in one call.
    paths = room_paths()
    assert len(paths) == 252
    model = ExactDenoiser(None, paths, 2)
    sampler = Sampler(2, reveal=EntropyBoundReveal(gamma=np.inf), decoder=Decoder(), fused=fused)

    def denoise(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        return model(tokens, time, rows).float().clamp(min=-1e4)

    sample = sampler.sample(denoise, 20_000, 10, torch.Generator().manual_seed(0), allow_end=False)
    success = float((sample.tokens.sum(-1) == 5).double().mean())
    # Four standard errors: fails by chance once in 16 000 seeds, and the seed is fixed.
    chance = 252 / 1024
    assert abs(success - chance) <= 4 * (chance * (1 - chance) / 20_000) ** 0.5


@pytest.mark.parametrize("order", [RandomOrder(), MarginOrder(), NoisyOrder()])
def test_one_cell_per_call_solves_every_small_sudoku(order: Order) -> None:
    # Method table, test 18.
    grids = small_sudokus()
    assert len(grids) == 288
    model = ExactDenoiser(None, grids, 4)
    sampler = Sampler(
        4, reveal=CountReveal(), order=order, grid=UniformTime(num_steps=16), decoder=Decoder()
    )
    sample = sampler.sample(model, 300, 16, torch.Generator().manual_seed(0), allow_end=False)
    solved = {tuple(grid) for grid in grids.tolist()}
    assert all(tuple(row) in solved for row in sample.tokens.tolist())
    assert sample.nfe.tolist() == [16] * 300
    assert len({tuple(row) for row in sample.tokens.tolist()}) > 150
