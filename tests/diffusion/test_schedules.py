"""Schedules against autograd and closed forms (method table, tests 1 and 35)."""

import math

import gin
import pytest
import torch

from remdm.diffusion.schedules import (
    SCHEDULES,
    CosineSchedule,
    LinearSchedule,
    LogLinearSchedule,
    NoiseSchedule,
    PolynomialSchedule,
    make_schedule,
)

MADE = {name: make_schedule(name) for name in SCHEDULES.names()} | {
    "polynomial of 1/2": PolynomialSchedule(power=0.5),
    "polynomial of 3.5": PolynomialSchedule(power=3.5),
    "log-linear of MDLM": LogLinearSchedule(eps=1e-3),
}


@pytest.fixture(params=MADE)
def schedule(request: pytest.FixtureRequest) -> NoiseSchedule:
    return MADE[request.param]


def times(count: int = 401) -> torch.Tensor:
    return torch.linspace(0.0, 1.0, count, dtype=torch.float64)


def test_the_names_are_those_of_the_literature() -> None:
    assert SCHEDULES.names() == ["cosine", "cosine_sq", "linear", "log_linear", "polynomial"]


def test_alpha_falls_from_one_to_zero(schedule: NoiseSchedule) -> None:
    alpha = schedule.alpha(times())
    left = schedule.eps if isinstance(schedule, LogLinearSchedule) else 0.0
    assert abs(float(alpha[0]) - 1) <= 1e-12
    assert abs(float(alpha[-1]) - left) <= 1e-12
    assert (alpha.diff() < 0).all()


def test_alpha_and_mask_rate_add_up_to_one(schedule: NoiseSchedule) -> None:
    total = schedule.alpha(times()) + schedule.mask_rate(times())
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


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


def test_inverse_of_alpha_is_sharp_where_next_to_nothing_is_visible() -> None:
    # By way of the rate 1 - alpha, cosine_sq would be off by 1e-8 here.
    time = 1 - torch.tensor([1e-4, 1e-6, 1e-8], dtype=torch.float64)
    for noise in MADE.values():
        torch.testing.assert_close(noise.inv_alpha(noise.alpha(time)), time, rtol=0, atol=1e-12)


def test_weight_is_minus_dalpha_over_mask_rate(schedule: NoiseSchedule) -> None:
    time = times()[1:]
    weight = schedule.weight(time)
    torch.testing.assert_close(schedule.floored_weight(time, 0.0), weight, rtol=1e-12, atol=1e-12)
    time, weight = time[40:], weight[40:]  # before, `1 - alpha` is the less precise one
    expected = -schedule.dalpha(time) / (1 - schedule.alpha(time))
    torch.testing.assert_close(weight, expected, rtol=1e-9, atol=1e-12)


def test_nothing_cancels_in_float32_at_either_end(schedule: NoiseSchedule) -> None:
    near_zero = torch.tensor(1e-3)
    near_one = torch.tensor(0.999)
    for method, time in (
        (schedule.mask_rate, near_zero),
        (schedule.weight, near_zero),
        (schedule.alpha, near_one),
        (schedule.dalpha, near_one),
        (schedule.weight, near_one),
    ):
        torch.testing.assert_close(method(time).double(), method(time.double()), rtol=1e-6, atol=0)
    exact = torch.tensor(1e-3, dtype=torch.float64)
    rate = schedule.mask_rate(exact)
    torch.testing.assert_close(
        schedule.inv_mask_rate(rate.float()).double(), exact, rtol=1e-6, atol=0
    )


def test_signs_hold_at_the_ends_in_float32(schedule: NoiseSchedule) -> None:
    ends = torch.tensor([0.0, 1.0])
    assert (schedule.alpha(ends) >= 0).all()
    assert (schedule.mask_rate(ends) >= 0).all()
    assert (schedule.dalpha(ends) <= 0).all()
    weight = schedule.weight(ends)
    assert weight[0] == math.inf
    assert 0 <= weight[1] < math.inf


@pytest.mark.parametrize(
    ("name", "order"),
    [("linear", 1), ("cosine", 2), ("cosine_sq", 2), ("polynomial", 2), ("log_linear", 1)],
)
def test_weight_grows_as_the_order_of_the_schedule_over_t(name: str, order: int) -> None:
    # The second half of test 35: without a floor the cosine's weight goes as 2 / t.
    time = torch.tensor(1e-5, dtype=torch.float64)
    assert math.isclose(float(make_schedule(name).weight(time) * time), order, rel_tol=1e-6)


def test_floor_of_the_seed_caps_the_cosine_weight_before_its_clip_does() -> None:
    # Method table, test 35: (pi / 2) sin(pi t / 2) / 1e-5 where 1 - alpha reaches 1e-5.
    time = torch.logspace(-5, 0, 200_001, dtype=torch.float64)
    cosine = CosineSchedule()
    assert float(cosine.floored_weight(time, 1e-5).max()) == pytest.approx(702.5, abs=1)
    assert float(cosine.weight(time).max()) == pytest.approx(2e5, rel=1e-6)
    assert float(LinearSchedule().floored_weight(time, 1e-5).max()) == pytest.approx(1e5, rel=1e-6)


def test_powers_and_eps_of_nothing_are_the_linear_schedule() -> None:
    for noise in (PolynomialSchedule(power=1.0), LogLinearSchedule()):
        for method in ("alpha", "dalpha", "mask_rate", "inv_mask_rate", "inv_alpha"):
            expected = getattr(LinearSchedule(), method)(times())
            torch.testing.assert_close(getattr(noise, method)(times()), expected, rtol=0, atol=1e-9)


def test_rates_that_log_linear_never_reaches_are_at_time_one() -> None:
    rates = torch.tensor([0.9995, 1.0], dtype=torch.float64)
    assert LogLinearSchedule(eps=1e-3).inv_mask_rate(rates).tolist() == [1.0, 1.0]


def test_names_take_their_knobs_from_gin() -> None:
    gin.bind_parameter("PolynomialSchedule.power", 3.0)
    rate = make_schedule("polynomial").mask_rate(torch.tensor(0.5))
    assert float(rate) == 0.125


def test_unknown_schedule_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="'cosine'"):
        make_schedule("cosin")


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (PolynomialSchedule, {"power": 0.0}, "PolynomialSchedule.power must be finite and above 0"),
        (PolynomialSchedule, {"power": math.inf}, "got inf"),
        (LogLinearSchedule, {"eps": 1.0}, r"LogLinearSchedule.eps must be in \[0, 1\), got 1.0"),
        (LogLinearSchedule, {"eps": -0.1}, "got -0.1"),
    ],
)
def test_bad_settings_are_refused(kind: type, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
