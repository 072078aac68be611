"""Remasking that keeps counts on the schedule (method 1.7 and 3, test 6 of its table)."""

import math

import pytest
import torch
from torch import Tensor

from remdm.diffusion.decode import Decoder
from remdm.diffusion.exact import ExactDenoiser, small_sudokus
from remdm.diffusion.grids import UniformAlpha, UniformTime
from remdm.diffusion.order import NoisyOrder, RandomOrder
from remdm.diffusion.presets import sampler_preset
from remdm.diffusion.remask import Remask, sigma_max
from remdm.diffusion.remask_counted import BudgetedConfRemask, PathRemask, SwapRemask
from remdm.diffusion.reveal import BernoulliReveal, CountReveal
from remdm.diffusion.sampler import Sampler
from remdm.tokens import mask_token
from tests.diffusion.test_remask import step_at
from tests.diffusion.test_sampler import A, RandomModel, generator

MASK = mask_token(A)


def test_budgeted_confidence_keeps_the_expected_counts_on_the_schedule() -> None:
    # Method table, test 6: E[number committed] = alpha_s L after every step.
    sampler = Sampler(
        A,
        grid=UniformTime(num_steps=8),
        reveal=BernoulliReveal(),
        remask=BudgetedConfRemask(eta=0.4, temperature=0.2),
        decoder=Decoder(),
        window_first=False,
    )
    model = RandomModel(1)
    sample = sampler.sample(
        lambda z, t, r: model(z, t, torch.zeros(len(z), dtype=torch.int64)),
        3000, 40, generator(), allow_end=False, trace=True,
    )  # fmt: skip
    for number, entry in enumerate(sample.trace, 1):
        committed = (entry.tokens != MASK).sum(-1).double()
        error = float(committed.std()) / len(committed) ** 0.5
        # Four standard errors in each of 8 steps: fails by chance once in 2000 seeds; it is fixed.
        assert abs(float(committed.mean()) - 40 * number / 8) <= 4 * error + 1e-9
    assert sum(int(t.remasked.sum()) for t in sample.trace) > 3000


def test_budgeted_confidence_spends_its_budget_on_doubtful_tokens() -> None:
    confidence = torch.tensor([[0.9, 0.2, 0.5, 0.1]], dtype=torch.float64)
    masked = torch.tensor([[False, False, False, True]])
    step = step_at(0.5, 0.6, confidence, masked)
    bound = sigma_max(0.5, 0.6)
    gentle = BudgetedConfRemask(eta=0.3, temperature=10.0)
    sigma = gentle.sigma(step)
    # Mean of sigma over the committed tokens is eta times the bound, and the doubtful get more.
    assert float(sigma[:, :3].mean()) == pytest.approx(0.3 * bound, abs=1e-12)
    assert float(sigma[0, 1]) > float(sigma[0, 2]) > float(sigma[0, 0])
    sharp = BudgetedConfRemask(eta=1.0, temperature=0.01).sigma(step)
    assert float(sharp[0, 1]) == pytest.approx(bound)
    assert float(sharp[0, 3]) == 0
    # One masked position: (0.6 * 4 - sum of 1 - sigma) / 1, clipped to a probability.
    kept = 3 - 3 * 0.3 * bound
    assert float(gentle.unmask(step, sigma)) == pytest.approx(max(0.0, 2.4 - kept))


COUNTED = [SwapRemask(swaps=2), SwapRemask(swaps=2, competitive=True), PathRemask()]


@pytest.mark.parametrize("remask", COUNTED, ids=["swap", "competitive", "path"])
def test_exchanges_leave_the_counts_on_the_schedule(remask: Remask) -> None:
    locked = torch.full((30, 16), MASK)
    locked[::2, :4] = 1
    sampler = Sampler(
        A,
        grid=UniformAlpha(num_steps=6),
        reveal=CountReveal(),
        order=RandomOrder(),
        remask=remask,
        decoder=Decoder(),
        close_after_end=False,
    )
    sample = sampler.sample(
        RandomModel(30), 30, 16, generator(), locked=locked, allow_end=False, trace=True
    )
    free = (locked == MASK).sum(-1)
    for number, entry in enumerate(sample.trace, 1):
        visible = free - (entry.tokens == MASK).sum(-1)
        assert visible.tolist() == [math.floor(n * number / 6 + 0.5) for n in free.tolist()]
        if isinstance(remask, SwapRemask):
            assert int(entry.remasked.sum(-1).max()) <= 2
    assert sum(int(t.remasked.sum()) for t in sample.trace) > 0
    assert not sample.trace[-1].remasked.any()


