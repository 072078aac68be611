import dataclasses
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from remdm.data.segment_table import SegmentTable
from remdm.data.shards import RecordingBuffer, Shard, shard_name, write_shard
from remdm.data.tensor_file import DamagedFileError, TensorFile, write_tensor_file
from remdm.envs.making import make_vec_env
from tests.data.recorded import ACTIONS, as_version_1, piece, put_shard

MAZE, ROOM = "Gridworld-Maze-9x9-v0", "Gridworld-Room-9x9-v0"


def test_a_shard_comes_back_as_written(tmp_path):
    pieces = [piece("a", 3, 0, 5), piece("b", 4, 7, 2, won=None), piece("a", 5, 0, 1, won=False)]
    shard = Shard.open(put_shard(tmp_path / "with space", pieces), verify_data=True)
    assert shard.segments == tuple(s for s, _ in pieces)
    assert shard.action_names == ACTIONS
    assert shard.offsets.tolist() == [0, 5, 7, 8]
    assert shard.num_steps == 8
    assert shard.env_steps == {"a": 6, "b": 2}
    assert shard.nbytes == shard.path.stat().st_size
    for number, (_, wanted) in enumerate(pieces):
        got = shard.steps[shard.offsets[number] : shard.offsets[number + 1]]
        for name, array in wanted.named().items():
            assert got.named()[name].dtype == array.dtype
            np.testing.assert_array_equal(got.named()[name], array)


def test_steps_without_a_segment_are_refused(tmp_path):
    segment, arrays = piece("a", 3, 0, 5)
    with pytest.raises(ValueError, match="1 segments of together 5 steps for 10 steps"):
        write_shard(tmp_path / "x", [segment], [arrays, arrays], ACTIONS)
    wrong = dataclasses.replace(arrays, actions=arrays.actions.astype(np.int64))
    with pytest.raises(ValueError, match="actions must be int8, got int64"):
        write_shard(tmp_path / "x", [segment], [wrong], ACTIONS)
    assert not list(tmp_path.iterdir())


def damaged(tmp_path: Path, *, tensors=None, **metadata) -> Path:
    """A shard with something wrong in it that its checksums do not tell."""
    segment, arrays = piece("a", 3, 0, 4)
    parts = {"offsets": [np.array([0, 4])], "segments": [SegmentTable.of([segment]).rows]}
    parts |= {k: [v] for k, v in (arrays.named() | (tensors or {})).items()}
    facts = {
        "kind": "shard",
        "schema_version": 2,
        "action_names": ACTIONS,
        "envs": ["a"],
        "collectors": ["main"],
    }
    path = tmp_path / "damaged"
    write_tensor_file(path, parts, facts | metadata, "a damaged shard")
    return path


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"schema_version": 3}, "schema version 3; a shard of schema version 1 or 2 can be read"),
        ({"kind": "labels"}, "it holds a labels"),
        ({"tensors": {"offsets": np.array([0, 3])}}, "offsets do not match its segments"),
        ({"tensors": {"offsets": np.array([0, 2, 4])}}, "offsets do not match its segments"),
        ({"tensors": {"obs/map": np.zeros((3, 2))}}, "obs/map has 3 steps, actions have 4"),
        ({"tensors": {"terminated": np.zeros(4, bool)}}, "episodes end elsewhere"),
        ({"tensors": {"actions": np.full(4, 3, np.int8)}}, "actions outside 0..2"),
        ({"tensors": {"rewards": np.zeros(4)}}, "rewards has dtype float64"),
    ],
    ids=["version", "kind", "short", "extra", "lengths", "ends", "actions", "dtype"],
)
def test_contents_that_contradict_each_other_are_found(tmp_path, wrong, reason):
    with pytest.raises(DamagedFileError, match=reason):
        Shard.open(damaged(tmp_path, **wrong))


