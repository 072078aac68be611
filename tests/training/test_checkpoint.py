import errno
import json
import os
import random
import signal
import sys

import numpy as np
import pytest
import torch

from remdm.training.checkpoint import (
    FORMAT_VERSION,
    STATE_FILE,
    CheckpointError,
    check_whole,
    epoch_name,
    list_checkpoints,
    load_into,
    load_plain,
    load_weights,
    random_states,
    read_state,
    remove_old,
    save_plain,
    save_weights,
    set_random_states,
    whole_epochs,
    write_checkpoint,
)


def progress(epoch, *, collected=False, batches=0):
    return {"progress": {"epoch": epoch, "collected": collected, "batches": batches}}


def nothing(folder):
    pass


def names(paths):
    return [path.name for path in paths]


def everything_below(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_a_checkpoint_is_a_folder_with_its_state_and_what_was_put_into_it(tmp_path):
    weights = {"a.weight": torch.randn(3, 2)}
    folder = write_checkpoint(
        tmp_path / "ckpts",
        "epoch_1",
        {"remdm_version": "9.9", **progress(1)},
        lambda partial: save_weights(partial / "net.safetensors", weights),
    )
    assert folder == tmp_path / "ckpts" / "epoch_1"
    assert everything_below(tmp_path / "ckpts") == [
        "epoch_1",
        "epoch_1/net.safetensors",
        "epoch_1/state.json",
    ]
    assert read_state(folder) == {
        "format_version": FORMAT_VERSION,
        "remdm_version": "9.9",
        **progress(1),
    }
    assert torch.equal(load_weights(folder / "net.safetensors")["a.weight"], weights["a.weight"])


def test_the_state_is_written_before_anything_else(tmp_path):
    seen = []
    write_checkpoint(tmp_path, "a", {}, lambda folder: seen.extend(everything_below(folder)))
    assert seen == [STATE_FILE]


def test_a_reader_sees_nothing_before_it_is_complete(tmp_path):
    write_checkpoint(tmp_path, "a", progress(0), nothing)
    seen = []
    write_checkpoint(
        tmp_path, "b", progress(1), lambda folder: seen.extend(list_checkpoints(tmp_path))
    )
    assert names(seen) == ["a"]
    assert names(list_checkpoints(tmp_path)) == ["a", "b"]


def test_a_checkpoint_of_the_same_name_is_replaced(tmp_path):
    for value in (1, 2):
        write_checkpoint(
            tmp_path, "best", {"value": value}, lambda f, v=value: (f / f"only_{v}").touch()
        )
    assert read_state(tmp_path / "best")["value"] == 2
    assert everything_below(tmp_path) == ["best", "best/only_2", "best/state.json"]


def full_disk(folder):
    (folder / "half").write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_the_older_ones_and_nothing_else(tmp_path):
    write_checkpoint(tmp_path, "best", {"value": 1}, nothing)
    before = everything_below(tmp_path)
    with pytest.raises(OSError, match="checkpoint best could not be written") as caught:
        write_checkpoint(tmp_path, "best", {"value": 2}, full_disk)
    assert caught.value.errno == errno.ENOSPC
    assert "No space left" in str(caught.value)
    assert everything_below(tmp_path) == before
    assert read_state(tmp_path / "best")["value"] == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_any_other_failure_leaves_nothing_either(tmp_path, error):
    def fill(folder):
        raise error

    with pytest.raises(error):
        write_checkpoint(tmp_path, "a", {}, fill)
    assert everything_below(tmp_path) == []


def test_what_a_killed_process_left_is_no_checkpoint(tmp_path):
    write_checkpoint(tmp_path, "a", progress(0), nothing)
    left = tmp_path / ".partial-1-b"
    left.mkdir()
    (left / STATE_FILE).write_text(json.dumps({"format_version": 1, **progress(9)}))
    assert names(list_checkpoints(tmp_path)) == ["a"]


def test_another_format_version_is_refused_with_both_versions(tmp_path):
    folder = write_checkpoint(tmp_path, "a", {"remdm_version": "7.1"}, nothing)
    state = json.loads((folder / STATE_FILE).read_text())
    (folder / STATE_FILE).write_text(json.dumps({**state, "format_version": 99}))
    with pytest.raises(CheckpointError, match=rf"format 99.*reads {FORMAT_VERSION}.*7\.1"):
        read_state(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '"word"'])
