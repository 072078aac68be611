"""Histories in observations, against a slow list of what happened."""

import copy
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from remdm.envs.history import HistoryVecEnv
from tests.envs.probe import DOORS, END, MASK, NUM_ACTIONS, make

ROWS = 4


@pytest.fixture
def doors() -> Iterator:
    """Rows in which some actions ask for a direction; episodes of 14 steps."""
    with closing(make([DOORS] * ROWS, "sync", max_episode_steps=14)) as envs:
        yield envs


class Diary:
    """What each row has seen and done since its episode began, as lists."""

    def __init__(self, envs: HistoryVecEnv) -> None:
        self.envs = envs
        self.lives: list[list[tuple[dict[str, np.ndarray], int]]] = [[] for _ in range(ROWS)]

    def expected(self, row: int) -> dict[str, np.ndarray]:
        empty = {k: np.zeros_like(v) for k, v in self.first.items()}
        padded = [(empty, MASK)] * self.envs.history + self.lives[row]
        last = padded[len(padded) - self.envs.history :]
        told = {f"history/{k}": np.stack([seen[k] for seen, _ in last]) for k in self.envs.keys}
        return told | {"history/actions": np.array([action for _, action in last])}

    def check(self, row: int, seen: dict[str, np.ndarray]) -> None:
        """`seen` is one observation of `row`."""
        self.first = {k: seen[k] for k in self.envs.keys}
        for name, wanted in self.expected(row).items():
            np.testing.assert_array_equal(seen[name], wanted, err_msg=name)

    def follow(self, chunk) -> None:
        for row in range(ROWS):
            for slot in range(chunk.lengths[row]):
                seen = {k: v[row, slot] for k, v in chunk.observations.items()}
                self.check(row, seen)
                kept = {k: seen[k].copy() for k in self.envs.keys}
                self.lives[row].append((kept, int(chunk.actions[row, slot])))
            self.check(row, {k: v[row] for k, v in chunk.final_observations.items()})


@pytest.mark.parametrize("stop_when_blocked", [False, True])
@pytest.mark.parametrize("history", [1, 3, 9])
def test_observations_hold_the_last_steps_of_their_episode(doors, history, stop_when_blocked):
    envs, rng = HistoryVecEnv(doors, history), np.random.default_rng(history)
    diary, lengths, ended = Diary(envs), set(), 0
    seen = envs.reset(list(range(ROWS)))
    for _ in range(30):
        for row in range(ROWS):
            diary.check(row, {k: v[row] for k, v in seen.items()})
        plans = rng.integers(NUM_ACTIONS + 2, size=(ROWS, 8))
        num_steps = int(rng.integers(1, 8))
        chunk = envs.execute(plans, num_steps, stop_when_blocked=stop_when_blocked)
        diary.follow(chunk)
        lengths |= set(chunk.lengths.tolist())
        over = np.flatnonzero(chunk.done).tolist()
        ended += len(over)
        for row in over:
            diary.lives[row] = []
        seen = envs.reset(rng.integers(1000, size=len(over)).tolist(), over)
    assert ended > 5
    assert 0 in lengths
    assert max(lengths) > 3


def test_the_rest_of_a_chunk_is_that_of_the_wrapped_set(doors):
    with closing(make([DOORS] * ROWS, "sync", max_episode_steps=14)) as plain:
        envs = HistoryVecEnv(doors, 2)
        plans = np.random.default_rng(0).integers(NUM_ACTIONS, size=(ROWS, 9))
        first, second = plain.reset([1, 2, 3, 4]), envs.reset([1, 2, 3, 4])
        mine, other = envs.execute(plans, 8), plain.execute(plans, 8)
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
            np.testing.assert_array_equal(mine.observations[name], other.observations[name])
        for name in ("actions", "rewards", "terminated", "truncated", "valid", "won", "blocked"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(other, name))


def test_arrays_are_as_the_spec_says(doors):
    envs = HistoryVecEnv(doors, 5)
    assert envs.observation_spec.keys() == {
        *doors.observation_spec,
        *(f"history/{name}" for name in doors.observation_spec),
        "history/actions",
    }
    assert envs.observation_spec["history/actions"].dtype == np.int8
    seen = envs.reset([1, 2, 3, 4])
    chunk = envs.execute(np.zeros((ROWS, 3), np.int64), 3)
    for name, spec in envs.observation_spec.items():
        for array, leading in (
            (seen[name], (ROWS,)),
            (chunk.observations[name], (ROWS, 4)),
            (chunk.final_observations[name], (ROWS,)),
        ):
            assert array.shape == (*leading, *spec.shape)
            assert array.dtype == spec.dtype


