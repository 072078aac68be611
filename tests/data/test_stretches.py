"""Stretches drawn at random, what windows in them hold, and levels that are kept back."""

from collections import Counter

import numpy as np
import pytest

from remdm.data.datasets import DiskTrajDataset, MixtureOfDatasets
from remdm.data.level_split import is_kept_back
from remdm.maps import HISTORY_ACTIONS
from tests.data.recorded import (
    ACTIONS,
    HORIZON,
    TraceOracle,
    dataset,
    piece,
    put_shard,
)

STEPS, LONG, SHORT = 5, 12, 3
# Least and largest place of a stretch in an episode that is longer than it.
ENDS = {"none": (0, LONG - STEPS), "left": (1 - STEPS, LONG - STEPS)}
ENDS |= {"right": (0, LONG - 1), "both": (1 - STEPS, LONG - 1)}


def recorded(root, episodes, **knobs) -> DiskTrajDataset:
    """Whole episodes, (environment, level seed, steps) each."""
    made = dataset(root, **knobs)
    put_shard(made.folder.shards, [piece(env, seed, 0, length) for env, seed, length in episodes])
    made.label_new(TraceOracle(), HORIZON)
    made.refresh()
    return made


def drawn(data, rows: int, seed: int = 0):
    """The window, and of each row its level seeds, steps, `first` and `real`; arrays [R, S]."""
    window = data.sample(rows * STEPS, np.random.default_rng(seed))
    trace = window.observations["trace"].reshape(rows, STEPS, 2)
    stretch = window.stretch
    return window, trace[..., 0], trace[..., 1], stretch.first.numpy(), stretch.real.numpy()


@pytest.mark.parametrize("padded", ENDS)
def test_a_stretch_lies_over_the_borders_that_it_may_lie_over(tmp_path, padded):
    episodes = [("a", 1, LONG), ("a", 2, SHORT)]
    data = recorded(
        tmp_path, episodes, stretch_steps=STEPS, stretches="random", padded_sampling=padded
    )
    window, seeds, steps, first, real = drawn(data, 3000)
    weights = window.weights.reshape(-1, STEPS)
    begins = Counter()
    for seed, step, begin, is_real, weight in zip(seeds, steps, first, real, weights, strict=True):
        length = LONG if seed[0] == 1 else SHORT
        assert (seed == seed[0]).all()
        shown = step[is_real]
        assert (np.diff(shown) == 1).all()
        at = int(is_real.argmax())
        assert begin.tolist() == [place == at for place in range(STEPS)]
        start = int(shown[0]) - at  # where a step at place 0 would be
        wanted = np.arange(start, start + STEPS)
        assert (((wanted >= 0) & (wanted < length)) == is_real).all()
        labelled = is_real & (step % 5 != 4)
        assert (weight == labelled).all()
        assert labelled.any()
        begins[int(seed[0]), start] += 1
    first_start, last_start = ENDS[padded]
    # A given start is missed with probability below (1 - 1 / 100)^3000 < 1e-13.
    assert {start for seed, start in begins if seed == 1} == set(range(first_start, last_start + 1))
    # One of a shorter episode shows all of it, unless it may lie over a border.
    last_start = SHORT - 1 if padded in ("right", "both") else 0
    assert {start for seed, start in begins if seed == 2} == set(range(first_start, last_start + 1))


def test_rows_of_all_processes_are_one_draw(tmp_path):
    episodes = [(env, seed, 20) for env in "ab" for seed in range(6)]
    data = recorded(tmp_path, episodes, stretch_steps=STEPS, stretches="random")
    whole = drawn(data, 6)[0]
    parts = [
        data.sample(6 * STEPS, np.random.default_rng(0), slice(start, start + 2 * STEPS))
        for start in range(0, 6 * STEPS, 2 * STEPS)
    ]
    for name, array in whole.observations.items():
        joined = np.concatenate([part.observations[name] for part in parts])
        np.testing.assert_array_equal(joined, array)
    np.testing.assert_array_equal(np.concatenate([p.env_ids for p in parts]), whole.env_ids)
    with pytest.raises(ValueError, match="whole stretches of 5 steps"):
        data.sample(6 * STEPS, np.random.default_rng(0), slice(0, 12))


def test_environments_have_their_shares_of_random_stretches(tmp_path):
    episodes = [("a", 1, 40), ("b", 2, 10)]
    knobs = {"stretch_steps": STEPS, "stretches": "random", "balance": {"a": 1, "b": 3}}
    window = drawn(recorded(tmp_path, episodes, **knobs), 4000)[0]
    share = window.env_ids.mean()
    # Six standard deviations of a binomial share of 4000 rows.
    assert abs(share - 0.75) < 6 * np.sqrt(0.75 * 0.25 / 4000)


