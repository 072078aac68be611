from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from remdm.data.gather import RowGatherer, addresses_of, check_alike, specs_of
from tests.data.recorded import ACTIONS, END, HORIZON, TraceOracle, dataset, piece, put_shard

SIZES = {"a": 400, "b": 40, "c": 15}


@pytest.fixture
def data(tmp_path):
    made = dataset(tmp_path)
    fill(made)
    return made


def fill(made, *, shards: int = 3) -> None:
    for number in range(shards):
        pieces = [piece(env, number + 1, 0, size) for env, size in SIZES.items()]
        put_shard(made.folder.shards, pieces, epoch=number)
    made.label_new(TraceOracle(), HORIZON)
    made.refresh()


def test_a_window_holds_one_step_and_what_belongs_to_it(data):
    window = data.sample(500, np.random.default_rng(0))
    seed, step = window.observations["trace"].T
    np.testing.assert_array_equal(window.observations["step"], step)
    maps = np.arange(15).reshape(3, 5) + (seed + step)[:, None, None]
    np.testing.assert_array_equal(window.observations["map"], maps.astype(np.uint8))
    plans, weights = TraceOracle().label(window.observations, HORIZON)
    np.testing.assert_array_equal(window.plans, plans)
    np.testing.assert_array_equal(window.weights, weights)
    assert window.plans.dtype == np.int8
    assert window.weights.dtype == np.float32
    assert window.env_ids.dtype == np.int16
    assert set(seed) == {1, 2, 3}
    for env, size in enumerate(SIZES.values()):
        assert step[window.env_ids == env].max() < size


def test_steps_without_a_plan_are_never_drawn(data):
    window = data.sample(3000, np.random.default_rng(0))
    assert (window.weights > 0).all()
    assert (window.observations["step"] % 5 != 4).all()


def test_every_drawable_step_is_drawn(data):
    window = data.sample(60_000, np.random.default_rng(0))
    drawn = {
        (e, *t) for e, t in zip(window.env_ids, window.observations["trace"].tolist(), strict=True)
    }
    wanted = sum(1 for size in SIZES.values() for step in range(size) if step % 5 != 4)
    # A given step of the largest environment is missed with probability below
    # exp(-20000 / 960) < 1e-9; 960 of them: below 1e-6.
    assert len(drawn) == 3 * wanted
    assert data.index.num_windows == 3 * wanted


def counts_of(data, count: int = 20_000) -> np.ndarray:
    window = data.sample(count, np.random.default_rng(7))
    return np.bincount(window.env_ids, minlength=len(SIZES))


def assert_shares(data, shares) -> None:
    """Pearson's statistic with 2 degrees of freedom exceeds 27.7 with probability 1e-6."""
    expected = np.asarray(shares) * 20_000
    statistic = ((counts_of(data) - expected) ** 2 / expected).sum()
    assert statistic < 27.7


def test_environments_are_drawn_equally_often(data):
    assert data.env_names == ("a", "b", "c")
    assert_shares(data, [1 / 3, 1 / 3, 1 / 3])


def test_steps_can_be_drawn_equally_often(tmp_path):
    made = dataset(tmp_path, balance="timestep")
    fill(made)
    assert_shares(made, made.index.counts / made.index.num_windows)


def test_shares_can_be_given_by_name(tmp_path):
    made = dataset(tmp_path, balance={"a": 1, "b": 5, "c": 2, "not collected yet": 9})
    fill(made)
    assert_shares(made, [1 / 8, 5 / 8, 2 / 8])


def test_an_environment_without_a_share_is_never_drawn(tmp_path):
    made = dataset(tmp_path, balance={"b": 1})
    fill(made)
    assert counts_of(made).tolist() == [0, 20_000, 0]


def test_steps_of_an_environment_are_drawn_equally_often(data):
    window = data.sample(20_000, np.random.default_rng(3))
    chosen = window.observations["trace"][window.env_ids == 2]
    cells = np.bincount(chosen[:, 0] * 20 + chosen[:, 1])
    cells = cells[cells > 0]
    assert len(cells) == 36
    expected = len(chosen) / 36
    # Pearson's statistic with 35 degrees of freedom exceeds 100 with probability below 1e-7.
    assert ((cells - expected) ** 2 / expected).sum() < 100


def test_the_same_generator_state_draws_the_same_windows(data, tmp_path):
    again = dataset(tmp_path)
    again.refresh()
    rng = np.random.default_rng(5)
    data.sample(64, rng)
    state = rng.bit_generator.state
    first = data.sample(64, rng)
    rng.bit_generator.state = state
    second = again.sample(64, rng)
    for name, array in first.observations.items():
        np.testing.assert_array_equal(array, second.observations[name])
    np.testing.assert_array_equal(first.plans, second.plans)
    np.testing.assert_array_equal(first.env_ids, second.env_ids)


def test_threads_draw_what_one_thread_draws(data):
    def draw(seed: int) -> np.ndarray:
        return data.sample(64, np.random.default_rng(seed)).observations["trace"]

    with ThreadPoolExecutor(4) as pool:
        for seed, trace in enumerate(pool.map(draw, range(40))):
            np.testing.assert_array_equal(trace, draw(seed))


def test_windows_can_be_written_to_without_touching_the_data(data):
    window = data.sample(64, np.random.default_rng(0))
    for array in (*window.observations.values(), window.plans, window.weights):
        array[:] = 0
    again = data.sample(64, np.random.default_rng(0))
    assert again.observations["trace"].any()
    assert again.plans.any()


