"""Which environment an episode is in: weights by enumeration, draws by a bound, states."""

import numpy as np
import pytest

from remdm.training.curriculum import WinRateCurriculum

ENVS = ("a", "b", "c")


def with_wins(wins: int, episodes: int = 100) -> WinRateCurriculum:
    """A curriculum that has seen so many episodes of "a", the lost ones first."""
    curriculum = WinRateCurriculum(ENVS)
    for number in range(episodes):
        curriculum.record("a", number >= episodes - wins)
    return curriculum


def expected(wins: int) -> float:
    if wins < 15:
        return 0.2
    return 1.0 if wins < 85 else 0.1


@pytest.mark.parametrize("wins", range(101))
def test_weight_follows_the_band_of_the_win_rate(wins: int) -> None:
    curriculum = with_wins(wins)
    assert curriculum.win_rates().tolist() == [wins / 100, 0.5, 0.5]
    assert curriculum.weights().tolist() == [expected(wins), 1.0, 1.0]


def test_all_knobs_say_where_the_bands_are_and_what_they_weigh() -> None:
    curriculum = WinRateCurriculum(
        ENVS, queue_size=4, low=0.5, high=0.75, low_weight=3.0, middle_weight=5.0, high_weight=7.0
    )
    weights = []
    for wins in range(5):
        for number in range(4):
            curriculum.record("b", number < wins)
        weights.append(curriculum.weights()[1])
    assert weights == [3.0, 3.0, 5.0, 7.0, 7.0]


def test_it_begins_as_if_half_had_been_won_and_forgets_those_first() -> None:
    curriculum = WinRateCurriculum(ENVS)
    assert curriculum.win_rates().tolist() == [0.5] * 3
    for lost in range(50):
        curriculum.record("a", False)
        assert curriculum.win_rates()[0] == (49 - lost) / 100
    for won in range(50):
        curriculum.record("a", True)
        assert curriculum.win_rates()[0] == (won + 1) / 100


def test_without_a_prior_the_first_episodes_count_alone() -> None:
    curriculum = WinRateCurriculum(ENVS, queue_size=3, preseed=False)
    rates = [curriculum.win_rates()[2]]
    for won in (True, False, True, True, False):
        curriculum.record("c", won)
        rates.append(curriculum.win_rates()[2])
    assert rates == [0.5, 1.0, 1 / 2, 2 / 3, 2 / 3, 2 / 3]


def test_metrics_are_the_win_rates() -> None:
    assert with_wins(85).metrics() == {
        "curriculum/a/win_rate": 0.85,
        "curriculum/b/win_rate": 0.5,
        "curriculum/c/win_rate": 0.5,
    }


def drawn(curriculum: WinRateCurriculum, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    names = [curriculum.draw(rng) for _ in range(count)]
    return np.array([names.count(env) for env in ENVS]) / count


@pytest.mark.parametrize("shares", [None, (0.5, 2.0, 8.0)])
def test_environments_are_drawn_by_weight_times_share(shares: tuple[float, ...] | None) -> None:
    curriculum = WinRateCurriculum(ENVS, shares)
    for _ in range(100):
        curriculum.record("a", False)
        curriculum.record("c", True)
    chances = np.array([0.2, 1.0, 0.1]) * np.array(shares or (1.0, 1.0, 1.0))
    chances /= chances.sum()
    count = 4000
    off = np.abs(drawn(curriculum, count) - chances)
    # Hoeffding: each of three shares is off by more with chance 2 exp(-2 n e^2) = 7e-9.
    assert (off < 0.05).all()


def test_a_restored_curriculum_goes_on_alike() -> None:
    first = with_wins(7, episodes=30)
    state = first.state()
    kept = state.copy()
    first.record("b", True)
    np.testing.assert_array_equal(state, kept)
    second = WinRateCurriculum(ENVS)
    second.restore(state)
    second.record("b", True)
    np.testing.assert_array_equal(first.state(), second.state())
    assert second.weights().tolist() == first.weights().tolist()


@pytest.mark.parametrize(
    "state",
    [np.zeros((3, 99), np.int8), np.zeros((3, 100), np.int64), np.full((3, 100), 2, np.int8)],
)
def test_a_state_of_another_kind_is_refused(state: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"int8 \[3, 100\].*WinRateCurriculum\.queue_size"):
        WinRateCurriculum(ENVS).restore(state)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"queue_size": 0}, "queue_size must be at least 1, got 0"),
        ({"low": 0.9}, r"0 <= low <= high <= 1, got low=0\.9 and high=0\.85"),
        ({"high": 1.1}, r"got low=0\.15 and high=1\.1"),
        ({"low_weight": 0.0}, r"low_weight must be above 0 and finite, got 0\.0"),
        ({"high_weight": float("nan")}, "high_weight must be above 0 and finite, got nan"),
    ],
)
def test_values_that_make_no_sense_are_refused(knobs: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=rf"{told}.*set WinRateCurriculum\."):
        WinRateCurriculum(ENVS, **knobs)  # type: ignore[arg-type]
