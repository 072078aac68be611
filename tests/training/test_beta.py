import gin
import numpy as np
import pytest

from remdm.training.beta import BetaSchedule, ExponentialBeta, LinearBeta


def test_linear_beta_falls_in_a_straight_line_and_stays():
    beta = LinearBeta(first=0.8, last=0.2, until=0.5)
    values = [beta(p) for p in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)]
    assert values == pytest.approx([0.8, 0.65, 0.5, 0.2, 0.2, 0.2])


def test_linear_beta_until_zero_is_constant():
    beta = LinearBeta(first=1.0, last=0.3, until=0.0)
    assert [beta(p) for p in (0.0, 0.5, 1.0)] == [0.3] * 3


def test_exponential_beta_shrinks_by_its_decay_with_every_percent():
    beta = ExponentialBeta(first=0.9, decay=0.95)
    values = [beta(percent / 100) for percent in range(4)]
    assert values == pytest.approx([0.9, 0.9 * 0.95, 0.9 * 0.95**2, 0.9 * 0.95**3])


@pytest.mark.parametrize("schedule", [LinearBeta(), ExponentialBeta()])
def test_by_default_the_oracle_acts_less_and_less(schedule):
    assert isinstance(schedule, BetaSchedule)
    values = [schedule(p) for p in np.linspace(0, 1, 101)]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.001


@pytest.mark.parametrize(
    ("schedule", "name"),
    [(LinearBeta, n) for n in ("first", "last", "until")]
    + [(ExponentialBeta, n) for n in ("first", "decay")],
)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_value_out_of_range_is_refused_by_its_gin_name(schedule, name, value):
    with pytest.raises(ValueError, match=rf"got {value}; set {schedule.__name__}\.{name}"):
        schedule(**{name: value})


def test_schedules_are_bound_in_gin():
    gin.parse_config("LinearBeta.first = 0.75\nExponentialBeta.decay = 0.5")
    assert LinearBeta()(0.0) == 0.75
    assert ExponentialBeta()(0.01) == 0.5
