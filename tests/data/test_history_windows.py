"""Histories made again from shards equal those that were handed out live."""

from types import SimpleNamespace

import numpy as np
import pytest

from remdm.data.datasets import DiskTrajDataset, MixtureOfDatasets
from remdm.data.gather import PastGatherer, addresses_of, specs_of
from remdm.data.shards import RecordingBuffer, Shard
from remdm.data.windows import history_known
from remdm.envs.history import HistoryVecEnv
from remdm.envs.making import make_vec_env
from remdm.maps import ACTION_NAMES, HISTORY_ACTIONS
from remdm.tokens import end_token
from tests.data.recorded import ACTIONS, HORIZON, TraceOracle, dataset, filled, piece, put_shard

NAMES = ["Gridworld-Maze-9x9-v0", "Gridworld-Room-9x9-v0"] * 3
K = 4
END = end_token(len(ACTION_NAMES))


class Satisfied:
    """Plans nothing, everywhere."""

    name, version = "satisfied", 1

    def label(self, observations, plan_horizon):
        count = len(observations["step"])
        return np.full((count, plan_horizon), END, np.int8), np.ones(count, np.float32)


class Live:
    """A recorded run, and every observation of it as it was handed out, by level and step."""

    def __init__(self, folder) -> None:
        self.root = folder
        self.envs = HistoryVecEnv(make_vec_env(NAMES, max_episode_steps=13), K)
        self.seen: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self._play(DiskTrajDataset(folder).save_new_trajs_to)
        data = self.reader(history=K)
        data.label_new(Satisfied(), HORIZON)
        data.refresh()
        self.shards = [Shard.open(path) for path in data.folder.shard_paths()]

    def _play(self, folder) -> None:
        buffer = RecordingBuffer(folder, self.envs.action_names)
        rng, rows = np.random.default_rng(0), len(NAMES)
        seeds, steps = np.arange(rows), np.zeros(rows, np.int64)
        self.envs.reset(seeds.tolist())
        for number in range(24):
            buffer.policy_version = number // 5  # changes in the middle of a shard, too
            plans = rng.integers(len(ACTION_NAMES), size=(rows, 9))
            chunk = self.envs.execute(plans, int(rng.integers(2, 8)))
            buffer.append(chunk, seeds, self.envs.env_names)
            for row, slot in np.argwhere(chunk.valid):
                copies = {k: v[row, slot].copy() for k, v in chunk.observations.items()}
                self.seen[int(seeds[row]), int(steps[row] + slot)] = copies
            steps += chunk.lengths
            over = np.flatnonzero(chunk.done)
            if number == 11:  # gives up an episode that goes on
                over = np.union1d(over, [0])
                buffer.abandon([0])
            seeds[over], steps[over] = seeds.max() + 1 + np.arange(len(over)), 0
            self.envs.reset(seeds[over].tolist(), over.tolist())
            if number % 8 == 7:
                buffer.flush(number // 8)

    def reader(self, *, target: str = "plan", **asked) -> DiskTrajDataset:
        """The recording as a dataset with such windows."""
        data = DiskTrajDataset(self.root, balance="timestep", target=target, end_after="ended")
        data.configure(HORIZON, oracle=Satisfied(), **asked)
        data.refresh()
        return data

    def places(self, shard: np.ndarray, step: np.ndarray) -> list[tuple[int, int]]:
        """Level and step of steps of shards."""
        found = []
        for number, place in zip(shard.tolist(), step.tolist(), strict=True):
            opened = self.shards[number]
            index = int(opened.offsets.searchsorted(place, "right")) - 1
            segment = opened.segments[index]
            found.append((segment.seed, segment.first_step + place - int(opened.offsets[index])))
        return found

    def drawable(self) -> set[tuple[int, int]]:
        return {
            (s.seed, s.first_step + step)
            for shard in self.shards
            for s in shard.segments
            for step in range(0 if s.first_step == 0 else K, s.length)
        }

    def draw(self, data: DiskTrajDataset, count: int):
        """Windows, and the level and step of each."""
        window = data.sample(count, np.random.default_rng(1))
        _, shard, step = data.index.draw(count, np.random.default_rng(1))
        return window, self.places(shard, step)


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> Live:
    return Live(tmp_path_factory.mktemp("a run"))


def test_windows_equal_what_was_seen_live(live):
    everywhere = live.drawable()
    window, places = live.draw(live.reader(history=K), 60 * len(everywhere))
    assert set(window.observations) == set(live.envs.observation_spec)
    for name, array in window.observations.items():
        spec = live.envs.observation_spec[name]
        assert (array.shape[1:], array.dtype) == (spec.shape, spec.dtype)
        wanted = np.stack([live.seen[place][name] for place in places])
        np.testing.assert_array_equal(array, wanted, err_msg=name)
    # Some step of n is missed with probability below n * exp(-60), far below 1e-20.
    assert set(places) == everywhere
    # The run has lives from their first step, pieces without it, and steps of both kinds left out.
    firsts = [s.first_step for shard in live.shards for s in shard.segments]
    assert 0 < firsts.count(0) < len(firsts)
    assert 0 < len(everywhere) < sum(shard.num_steps for shard in live.shards) == len(live.seen)


def test_histories_are_not_stored(live):
    for shard in live.shards:
        assert set(shard.steps.observations) == set(live.envs.vec_env.observation_spec)


def test_steps_need_no_history_where_none_is_asked_for(live):
    plain = live.reader(history=K, observation_keys=["step"])
    assert plain.index.num_windows == len(live.seen)
    assert live.reader(history=K).index.num_windows == len(live.drawable())


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (
            {"observation_keys": ["step", "history/position"]},
            {"step", "history/position"},
        ),
        (
            {"observation_keys": ["history/step", "step"], "history_keys": [HISTORY_ACTIONS]},
            {"step", "history/step", HISTORY_ACTIONS},
        ),
        ({"observation_keys": ["history/actions"]}, {HISTORY_ACTIONS}),
    ],
)
def test_only_the_wanted_arrays_are_gathered(live, asked, names):
    data = live.reader(history=K, **asked)
    window, places = live.draw(data, 100)
    assert set(window.observations) == names
    size = sum(a.nbytes for a in (*window.observations.values(), window.plans, window.weights))
    assert size == 100 * data.index.row_nbytes
    for name, array in window.observations.items():
        np.testing.assert_array_equal(array, np.stack([live.seen[p][name] for p in places]))


