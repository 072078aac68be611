"""Steps of the grids (method 1.4 and test 22 of its table)."""

import itertools

import pytest
import torch

from remdm.diffusion.decode import Decoder
from remdm.diffusion.grids import LoopGrid, SwitchGrid, UniformAlpha, UniformTime
from remdm.diffusion.order import RandomOrder
from remdm.diffusion.remask import CapRemask, unmask_probability
from remdm.diffusion.reveal import BernoulliReveal, CountReveal
from remdm.diffusion.sampler import Sampler
from remdm.diffusion.schedules import LinearSchedule, make_schedule
from remdm.tokens import mask_token
from tests.diffusion.test_sampler import A, RandomModel, generator

CRAFTAX = {"t_on": 0.7, "t_off": 0.3, "alpha_on": None, "continuous": False}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "cosine_sq"])
@pytest.mark.parametrize(
    "grid",
    [UniformTime(num_steps=7), UniformAlpha(num_steps=7), SwitchGrid(num_steps=7), LoopGrid()],
    ids=lambda g: type(g).__name__,
)
def test_steps_join_and_lead_from_all_masked_to_none(grid: UniformTime, schedule: str) -> None:
    noise = make_schedule(schedule)
    steps = grid.steps(noise)
    assert len(steps) == grid.num_steps
    assert steps[0].alpha_t == pytest.approx(0, abs=1e-12)
    assert steps[-1].alpha_s == pytest.approx(1, abs=1e-12)
    for before, after in itertools.pairwise(steps):
        assert before.alpha_s == pytest.approx(after.alpha_t, abs=1e-12)
        assert before.end == pytest.approx(after.start, abs=1e-12)
        assert after.alpha_s >= after.alpha_t
    for step in steps:
        told = noise.alpha(torch.tensor(step.start, dtype=torch.float64))
        assert float(told) == pytest.approx(step.alpha_t, abs=1e-9)


def test_even_steps_in_time_and_in_alpha() -> None:
    noise = make_schedule("cosine")
    times = [step.start for step in UniformTime(num_steps=4).steps(noise)]
    assert times == pytest.approx([1.0, 0.75, 0.5, 0.25])
    alphas = [step.alpha_s for step in UniformAlpha(num_steps=4).steps(noise)]
    assert alphas == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert UniformTime(num_steps=3, end_time=0.1).steps(noise)[-1].end == pytest.approx(0.1)


def test_a_switch_remasks_only_from_its_time_on() -> None:
    steps = SwitchGrid(num_steps=5, t_switch=0.6).steps(LinearSchedule())
    assert [step.remasks for step in steps] == [False, False, True, True, True]
    assert not any(s.remasks for s in SwitchGrid(num_steps=2, t_switch=0.3).steps(LinearSchedule()))


@pytest.mark.parametrize(
    ("steps", "phases"),
    [
        (5, (2, 1, 2)),
        (10, (3, 4, 3)),
        (15, (5, 6, 4)),
        (25, (8, 9, 8)),
        (50, (15, 20, 15)),
        (1, (1, 1, 1)),
    ],
)
def test_phases_of_the_seed_loop(steps: int, phases: tuple[int, int, int]) -> None:
    grid = LoopGrid(num_steps=steps, **CRAFTAX)
    assert grid.phases == phases
    assert [s.remasks for s in grid.steps(make_schedule("cosine"))] == [False] * phases[0] + [
        True
    ] * phases[1] + [False] * phases[2]


def test_the_seed_loop_jumps_to_a_share_that_it_does_not_have() -> None:
    # Method 1.4: masks of 32 before each step of phase 3, in truth and as the schedule says.
    steps = LoopGrid(num_steps=10, **CRAFTAX).steps(make_schedule("cosine"))
    assert steps[3].alpha_t == steps[3].alpha_s == pytest.approx(0.454, abs=5e-4)
    assert steps[3].start == steps[6].end == 0.7
    assert steps[7].alpha_t == pytest.approx(0.891, abs=5e-4)
    masked, present, nominal = 1 - steps[3].alpha_t, [], []
    for step in steps[7:]:
        present.append(32 * masked)
        nominal.append(32 * (1 - step.alpha_t))
        masked *= 1 - unmask_probability(step.alpha_t, step.alpha_s, 0.0)
    assert present == pytest.approx([17.5, 7.8, 2.0], abs=0.06)
    assert nominal == pytest.approx([3.5, 1.6, 0.4], abs=0.06)
    assert masked == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("alpha_on", "sigma"), [(0.9, 0.02), (0.5, 0.5), (0.9, 1 / 9)])
