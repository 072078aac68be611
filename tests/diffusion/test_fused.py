"""The one-pass kernel against the torch path: the same plans, token for token."""

import itertools
import math

import pytest
import torch

from remdm.diffusion import draws, fast_path, fused
from remdm.diffusion.classes import num_classes
from remdm.diffusion.decode import Decoder
from remdm.diffusion.grids import UniformTime
from remdm.diffusion.order import (
    EntropyOrder,
    MarginOrder,
    MaxProbOrder,
    Order,
    PositionOrder,
    RandomOrder,
    SampledConfidenceOrder,
)
from remdm.diffusion.remask import CapRemask
from remdm.diffusion.reveal import CountReveal, EntropyBoundReveal, Reveal
from remdm.diffusion.sampler import Sampler
from remdm.tokens import mask_token
from tests.diffusion.test_sampler import A, RandomModel

ORDERS = [RandomOrder(), PositionOrder(), MaxProbOrder(), MarginOrder(), EntropyOrder()]
REVEALS = {
    "count": (CountReveal(), UniformTime(num_steps=5)),
    "gamma .3": (EntropyBoundReveal(gamma=0.3), None),
    "gamma 2": (EntropyBoundReveal(gamma=2.0), None),
    "unbounded": (EntropyBoundReveal(gamma=math.inf), None),
}
TOP_P = [None, 0.9, 0.5, 1.0]
SETTINGS = list(itertools.product([True, False], [None, 3], [True, False], [True, False]))


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", REVEALS)
def test_fused_and_torch_paths_write_the_same_plans(order: Order, name: str) -> None:
    reveal, grid = REVEALS[name]
    count, horizon = 40, 12
    source = torch.Generator().manual_seed(8)
    locked = torch.full((count, horizon), mask_token(A))
    locked[::3, :2] = 1
    first = torch.rand(count, num_classes(A), generator=source) < 0.5
    first[:, 0] = True
    anywhere = torch.rand(count, horizon, num_classes(A), generator=source) < 0.8
    anywhere[..., 0] = True
    for seed, (greedy, window, close, constrained) in enumerate(SETTINGS):
        constraints = (
            {"locked": locked, "first_token_mask": first, "token_mask": anywhere}
            if constrained
            else {}
        )
        samples = []
        for fused_path in (True, False):
            sampler = Sampler(
                A,
                reveal=reveal,
                grid=grid,
                order=order,
                decoder=Decoder(temperature=0.7, greedy=greedy, top_p=TOP_P[seed % 4]),
                close_after_end=close,
                early_exit=seed % 3 != 0,
                fused=fused_path,
            )
            assert (sampler._fused is not None) == fused_path
            samples.append(
                sampler.sample(
                    RandomModel(count, end_bias=0.3),
                    count,
                    horizon,
                    torch.Generator().manual_seed(seed),
                    window=window,
                    **constraints,
                )
            )
        kernel, reference = samples
        assert kernel.tokens.equal(reference.tokens)
        assert kernel.nfe.equal(reference.nfe)
        assert kernel.lengths.equal(reference.lengths)
        torch.testing.assert_close(
            kernel.token_log_probs, reference.token_log_probs, atol=1e-6, rtol=1e-6
        )


def test_kernel_and_torch_draw_the_same_uniform_numbers() -> None:
    keys = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)])
    expected = draws.uniform(keys, 4, draws.POSITION, 9)
    first = (4 * draws.NUM_PURPOSES + draws.POSITION) * 9 + 1
    for row, key in enumerate(keys.numpy().view("uint64")):
        for h in range(9):
            assert fused._uniform(key, first + h) == float(expected[row, h])


def test_order_codes_are_those_of_the_kernel() -> None:
    assert {
        RandomOrder: fused.RANDOM,
        PositionOrder: fused.POSITION,
        MaxProbOrder: fused.MAX_PROB,
        MarginOrder: fused.MARGIN,
        EntropyOrder: fused.ENTROPY,
    } == fast_path._ORDER_CODES


class MyReveal(EntropyBoundReveal):
    """A user's subclass may do anything, so it must not be taken for its base."""


@pytest.mark.parametrize(
    "parts",
    [
        {"decoder": Decoder(top_k=3)},
        {"decoder": Decoder(top_p=0.9, nucleus_rule="official")},
        {"decoder": Decoder(raw_confidence=True)},
        {"order": SampledConfidenceOrder()},
        {"reveal": MyReveal()},
        {"reveal": CountReveal(), "grid": UniformTime(), "remask": CapRemask()},
    ],
)
def test_parts_the_kernel_does_not_know_run_in_torch(parts: dict[str, Reveal]) -> None:
    assert Sampler(A, **parts)._fused is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_an_accelerator_writes_the_plans_of_the_cpu() -> None:
    model = RandomModel(32, end_bias=-0.5)

    def on_accelerator(
        tokens: torch.Tensor, time: torch.Tensor, rows: torch.Tensor | None
    ) -> torch.Tensor:
        there = None if rows is None else rows.cpu()
        return model(tokens.cpu(), time.cpu(), there).to(tokens.device)

    for window in (None, 3):
        here = Sampler(A).sample(model, 32, 12, torch.Generator().manual_seed(1), window=window)
        there = Sampler(A).sample(
            on_accelerator,
            32,
            12,
            torch.Generator().manual_seed(1),
            window=window,
            device="cuda",
        )
        assert there.tokens.cpu().equal(here.tokens)
        assert there.nfe.cpu().equal(here.nfe)