def test_a_shard_of_the_first_version_of_the_format_is_read_alike(tmp_path):
    pieces = [piece("b", 3, 0, 5), piece("a", 4, 7, 2, won=None), piece("b", 5, 0, 1, won=False)]
    path = put_shard(tmp_path, pieces)
    new, old = Shard.open(path), Shard.open(as_version_1(path), verify_data=True)
    assert old.segments == new.segments == tuple(s for s, _ in pieces)
    assert old.env_steps == new.env_steps
    assert TensorFile.open(path).metadata["schema_version"] == 1
    np.testing.assert_array_equal(old.table.rows, new.table.rows)
    np.testing.assert_array_equal(old.offsets, new.offsets)
    for name, array in new.steps.named().items():
        np.testing.assert_array_equal(old.steps.named()[name], array)


def test_segments_with_numbers_beyond_64_bits_are_not_written(tmp_path):
    segment, arrays = piece("a", 3, 0, 5)
    with pytest.raises(ValueError, match="must fit into 64 bits"):
        write_shard(tmp_path / "x", [dataclasses.replace(segment, seed=2**63)], [arrays], ACTIONS)
    assert not list(tmp_path.iterdir())


def test_names_sort_in_the_order_of_making():
    made = [(9, 0, 700), (9, 1, 20), (10, 0, 5), (100, 0, 1), (100, 11, 1)]
    names = [shard_name(epoch, "actor-1", number, size) for epoch, number, size in made]
    assert names == sorted(names)
    assert names[0] == "e000009-actor-1-000000-700.safetensors"


@pytest.mark.parametrize("bad", [{"epoch": 10**6}, {"sequence": -1}, {"collector": "a/b"}])
def test_a_name_that_would_not_sort_is_refused(bad):
    good = {"epoch": 0, "collector": "main", "sequence": 0, "num_steps": 1}
    with pytest.raises(ValueError, match="got"):
        shard_name(**{**good, **bad})


class Recording:
    """Random plans in real environments, recorded, and all steps kept beside for comparison."""

    def __init__(self, folder: Path, names=(MAZE, ROOM, MAZE)) -> None:
        self.env = make_vec_env(names, env_mode="sync")
        self.buffer = RecordingBuffer(folder, self.env.action_names)
        self.rng = np.random.default_rng(0)
        self.seeds = np.arange(len(names)) + 1_000_000
        self.env.reset(self.seeds.tolist())
        self.episodes: dict[tuple[str, int], list[tuple]] = {}
        self.outcomes: dict[tuple[str, int], bool] = {}

    def run(self, chunks: int) -> None:
        for _ in range(chunks):
            plans = self.rng.integers(0, 8, (self.env.num_envs, 6))
            chunk = self.env.execute(plans, 4, stop_when_blocked=True)
            self.buffer.append(chunk, self.seeds, self.env.env_names)
            for row, name in enumerate(self.env.env_names):
                key = (name, int(self.seeds[row]))
                for k in np.flatnonzero(chunk.valid[row]):
                    seen = {n: a[row, k].copy() for n, a in chunk.observations.items()}
                    step = (seen, int(chunk.actions[row, k]), float(chunk.rewards[row, k]))
                    self.episodes.setdefault(key, []).append(step)
                if chunk.done[row]:
                    self.outcomes[key] = bool(chunk.won[row])
            rows = np.flatnonzero(chunk.done)
            if len(rows):
                self.seeds[rows] += len(self.seeds)
                self.env.reset(self.seeds[rows].tolist(), rows.tolist())


def joined(folder: Path) -> tuple[dict, dict]:
    """Episodes put together again from the pieces of all shards, and how they ended."""
    episodes: dict[tuple[str, int], list[tuple]] = {}
    outcomes = {}
    for path in sorted(folder.glob("*.safetensors")):
        shard = Shard.open(path, verify_data=True)
        for number, segment in enumerate(shard.segments):
            key = (segment.env, segment.seed)
            part = shard.steps[shard.offsets[number] : shard.offsets[number + 1]]
            before = episodes.setdefault(key, [])
            assert len(before) == segment.first_step
            for t in range(segment.length):
                seen = {n: a[t] for n, a in part.observations.items()}
                before.append((seen, int(part.actions[t]), float(part.rewards[t])))
            if segment.final:
                assert key not in outcomes
                outcomes[key] = segment.won
    return episodes, outcomes


