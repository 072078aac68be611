"""Figures of first lives, by hand."""

import numpy as np
import pytest

from remdm.evaluation.lives import FirstLives, lives_table

NAMES = ("wood", "stone")


def lives() -> FirstLives:
    return FirstLives(
        returns=np.array([0.0, 1.0, 1.0, 2.0], np.float32),
        steps=np.array([10, 20, 30, 40]),
        achievements=np.array([[0, 0], [1, 0], [1, 0], [1, 1]], bool),
        ended=np.array([True, True, True, False]),
    )


def test_summary_counts_all_lives_also_those_that_go_on() -> None:
    row = lives().summary(NAMES, max_return=2.0)
    assert (row["lives"], row["ended"], row["return"], row["length"]) == (4, 3, 1.0, 25.0)
    assert row["percent_of_max"] == pytest.approx(50.0)
    assert row["achievements"] == 1.0
    # Standard deviation sqrt(2 / 3), so the standard error is 0.408.
    assert row["ci_high"] - row["return"] == pytest.approx(1.959964 * 0.408248, abs=1e-4)
    # Unlock rates of 75 % and 25 %.
    assert row["crafter_score"] == pytest.approx((76 * 26) ** 0.5 - 1)
    assert row["unlock_rates"]["wood"]["rate"] == 0.75
    assert row["unlock_rates"]["stone"]["ci_low"] < 0.25 < row["unlock_rates"]["stone"]["ci_high"]


def test_one_life_has_no_spread_and_what_nobody_unlocked_is_not_in_the_table() -> None:
    alone = FirstLives(np.array([1.0]), np.array([5]), np.array([[True, False]]), np.array([True]))
    row = alone.summary(NAMES, max_return=2.0)
    assert row["ci_low"] == row["ci_high"] == 1.0
    table = lives_table({"chance": row}, "lives")
    shown = [str(cell) for column in table.columns for cell in column.cells]
    assert "wood" in shown
    assert "stone" not in shown
