"""Schedules against autograd and closed forms (method table, tests 1 and 35)."""

import math

import pytest
import torch

from remdm.diffusion.grids import UniformAlpha, UniformTime
from remdm.diffusion.schedules import SCHEDULES, NoiseSchedule, make_schedule

NAMES = SCHEDULES.names()


@pytest.fixture(params=NAMES)
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return make_schedule(request.param)


def times(count: int = 401) -> torch.Tensor:
    return torch.linspace(0.0, 1.0, count, dtype=torch.float64)


def test_alpha_falls_from_one_to_zero(schedule: NoiseSchedule) -> None:
    alpha = schedule.alpha(times())
    assert abs(float(alpha[0]) - 1) <= 1e-12
    assert abs(float(alpha[-1])) <= 1e-12
    assert (alpha.diff() < 0).all()


def test_dalpha_is_the_derivative_of_alpha(schedule: NoiseSchedule) -> None:
    time = times()[1:-1].requires_grad_()
    (gradient,) = torch.autograd.grad(schedule.alpha(time).sum(), time)
    torch.testing.assert_close(schedule.dalpha(time), gradient, rtol=0, atol=1e-10)


def test_inverses_give_the_time_back(schedule: NoiseSchedule) -> None:
    time = times()[1:]
    torch.testing.assert_close(schedule.inv_alpha(schedule.alpha(time)), time, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        schedule.inv_mask_rate(schedule.mask_rate(time)), time, rtol=0, atol=1e-9
    )


def test_weight_is_minus_dalpha_over_mask_rate(schedule: NoiseSchedule) -> None:
    time = times()[1:]
    expected = -schedule.dalpha(time) / (1 - schedule.alpha(time))
    torch.testing.assert_close(schedule.weight(time), expected, rtol=1e-9, atol=1e-12)


def test_nothing_cancels_in_float32_near_time_zero(schedule: NoiseSchedule) -> None:
    exact = torch.tensor(1e-3, dtype=torch.float64)
    for method in (schedule.mask_rate, schedule.weight):
        torch.testing.assert_close(method(exact.float()).double(), method(exact), rtol=1e-6, atol=0)
    rate = schedule.mask_rate(exact)
    torch.testing.assert_close(
        schedule.inv_mask_rate(rate.float()).double(), exact, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(("name", "order"), [("linear", 1), ("cosine", 2), ("cosine_sq", 2)])
def test_weight_grows_as_the_order_of_the_schedule_over_t(name: str, order: int) -> None:
    time = torch.tensor(1e-5, dtype=torch.float64)
    assert math.isclose(float(make_schedule(name).weight(time) * time), order, rel_tol=1e-6)


def test_grids_run_from_all_masked_to_their_end(schedule: NoiseSchedule) -> None:
    by_time = UniformTime(num_steps=7).times(schedule)
    by_alpha = UniformAlpha(num_steps=7).times(schedule)
    assert by_time.diff().allclose(torch.full((7,), -1 / 7, dtype=torch.float64))
    alphas = schedule.alpha(by_alpha)
    assert alphas.diff().allclose(torch.full((7,), 1 / 7, dtype=torch.float64))
    for grid in (by_time, by_alpha):
        assert float(grid[0]) == pytest.approx(1, abs=1e-12)
        assert float(schedule.alpha(grid[-1])) == 1.0


def test_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'cosine'"):
        make_schedule("cosin")


@pytest.mark.parametrize("grid", [UniformTime, UniformAlpha])
def test_a_grid_without_steps_is_refused(grid: type) -> None:
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        grid(num_steps=0)