def test_other_targets_keep_out_what_has_no_history(live):
    window, places = live.draw(live.reader(history=K, target="executed"), 2000)
    assert set(places) < live.drawable()  # those before a cut have no plan either
    for name in ("history/actions", "history/visited"):
        wanted = np.stack([live.seen[place][name] for place in places])
        np.testing.assert_array_equal(window.observations[name], wanted)


def test_windows_that_need_a_length_or_a_name_are_refused(tmp_path):
    data = DiskTrajDataset(tmp_path)
    with pytest.raises(ValueError, match=r"history/step need to know .*configure\(history=...\)"):
        data.configure(HORIZON, observation_keys=["step", "history/step"])
    with pytest.raises(ValueError, match="history/actions need to know"):
        data.configure(HORIZON, history_keys=["history/actions"])
    with pytest.raises(ValueError, match=r"arrays named history/..., got 2 and \['step'\]"):
        data.configure(HORIZON, history=2, history_keys=["step"])
    with pytest.raises(ValueError, match="a length >= 0"):
        data.configure(HORIZON, history=-1)


def test_a_history_of_what_was_not_stored_is_refused(tmp_path):
    data = filled(tmp_path, 0)
    data.configure(HORIZON, history=2, observation_keys=["step", "history/glyphs"])
    with pytest.raises(ValueError, match="it lacks glyphs"):
        data.refresh()


