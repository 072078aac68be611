"""Calls and combinations that a sampler refuses, and what it says."""

import pytest
import torch
from torch import Tensor

from remdm.diffusion.grids import LoopGrid, SwitchGrid, UniformTime
from remdm.diffusion.order import MarginOrder
from remdm.diffusion.presets import sampler_preset
from remdm.diffusion.remask import CapRemask, IndependentRemask
from remdm.diffusion.remask_counted import SwapRemask
from remdm.diffusion.reveal import (
    BernoulliReveal,
    CountReveal,
    EntropyBoundReveal,
    RedecideReveal,
    ThresholdReveal,
)
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.step import Step
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
        ({"reveal": ThresholdReveal(), "grid": LoopGrid()}, "Sampler.grid must be None, got Loop"),
        (
            {"reveal": CountReveal(), "grid": LoopGrid()},
            r"LoopGrid says when .* NoRemask never does: set Sampler\.remask = @RescaleRemask",
        ),
        ({"reveal": CountReveal(), "grid": SwitchGrid()}, "SwitchGrid says when"),
        (
            {
                "reveal": BernoulliReveal(),
                "grid": UniformTime(),
                "remask": SwapRemask(),
                "window_first": False,
            },
            r"which BernoulliReveal does not count: set Sampler\.reveal = @CountReveal",
        ),
        (
            {
                "reveal": RedecideReveal(),
                "grid": UniformTime(),
                "remask": CapRemask(),
                "window_first": False,
            },
            r"set Sampler\.remask = @FadingRemask\(\) or @NoRemask\(\), got CapRemask",
        ),
        (
            {
                "reveal": CountReveal(),
                "grid": UniformTime(num_steps=4),
                "remask": CapRemask(redraws=9.0),
            },
            r"CapRemask\.redraws must be at most .* on this grid of 4 steps",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(A, **parts)


def test_negative_entropy_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be at least 0, got -0\.1"):
        EntropyBoundReveal(gamma=-0.1)


def test_more_steps_than_tokens_are_refused_where_steps_would_be_idle() -> None:
    count = Sampler(A, reveal=CountReveal(), grid=UniformTime(num_steps=9))
    with pytest.raises(ValueError, match=r"1 of 9 net calls .* UniformTime\.num_steps = 8"):
        count.sample(RandomModel(4), 4, 8, generator())
    assert (count.sample(RandomModel(4), 4, 9, generator()).nfe <= 9).all()
    # With remasking, or where chance decides, a step beyond the horizon can do something.
    for name in ("swap", "paper_mdlm", "readme_minihack"):
        sampler_preset(name, A, num_denoise_steps=12).sample(RandomModel(4), 4, 8, generator())


class Unlimited(IndependentRemask):
    """A user's rule that forgets the bound."""

    def sigma(self, step: Step) -> float:
        return 0.9

    def unmask(self, step: Step, sigma: Tensor | float) -> float:
        return CapRemask().unmask(step, sigma)


def test_a_rule_whose_sigma_is_above_its_bound_is_refused_when_it_samples() -> None:
    sampler = Sampler(
        A,
        reveal=BernoulliReveal(),
        remask=Unlimited(),
        grid=UniformTime(num_steps=8),
        window_first=False,
    )
    # From alpha 4/8 to 5/8 at most 3/4 may be masked again.
    with pytest.raises(ValueError, match=r"sigma must be in \[0, 0\.75\] .* got 0\.9"):
        sampler.sample(RandomModel(4), 4, 8, generator())