def test_rows_that_run_nothing_keep_their_history(doors):
    envs = HistoryVecEnv(doors, 3)
    envs.reset([1, 2], [0, 1])
    plans = np.zeros((ROWS, 4), np.int64)
    before = copy.deepcopy(envs.execute(plans, 4).final_observations)
    plans[0] = END
    after = envs.execute(plans, 1).final_observations
    for name, array in after.items():
        np.testing.assert_array_equal(array[[0, 2, 3]], before[name][[0, 2, 3]])
    assert before["history/actions"].tolist()[2:] == [[MASK] * 3] * 2  # never started
    assert not before["history/terrain"][2:].any()
    assert before["history/terrain"][:2].any()


def test_a_reset_of_all_rows_forgets_everything(doors):
    envs = HistoryVecEnv(doors, 3)
    envs.reset([1, 2, 3, 4])
    envs.execute(np.zeros((ROWS, 4), np.int64), 4)
    seen = envs.reset([5, 6, 7, 8])
    assert (seen["history/actions"] == MASK).all()
    assert not any(seen[f"history/{key}"].any() for key in envs.keys)


@pytest.mark.parametrize("keys", [("position",), (), ("step", "terrain")])
def test_only_the_wanted_arrays_are_remembered(doors, keys):
    envs = HistoryVecEnv(doors, 2, keys=keys)
    names = {f"history/{key}" for key in keys} | {"history/actions"}
    assert set(envs.observation_spec) == {*doors.observation_spec, *names}
    assert set(envs.reset([1, 2, 3, 4])) == set(envs.observation_spec)


def test_what_the_wrapped_set_offers_besides_is_there(doors):
    doors.worlds, doors.observations, doors.game = "here", doors.reset([1, 2, 3, 4]), "rooms"
    envs = HistoryVecEnv(doors, 2)
    assert (envs.game, envs.worlds) == ("rooms", "here")
    assert envs.achievements.shape == (ROWS, 0)
    assert set(envs.observations) == set(envs.observation_spec)
    with pytest.raises(AttributeError, match="no attribute 'gaem'"):
        _ = envs.gaem
    with pytest.raises(AttributeError, match="worlds"):
        envs.worlds = "elsewhere"


def test_histories_that_make_no_sense_are_refused(doors):
    with pytest.raises(ValueError, match="at least 1 step"):
        HistoryVecEnv(doors, 0)
    with pytest.raises(ValueError, match=r"unknown arrays \['glyph'\]"):
        HistoryVecEnv(doors, 1, keys=["glyph"])
    with pytest.raises(ValueError, match="Wrap a set only once"):
        HistoryVecEnv(HistoryVecEnv(doors, 1), 1)


@pytest.mark.craftax
def test_craftax_worlds_have_histories_too():
    pytest.importorskip("craftax")
    from remdm.envs.craftax.game import CLASSIC

    with closing(make([CLASSIC] * 8, "sync")) as inner:
        envs = HistoryVecEnv(inner, 3)
        envs.reset(list(range(8)))
        first = envs.execute(np.random.default_rng(0).integers(17, size=(8, 8)), 8)
        second = envs.execute(np.random.default_rng(1).integers(17, size=(8, 8)), 8)
        steps = first.lengths[0]
        assert steps == 8
        for name in inner.observation_spec:
            told = second.observations[f"history/{name}"]
            np.testing.assert_array_equal(told[0, 0], first.observations[name][0, 5:8])
            np.testing.assert_array_equal(told[0, 3], second.observations[name][0, :3])
        np.testing.assert_array_equal(
            second.observations["history/actions"][:, 1],
            np.concatenate([first.actions[:, 6:8], second.actions[:, :1]], 1),
        )
        assert envs.achievements.shape == (8, 22)
        assert len(envs.worlds) == 8
        for name, array in envs.observations.items():
            np.testing.assert_array_equal(array, second.final_observations[name])