def test_a_loop_is_stationary_and_ends_without_masks(alpha_on: float, sigma: float) -> None:
    # Method table, test 22: p_u (1 - alpha_on) = sigma alpha_on.
    unmask = unmask_probability(alpha_on, alpha_on, sigma)
    assert abs(unmask * (1 - alpha_on) - sigma * alpha_on) <= 1e-12
    grid = LoopGrid(num_steps=20, alpha_on=alpha_on)
    visible = 0.0
    for number, step in enumerate(grid.steps(make_schedule("cosine"))):
        here = sigma if step.remasks else 0.0
        reveal = unmask_probability(step.alpha_t, step.alpha_s, here)
        visible = visible * (1 - here) + (1 - visible) * reveal
        if step.remasks:
            assert abs(visible - alpha_on) <= 1e-12, number
    assert abs(visible - 1) <= 1e-12


@pytest.mark.parametrize("reveal", [BernoulliReveal(), CountReveal()])
def test_a_sampled_loop_keeps_its_share_of_masks(reveal: CountReveal) -> None:
    # Method table, test 22, on samples of a uniform model.
    grid = LoopGrid(num_steps=12, t_on=0.6, t_off=0.2, alpha_on=0.75)
    sampler = Sampler(
        A,
        grid=grid,
        reveal=reveal,
        order=RandomOrder() if reveal.needs_order else None,
        remask=CapRemask(eta=0.2),
        decoder=Decoder(),
        window_first=False,
    )
    sample = sampler.sample(
        lambda z, t, r: torch.zeros(*z.shape, A + 1), 800, 40, generator(), allow_end=False,
        trace=True,
    )  # fmt: skip
    first, second, _ = grid.phases
    left = (sample.trace[first + second - 1].tokens == mask_token(A)).sum(-1).double()
    if reveal.counts:
        # Exact unless more tokens were remasked than there were masked ones to reveal instead.
        assert float(left.min()) == 10
        assert float((left == 10).double().mean()) > 0.95
    else:
        # Four standard errors: fails by chance once in 16 000 seeds, and the seed is fixed.
        assert abs(float(left.mean()) - 10) <= 4 * float(left.std()) / 800**0.5
    remasked = torch.stack([t.remasked for t in sample.trace]).any(-1).any(-1)
    assert remasked.tolist() == [s.remasks for s in grid.steps(LinearSchedule())]
    assert (sample.tokens != mask_token(A)).all()


def test_a_net_is_told_the_time_that_goes_with_the_share_in_a_loop() -> None:
    model = RandomModel(1)
    Sampler(
        A,
        grid=LoopGrid(num_steps=6, t_on=0.5, t_off=0.2, alpha_on=0.8),
        reveal=CountReveal(),
        remask=CapRemask(eta=0.1),
        time_input="start",
    ).sample(model, 1, 10, generator())
    assert [float(t) for t in model.times][:5] == pytest.approx([1, 11 / 15, 7 / 15, 0.2, 0.2])


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (UniformTime, {"num_steps": 0}, "UniformTime.num_steps must be at least 1, got 0"),
        (UniformAlpha, {"num_steps": 0}, "UniformAlpha.num_steps"),
        (SwitchGrid, {"num_steps": 0}, "SwitchGrid.num_steps"),
        (LoopGrid, {"num_steps": 0}, "LoopGrid.num_steps"),
        (UniformTime, {"end_time": 1.0}, "UniformTime.end_time"),
        (SwitchGrid, {"end_time": -0.1}, "SwitchGrid.end_time"),
        (SwitchGrid, {"t_switch": 0.0}, r"SwitchGrid.t_switch must be in \(0, 1\], got 0.0"),
        (LoopGrid, {"t_on": 0.1, "t_off": 0.2}, "t_off=0.2 and t_on=0.1"),
        (LoopGrid, {"alpha_on": 1.0}, r"LoopGrid.alpha_on must be in \(0, 1\) or None"),
        (LoopGrid, {"alpha_on": 0.9, "continuous": False}, "LoopGrid.alpha_on must be None"),
    ],
)
def test_grids_out_of_range_are_refused(kind: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
