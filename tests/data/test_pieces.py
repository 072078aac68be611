"""Episodes recorded in pieces: how long, in which files, what is held, and joining them again."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from remdm.data.minari_export import EpisodeJoiner
from remdm.data.pieces import PieceLength, piece_length
from remdm.data.shards import RecordingBuffer, Shard, parse_shard_name
from remdm.experiment import Experiment
from tests.data.recorded import steps
from tests.data.test_shards import Recording, joined
from tests.test_resume import stopping
from tests.tiny_runs import assert_same_run, data_files, learnt


def recorded(folder: Path | None, length: PieceLength | None) -> Recording:
    """Random plans in three rows, cut."""
    recording = Recording(folder)
    names = recording.env.action_names
    recording.buffer = RecordingBuffer(folder, names, piece_length=length)
    return recording


def lengths_in(folder: Path) -> list[list[tuple[int, bool]]]:
    """Of every episode, the lengths of its pieces, and whether it ends with one."""
    found: dict[tuple[str, int], list[tuple[int, bool]]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        for segment in Shard.open(path).segments:
            found.setdefault((segment.env, segment.seed), []).append(
                (segment.length, segment.final)
            )
    return list(found.values())


@pytest.mark.parametrize("staggered", [False, True])
def test_pieces_have_the_length_asked_for_and_join_to_the_episodes_that_were_played(
    staggered: bool, tmp_path: Path
) -> None:
    recording = recorded(tmp_path, piece_length(10, 3, staggered=staggered))
    recording.run(60)
    recording.buffer.flush(0)
    ended = [cut[:-1] for cut in lengths_in(tmp_path) if cut]  # the last ones end as they can
    lengths = [length for cut in ended for length, _ in cut]
    assert len(lengths) > 10
    assert not any(final for cut in ended for _, final in cut)
    assert set(lengths) == {10} if not staggered else set(lengths) <= set(range(5, 16))
    assert staggered == (len(set(lengths)) > 5)
    episodes, outcomes = joined(tmp_path)
    assert outcomes == recording.outcomes
    assert {k: len(v) for k, v in episodes.items()} == {
        k: len(v) for k, v in recording.episodes.items()
    }
    for key, wanted in recording.episodes.items():
        assert [action for _, action, _ in episodes[key]] == [a for _, a, _ in wanted]


def test_a_length_depends_on_nothing_but_the_episode_and_where_the_piece_begins() -> None:
    one, other = (piece_length(20, seed, staggered=True) for seed in (1, 2))
    assert one is not None
    assert other is not None
    places = [("a", level, first) for level in range(40) for first in (0, 7)]
    drawn = [one(*place) for place in places]
    assert drawn == [one(*place) for place in reversed(places)][::-1]
    assert drawn != [other(*place) for place in places]
    assert (min(drawn), max(drawn)) == (10, 30)  # of 21 numbers, missed once in 20 times 80 draws
    assert piece_length(None, 1, staggered=True) is None
    assert {piece_length(1, 1, staggered=True)("a", n, 0) for n in range(9)} == {1}  # type: ignore[misc]


def test_finished_pieces_are_written_and_what_goes_on_is_kept(tmp_path: Path) -> None:
    recording = recorded(tmp_path, piece_length(8, 0, staggered=True))
    held, most = [], 0
    for turn in range(40):
        recording.run(1)
        most = max(most, recording.buffer.nbytes)
        if recording.buffer.finished_steps >= 20:
            before, finished = recording.buffer.num_steps, recording.buffer.finished_steps
            path = recording.buffer.flush_finished(0)
            assert path is not None
            assert parse_shard_name(path.name).num_steps == finished
            assert recording.buffer.num_steps == before - finished
            assert recording.buffer.finished_steps == 0
            held.append(turn)
    assert len(held) > 5
    whole = recorded(tmp_path / "whole", None)
    whole.run(40)
    # Three rows of pieces of at most twelve steps and one shard, of some four hundred steps.
    assert most < whole.buffer.nbytes / 3
    recording.buffer.flush(0)
    episodes, outcomes = joined(tmp_path)
    assert outcomes == whole.outcomes
    for key, wanted in whole.episodes.items():
        assert [action for _, action, _ in episodes[key]] == [a for _, a, _ in wanted]
        for (seen, *_), (wanted_seen, *_) in zip(episodes[key], wanted, strict=True):
            assert all(np.array_equal(seen[n], a) for n, a in wanted_seen.items())


def test_an_episode_that_is_added_whole_is_cut_alike_and_exported_as_one(tmp_path: Path) -> None:
    four = piece_length(4, 0, staggered=False)
    buffer = RecordingBuffer(tmp_path, ("a", "b", "c"), piece_length=four)
    buffer.add("env", 5, steps(5, 0, 10, ends=True), won=True)
    buffer.add("env", 6, steps(6, 0, 8, ends=False), won=None)
    path = buffer.flush(0)
    assert path is not None
    shard = Shard.open(path)
    told = [(s.seed, s.first_step, s.length, s.won, s.final) for s in shard.segments]
    assert told == [
        (5, 0, 4, None, False),
        (5, 4, 4, None, False),
        (5, 8, 2, True, True),
        (6, 0, 4, None, False),
        (6, 4, 4, None, False),
    ]
    joiner = EpisodeJoiner()
    parts = itertools.pairwise(shard.offsets)
    pairs = zip(shard.segments, parts, strict=True)
    found = [e for s, (a, b) in pairs for e in joiner.add(s, shard.steps[a:b])] + joiner.rest()
    assert [sum(map(len, episode.parts)) for episode in found] == [10, 8]


def test_a_run_in_pieces_writes_shards_within_an_epoch_and_goes_on_bit_for_bit(
    tmp_path: Path,
) -> None:
    bound = {
        "traj_save_len": "4",
        "shard_timesteps": "12",
        "epochs": "2",
        "train_timesteps_per_epoch": "16",
        "val_interval": "None",
        "baseline_agent_type": "None",
        "heldout_envs": "()",
    }
    whole = learnt(tmp_path / "whole", **bound)
    folder = whole.folder.root / "shards"
    names = [parse_shard_name(path.name) for path in sorted(folder.glob("*.safetensors"))]
    assert sum(name.epoch == 1 for name in names) > 3
    assert sum(name.num_steps for name in names) == whole.progress.env_steps
    sizes = [name.num_steps for name in names]
    assert max(sizes) < 12 + 5 * 6  # one shard, and what five rows may have open
    joined(folder)
    assert any(file.startswith("labels/") for file in data_files(whole.folder.root))
    assert not learnt(tmp_path / "cut", stopping("batch", 6), **bound).progress.finished
    learnt(tmp_path / "cut", **bound)
    assert_same_run(tmp_path / "whole" / "run", tmp_path / "cut" / "run")


def test_a_length_of_no_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 1, got 0; set Experiment.traj_save_len"):
        learnt(tmp_path, Experiment, traj_save_len="0")