def test_a_swap_takes_back_the_token_committed_with_the_least_confidence() -> None:
    confidence = torch.tensor([[0.9, 0.2, 0.5, 0.1, 0.3]], dtype=torch.float64)
    masked = torch.tensor([[False, False, False, True, True]])
    step = step_at(0.6, 0.8, confidence, masked)
    # One position may stay masked, so only one of two swaps has a place to go.
    assert SwapRemask(swaps=2)(step).tokens.tolist() == [[False, True, False, False, False]]
    last = step_at(0.6, 1.0, confidence, masked)
    assert not SwapRemask(swaps=2)(last).tokens.any()


def path_step(newcomers: Tensor) -> Remask:
    """Old tokens .9, .2, .5, newcomers .4 and 1: three of five places."""
    confidence = torch.tensor([[0.9, 0.2, 0.5, 0.4, 1.0]], dtype=torch.float64)
    step = step_at(0.6, 0.6, confidence, torch.zeros(1, 5, dtype=torch.bool))
    step.revealed = newcomers
    return step


def test_all_positions_compete_for_the_places_of_a_path() -> None:
    # P2 (arXiv 2502.03540): the best of eta log(old) and log(new).
    step = path_step(torch.tensor([[False, False, False, True, True]]))
    taken = {
        eta: PathRemask(eta=eta)(step).tokens[0].nonzero()[:, 0].tolist() for eta in (1.0, 0.3, 0.0)
    }
    # eta 1 keeps 1, .9 and .5; eta .3 lifts .2 to .62 and loses nobody else; eta 0 keeps the old.
    assert taken == {1.0: [1, 3], 0.3: [1, 3], 0.0: [3, 4]}
    step = path_step(torch.tensor([[False, False, False, True, False]]))
    assert PathRemask(eta=0.3)(step).tokens[0].nonzero()[:, 0].tolist() == [1, 3]


def test_exchanges_mend_what_tokens_decided_together_got_wrong() -> None:
    # Method 1.6, small Sudoku at 8 calls: swapping the worst token lifts the share of valid
    # grids from about 40 to about 60 per cent with this oracle (0.08 noise, 1000 grids).
    grids = small_sudokus()
    model = ExactDenoiser(None, grids, 4, noise=0.08)
    valid = {}
    for name in ("count", "swap"):
        sampler = sampler_preset(name, 4, num_denoise_steps=8, window_first=False)
        sample = sampler.sample(model, 600, 16, generator(), allow_end=False)
        valid[name] = float(model.contains(sample.tokens).double().mean())
    # Standard errors are below .02 each; a gap of .1 fails by chance less than once in 1e3 seeds.
    assert valid["swap"] > valid["count"] + 0.1


def test_noise_between_equal_scores_spares_neighbours() -> None:
    # Method 1.6: equal scores taken by position decide a row of a Sudoku at once.
    model = ExactDenoiser(None, small_sudokus(), 4, noise=0.08)
    valid = {}
    for noise in (0.0, 1e-3):
        sampler = sampler_preset("count", 4, num_denoise_steps=8, noise=noise, window_first=False)
        sample = sampler.sample(model, 400, 16, generator(), allow_end=False)
        valid[noise] = float(model.contains(sample.tokens).double().mean())
    assert valid[1e-3] == pytest.approx(0.396, abs=0.1)
    assert valid[0.0] < valid[1e-3] - 0.05


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (BudgetedConfRemask, {"eta": 1.5}, r"BudgetedConfRemask.eta must be in \[0, 1\]"),
        (BudgetedConfRemask, {"temperature": 0.0}, "temperature must be above 0"),
        (SwapRemask, {"swaps": 0}, "SwapRemask.swaps must be at least 1, got 0"),
        (PathRemask, {"eta": -0.5}, r"PathRemask.eta must be in \[0, 1\]"),
        (NoisyOrder, {"scale": -1.0}, "NoisyOrder.scale must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(kind: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