def test_a_damaged_state_is_refused_and_not_listed(tmp_path, text):
    folder = write_checkpoint(tmp_path, "a", progress(0), nothing)
    (folder / STATE_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        read_state(folder)
    assert list_checkpoints(tmp_path) == []


def test_a_folder_without_state_is_no_checkpoint(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*empty"):
        read_state(tmp_path / "empty")
    assert list_checkpoints(tmp_path) == []
    assert list_checkpoints(tmp_path / "not_there") == []


def test_checkpoints_are_listed_by_how_far_they_are(tmp_path):
    order = [
        ("b", progress(0, collected=True, batches=40)),
        ("epoch_000001", progress(1)),
        ("epoch_000001_batch_000000", progress(1, collected=True)),
        ("a", progress(1, collected=True, batches=2)),
        ("epoch_000001_batch_000010", progress(1, collected=True, batches=10)),
        ("epoch_2", progress(2)),
        ("epoch_10", progress(10)),
    ]
    for name, state in order[::-1]:
        write_checkpoint(tmp_path, name, state, nothing)
    assert names(list_checkpoints(tmp_path)) == [name for name, _ in order]


def test_the_newest_are_kept(tmp_path):
    for epoch in (3, 1, 10, 2):
        write_checkpoint(tmp_path, f"epoch_{epoch}", progress(epoch), nothing)
    (tmp_path / "something_else").mkdir()
    remove_old(tmp_path, 2)
    assert names(list_checkpoints(tmp_path)) == ["epoch_3", "epoch_10"]
    assert (tmp_path / "something_else").is_dir()
    remove_old(tmp_path, 5)
    assert names(list_checkpoints(tmp_path)) == ["epoch_3", "epoch_10"]


def put_epochs(root, *epochs):
    for epoch in epochs:
        write_checkpoint(root, epoch_name(epoch), progress(epoch), nothing)


def test_those_after_a_multiple_of_so_many_epochs_are_kept_for_ever(tmp_path):
    for epoch in range(13):
        put_epochs(tmp_path, epoch)
        within = progress(epoch, collected=True, batches=3)
        write_checkpoint(tmp_path, f"{epoch_name(epoch)}_batch_000003", within, nothing)
        remove_old(tmp_path, 2, 5)
    assert names(list_checkpoints(tmp_path)) == [
        "epoch_000000",
        "epoch_000005",
        "epoch_000010",
        "epoch_000012",
        "epoch_000012_batch_000003",
    ]


def test_a_checkpoint_goes_at_once_and_a_kill_leaves_no_half_of_one(tmp_path):
    put_epochs(tmp_path, 1, 2, 3)
    (tmp_path / "epoch_000001" / "weights").touch()
    child = os.fork()
    if child == 0:

        def dies_in_the_middle(event, arguments):
            if event == "os.remove":
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(dies_in_the_middle)
        remove_old(tmp_path, 2)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert names(list_checkpoints(tmp_path)) == ["epoch_000002", "epoch_000003"]
    (rest,) = {path.name for path in tmp_path.iterdir()} - {"epoch_000002", "epoch_000003"}
    assert rest.startswith(".partial-")  # which the next start clears away


def test_what_a_link_leads_to_stays(tmp_path):
    put_epochs(tmp_path / "elsewhere", 1)
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "ckpts/epoch_000001").symlink_to(tmp_path / "elsewhere/epoch_000001")
    put_epochs(tmp_path / "ckpts", 2, 3)
    remove_old(tmp_path / "ckpts", 1)
    assert names((tmp_path / "ckpts").iterdir()) == ["epoch_000003"]
    assert names(list_checkpoints(tmp_path / "elsewhere")) == ["epoch_000001"]


def test_a_whole_checkpoint_is_told_from_one_with_a_torn_file(tmp_path):
    folder = write_checkpoint(
        tmp_path, "a", progress(1), lambda f: save_plain(f / "process_0.pt", {"a": 1})
    )
    assert check_whole(folder)["progress"]["epoch"] == 1
    (folder / "process_0.pt").write_bytes(b"PK torn")
    with pytest.raises(CheckpointError, match=r"process_0\.pt is damaged"):
        check_whole(folder)


def test_only_names_of_whole_epochs_have_a_number_of_epochs(tmp_path):
    assert whole_epochs(tmp_path / epoch_name(12)) == 12
    assert whole_epochs(tmp_path / epoch_name(12_345_678)) == 12_345_678
    for name in ("epoch_000012_batch_000000", "epoch_12", "best", "xepoch_000012"):
        assert whole_epochs(tmp_path / name) is None


def test_shared_sliced_and_trained_tensors_are_saved_by_value(tmp_path):
    whole = torch.arange(12.0, requires_grad=True).reshape(3, 4)
    weights = {"tied": whole, "also": whole, "column": whole[:, 1], "count": torch.tensor(3)}
    save_weights(tmp_path / "w.safetensors", weights)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[k], weights[k]) for k in weights)


@pytest.mark.parametrize("keep", [0, 20, -1])
def test_damaged_weights_are_refused(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"w\.safetensors is damaged"):
        load_weights(path)
    with pytest.raises(CheckpointError, match=r"other\.safetensors is missing"):
        load_weights(tmp_path / "other.safetensors")


def test_plain_values_come_back_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "optimiser.pt"
    values = {"step": 3, "moments": [torch.randn(4), torch.zeros(2, dtype=torch.int64)]}
    save_plain(path, values)
    loaded = load_plain(path)
    assert loaded["step"] == 3
    assert all(map(torch.equal, loaded["moments"], values["moments"]))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"optimiser\.pt is damaged"):
        load_plain(path)
    with pytest.raises(CheckpointError, match=r"other\.pt is missing"):
        load_plain(tmp_path / "other.pt")


def test_code_in_a_plain_file_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"x": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        load_plain(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_are_loaded_into_the_module_they_fit(tmp_path):
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    load_into(target, source.state_dict(), tmp_path)
    assert torch.equal(target.weight, source.weight)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, r"missing \['bias'\]"),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "x": torch.zeros(1)},
            r"unknown \['x'\]",
        ),
        (
            {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)},
            r"weight is \(2, 4\) in the file and \(2, 3\) in the model",
        ),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path, weights, message):
    target = torch.nn.Linear(3, 2)
    before = target.weight.detach().clone()
    with pytest.raises(CheckpointError, match=message):
        load_into(target, weights, tmp_path / "w.safetensors")
    assert torch.equal(target.weight, before)


def draws():
    return random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()  # noqa: NPY002


def test_random_states_survive_a_file(tmp_path):
    np.random.standard_normal()  # noqa: NPY002 - leaves half of a pair of draws behind
    random.gauss(0, 1)
    save_plain(tmp_path / "random.pt", random_states())
    expected = draws()
    assert draws() != expected
    set_random_states(load_plain(tmp_path / "random.pt"))
    assert draws() == expected
