"""Values as numbers of bins, against exact fractions."""

from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest

from remdm.envs.contract import EnvError, PlannerEnv, PlanVecEnv, StepResult
from remdm.envs.discrete_tokens import DiscreteTokensVecEnv
from remdm.envs.history import HistoryVecEnv
from remdm.envs.sync import SyncPlanVecEnv
from remdm.maps import ArraySpec

LOW, HIGH, BINS = 1.0, 5.0, 8  # differences of floats are exact between them
# Each edge of a bin and its neighbours, both limits, and what is beyond them.
EDGES = np.linspace(LOW, HIGH, BINS + 1).astype(np.float32)
VALUES = np.concatenate(
    [
        EDGES,
        np.nextafter(EDGES, np.float32(9)),
        np.nextafter(EDGES, np.float32(-9)),
        np.array([-3e38, 3e38, -np.inf, np.inf, 0.0], np.float32),
    ]
)


class Scales(PlannerEnv):
    """Shows the values one after another, beginning with the level's number, and their halves."""

    name, num_actions, action_names, max_episode_steps = "Scales", 2, ("ON", "OFF"), 100

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        self.observation_spec = {
            "weights": ArraySpec((2,), np.dtype(np.float32)),
            "exact": ArraySpec((), np.dtype(np.float64)),
            "place": ArraySpec((), np.dtype(np.int16)),
        }

    def reset(self, seed: int) -> None:
        self.place = seed

    def step(self, action: int) -> StepResult:
        self.place += 1
        return StepResult(1.0, self.place == len(self.values) - 1, False, False, False)

    def observe(self, out: dict[str, np.ndarray]) -> None:
        value = self.values[self.place]
        out["weights"][:] = value, value / 2
        out["exact"][...], out["place"][...] = value, self.place


@pytest.fixture
def scales() -> Iterator[PlanVecEnv]:
    with closing(SyncPlanVecEnv([Scales(VALUES)] * 1)) as envs:
        yield envs


def bin_of(value: float) -> int:
    if not np.isfinite(value):
        return 0 if value < 0 else BINS - 1
    share = (Fraction(float(value)) - Fraction(LOW)) / (Fraction(HIGH) - Fraction(LOW))
    return min(max(int(share * BINS // 1), 0), BINS - 1)


def test_every_value_becomes_the_number_of_its_bin(scales):
    envs = DiscreteTokensVecEnv(scales, BINS, low=LOW, high=HIGH)
    assert envs.keys == ("weights", "exact")
    seen = envs.reset([0])
    wanted = np.array([[bin_of(v), bin_of(v / 2)] for v in VALUES], np.int32)
    assert seen["weights"].tolist() == [wanted[0].tolist()]
    chunk = envs.execute(np.zeros((1, 40), np.int64), 40)
    count = len(VALUES) - 1
    assert chunk.lengths.tolist() == [count]
    np.testing.assert_array_equal(chunk.observations["weights"][0, :count], wanted[:-1])
    np.testing.assert_array_equal(chunk.observations["exact"][0, :count], wanted[:-1, 0])
    np.testing.assert_array_equal(chunk.final_observations["weights"][0], wanted[-1])
    assert set(wanted[:, 0]) == set(range(BINS))


def test_arrays_are_as_the_spec_says_and_others_stay(scales):
    envs = DiscreteTokensVecEnv(scales, BINS, low=LOW, high=HIGH, keys=["weights"])
    seen = envs.reset([3])
    chunk = envs.execute(np.zeros((1, 2), np.int64), 2)
    for name, spec in envs.observation_spec.items():
        for array in (seen[name], chunk.observations[name], chunk.final_observations[name]):
            assert array.dtype == spec.dtype
        assert seen[name].shape == (1, *spec.shape)
        assert chunk.observations[name].shape == (1, 3, *spec.shape)
    assert envs.observation_spec["weights"] == ArraySpec((2,), np.dtype(np.int32))
    assert envs.observation_spec["exact"].dtype == np.float64
    assert chunk.observations["place"][0, :2].tolist() == [3, 4]
    assert chunk.rewards[0].tolist() == [1.0, 1.0, 0.0]


def test_one_bin_holds_everything(scales):
    envs = DiscreteTokensVecEnv(scales, 1)
    envs.reset([0])
    chunk = envs.execute(np.zeros((1, 40), np.int64), 40)
    assert not chunk.observations["weights"].any()


def test_tokens_can_have_a_history(scales):
    envs = HistoryVecEnv(DiscreteTokensVecEnv(scales, BINS, low=LOW, high=HIGH), 2)
    assert envs.observation_spec["history/weights"] == ArraySpec((2, 2), np.dtype(np.int32))
    envs.reset([4])
    chunk = envs.execute(np.ones((1, 3), np.int64), 3)
    told, tokens = chunk.observations["history/weights"], chunk.observations["weights"]
    np.testing.assert_array_equal(told[0, 2], tokens[0, :2])
    assert told[0, 0].tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="put the HistoryVecEnv around"):
        DiscreteTokensVecEnv(HistoryVecEnv(scales, 1), 4)


def test_a_value_that_is_no_number_is_refused():
    with closing(SyncPlanVecEnv([Scales(np.array([0.0, np.nan, 0.0], np.float32))])) as scales:
        envs = DiscreteTokensVecEnv(scales, 2)
        envs.reset([0])
        with pytest.raises(EnvError, match="'weights' of Scales holds NaN"):
            envs.execute(np.zeros((1, 1), np.int64), 1)


@pytest.mark.parametrize(
    ("knobs", "complaint"),
    [
        ({"n_bins": 0}, "n_bins=0 from 0"),
        ({"n_bins": 2, "low": 1.0}, "low < high"),
        ({"n_bins": 2, "high": float("inf")}, "finite limits"),
        ({"n_bins": 2, "low": float("nan")}, "finite limits"),
        ({"n_bins": 2, "keys": ["place"]}, r"got \['place'\]"),
        ({"n_bins": 2, "keys": []}, r"of which there are \['weights', 'exact'\]; got \[\]"),
    ],
)
def test_bins_that_make_no_sense_are_refused(scales, knobs, complaint):
    with pytest.raises(ValueError, match=complaint):
        DiscreteTokensVecEnv(scales, **knobs)
