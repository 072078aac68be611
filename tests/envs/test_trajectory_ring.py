"""The ring against plain lists of everything that was ever appended."""

from contextlib import closing

import numpy as np
import pytest

from remdm.envs.trajectory_ring import TrajectoryRing, Transitions
from remdm.maps import ArraySpec
from tests.envs.probe import DOORS, NUM_ACTIONS, make

SPEC = {
    "place": ArraySpec((2,), np.dtype(np.int32)),  # (row, number of the transition)
    "clock": ArraySpec((), np.dtype(np.float32)),
}


def transitions(rows: np.ndarray, numbers: np.ndarray, done: np.ndarray) -> Transitions:
    """Every array is a function of row and number."""

    def seen(numbers):
        return {"place": np.stack([rows, numbers], 1), "clock": numbers / 4}

    return Transitions(seen(numbers), 10 * rows + numbers, numbers / 8, done, seen(numbers + 1))


class Kept:
    """What a ring should hold: for each row its transitions as (number, episode)."""

    def __init__(self, capacity: int, rows: int) -> None:
        self.ring = TrajectoryRing(capacity, rows, SPEC)
        self.capacity, self.rows = capacity, rows
        self.steps: list[list[tuple[int, int]]] = [[] for _ in range(rows)]
        self.episode = [0] * rows

    def fill(self, rng: np.random.Generator, calls: int) -> None:
        for _ in range(calls):
            rows = np.flatnonzero(rng.random(self.rows) < 0.7)
            done = rng.random(len(rows)) < 0.2
            numbers = np.array([len(self.steps[row]) for row in rows], np.int64)
            self.ring.append(transitions(rows, numbers, done), rows)
            for row, over in zip(rows.tolist(), done.tolist(), strict=True):
                self.steps[row].append((len(self.steps[row]), self.episode[row]))
                self.episode[row] += over
            if rng.random() < 0.1:
                self.ring.cut([1])
                self.episode[1] += 1

    def sequences(self, length: int) -> set[tuple[int, int]]:
        """Row and first number of all sequences there are."""
        found = set()
        for row, steps in enumerate(self.steps):
            kept = steps[-self.capacity :]
            for start in range(len(kept) - length + 1):
                window = kept[start : start + length]
                if len({episode for _, episode in window}) == 1:
                    found.add((row, window[0][0]))
        return found


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("calls", [5, 9, 14, 40])
def test_exactly_the_unbroken_sequences_are_drawn(calls, length):
    kept = Kept(capacity=7, rows=3)
    kept.fill(np.random.default_rng(calls), calls)
    wanted = kept.sequences(length)
    assert wanted
    count = 40 * len(wanted)
    drawn = kept.ring.sample_sequences(np.random.default_rng(0), count, length)
    row, number = drawn.observations["place"][:, 0].T
    # One of at most 21 sequences is missed with probability below 21 * exp(-40) < 1e-15.
    assert set(zip(row.tolist(), number.tolist(), strict=True)) == wanted
    numbers = number[:, None] + np.arange(length)
    np.testing.assert_array_equal(drawn.observations["place"][..., 1], numbers)
    np.testing.assert_array_equal(drawn.next_observations["place"][..., 1], numbers + 1)
    np.testing.assert_array_equal(drawn.actions, 10 * row[:, None] + numbers)
    np.testing.assert_array_equal(drawn.rewards, (numbers / 8).astype(np.float32))
    assert not drawn.done[:, :-1].any()


def test_all_sequences_have_the_same_chance():
    kept = Kept(capacity=9, rows=2)
    kept.fill(np.random.default_rng(3), 30)
    wanted = sorted(kept.sequences(2))
    drawn = kept.ring.sample_sequences(np.random.default_rng(0), 20_000, 2)
    places = list(map(tuple, drawn.observations["place"][:, 0].tolist()))
    counts = np.array([places.count(place) for place in wanted])
    expected = 20_000 / len(wanted)
    # Pearson's statistic with at most 15 degrees of freedom exceeds 60 with probability 3e-7.
    assert len(wanted) <= 16
    assert ((counts - expected) ** 2 / expected).sum() < 60