def test_pieces_written_in_turns_join_to_the_episodes_that_were_played(tmp_path):
    recording = Recording(tmp_path)
    for epoch in range(4):
        recording.run(25)
        assert recording.buffer.flush(epoch) is not None
        assert recording.buffer.num_steps == recording.buffer.nbytes == 0
    episodes, outcomes = joined(tmp_path)
    assert outcomes == recording.outcomes
    assert episodes.keys() == recording.episodes.keys()
    assert len(outcomes) > 3
    assert any(s.first_step for p in tmp_path.iterdir() for s in Shard.open(p).segments)
    for key, wanted in recording.episodes.items():
        for (seen, *rest), (wanted_seen, *wanted_rest) in zip(episodes[key], wanted, strict=True):
            assert rest == wanted_rest
            for name, array in wanted_seen.items():
                np.testing.assert_array_equal(seen[name], array)


def test_names_tell_epoch_order_and_steps(tmp_path):
    recording = Recording(tmp_path)
    names = []
    for epoch in (0, 0, 1):
        recording.run(2)
        steps_held = recording.buffer.num_steps
        names.append((epoch, recording.buffer.flush(epoch).name, steps_held))
    assert [name for _, name, _ in names] == [
        shard_name(epoch, "main", number, held)
        for (epoch, _, held), number in zip(names, (0, 1, 0), strict=True)
    ]
    assert recording.buffer.flush(2) is None


def test_a_file_that_exists_is_never_written_over(tmp_path):
    first, second = Recording(tmp_path), Recording(tmp_path)
    first.run(2)
    second.run(2)
    assert first.buffer.flush(0) != second.buffer.flush(0)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_new_policy_version_begins_a_new_piece(tmp_path):
    recording = Recording(tmp_path, names=[MAZE])
    recording.run(1)
    recording.buffer.policy_version = 7
    recording.run(1)
    first, second = Shard.open(recording.buffer.flush(0)).segments[:2]
    assert (first.policy_version, second.policy_version) == (0, 7)
    assert second.first_step == first.length


def test_an_abandoned_episode_stays_unfinished_and_its_repetition_begins_anew(tmp_path):
    recording = Recording(tmp_path, names=[MAZE])
    recording.run(1)
    recording.buffer.abandon([0])
    recording.env.reset(recording.seeds.tolist())
    recording.run(1)
    first, second = Shard.open(recording.buffer.flush(0)).segments[:2]
    assert (first.first_step, second.first_step) == (0, 0)
    assert first.seed == second.seed
    assert not first.final


def test_a_reopened_episode_goes_on_where_it_stood(tmp_path):
    recording = Recording(tmp_path, names=[MAZE])
    recording.run(1)
    length = Shard.open(recording.buffer.flush(0)).segments[-1].length
    recording.buffer = RecordingBuffer(tmp_path, recording.env.action_names)
    recording.buffer.reopen(recording.seeds, recording.env.env_names, [length])
    recording.run(1)
    segment = Shard.open(recording.buffer.flush(1)).segments[0]
    assert segment.first_step == length


def test_without_a_folder_nothing_is_kept():
    recording = Recording(None)
    recording.run(2)
    assert recording.buffer.num_steps == 0
    assert recording.buffer.flush(0) is None


def test_steps_that_could_not_be_written_are_written_later(tmp_path):
    code = """
        import pathlib, resource, signal, sys
        from remdm.data.shards import Shard
        from tests.data.test_shards import Recording, joined
        folder = pathlib.Path(sys.argv[1])
        recording = Recording(folder)
        recording.run(8)
        no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, no_limit[1]))
        try:
            recording.buffer.flush(0)
        except OSError as error:
            assert f"a shard of {recording.buffer.num_steps} steps" in str(error), error
        else:
            raise SystemExit("the limit did not work")
        assert not list(folder.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
        recording.run(8)
        assert recording.buffer.flush(0) is not None
        episodes, outcomes = joined(folder)
        assert outcomes == recording.outcomes
        assert {k: len(v) for k, v in episodes.items()} == {
            k: len(v) for k, v in recording.episodes.items()
        }
    """
    folder = tmp_path / "shards"
    folder.mkdir()
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_more_actions_than_a_plan_can_hold_are_refused():
    with pytest.raises(ValueError, match="at most 125 actions fit into int8 plans, got 200"):
        RecordingBuffer(None, [str(i) for i in range(200)])
