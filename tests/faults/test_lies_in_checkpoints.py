"""Lies and damage that readers of checkpoints once fell for."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from remdm.experts.checkpoint import expert_facts
from remdm.training.checkpoint import (
    STATE_FILE,
    CheckpointError,
    how_far,
    list_checkpoints,
    load_into,
    load_plain,
    load_weights,
    read_state,
    save_plain,
    save_weights,
    write_checkpoint,
)
from remdm.training.run_folder import find_checkpoint
from tests.faults.mutations import Payload

DEEP, LONG_NUMBER = "[" * 60_000 + "]" * 60_000, "9" * 6_000
PROGRESS = {"epoch": 3, "collected": False, "batches": 0}


def put(root: Path, name: str, progress: Any) -> Path:
    return write_checkpoint(root, name, {"progress": progress}, lambda folder: None)


# States


@pytest.mark.parametrize(
    "raw",
    [
        DEEP.encode(),
        b'{"format_version": 1, "x": ' + DEEP.encode() + b"}",
        b'{"format_version": ' + LONG_NUMBER.encode() + b"}",
        b'{"format_version": 1, "x": "' + b"\xff" * 5_000 + b'"}',
        b"x" * 100_000,
    ],
    ids=["deep", "deep inside", "long number", "no text", "no JSON"],
)
def test_a_state_that_is_none_is_refused_in_few_words_and_not_listed(
    tmp_path: Path, raw: bytes
) -> None:
    good = put(tmp_path / "ckpts", "good", PROGRESS)
    folder = put(tmp_path / "ckpts", "bad", PROGRESS)
    (folder / STATE_FILE).write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"bad.state\.json is damaged") as caught:
        read_state(folder)
    assert len(str(caught.value)) < len(str(folder)) + 400
    assert list_checkpoints(tmp_path / "ckpts") == [good]
    with pytest.raises(CheckpointError, match="is damaged"):
        expert_facts(folder)


@pytest.mark.parametrize(
    "progress",
    [
        None,
        [],
        {},
        PROGRESS | {"epoch": "3"},
        PROGRESS | {"epoch": 3.0},
        PROGRESS | {"epoch": -1},
        PROGRESS | {"epoch": float("nan")},
        PROGRESS | {"collected": None},
        PROGRESS | {"batches": True},
    ],
)
def test_progress_that_cannot_be_compared_is_refused_and_not_listed(
    tmp_path: Path, progress: Any
) -> None:
    good = put(tmp_path / "ckpts", "good", PROGRESS)
    bad = put(tmp_path / "ckpts", "bad", progress)
    with pytest.raises(CheckpointError, match=r"bad.state\.json is damaged"):
        read_state(bad)
    assert list_checkpoints(tmp_path / "ckpts") == [good]
    (tmp_path / "config.gin").touch()
    assert find_checkpoint(tmp_path)[1] == good
    assert how_far(read_state(good)) == (3, False, 0)


def test_a_version_that_is_no_number_is_quoted_in_few_words(tmp_path: Path) -> None:
    folder = put(tmp_path, "a", PROGRESS)
    values = {"format_version": "x" * 9_999, "remdm_version": ["\x1b[2J"] * 9_999}
    (folder / STATE_FILE).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="checkpoint format 'xxx") as caught:
        read_state(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(folder)) + 400


# Weights


WEIGHTS = {"weight": torch.arange(35.0).reshape(7, 5), "bias": torch.arange(7.0)}


def test_every_flipped_bit_in_weights_is_found(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, WEIGHTS)
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        with pytest.raises(CheckpointError, match=r"w\.safetensors is damaged"):
            load_weights(path)


def test_weights_with_a_sum_can_be_read_by_any_reader_of_safetensors(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", WEIGHTS)
    loaded = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in WEIGHTS.items())


def test_weights_of_an_older_version_have_no_sum_and_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(save(WEIGHTS))
    loaded = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in WEIGHTS.items())


def test_what_safetensors_says_of_a_long_name_is_passed_on_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    header = json.dumps({"\n" * 99_999: {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(CheckpointError, match=r"w\.safetensors is damaged") as caught:
        load_weights(path)
    assert "invalid offset" in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 2_000
    assert str(caught.value).isprintable()


def test_names_of_another_model_are_quoted_in_few_words(tmp_path: Path) -> None:
    names = ["\x1b[2J" + "x" * 9_999, "y" * 9_999]
    save_weights(tmp_path / "w.safetensors", {name: torch.zeros(1) for name in names})
    loaded = load_weights(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"missing.*unknown.*x1b") as caught:
        load_into(torch.nn.Linear(1, 1), loaded, tmp_path / "w.safetensors")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(tmp_path)) + 1_000


# Torch files


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_flipped_bit_in_the_tensors_of_a_torch_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_plain(path, {"moments": torch.arange(100.0)})
    raw, data = path.read_bytes(), np.arange(100, dtype=np.float32).tobytes()
    start = raw.index(data)
    for place in range(start, start + len(data)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << place % 8]) + raw[place + 1 :])
        with pytest.raises(CheckpointError, match=r"a\.pt is damaged .*CRC-32"):
            load_plain(path)


@pytest.mark.parametrize("values", [[torch.zeros(2)], 3, None, "word"])
def test_a_torch_file_without_names_is_refused(tmp_path: Path, values: Any) -> None:
    torch.save(values, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged \(it holds no values by name"):
        load_plain(tmp_path / "a.pt")


def test_a_torch_file_of_the_old_format_is_refused(tmp_path: Path) -> None:
    torch.save({"x": 1}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="does not begin like an archive"):
        load_plain(tmp_path / "a.pt")


def test_an_archive_that_swells_when_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_plain(path, {"moments": torch.zeros(1 << 20)})
    members = members_of(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(CheckpointError, match="not plain pieces of the file"):
        load_plain(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_members_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_plain(path, {"moments": torch.zeros(4)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/data.pkl", b"one")
        archive.writestr("a/data.pkl", b"two")
    with pytest.raises(CheckpointError, match="not plain pieces of the file"):
        load_plain(path)


def test_what_code_in_a_torch_file_gets_is_a_refusal_and_no_advice_to_run_it(
    tmp_path: Path,
) -> None:
    file = io.BytesIO()
    torch.save({"x": Payload(tmp_path / "ran")}, file)
    (tmp_path / "a.pt").write_bytes(file.getvalue())
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged .*may be code") as caught:
        load_plain(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "ran").exists()
