"""Calls and combinations that a sampler refuses, and what it says."""

import pytest
import torch
from torch import Tensor

from remdm.diffusion.grids import UniformTime
from remdm.diffusion.order import MarginOrder
from remdm.diffusion.remask import CapRemask
from remdm.diffusion.reveal import BernoulliReveal, CountReveal, EntropyBoundReveal
from remdm.diffusion.sampler import Sampler
from tests.diffusion.test_sampler import A, RandomModel, generator


@pytest.mark.parametrize("fused", [True, False])
def test_logits_that_are_not_finite_name_the_row_and_the_call(fused: bool) -> None:
    model = RandomModel(4)

    def broken(tokens: Tensor, time: Tensor, rows: Tensor | None) -> Tensor:
        logits = model(tokens, time, rows)
        if len(model.times) == 2:
            logits[2, :, 1] = float("nan")
        return logits

    sampler = Sampler(A, reveal=EntropyBoundReveal(gamma=0.0), fused=fused)
    with pytest.raises(ValueError, match="not finite: row 2 of the batch, net call 1"):
        sampler.sample(broken, 4, 8, generator())


BAD_CALLS = {
    "batch_size=0": ({"batch_size": 0}, "at least one row"),
    "window": ({"window": 9}, r"window must be in 1..8"),
    "window zero": ({"window": 0}, r"window must be in 1..8"),
    "locked shape": ({"locked": torch.zeros(4, 7)}, r"locked must be int64 \[4, 8\]"),
    "locked value": ({"locked": torch.full((4, 8), A + 2)}, "values from 8 to 8"),
    "first mask shape": (
        {"first_token_mask": torch.ones(4, A, dtype=torch.bool)},
        r"first_token_mask must be bool \[B, 7\]",
    ),
    "first mask forbids all": (
        {"first_token_mask": torch.tensor([[False] * A + [True]] * 4)},
        "no class for a position of row 0",
    ),
    "token mask shape": (
        {"token_mask": torch.ones(4, A + 1, dtype=torch.bool)},
        r"token_mask must be bool \[4, 8, 7\]",
    ),
    "token mask forbids all": (
        {"token_mask": (torch.arange(4) != 3)[:, None, None].expand(4, 8, A + 1)},
        "no class for a position of row 3",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_calls_that_cannot_work_are_refused(name: str) -> None:
    arguments, message = BAD_CALLS[name]
    batch_size = arguments.get("batch_size", 4)
    rest = {k: v for k, v in arguments.items() if k != "batch_size"}
    with pytest.raises(ValueError, match=message):
        Sampler(A).sample(RandomModel(4), batch_size, 8, generator(), **rest)


def test_logits_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[4, 8, 7\], got \[4, 8, 8\]"):
        Sampler(A).sample(lambda z, t, r: torch.zeros(4, 8, A + 2), 4, 8, generator())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"reveal": CountReveal()}, "CountReveal follows a time grid: set Sampler.grid"),
        ({"grid": UniformTime()}, "Sampler.grid must be None, got UniformTime"),
        ({"remask": CapRemask()}, "CapRemask takes its probabilities from a time grid"),
        ({"time_input": "start"}, "Sampler.time_input = 'realised'"),
        ({"time_input": "begin"}, "unknown Sampler.time_input 'begin'"),
        (
            {"reveal": BernoulliReveal(), "grid": UniformTime()},
            "Sampler.window_first False, got NoneType and True",
        ),
        (
            {
                "reveal": BernoulliReveal(),
                "grid": UniformTime(),
                "order": MarginOrder(),
                "window_first": False,
            },
            "Sampler.order must be None",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(A, **parts)


def test_negative_entropy_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be at least 0, got -0\.1"):
        EntropyBoundReveal(gamma=-0.1)
