"""No window occurs twice in a batch, and every process takes its own rows of one batch."""

import itertools
import math

import numpy as np
import pytest

from remdm.data.datasets import MixtureOfDatasets
from remdm.data.gather import repeated
from tests.data.recorded import TraceOracle, dataset, filled, piece, put_shard


def of_sizes(root, sizes, **knobs):
    """A dataset with so many windows of each environment, over two shards."""
    data = dataset(root, **knobs, target="executed")
    for number in range(2):
        pieces = [
            piece(env, number, 0, size // 2 + number * (size % 2)) for env, size in sizes.items()
        ]
        put_shard(data.folder.shards, pieces, epoch=number)
    data.refresh()
    assert dict(zip(data.env_names, data.index.counts.tolist(), strict=True)) == sizes
    return data


def drawn(data, count, seed):
    return list(zip(*data.index.draw(count, np.random.default_rng(seed)), strict=True))


@pytest.mark.parametrize("count", [1, 7, 20, 39, 40])
def test_no_window_is_drawn_twice_where_there_are_enough(tmp_path, count):
    data = of_sizes(tmp_path, {"a": 40, "b": 50})
    for seed in range(300):
        windows = drawn(data, count, seed)
        assert len(set(windows)) == len(windows) == count
        assert windows == drawn(data, count, seed)


def test_all_windows_are_drawn_once_when_all_are_asked_for(tmp_path):
    data = of_sizes(tmp_path, {"a": 300})
    assert len(set(drawn(data, 300, 0))) == 300


def test_an_environment_with_too_few_windows_repeats_them_and_the_others_do_not(tmp_path):
    data = of_sizes(tmp_path, {"a": 4, "b": 60})
    for seed in range(100):
        windows = drawn(data, 40, seed)
        few = [w for w in windows if w[0] == 0]
        many = [w for w in windows if w[0] == 1]
        assert len(few) > 4
        assert len(set(many)) == len(many)


@pytest.mark.parametrize(("size", "count"), [(5, 2), (5, 3)], ids=["attempts", "shuffle"])
def test_every_order_of_distinct_windows_is_equally_likely(tmp_path, size, count):
    data = of_sizes(tmp_path, {"a": size})
    orders = dict.fromkeys(itertools.permutations(range(size), count), 0)
    place = {window: number for number, window in enumerate(sorted(set(drawn(data, size, 0))))}
    rng, draws = np.random.default_rng(0), 12_000
    for _ in range(draws):
        windows = zip(*data.index.draw(count, rng), strict=True)
        orders[tuple(place[window] for window in windows)] += 1
    assert len(orders) == math.perm(size, count)
    expected = draws / len(orders)
    # Pearson's statistic with 19 or 59 degrees of freedom exceeds 133 with probability < 1e-7.
    assert sum((n - expected) ** 2 / expected for n in orders.values()) < 133


def test_how_many_windows_are_of_each_environment_stays_as_the_shares_say(tmp_path):
    data = of_sizes(tmp_path, {"a": 12, "b": 40}, balance={"a": 1, "b": 3})
    counts = [sum(w[0] == 0 for w in drawn(data, 8, seed)) for seed in range(4_000)]
    # Binomial(32,000, 1/4) is further than 500 from its mean with probability 2e-10.
    assert abs(sum(counts) - 8_000) < 500
    assert abs(np.var(counts) - 8 * 3 / 16) < 0.15  # its standard error is 0.033


def test_places_of_repeated_numbers_are_found():
    rng = np.random.default_rng(0)
    for count, most in ((0, 1), (1, 1), (2, 1), (50, 20), (500, 10**9), (3000, 4000)):
        numbers = rng.integers(0, most, count)
        seen: set[int] = set()
        wanted = [i for i, n in enumerate(numbers.tolist()) if n in seen or seen.add(n)]
        assert repeated(numbers).tolist() == wanted


# Rows


def assert_rows(data, count, parts):
    rng = np.random.default_rng(3)
    whole = data.sample(count, rng)
    for rows in parts:
        again = np.random.default_rng(3)
        part = data.sample(count, again, rows)
        assert again.bit_generator.state == rng.bit_generator.state
        for name, array in whole.observations.items():
            np.testing.assert_array_equal(part.observations[name], array[rows])
            assert part.observations[name].dtype == array.dtype
        np.testing.assert_array_equal(part.plans, whole.plans[rows])
        np.testing.assert_array_equal(part.weights, whole.weights[rows])
        np.testing.assert_array_equal(part.env_ids, whole.env_ids[rows])


PARTS = [slice(0, 16), slice(16, 32), slice(32, 48), slice(None), slice(40, None), slice(9, 9)]


def test_a_part_of_the_rows_is_a_part_of_the_same_windows(tmp_path):
    assert_rows(filled(tmp_path, *range(8)), 48, PARTS)


def test_a_part_of_the_rows_of_a_mixture_is_a_part_of_the_same_windows(tmp_path):
    parts = [filled(tmp_path / name, *range(5), env=name) for name in "abc"]
    assert_rows(MixtureOfDatasets(parts, sampling_weights=[2, 1, 4]), 48, PARTS)


def test_histories_and_past_actions_are_of_the_same_rows(tmp_path):
    data = filled(tmp_path, 0, 1)
    data.configure(4, oracle=TraceOracle(), past_actions=2, history=3)
    data.refresh()
    assert_rows(data, 12, [slice(0, 6), slice(6, 12)])
    part = data.sample(12, np.random.default_rng(3), slice(6, 12))
    assert part.past.shape == (6, 2)