def test_an_experiment_tells_how_far_agents_look_back(tmp_path):
    filled(tmp_path, 3)
    keys, oracle = ("step", "history/trace"), TraceOracle()
    agent = SimpleNamespace(
        plan_horizon=HORIZON, observation_keys=keys, label_keys=(), history=3, past_actions=0
    )
    experiment = SimpleNamespace(
        agent=agent,
        trainers={"planner": SimpleNamespace(agent=agent)},
        oracle=oracle,
        augment=None,
        kind=SimpleNamespace(action_names=ACTIONS),
        role=SimpleNamespace(learns=True),
        accelerator=None,
        has_dset_edit_rights=True,
    )
    data = DiskTrajDataset(tmp_path)
    for augment, names in ((None, {"step"}), (object(), {"step", "trace", "map"})):
        experiment.augment = augment
        data.configure_from_experiment(experiment)
        data.refresh()
        seen = data.sample(50, np.random.default_rng(0)).observations
        assert set(seen) == names | {"history/trace"}
        back = seen["step"][:, None].astype(int) - [3, 2, 1]
        wanted = np.where(back[..., None] >= 0, np.stack([np.full_like(back, 3), back], -1), 0)
        np.testing.assert_array_equal(seen["history/trace"], wanted)


def test_a_mixture_draws_histories_of_all_its_parts(tmp_path):
    parts = [filled(tmp_path / str(seed), seed) for seed in (1, 2)]
    for part in parts:
        part.configure(HORIZON, oracle=TraceOracle(), history=1)
        part.refresh()
    seen = MixtureOfDatasets(parts).sample(80, np.random.default_rng(0)).observations
    seed, step = seen["trace"].T
    assert set(seed) == {1, 2}
    wanted = np.where(step > 0, (seed + step - 1) % 3, len(ACTIONS))
    np.testing.assert_array_equal(seen["history/actions"][:, 0], wanted)


def test_the_first_steps_of_a_later_piece_are_not_drawn(tmp_path):
    data = dataset(tmp_path, balance="timestep")
    pieces = [piece("a", 1, 0, 5, won=None), piece("a", 1, 5, 6), piece("a", 2, 20, 2)]
    put_shard(data.folder.shards, pieces)
    data.label_new(TraceOracle(), HORIZON)
    data.configure(HORIZON, oracle=TraceOracle(), action_names=ACTIONS, history=3)
    data.refresh()
    drawn = data.sample(2000, np.random.default_rng(0)).observations["trace"]
    # Every fifth step has no plan. One of eight steps is missed with probability below 1e-100.
    assert {tuple(t) for t in drawn.tolist()} == {(1, t) for t in (0, 1, 2, 3, 8, 10)}


def test_known_histories_agree_with_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(40):
        lengths = rng.integers(1, 9, 5)
        firsts = rng.integers(0, 3, 5)
        count = int(rng.integers(0, 6))
        wanted = [
            first == 0 or step >= count
            for first, length in zip(firsts, lengths, strict=True)
            for step in range(length)
        ]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        assert history_known(firsts, offsets, count).tolist() == wanted


def test_rows_before_a_row_are_gathered_within_its_segment():
    rng = np.random.default_rng(0)
    sizes = (7, 1, 30)
    files = [
        {"x": rng.random((n, 2, 3)), "y": rng.integers(0, 9, n).astype(np.int8)} for n in sizes
    ]
    starts = [np.array([0, 2]), np.array([0]), np.array([0, 1, 2, 15])]
    file = np.repeat(np.arange(3), sizes)
    row = np.concatenate([np.arange(n) for n in sizes])
    specs, sources = specs_of(files[0]), np.stack([addresses_of(f.values()) for f in files])
    rows = specs, sources, np.array(sizes)
    for count in (1, 4, 50):
        got = PastGatherer(*rows, starts, count, {"y": 9}).gather(file, row)
        assert got["x"].shape == (38, count, 2, 3)
        for i, (f, r) in enumerate(zip(file, row, strict=True)):
            begin = starts[f][starts[f] <= r].max()
            for back in range(1, count + 1):
                here = r - back >= begin
                x = files[f]["x"][r - back] if here else np.zeros((2, 3))
                np.testing.assert_array_equal(got["x"][i, -back], x)
                assert got["y"][i, -back] == (files[f]["y"][r - back] if here else 9)
    with pytest.raises(IndexError, match="outside its file"):
        PastGatherer(*rows, starts, 2, {}).gather(np.array([1]), np.array([1]))
