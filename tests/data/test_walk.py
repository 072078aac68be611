"""Rows that walk through episodes: every step once a pass, in order, and never two in one."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from remdm.data import scan
from remdm.data.datasets import DiskTrajDataset
from remdm.data.walk import Walk
from tests.data.recorded import HORIZON, TraceOracle, dataset, piece, put_shard
from tests.data.test_scanning import flip

STEPS, ROWS, SEED = 4, 3, 7
# Level seeds and lengths; some are whole stretches, some are shorter than one.
LENGTHS = {1: 9, 2: 4, 3: 13, 4: 1, 5: 8, 6: 17, 7: 3}


def recorded(root, **knobs) -> DiskTrajDataset:
    """Episodes of `LENGTHS` in two environments; those of level 3 and 6 lie in several shards."""
    made = dataset(root, stretch_steps=STEPS, **knobs)
    whole = [piece("a" if s % 2 else "b", s, 0, n) for s, n in LENGTHS.items() if s not in (3, 6)]
    begun = [piece("a", 3, 0, 6, won=None), piece("b", 6, 0, 5, won=None)]
    put_shard(made.folder.shards, [*begun, *whole[:2]], epoch=0)
    put_shard(made.folder.shards, [piece("b", 6, 5, 7, won=None)], epoch=1)
    put_shard(made.folder.shards, [piece("a", 3, 6, 7), piece("b", 6, 12, 5)], epoch=2)
    put_shard(made.folder.shards, whole[2:], epoch=3)
    made.label_new(TraceOracle(), HORIZON)
    made.refresh()
    return made


def begin(data: DiskTrajDataset, batch: int = 0, rows: int = ROWS) -> DiskTrajDataset:
    data.begin_walk(batch, rows * STEPS, SEED)
    return data


def rows_shown(data, batch: int, rows: int = ROWS):
    """Of each row the level seeds, steps, `first` and `real` of a batch; arrays [R, S]."""
    window = data.walked(batch, slice(0, rows * STEPS))
    trace = window.observations["trace"].reshape(rows, STEPS, 2)
    return trace[..., 0], trace[..., 1], window.stretch.first.numpy(), window.stretch.real.numpy()


def episodes_walked(data, batches: int, rows: int = ROWS) -> list[list[tuple[int, list[int]]]]:
    """For each row the episodes it shows: level seed, and its real steps as they come."""
    walked = [[] for _ in range(rows)]
    for batch in range(batches):
        for row, (seeds, steps, first, real) in enumerate(
            zip(*rows_shown(data, batch, rows), strict=True)
        ):
            assert len(set(seeds)) == 1
            assert real[0]
            assert not first[1:].any()
            if first[0]:
                walked[row].append((int(seeds[0]), []))
            assert walked[row][-1][0] == seeds[0]
            walked[row][-1][1].extend(steps[real].tolist())
    return walked


def test_a_row_shows_every_step_of_an_episode_in_order_and_then_takes_another(tmp_path):
    walked = episodes_walked(begin(recorded(tmp_path)), 40)
    for row in walked:
        for seed, steps in row[:-1]:
            assert steps == list(range(LENGTHS[seed]))
        last, begun = row[-1]
        assert begun == list(range(LENGTHS[last]))[: len(begun)]


def passes(walk: Walk, batches: int, rows: int) -> list[tuple[int, int, int]]:
    """(batch, row, episode) of everything that is begun, in the order in which it is taken."""
    taken = []
    for batch in range(batches):
        episodes, numbers = walk.at(batch, range(rows))
        taken += [(batch, r, int(episodes[r])) for r in range(rows) if numbers[r] == 0]
    return taken


def test_each_pass_shows_every_episode_once_in_a_new_order(tmp_path):
    stretches = np.random.default_rng(0).integers(1, 6, 40)
    walk = Walk(stretches, 5, np.random.default_rng)
    order = [episode for _, _, episode in passes(walk, 100, 5)]
    assert len(order) > 120
    rounds = [order[start : start + 40] for start in (0, 40, 80)]
    assert all(sorted(own) == list(range(40)) for own in rounds)
    assert rounds[0] != rounds[1] != rounds[2]


@pytest.mark.parametrize(("count", "longest"), [(5, 30), (6, 3), (30, 12)])
def test_no_two_rows_are_in_one_episode_and_none_waits(count, longest):
    stretches = np.random.default_rng(1).integers(1, longest, count)
    walk = Walk(stretches, 5, np.random.default_rng)
    before = None
    for batch in range(300):
        episodes, numbers = walk.at(batch, range(5))
        assert len(set(episodes.tolist())) == 5
        assert (numbers < stretches[episodes]).all()
        if before is not None:
            went_on = (before[0] == episodes) & (before[1] + 1 == numbers)
            ended = (before[1] + 1 == stretches[before[0]]) & (numbers == 0)
            assert (went_on | ended).all()
        before = episodes, numbers


def test_an_episode_longer_than_all_others_is_walked_again_as_soon_as_it_ends():
    walk = Walk(np.array([50, 1, 2]), 3, np.random.default_rng)
    long = [batch for batch, _, episode in passes(walk, 400, 3) if episode == 0]
    assert long == list(range(0, 400, 50))


def test_more_rows_than_episodes_share_them():
    walk = Walk(np.array([3, 2]), 5, np.random.default_rng)
    taken = Counter(episode for _, _, episode in passes(walk, 120, 5))
    assert taken[0] == pytest.approx(taken[1], abs=2)


def test_threads_out_of_order_are_given_the_same_batches(tmp_path):
    def traces(data, batch):
        return data.walked(batch, slice(0, ROWS * STEPS)).observations["trace"].tolist()

    data = recorded(tmp_path)
    in_order = [traces(begin(data), batch) for batch in range(60)]
    again = dataset(tmp_path, stretch_steps=STEPS)
    again.refresh()
    begin(again)
    batches = np.random.default_rng(0).permutation(60).tolist()
    with ThreadPoolExecutor(4) as pool:
        for batch, found in zip(
            batches, pool.map(lambda b: traces(again, b), batches), strict=True
        ):
            assert found == in_order[batch]


def test_processes_together_show_what_one_shows_with_all_rows(tmp_path):
    data = begin(recorded(tmp_path), rows=6)
    for batch in range(30):
        whole = data.walked(batch, slice(0, 6 * STEPS))
        parts = [data.walked(batch, slice(a * STEPS, (a + 2) * STEPS)) for a in (0, 2, 4)]
        for name, array in whole.observations.items():
            joined = np.concatenate([part.observations[name] for part in parts])
            assert joined.tobytes() == array.tobytes()
        for name in ("plans", "weights", "env_ids"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            assert joined.tobytes() == getattr(whole, name).tobytes()
        for name in ("first", "real"):
            joined = np.concatenate([getattr(part.stretch, name) for part in parts])
            assert (joined == getattr(whole.stretch, name).numpy()).all()


def test_only_labelled_real_steps_count_and_all_are_seen(tmp_path):
    data = begin(recorded(tmp_path))
    for batch in range(30):
        window = data.walked(batch, slice(0, ROWS * STEPS))
        plans, weights = TraceOracle().label(window.observations, HORIZON)
        real = window.stretch.real.numpy().ravel()
        np.testing.assert_array_equal(window.weights, weights * real)
        np.testing.assert_array_equal(window.plans, plans)
        env = np.where(window.observations["trace"][:, 0] % 2 == 1, 0, 1)
        np.testing.assert_array_equal(window.env_ids, env)


def test_what_follows_a_gap_begins_anew(tmp_path):
    data = dataset(tmp_path, stretch_steps=STEPS)
    put_shard(data.folder.shards, [piece("a", 1, 0, 5, won=None), piece("a", 2, 0, 6)])
    put_shard(data.folder.shards, [piece("a", 1, 8, 7)], epoch=1)
    put_shard(data.folder.shards, [piece("a", 2, 6, 5, collector="other")], epoch=2)
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    runs = {tuple(steps) for row in episodes_walked(begin(data), 20) for _, steps in row[:-1]}
    assert runs == {tuple(range(*ends)) for ends in ((0, 5), (8, 15), (0, 6), (6, 11))}


def test_episodes_without_anything_to_learn_are_left_out(tmp_path):
    data = dataset(tmp_path, stretch_steps=STEPS, won_only=True, balance={"a": 1, "b": 0})
    lost = piece("a", 2, 0, 6, won=False)
    put_shard(data.folder.shards, [piece("a", 1, 0, 9), lost, piece("b", 3, 0, 9)])
    put_shard(data.folder.shards, [piece("a", 4, 4, 1)], epoch=1)  # a step without a plan
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    seeds = {seed for row in episodes_walked(begin(data), 20) for seed, _ in row}
    assert seeds == {1}


def test_a_damaged_shard_leaves_a_gap_and_the_walk_goes_on_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "VERIFIED_BYTES", 0)  # nothing is compared before the walk begins
    known = recorded(tmp_path)
    for path in known.folder.manifests().values():
        path.unlink()
    data = dataset(tmp_path, stretch_steps=STEPS)
    flip(sorted(data.folder.shards.iterdir())[1])
    data.refresh()
    walked = episodes_walked(begin(data), 60)
    found = {tuple(steps) for row in walked for seed, steps in row[:-1] if seed == 6}
    assert found == {tuple(range(5)), tuple(range(12, 17))}
    state = data.state()["walk"]
    data.refresh()  # sets the damaged one aside
    assert len(data.manifest.shards) == 3
    assert begin(data, 60).state()["walk"] == state


# Going on


def test_a_restored_walk_goes_on_and_one_through_other_data_begins_anew(tmp_path):
    data = begin(recorded(tmp_path))
    state = data.state()
    wanted = [rows_shown(data, batch) for batch in range(20, 30)]
    again = dataset(tmp_path, stretch_steps=STEPS)
    again.restore(state)
    begin(again, 20)
    for batch, rows in zip(range(20, 30), wanted, strict=True):
        for own, other in zip(rows_shown(again, batch), rows, strict=True):
            np.testing.assert_array_equal(own, other)
    put_shard(again.folder.shards, [piece("a", 8, 0, 20)], epoch=4)
    again.label_new(TraceOracle(), HORIZON)
    again.refresh()
    begin(again, 30)
    assert again.state()["walk"]["number"] == 1
    assert again.state()["walk"]["batch"] == 30
    assert rows_shown(again, 30)[2][:, 0].all()
    again.refresh()  # the same as before: the walk goes on
    assert begin(again, 31).state()["walk"]["batch"] == 30
    first, second = (
        rows_shown(d, 30)[0].tolist() for d in (again, begin(recorded(tmp_path / "x")))
    )
    assert first != second


@pytest.mark.parametrize(
    "wrong",
    [{"number": -1}, {"batch": "3"}, {"contents": "../x"}, {"contents": None}, {"number": 2**70}],
)
def test_a_walk_of_a_checkpoint_is_checked(tmp_path, wrong):
    data = begin(recorded(tmp_path))
    state = data.state()
    state["walk"] = state["walk"] | wrong
    with pytest.raises(ValueError, match=next(iter(wrong))):
        data.restore(state)


def test_a_state_of_an_older_version_begins_a_walk(tmp_path):
    data = recorded(tmp_path)
    data.restore(data.state())
    assert begin(data, 5).state()["walk"]["batch"] == 5


def test_rows_must_be_whole_and_have_begun(tmp_path):
    data = recorded(tmp_path)
    with pytest.raises(RuntimeError, match="begin_walk"):
        data.walked(0, slice(0, 4))
    with pytest.raises(ValueError, match=r"whole stretches of 4 steps.*Experiment.batch_size"):
        data.begin_walk(0, 6, SEED)