@pytest.mark.parametrize("stretches", ["walk", "random"])
def test_steps_of_a_stretch_have_their_history_and_past_actions(tmp_path, stretches):
    data = DiskTrajDataset(tmp_path, stretch_steps=STEPS, stretches=stretches)
    data.configure(HORIZON, oracle=TraceOracle(), action_names=ACTIONS, past_actions=2, history=3)
    put_shard(data.folder.shards, [piece("a", seed, 0, 9) for seed in range(4)])
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    if stretches == "walk":
        data.begin_walk(0, 4 * STEPS, 0)
        window = data.walked(1, slice(0, 4 * STEPS))
    else:
        window = data.sample(4 * STEPS, np.random.default_rng(0))
    for row, (seed, step) in enumerate(window.observations["trace"].tolist()):
        mask = len(ACTIONS)
        acted = [mask if back > step else (seed + step - back) % 3 for back in (1, 2, 3)]
        assert window.past[row].tolist() == acted[:2]
        assert window.observations[HISTORY_ACTIONS][row].tolist() == acted[::-1]


def test_steps_whose_history_is_elsewhere_are_seen_and_count_nothing(tmp_path):
    data = DiskTrajDataset(tmp_path, stretch_steps=STEPS)
    data.configure(HORIZON, oracle=TraceOracle(), action_names=ACTIONS, history=3)
    put_shard(data.folder.shards, [piece("a", 1, 0, 5, won=None)])
    put_shard(data.folder.shards, [piece("a", 1, 5, 10)], epoch=1)
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    data.begin_walk(0, STEPS, 0)
    window = data.walked(1, slice(0, STEPS))
    assert window.observations["step"].tolist() == [5, 6, 7, 8, 9]
    assert window.weights.tolist() == [0, 0, 0, 1, 0]  # none at every fifth step


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"stretch_steps": 0}, "stretch_steps must be at least 1"),
        ({"stretch_steps": 4, "stretches": "wlk"}, "did you mean 'walk'"),
        ({"stretch_steps": 4, "stretches": "random", "padded_sampling": "up"}, "padded_sampling"),
        ({"padded_sampling": "left"}, "drawn at random"),
        ({"stretch_steps": 4, "padded_sampling": "both"}, "drawn at random"),
        ({"stretch_steps": 4, "balance": {"a": 1, "b": 2}}, "every episode once"),
        ({"val_share": 1.0}, "nothing to learn from"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path, knobs, said):
    with pytest.raises(ValueError, match=said):
        DiskTrajDataset(tmp_path, **knobs)


def test_a_mixture_of_stretches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="stretch_steps = None"):
        MixtureOfDatasets([DiskTrajDataset(tmp_path, stretch_steps=4)])


# Levels kept back

LEVELS = [(env, seed, 10) for env in "ab" for seed in range(30)]
BACK = {(env, seed) for env, seed, _ in LEVELS if is_kept_back(env, seed, 0.3)}


def levels_of(window) -> set[tuple[str, int]]:
    real = slice(None) if window.stretch is None else window.stretch.real.numpy().ravel()
    seeds = window.observations["trace"][real, 0].tolist()
    return {
        ("ab"[env], seed) for env, seed in zip(window.env_ids[real].tolist(), seeds, strict=True)
    }


def test_which_levels_are_kept_back_follows_from_their_names_alone():
    # Another rule would train on what runs that go on have validated with.
    assert [s for s in range(20) if is_kept_back("a", s, 0.3)] == [5, 9, 10, 11, 12, 17]
    shares = [np.mean([is_kept_back(f"e{e}", s, 0.3) for s in range(500)]) for e in range(4)]
    # Six standard deviations of a binomial share of 500.
    assert np.abs(np.array(shares) - 0.3).max() < 6 * np.sqrt(0.3 * 0.7 / 500)
    assert all(is_kept_back("a", s, 0.5) for s in range(99) if is_kept_back("a", s, 0.3))


@pytest.mark.parametrize("kind", ["single", "random", "walk"])
def test_levels_kept_back_are_never_trained_on_and_no_others_validate(tmp_path, kind):
    knobs = {} if kind == "single" else {"stretch_steps": STEPS, "stretches": kind}
    data = recorded(tmp_path, LEVELS, val_share=0.3, **knobs)
    seen: Counter[tuple[str, int]] = Counter()
    validated: Counter[tuple[str, int]] = Counter()
    rows = slice(0, 12 * STEPS)
    data.begin_walk(0, 12 * STEPS, 0)
    for batch in range(80):
        rng = np.random.default_rng(batch)
        window = data.walked(batch, rows) if data.walks else data.sample(12 * STEPS, rng)
        seen.update(levels_of(window))
        validated.update(levels_of(data.val_window(batch, 12 * STEPS, 0, rows)))
    # One of 48 levels is missed by 960 independent rows with probability below 1e-7.
    assert set(seen) == {(env, seed) for env, seed, _ in LEVELS} - BACK
    assert set(validated) == BACK
    metrics = data.refresh()
    assert metrics["buffer/val_windows"] == 8 * len(BACK)
    assert metrics["buffer/windows"] == 8 * (len(LEVELS) - len(BACK))
    whole, other = (data.val_window(3, 12 * STEPS, 0, rows) for _ in range(2))
    assert whole.observations["trace"].tolist() == other.observations["trace"].tolist()


def test_without_a_level_that_is_kept_back_there_is_nothing_to_validate(tmp_path):
    data = recorded(tmp_path, LEVELS[:2], val_share=1e-9)
    assert not data.has_val_windows
    with pytest.raises(RuntimeError, match="no level is kept back"):
        data.val_window(0, 4, 0, slice(0, 4))
