"""What a collector leaves behind in its shards, and how it is found again."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remdm.data.atomic_file import _rename_to_new
from remdm.data.folder import DatasetFolder, newest_shard
from remdm.data.shards import RecordingBuffer, Shard, ShardName, parse_shard_name, write_shard
from remdm.data.tensor_file import DamagedFileError, TensorFile, write_tensor_file
from tests.data.recorded import ACTIONS, HORIZON, TraceOracle, dataset, piece, put_shard
from tests.data.test_shards import MAZE, Recording

STATE = {
    "episodes": np.array([3, -1], np.int64),
    "history_actions": np.zeros(0, np.int8),
    "carried": np.linspace(0, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    "nothing": np.zeros((0, 5), np.float64),
    "known": np.array([True, False]),
}


def put_state(folder: DatasetFolder, epoch: int, sequence: int, collector: str = "c0"):
    """A shard of one piece whose state is its own epoch and sequence."""
    folder.make()
    segment, steps = piece("a", epoch, 0, 4, collector=collector)
    path = folder.shards / f"e{epoch:06d}-{collector}-{sequence:06d}-4.safetensors"
    write_shard(path, [segment], [steps], ACTIONS, state={"at": np.array([epoch, sequence])})
    return path


def test_a_state_comes_back_as_written_and_is_no_step(tmp_path):
    segment, steps = piece("a", 3, 0, 5)
    path = tmp_path / "x.safetensors"
    write_shard(path, [segment], [steps], ACTIONS, state=STATE)
    shard = Shard.open(path, verify_data=True)
    assert shard.state.keys() == STATE.keys()
    for name, array in STATE.items():
        assert shard.state[name].dtype == array.dtype
        np.testing.assert_array_equal(shard.state[name], array)
    assert shard.steps.named().keys() == steps.named().keys()
    assert shard.num_steps == 5


def test_a_shard_without_a_state_has_an_empty_one(tmp_path):
    assert Shard.open(put_shard(tmp_path, [piece("a", 3, 0, 5)])).state == {}


def test_windows_carry_no_state(tmp_path):
    data = dataset(tmp_path)
    put_state(data.folder, 0, 0)
    data.label_new(TraceOracle(), HORIZON)
    data.refresh()
    window = data.sample(3, np.random.default_rng(0))
    assert set(window.observations) == {"trace", "map", "step"}


def test_a_state_without_an_axis_is_refused_and_nothing_is_written(tmp_path):
    segment, steps = piece("a", 3, 0, 5)
    with pytest.raises(ValueError, match="state count must have at least one axis"):
        write_shard(tmp_path / "x", [segment], [steps], ACTIONS, state={"count": np.array(3)})
    assert not list(tmp_path.iterdir())


def test_a_flipped_bit_in_a_state_is_found(tmp_path):
    path = put_state(DatasetFolder(tmp_path), 0, 0)
    raw = bytearray(path.read_bytes())
    place = bytes(raw).index(np.array([0, 0]).tobytes(), 8 + int.from_bytes(raw[:8], "little"))
    raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedFileError, match="CRC-32"):
        Shard.open(path, verify_data=True)


def test_what_is_flushed_holds_the_state_it_is_given(tmp_path):
    recording = Recording(tmp_path, names=[MAZE])
    recording.run(2)
    path = recording.buffer.flush(0, STATE)
    assert Shard.open(path).state.keys() == STATE.keys()


# Names are used once


def test_a_shard_is_never_written_over_and_the_error_says_who_may_be_the_other(tmp_path):
    first = put_shard(tmp_path, [piece("a", 3, 0, 5)])
    kept = first.read_bytes()
    with pytest.raises(FileExistsError, match="another process writes under the same name"):
        put_shard(tmp_path, [piece("b", 4, 0, 5)])
    assert first.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [first]


def test_a_file_is_renamed_without_replacing_where_there_are_no_links(tmp_path):
    temporary, path = tmp_path / "temporary", tmp_path / "path"
    temporary.write_bytes(b"one")
    _rename_to_new(temporary, path)
    assert [p.name for p in tmp_path.iterdir()] == ["path"]
    temporary.write_bytes(b"two")
    with pytest.raises(FileExistsError) as caught:
        _rename_to_new(temporary, path)
    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"one"


def test_other_files_are_still_replaced(tmp_path):
    for value in (1, 2):
        write_tensor_file(tmp_path / "x", {"x": [np.array([value])]}, {}, "a file")
    assert os.listdir(tmp_path) == ["x"]


RIVAL = """
import sys
from pathlib import Path
import numpy as np
from remdm.data.tensor_file import write_tensor_file
folder, me = Path(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    try:
        arrays = {"who": [np.full(1000, me)]}
        write_tensor_file(folder / f"{number}", arrays, {}, "a file", exclusive=True)
        print(number)
    except FileExistsError:
        pass
"""


def test_of_rivals_for_one_name_exactly_one_wins_and_the_file_is_its(tmp_path):
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, str(tmp_path), str(number)],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    for rival in rivals:
        assert rival.stdout.readline() == "ready\n"
    for rival in rivals:
        rival.stdin.write("go\n")
        rival.stdin.flush()
    won = [rival.communicate()[0].split() for rival in rivals]
    assert sorted(int(number) for own in won for number in own) == list(range(60))
    for me, own in enumerate(won):
        for number in own:
            file = TensorFile.open(tmp_path / number, verify_data=True)
            assert (file.tensors["who"] == me).all()
    assert len(list(tmp_path.iterdir())) == 60


def test_a_restarted_collector_never_takes_a_name_again(tmp_path):
    folder = DatasetFolder(tmp_path)
    for sequence in (0, 1, 5):
        put_state(folder, 2, sequence)
    put_state(folder, 1, 9)
    put_state(folder, 3, 4, collector="c00")
    (folder.shards / "e000002-c0-000001-4.safetensors").unlink()
    recording = Recording(folder.shards, names=[MAZE])
    recording.buffer = RecordingBuffer(folder.shards, recording.env.action_names, "c0")
    told = []
    for epoch in (1, 2, 4, 4):
        recording.run(1)
        told.append(parse_shard_name(recording.buffer.flush(epoch).name)[:3])
    assert told == [(2, "c0", 6), (2, "c0", 7), (4, "c0", 0), (4, "c0", 1)]
    assert recording.buffer.epoch == 4


def test_names_go_on_after_a_shard_that_lies_elsewhere(tmp_path):
    recording = Recording(tmp_path, names=[MAZE])
    recording.buffer.go_on_after(ShardName(5, "main", 7, 20))
    recording.run(1)
    assert parse_shard_name(recording.buffer.flush(3).name)[:3] == (5, "main", 8)
    with pytest.raises(ValueError, match="go on after a shard of its own, got one of c0"):
        recording.buffer.go_on_after(ShardName(5, "c0", 7, 20))


# The newest shard


def test_the_newest_shard_is_that_of_the_highest_epoch_and_then_sequence(tmp_path):
    folder = DatasetFolder(tmp_path)
    assert newest_shard(folder, "c0") is None
    for epoch, sequence in ((9, 1), (10, 0), (10, 2), (2, 7)):
        put_state(folder, epoch, sequence)
    put_state(folder, 11, 0, collector="c00")
    put_state(folder, 11, 0, collector="c0-000011-3")
    (folder.shards / "by-hand.safetensors").write_bytes(b"")
    assert newest_shard(folder, "c0").state["at"].tolist() == [10, 2]
    assert newest_shard(folder, "c00").state["at"].tolist() == [11, 0]
    assert newest_shard(folder, "c1") is None


def test_damaged_shards_are_set_aside_for_they_are_collected_again(tmp_path):
    folder = DatasetFolder(tmp_path)
    for sequence in range(4):
        put_state(folder, 0, sequence)
    torn, flipped = (folder.shards / f"e000000-c0-00000{n}-4.safetensors" for n in (2, 3))
    torn.write_bytes(torn.read_bytes()[:-1])
    raw = bytearray(flipped.read_bytes())
    raw[-1] ^= 1
    flipped.write_bytes(raw)
    assert newest_shard(folder, "c0").state["at"].tolist() == [0, 1]
    assert folder.num_quarantined == 2
    assert not torn.exists()


@pytest.mark.parametrize("limit", [1, 8])
def test_the_newest_shard_of_every_collector_is_never_evicted(tmp_path, limit):
    data = dataset(tmp_path, dset_max_timesteps=limit)
    for epoch in range(4):
        put_state(data.folder, epoch, 0, "c0")
        if epoch < 2:
            put_state(data.folder, epoch, 0, "c1")
            put_shard(data.folder.protected, [piece("a", 9, 0, 4)], epoch=epoch, collector="c2")
        data.refresh()
    data.refresh()
    assert newest_shard(data.folder, "c0").state["at"].tolist() == [3, 0]
    assert newest_shard(data.folder, "c1").state["at"].tolist() == [1, 0]
    left = [e.name[:10] for e in data.manifest.shards if not e.protected]
    assert left == ["e000001-c1", "e000003-c0"]
    assert data.manifest.evicted_steps == 16
