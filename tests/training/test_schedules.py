"""Numbers that follow the updates: ends, middles, and what is refused."""

import pytest

from remdm.training.schedules import ExponentialRamp, LinearRamp, PiecewiseRamp, Schedule


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (LinearRamp(first=1.0, last=0.0, until=10), {0: 1.0, 5: 0.5, 10: 0.0, 99: 0.0}),
        (LinearRamp(first=0.0, last=2.0, start=4, until=8), {0: 0.0, 4: 0.0, 6: 1.0, 8: 2.0}),
        (ExponentialRamp(first=1.0, last=0.01, until=10), {0: 1.0, 5: 0.1, 10: 0.01, 11: 0.01}),
        (
            PiecewiseRamp(points=[(2, 1.0), (4, 3.0), (8, 1.0)]),
            {0: 1.0, 2: 1.0, 3: 2.0, 4: 3.0, 6: 2.0, 8: 1.0, 50: 1.0},
        ),
        (PiecewiseRamp(points=[(3, 0.5)]), {0: 0.5, 3: 0.5, 4: 0.5}),
    ],
)
def test_values_at_and_between_what_is_given(schedule: Schedule, values: dict[int, float]) -> None:
    for update in reversed(values):  # in any order: nothing is remembered
        assert schedule(update) == pytest.approx(values[update])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LinearRamp(first=0, last=1, until=0), r"set LinearRamp\.start"),
        (lambda: LinearRamp(first=0, last=1, start=5, until=5), "needs 0 <= start < until"),
        (lambda: ExponentialRamp(first=1, last=0, until=5), r"ExponentialRamp\.first"),
        (lambda: PiecewiseRamp(points=[]), r"set PiecewiseRamp\.points"),
        (lambda: PiecewiseRamp(points=[(4, 1.0), (4, 2.0)]), "rising updates"),
    ],
)
def test_a_ramp_that_makes_no_sense_is_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