def test_arrays_are_copies_of_the_specs_kind():
    kept = Kept(capacity=4, rows=2)
    kept.fill(np.random.default_rng(0), 6)
    assert kept.ring.lengths.tolist() == [min(4, len(steps)) for steps in kept.steps]
    first = kept.ring.sample_sequences(np.random.default_rng(0), 5, 1)
    for name, spec in SPEC.items():
        for array in (first.observations[name], first.next_observations[name]):
            assert array.shape == (5, 1, *spec.shape)
            assert array.dtype == spec.dtype
    assert (first.actions.dtype, first.rewards.dtype, first.done.dtype) == ("i8", "f4", "?")
    first.observations["place"][:] = -1
    again = kept.ring.sample_sequences(np.random.default_rng(0), 5, 1)
    assert (again.observations["place"] >= 0).all()


def test_chunks_are_taken_in_step_by_step():
    with closing(make([DOORS] * 3, "sync", max_episode_steps=11)) as envs:
        ring = TrajectoryRing(20, 3, envs.observation_spec)
        rng = np.random.default_rng(0)
        seeds = np.arange(3)
        envs.reset(seeds.tolist())
        taken: list[list[tuple]] = [[] for _ in range(3)]
        for _ in range(12):
            chunk = envs.execute(rng.integers(NUM_ACTIONS, size=(3, 6)), 5)
            ring.append_chunk(chunk)
            for row in range(3):
                for slot in range(chunk.lengths[row]):
                    last = slot + 1 == chunk.lengths[row]
                    after = (
                        chunk.final_observations["visited"][row]
                        if last
                        else chunk.observations["visited"][row, slot + 1]
                    )
                    taken[row].append(
                        (
                            chunk.observations["visited"][row, slot].tobytes(),
                            int(chunk.actions[row, slot]),
                            bool(last and chunk.done[row]),
                            after.tobytes(),
                        )
                    )
            over = np.flatnonzero(chunk.done)
            seeds[over] += 3
            envs.reset(seeds[over].tolist(), over.tolist())
    drawn = ring.sample_sequences(np.random.default_rng(0), 1000, 3)
    got = {
        tuple(
            (
                drawn.observations["visited"][i, t].tobytes(),
                int(drawn.actions[i, t]),
                bool(drawn.done[i, t]),
                drawn.next_observations["visited"][i, t].tobytes(),
            )
            for t in range(3)
        )
        for i in range(1000)
    }
    wanted = set()
    for steps in taken:
        kept = steps[-20:]
        for start in range(len(kept) - 2):
            window = tuple(kept[start : start + 3])
            if not any(done for _, _, done, _ in window[:-1]):
                wanted.add(window)
    # One of at most 54 sequences is missed with probability below 54 * exp(-18) < 1e-6.
    assert got == wanted
    assert any(window[-1][2] for window in wanted)


def test_what_the_ring_cannot_do_is_refused():
    with pytest.raises(ValueError, match="capacity=0"):
        TrajectoryRing(0, 1, SPEC)
    ring = TrajectoryRing(4, 2, SPEC)
    with pytest.raises(RuntimeError, match="no episode has 2 transitions"):
        ring.sample_sequences(np.random.default_rng(0), 1, 2)
    for length in (0, 5):
        with pytest.raises(ValueError, match=rf"1..capacity = 4 steps, got {length}"):
            ring.sample_sequences(np.random.default_rng(0), 1, length)
    rows = np.arange(2)
    good = transitions(rows, rows, rows > 3)
    wrong = Transitions({}, good.actions, good.rewards, good.done, good.next_observations)
    with pytest.raises(ValueError, match="must have the arrays"):
        ring.append(wrong)
    ring.append(good)
    with pytest.raises(RuntimeError, match="no episode has 2 transitions"):
        ring.sample_sequences(np.random.default_rng(0), 1, 2)
