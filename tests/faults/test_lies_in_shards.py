"""Lies and damage that readers of shards and labels once fell for.

Each was found by the mutations of this folder, or by looking for what they could not reach.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remdm.data.labels import Labels
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError, TensorFile, write_tensor_file
from tests.data.recorded import (
    END,
    HORIZON,
    TraceOracle,
    as_version_1,
    dataset,
    piece,
    put_shard,
)
from tests.faults.mutations import put_together, seal, taken_apart

DEEP, LONG_NUMBER = "[" * 60_000 + "]" * 60_000, "9" * 6_000


def forged(raw: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A file whose header was changed, with right sums."""
    header, data = taken_apart(raw)
    change(header)
    return seal(put_together(header, data))


def with_header(raw: bytes, header: bytes) -> bytes:
    """A file with another header behind the sums, which are right."""
    length = int.from_bytes(raw[:8], "little")
    start = raw.index(b'"remdm":')
    text = raw[8:start] + header
    return seal(len(text).to_bytes(8, "little") + text + raw[8 + length :])


def with_facts(raw: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A file whose metadata were changed, with right sums."""

    def change_facts(header: dict[str, Any]) -> None:
        facts = json.loads(header["__metadata__"]["remdm"])
        change(facts)
        header["__metadata__"]["remdm"] = json.dumps(facts)

    return forged(raw, change_facts)


@pytest.fixture
def new_shard(tmp_path: Path) -> Path:
    return put_shard(tmp_path / "data", [piece("a", 3, 0, 7), piece("b", 4, 2, 5, won=None)])


@pytest.fixture
def shard(new_shard: Path) -> Path:
    """A shard of version 1, whose segments are in its metadata."""
    return as_version_1(new_shard)


# Headers


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b'"remdm":"{}"', "Expecting"),
        (b'"remdm":"{}"}} tail', "Extra data"),
        (b'"remdm":"{}"},"x":' + DEEP.encode() + b"}", "nested too deeply"),
        (b'"remdm":"{}"},"x":' + LONG_NUMBER.encode() + b"}", "4300 digits"),
        (b'"remdm":"{}"},"x":"\x80"}', "no UTF-8 at byte"),
        (b'"remdm":"[]"}}', r"must be a JSON object, got \[\]"),
        (b'"remdm":"' + DEEP.encode() + b'"}}', "nested too deeply"),
        (b'"other":""}}', "it has no remdm"),
        (b'"remdm":{}}}', "remdm must be str, got {}"),
        (b'"remdm":"{}"},"__metadata__":7}', "__metadata__ must be dict, got 7"),
        (b'"remdm":"{}"},"__metadata__":{"crc32":"x"}}', "16 hex digits, got 'x'"),
    ],
)
def test_a_header_that_is_no_header_is_refused(shard: Path, header: bytes, reason: str) -> None:
    shard.write_bytes(with_header(shard.read_bytes(), header))
    with pytest.raises(DamagedFileError, match=reason):
        TensorFile.open(shard)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"shape": [2**40, 2**40]}, "must lie at bytes"),
        ({"shape": [2**63]}, "its shape must be numbers"),
        ({"shape": [-1]}, "its shape must be numbers"),
        ({"shape": [0, 2**62, 2**62], "data_offsets": [120, 120]}, "too big"),
        ({"shape": [12] + [1] * 99, "data_offsets": [120, 168]}, "maximum supported dimension"),
        ({"shape": []}, "its shape must be numbers"),
        ({"shape": [True, 12]}, "its shape must be numbers"),
        ({"shape": None}, "shape must be list, got None"),
        ({"data_offsets": [120, 2**64]}, "must lie at bytes 120 to 168"),
        ({"data_offsets": [-48, 0]}, "must lie at bytes"),
        ({"data_offsets": [0, 48]}, "must lie at bytes"),
        ({"data_offsets": 7}, "data_offsets must be list, got 7"),
        ({"dtype": "F8_E4M3"}, "its dtype 'F8_E4M3' is none of BOOL, I8"),
        ({"dtype": ["I8"]}, "dtype must be str"),
        ({"dtype": "F64"}, "must lie at bytes 120 to 216"),
        ({"shape": [10**6], "data_offsets": [120, 120 + 4 * 10**6]}, "should end at byte 4000120"),
    ],
)
def test_an_array_that_does_not_lie_where_it_must_is_refused(
    shard: Path, entry: dict[str, Any], reason: str
) -> None:
    raw = shard.read_bytes()
    whole = {"dtype": "F32", "shape": [12], "data_offsets": [120, 168]}
    assert taken_apart(raw)[0]["rewards"] == whole
    shard.write_bytes(forged(raw, lambda header: header["rewards"].update(entry)))
    with pytest.raises(DamagedFileError, match=f"array 'rewards': .*{reason}"):
        TensorFile.open(shard)


def test_an_entry_that_is_no_object_is_refused(shard: Path) -> None:
    shard.write_bytes(forged(shard.read_bytes(), lambda header: header.update(actions=7)))
    with pytest.raises(DamagedFileError, match="must be described by an object, got 7"):
        Shard.open(shard)


def test_truth_values_other_than_true_and_false_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_tensor_file(path, {"flags": [np.ones(4, np.bool_)]}, {}, "a file")
    raw = path.read_bytes()
    path.write_bytes(seal(raw[:-2] + b"\x02\x01"))
    with pytest.raises(DamagedFileError, match="'flags' holds more than true and false"):
        TensorFile.open(path, verify_data=True)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "x")
    with pytest.raises(DamagedFileError, match="no regular file"):
        TensorFile.open(tmp_path / "x")


def test_a_reason_is_one_short_line_that_can_be_written_down(tmp_path: Path) -> None:
    error = DamagedFileError(tmp_path / "x", "got '\ud800\x1b[2J\n'" + "x" * 10_000)
    assert str(error).isprintable()
    assert "\\ud800\\x1b[2J\\n" in str(error)
    assert len(error.reason) < 400


# Shards


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda facts: facts.pop("segments"), "it has no segments"),
        (lambda facts: facts.update(segments=[]), "it has no segments"),
        (lambda facts: facts.update(segments=[7, 7]), "a segment must have env, seed"),
        (lambda facts: facts["segments"][0].pop("seed"), "a segment must have env, seed"),
        (lambda facts: facts["segments"][0].update(x=1), "a segment must have env, seed"),
        (lambda facts: facts["segments"][0].update(env=None), "env must be str, got None"),
        (lambda facts: facts["segments"][0].update(length="7"), "length must be int, got '7'"),
        (lambda facts: facts["segments"][0].update(length=0), "length >= 1"),
        (lambda facts: facts["segments"][0].update(first_step=2**64), "first_step must be in"),
        (lambda facts: facts["segments"][0].update(final=1), "final must be bool, got 1"),
        (lambda facts: facts["segments"][0].update(won=None), "exactly for a final segment"),
        (lambda facts: facts.update(action_names="ABC"), "action_names must be list, got 'ABC'"),
        (lambda facts: facts.update(action_names=[1, 2, 3]), "action_names are not all words"),
        (lambda facts: facts.update(action_names=["a"] * 126), "1 to 125 actions, got 126"),
        (lambda facts: facts.update(kind="\ud800" * 9), r"it holds a \\ud800"),
    ],
)
def test_facts_of_a_shard_that_make_no_sense_are_refused(
    shard: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    shard.write_bytes(with_facts(shard.read_bytes(), change))
    with pytest.raises(DamagedFileError, match=reason) as caught:
        Shard.open(shard)
    assert str(caught.value).isprintable()


def arrays_of(path: Path) -> tuple[dict[str, list[np.ndarray]], dict[str, Any]]:
    file = TensorFile.open(path)
    return {name: [array.copy()] for name, array in file.tensors.items()}, file.metadata


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("offsets", np.array([0.0, 7.0, 12.0]), "offsets has dtype float64"),
        ("offsets", np.zeros((3, 2), np.int64), "offsets has shape"),
        ("offsets", np.zeros(0, np.int64), "offsets do not match"),
        ("actions", np.zeros((12, 2), np.int8), r"actions has shape \(12, 2\)"),
        ("truncated", np.zeros((12, 2), np.bool_), "truncated has shape"),
    ],
)
def test_arrays_of_a_shard_in_another_form_are_refused(
    shard: Path, name: str, array: np.ndarray, reason: str
) -> None:
    arrays, facts = arrays_of(shard)
    write_tensor_file(shard, arrays | {name: [array]}, facts, "a shard")
    with pytest.raises(DamagedFileError, match=reason):
        Shard.open(shard)


def test_lengths_whose_sum_comes_round_to_the_right_number_are_refused(shard: Path) -> None:
    arrays, facts = arrays_of(shard)
    lengths = [2**63 - 1, 2**63 - 1, 14]
    segment = facts["segments"][1] | {"first_step": 0}
    facts["segments"] = [segment | {"length": length} for length in lengths]
    arrays["offsets"] = [np.array([0, 2**63 - 1, -2, 12])]
    arrays["terminated"] = [np.zeros(12, np.bool_)]
    assert np.diff(arrays["offsets"][0]).tolist() == lengths
    write_tensor_file(shard, arrays, facts, "a shard")
    with pytest.raises(DamagedFileError, match="offsets do not match its segments"):
        Shard.open(shard)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda facts: facts.pop("envs"), "it has no envs"),
        (lambda facts: facts.update(envs="ab"), "envs must be list, got 'ab'"),
        (lambda facts: facts.update(envs=["a"]), "its segment 1 makes no sense"),
        (lambda facts: facts.update(envs=["a", "a"]), "it has names twice, or for nothing"),
        (lambda facts: facts.update(envs=["a", "b", "c"]), "it has names twice, or for nothing"),
        (lambda facts: facts.update(collectors=[]), "its segment 0 makes no sense"),
        (lambda facts: facts.update(collectors=[7]), "collectors are not all words"),
        (lambda facts: facts.update(schema_version=1), "it has no segments"),
        (lambda facts: facts.update(schema_version=2.0), "schema version 2.0; a shard of"),
        (lambda facts: facts.update(schema_version=3), "of schema version 1 or 2 can be read"),
    ],
)
def test_facts_of_a_shard_of_columns_that_make_no_sense_are_refused(
    new_shard: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    new_shard.write_bytes(with_facts(new_shard.read_bytes(), change))
    with pytest.raises(DamagedFileError, match=reason):
        Shard.open(new_shard)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ((0, 0), -1, "its segment 0 makes no sense"),
        ((1, 0), 2, "its segment 1 makes no sense"),
        ((1, 2), -1, "its segment 1 makes no sense"),
        ((0, 3), 2, "its segment 0 makes no sense"),
        ((0, 3), -1, "episodes end elsewhere"),
        ((1, 3), 0, "episodes end elsewhere"),
        ((1, 5), 2**62, "its segment 1 makes no sense"),
    ],
)
def test_columns_of_segments_that_make_no_sense_are_refused(
    new_shard: Path, place: tuple[int, int], value: int, reason: str
) -> None:
    arrays, facts = arrays_of(new_shard)
    arrays["segments"][0][place] = value
    write_tensor_file(new_shard, arrays, facts, "a shard")
    with pytest.raises(DamagedFileError, match=reason):
        Shard.open(new_shard)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("segments", np.zeros((2, 6)), r"must be int64 \[S, 6\], got float64"),
        ("segments", np.zeros((2, 5), np.int64), r"must be int64 \[S, 6\]"),
        ("segments", np.zeros(12, np.int64), r"must be int64 \[S, 6\]"),
        ("segments", np.zeros((0, 6), np.int64), "it has no segments"),
        ("segments", np.zeros((3, 6), np.int64), "it has names twice|offsets do not match"),
        ("offsets", np.array([0, 12, 12]), "offsets do not match"),
        ("offsets", np.array([0, 2**63 - 1, 12]), "offsets do not match"),
        ("offsets", np.array([0, 13, 12]), "offsets do not match"),
        ("offsets", np.array([1, 7, 12]), "offsets do not match"),
        ("offsets", np.zeros(0, np.int64), "offsets do not match"),
    ],
)
def test_columns_in_another_form_are_refused(
    new_shard: Path, name: str, array: np.ndarray, reason: str
) -> None:
    arrays, facts = arrays_of(new_shard)
    write_tensor_file(new_shard, arrays | {name: [array]}, facts, "a shard")
    with pytest.raises(DamagedFileError, match=reason):
        Shard.open(new_shard)


def test_numbers_of_an_old_shard_that_do_not_fit_into_columns_are_refused(shard: Path) -> None:
    raw = with_facts(shard.read_bytes(), lambda facts: facts["segments"][0].update(seed=10**30))
    shard.write_bytes(raw)
    with pytest.raises(DamagedFileError, match="must fit into 64 bits"):
        Shard.open(shard)


# Labels


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    data = dataset(tmp_path)
    put_shard(data.folder.shards, [piece("a", 3, 0, 12)])
    data.label_new(TraceOracle(), HORIZON)
    (path,) = data.folder.labels.iterdir()
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda facts: facts.pop("oracle"), "it has no oracle"),
        (lambda facts: facts.update(version="1"), "version must be int, got '1'"),
        (lambda facts: facts.update(plan_horizon=0), "plan_horizon must be in 1"),
        (lambda facts: facts.update(plan_horizon=5), r"must be int8 plans \(12, 5\)"),
        (lambda facts: facts.update(shard_checksum=None), "shard_checksum must be str"),
        (lambda facts: facts.pop("action_names"), "it has no action_names"),
    ],
)
def test_facts_of_labels_that_make_no_sense_are_refused(
    labels: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    labels.write_bytes(with_facts(labels.read_bytes(), change))
    with pytest.raises(DamagedFileError, match=reason):
        Labels.open(labels)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"plans": None}, "it has no array plans"),
        ({"weights": None}, "it has no array weights"),
        ({"plans": np.zeros((12, HORIZON))}, "the file gave float64"),
        ({"weights": np.zeros((12, 2), np.float32)}, r"float32 \(12, 2\)"),
        ({"plans": np.full((12, HORIZON), END + 1, np.int8)}, "a plan must be actions in 0..2"),
        ({"weights": np.full(12, np.nan, np.float32)}, "finite and not negative"),
    ],
)
def test_labels_that_no_oracle_may_give_are_refused(
    labels: Path, changed: dict[str, np.ndarray | None], reason: str
) -> None:
    arrays, facts = arrays_of(labels)
    for name, array in changed.items():
        del arrays[name]
        if array is not None:
            arrays[name] = [array]
    write_tensor_file(labels, arrays, facts, "labels")
    with pytest.raises(DamagedFileError, match=reason):
        Labels.open(labels, verify_data=True)
