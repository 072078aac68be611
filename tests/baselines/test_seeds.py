"""Several seeds in one table."""

import pytest

from remdm.baselines.seeds import document, pooled, spread
from remdm.evaluation.rollout import EvalRow
from remdm.evaluation.statistics import Rate


def row(env: str, wins: int, episodes: int, steps: float | None) -> EvalRow:
    rate = Rate.of(wins, episodes)
    return EvalRow(
        env, episodes, wins, rate.rate, rate.low, rate.high, steps, "ppo", 20.0, 5.0, 1.0, 0
    )  # fmt: skip


BY_SEED = {
    0: [row("a", 2, 10, 4.0), row("b", 0, 10, None)],
    3: [row("a", 6, 10, 8.0), row("b", 10, 10, 2.0)],
}


def test_episodes_of_all_seeds_are_counted_together() -> None:
    a, b = pooled(BY_SEED)
    assert (a.env, a.wins, a.episodes, a.win_rate) == ("a", 8, 20, 0.4)
    assert a.mean_steps_won == pytest.approx((2 * 4 + 6 * 8) / 8)
    assert (a.ci_low, a.ci_high) == (Rate.of(8, 20).low, Rate.of(8, 20).high)
    assert (b.wins, b.mean_steps_won) == (10, 2.0)
    assert a.nfe_per_step == pytest.approx(5 / 20)


def test_seeds_are_compared_by_their_means() -> None:
    (line,) = spread(BY_SEED, {"training": ["a", "b"]})
    assert line["seeds"] == {"0": pytest.approx(0.1), "3": pytest.approx(0.8)}
    assert line["mean"] == pytest.approx(0.45)
    assert line["std"] == pytest.approx(0.7 / 2**0.5)
    (alone,) = spread({0: BY_SEED[0]}, {"training": ["a", "b"]})
    assert alone["std"] is None


def test_the_document_has_the_rows_of_every_seed() -> None:
    found = document(BY_SEED, {"training": ["a", "b"]}, {"algorithm": "ppo"})
    assert found["seeds"] == [0, 3]
    assert found["algorithm"] == "ppo"
    assert [r["wins"] for r in found["per_seed"]["3"]["rows"]] == [6, 10]
    assert [r["wins"] for r in found["rows"]] == [8, 10]
