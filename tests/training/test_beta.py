import gin
import numpy as np
import pytest

from remdm.training.beta import BetaSchedule, ExponentialBeta, LinearBeta, decay_between


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


@pytest.mark.parametrize(("first", "last"), [(1.0, 0.344), (0.8, 0.05), (0.2, 0.6), (1.0, 1.0)])
def test_exponential_beta_ends_at_its_last_value(first, last):
    beta = ExponentialBeta(first=first, last=last)
    assert beta(0.0) == first
    assert beta(1.0) == pytest.approx(last, rel=1e-15)
    assert beta(0.5) == pytest.approx((first * last) ** 0.5)
    assert beta.decay == pytest.approx((last / first) ** 0.01)


@pytest.mark.parametrize("epochs", [1, 7, 1000, 8138])
def test_decay_of_an_epoch_and_last_value_say_the_same(epochs):
    by_epoch = 0.9993
    beta = ExponentialBeta(first=0.9, last=0.9 * by_epoch**epochs)
    values = [beta(epoch / epochs) for epoch in range(epochs)]
    assert values == pytest.approx([0.9 * by_epoch**epoch for epoch in range(epochs)], rel=1e-9)
    assert decay_between(0.9, beta.last, epochs) == pytest.approx(by_epoch, rel=1e-12)


def test_a_decay_of_five_percent_an_epoch_can_be_stated_over_a_thousand_epochs():
    last = 0.95**1000
    assert ExponentialBeta(last=last)(0.01) == pytest.approx(0.95**10)
    assert ExponentialBeta(decay=0.95**10)(1.0) == pytest.approx(last)


def test_decay_and_last_value_together_are_refused():
    with pytest.raises(
        ValueError, match=r"last=0\.5 sets the decay.*ExponentialBeta\.decay = 0\.9"
    ):
        ExponentialBeta(last=0.5, decay=0.8)


@pytest.mark.parametrize(("first", "last"), [(0.0, 0.5), (1.0, 0.0)])
def test_no_decay_leads_from_or_to_nothing(first, last):
    with pytest.raises(ValueError, match=rf"must be above 0.*got {first} and {last}"):
        ExponentialBeta(first=first, last=last)


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
    + [(ExponentialBeta, n) for n in ("first", "decay", "last")],
)
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_value_out_of_range_is_refused_by_its_gin_name(schedule, name, value):
    with pytest.raises(ValueError, match=rf"got {value}; set {schedule.__name__}\.{name}"):
        schedule(**{name: value})


def test_schedules_are_bound_in_gin():
    gin.parse_config("LinearBeta.first = 0.75\nExponentialBeta.decay = 0.5")
    assert LinearBeta()(0.0) == 0.75
    assert ExponentialBeta()(0.01) == 0.5