def test_only_the_wanted_arrays_are_read(data):
    data.configure(HORIZON, oracle=TraceOracle(), observation_keys=["step", "trace"])
    data.refresh()
    assert set(data.sample(8, np.random.default_rng(0)).observations) == {"step", "trace"}
    data.configure(HORIZON, oracle=TraceOracle(), observation_keys=["step", "glyphs"])
    with pytest.raises(ValueError, match="it lacks glyphs"):
        data.refresh()


def test_past_actions_change_nothing_else_about_the_windows(data):
    """The same draws, with and without them."""
    plain = data.sample(200, np.random.default_rng(0))
    data.configure(HORIZON, oracle=TraceOracle(), action_names=ACTIONS, past_actions=HORIZON - 1)
    data.refresh()
    window = data.sample(200, np.random.default_rng(0))
    assert plain.past is None
    assert window.past.shape == (200, HORIZON - 1)
    np.testing.assert_array_equal(window.plans, plain.plans)
    for key, array in plain.observations.items():
        np.testing.assert_array_equal(window.observations[key], array)


def test_executed_actions_are_continued_within_the_episode(tmp_path):
    made = dataset(tmp_path, target="executed")
    put_shard(
        made.folder.shards,
        [
            piece("a", 0, 0, 6),
            piece("a", 1, 0, 6, won=False),
            piece("a", 2, 0, 6, won=None),
        ],
    )
    made.refresh()
    window = made.sample(2000, np.random.default_rng(0))
    seed, step = window.observations["trace"].T
    following = step[:, None] + np.arange(HORIZON)
    wanted = np.where(following < 6, (seed[:, None] + following) % len(ACTIONS), END)
    np.testing.assert_array_equal(window.plans, wanted)
    assert set(step[seed == 0]) == set(range(6))
    assert set(step[seed == 1]) == set(step[seed == 2]) == {0, 1, 2}


class Follower(TraceOracle):
    """Its plan begins with action `step % 3`; it knows nothing at step 30 and stops at step 50."""

    def label(self, observations, plan_horizon):
        step = observations["step"].astype(np.int64)
        plans = np.full((len(step), plan_horizon), END, np.int8)
        plans[:, 0] = np.where(step == 50, END, step % len(ACTIONS))
        return plans, (step != 30).astype(np.float32)


def test_oracle_actions_are_the_first_ones_of_the_following_labels(tmp_path):
    made = dataset(tmp_path, Follower(), target="oracle_actions")
    put_shard(made.folder.shards, [piece("a", 1, 0, 60, won=False)])
    made.label_new(Follower(), HORIZON)
    made.refresh()
    window = made.sample(3000, np.random.default_rng(0))
    step = window.observations["step"].astype(int)
    following = step[:, None] + np.arange(HORIZON)
    stopped = (following >= 50) & (step <= 50)[:, None]
    wanted = np.where(stopped, END, following % len(ACTIONS))
    np.testing.assert_array_equal(window.plans, wanted)
    # Windows that need step 30 or lie over the end of a lost episode are not drawn.
    assert set(range(60)) - set(step) == {27, 28, 29, 30, 57, 58, 59}


def test_only_won_episodes_are_drawn_when_asked_to(tmp_path):
    made = dataset(tmp_path, won_only=True)
    put_shard(
        made.folder.shards,
        [piece("a", 1, 0, 8), piece("a", 2, 0, 8, won=False), piece("a", 3, 0, 8, won=None)],
        epoch=0,
    )
    made.label_new(TraceOracle(), HORIZON)
    made.refresh()
    assert set(made.sample(500, np.random.default_rng(0)).observations["trace"][:, 0]) == {1}
    # The outcome of the third one becomes known with its last piece.
    put_shard(made.folder.shards, [piece("a", 3, 8, 4)], epoch=1)
    made.refresh()
    trace = made.sample(2000, np.random.default_rng(0)).observations["trace"]
    assert set(trace[:, 0]) == {1, 3}
    assert trace[trace[:, 0] == 3, 1].max() < 8  # the last piece has no labels yet


def gatherer(files):
    specs = [specs_of(arrays) for arrays in files]
    check_alike(specs)
    sources = np.stack([addresses_of(arrays.values()) for arrays in files])
    return RowGatherer(specs[0], sources, np.array([len(arrays["x"]) for arrays in files]))


def test_rows_are_gathered_from_where_they_lie():
    rng = np.random.default_rng(0)
    files = [
        {"x": rng.random((n, 3, 2)), "y": rng.integers(0, 9, n).astype(np.int8)} for n in (5, 1, 30)
    ]
    lengths = np.array([5, 1, 30])
    file = rng.integers(0, 3, 200)
    row = (rng.random(200) * lengths[file]).astype(np.int64)
    got = gatherer(files).gather(file, row)
    for i in range(200):
        np.testing.assert_array_equal(got["x"][i], files[file[i]]["x"][row[i]])
        assert got["y"][i] == files[file[i]]["y"][row[i]]


def test_a_row_outside_its_file_is_refused():
    of_two = gatherer([{"x": np.zeros(3)}, {"x": np.zeros(5)}])
    for file, row in ((0, 3), (1, 5), (0, -1)):
        with pytest.raises(IndexError, match="outside its file"):
            of_two.gather(np.array([file]), np.array([row]))


@pytest.mark.parametrize(
    "other", [{"x": np.zeros((3, 2))}, {"x": np.zeros(3, np.int8)}, {"y": np.zeros(3)}]
)
def test_files_that_differ_in_more_than_length_are_refused(other):
    with pytest.raises(ValueError, match="alike"):
        gatherer([{"x": np.zeros(3)}, other])
