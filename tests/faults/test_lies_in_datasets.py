"""Manifests that lie, files that are none, and datasets that go on with what is whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remdm.data.disk import DiskTrajDataset
from remdm.data.generation import Manifest
from remdm.data.labels import Labels
from remdm.data.manifest import MANIFESTS_KEPT, load_manifest
from remdm.data.shards import Shard
from remdm.data.tensor_file import DamagedFileError
from tests.data.recorded import (
    HORIZON,
    TraceOracle,
    dataset,
    filled,
    manifest_as_version_1,
    piece,
    put_shard,
    traces,
)
from tests.faults.mutations import DAMAGES, HEADER_LIES, sealed

DEEP = "[" * 60_000 + "]" * 60_000
MUTATORS = (*DAMAGES, *HEADER_LIES, *map(sealed, HEADER_LIES))


# A dataset with damaged files


def is_refused(read: Callable[..., object], path: Path) -> bool:
    try:
        read(path, verify_data=True)
    except DamagedFileError:
        return True
    return False


def damage(path: Path, read: Callable[..., object], mutator: int, seed: int) -> None:
    """Mutate a file so that it is refused."""
    raw, rng = path.read_bytes(), np.random.default_rng([seed, mutator])
    for _ in range(20):
        path.write_bytes(MUTATORS[mutator % len(MUTATORS)](raw, rng))
        if is_refused(read, path):
            return
    raise AssertionError(f"{MUTATORS[mutator % len(MUTATORS)].__name__} does no harm")


@pytest.mark.parametrize("seed", range(3))
def test_a_dataset_draws_exactly_from_what_is_whole(tmp_path: Path, seed: int) -> None:
    count = 3 * len(MUTATORS)
    data = filled(tmp_path, *range(count))
    assert traces(data, 4_000) == set(range(count))  # missed by chance: < 36 (35 / 36)**4000
    shards = {number: data.folder.shard_paths()[number] for number in range(count)}
    # Of every three, one shard is damaged and one label file.
    for number in range(0, count, 3):
        damage(shards[number], Shard.open, number // 3, seed)
        damage(data.folder.labels / shards[number + 1].name, Labels.open, number // 3, seed)
    # Contents that a manifest knows are not read again; here all of it is new.
    for path in data.folder.manifests().values():
        path.unlink()
    again = dataset(tmp_path)
    metrics = again.refresh()
    good = set(range(2, count, 3))
    assert traces(again, 4_000) == good
    assert metrics["buffer/quarantined_files"] == 2 * count / 3
    for number in range(0, count, 3):
        note = again.folder.quarantine / f"{shards[number].name}.reason.txt"
        assert str(shards[number]) in note.read_text()
        assert len(note.read_text().splitlines()[0]) > 10
    # What was labelled wrongly is labelled again.
    assert again.label_new(TraceOracle(), HORIZON) == 10 * count / 3
    again.refresh()
    assert traces(again, 4_000) == good | set(range(1, count, 3))
    assert again.folder.num_quarantined == 2 * count / 3


def test_those_who_may_not_edit_draw_from_what_is_whole_and_move_nothing(tmp_path: Path) -> None:
    filled(tmp_path, *range(4))
    reader = DiskTrajDataset(tmp_path)
    reader.configure(HORIZON, oracle=TraceOracle(), may_edit=False)
    paths = reader.folder.shard_paths()
    damage(paths[1], Shard.open, 0, seed=0)
    before = sorted(tmp_path.rglob("*"))
    reader.refresh()
    assert traces(reader) == {0, 2, 3}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("place", ["shards", "labels"])
def test_what_is_no_file_is_set_aside(
    tmp_path: Path, make: Callable[[Path], None], place: str
) -> None:
    data = filled(tmp_path, 0, 1)
    path = getattr(data.folder, place) / data.folder.shard_paths()[0].name
    path.unlink()
    make(path)
    data.refresh()
    assert traces(data) == {1}
    reason = data.folder.quarantine / f"{path.name}.reason.txt"
    assert "no regular file" in reason.read_text()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a\nb", b"x" * 240, "\u20ac".encode() * 80])
def test_a_damaged_file_of_any_name_is_set_aside_with_its_reason(
    tmp_path: Path, name: bytes
) -> None:
    data = filled(tmp_path, 0)
    (data.folder.shards / os.fsdecode(name + b".safetensors")).write_bytes(b"torn")
    data.refresh()
    assert traces(data) == {0}
    assert data.folder.num_quarantined == 1
    (note,) = data.folder.quarantine.glob("*.reason.txt")
    assert "it has 4 bytes, a header needs 8" in note.read_text()


# Manifests


def change_manifest(data: DiskTrajDataset, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the newest manifest on disk, as one of version 1, which has an object per shard."""
    path = list(data.folder.manifests().values())[-1]
    values = manifest_as_version_1(load_manifest(data.folder))
    change(values)
    path.write_text(json.dumps(values))


def change_columns(data: DiskTrajDataset, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the newest manifest on disk as it is."""
    path = list(data.folder.manifests().values())[-1]
    values = json.loads(path.read_bytes())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    "text", ["", "[]", "7", '"word"', "null", DEEP, "9" * 6_000, "{}", '{"schema_version": 1}']
)
def test_a_manifest_that_is_none_is_refused_and_an_older_one_read(
    tmp_path: Path, text: str
) -> None:
    data = filled(tmp_path, 0, 1)
    put_shard(data.folder.shards, [piece("a", 2, 0, 10)], epoch=2)
    data.refresh()
    path = data.folder.manifests()[2]
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{path.name} is no readable manifest: "):
        load_manifest(data.folder, 2)
    assert load_manifest(data.folder).generation == 1
    again = dataset(tmp_path, TraceOracle(), target="executed")
    again.refresh()
    assert again.manifest.generation == 2
    assert load_manifest(data.folder) == again.manifest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(generation="1"), "generation must be int"),
        (lambda m: m.update(generation=7), "it says of itself that it is of generation 7"),
        (lambda m: m.update(tombstones=[]), r"tombstones must be dict, got \[\]"),
        (lambda m: m["tombstones"].update(x=1), "'x' is no name of a shard"),
        (lambda m: m["tombstones"].update({"x.safetensors": 2}), "still to come"),
        (lambda m: m.update(evicted_steps=-1), "evicted_steps must be in 0"),
        (lambda m: m.update(shards={}), "shards must be list"),
        (lambda m: m["shards"].append(7), "must be described by an object, got 7"),
        (lambda m: m["shards"].append(m["shards"][0]), "it holds a shard twice"),
        (lambda m: m["shards"][0].update(name="../../x.safetensors"), "is no name of a shard"),
        (lambda m: m["shards"][0].update(name="a\0.safetensors"), "is no name of a shard"),
        (lambda m: m["shards"][0].update(name="\ud800.safetensors"), "is no name of a shard"),
        (lambda m: m["shards"][0].update(name=f"{'x' * 300}.safetensors"), "no name of a shard"),
        (lambda m: m["shards"][0].update(steps="10"), "steps must be int"),
        (lambda m: m["shards"][0].update(env_steps={"a": 0.5}), "a must be int, got 0.5"),
        (lambda m: m["shards"][0].update(labels=[]), "labels must be dict or NoneType"),
        (lambda m: m["shards"][0]["labels"].update(identity=1), "identity must be dict"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    data = filled(tmp_path, 0, 1)
    assert load_manifest(data.folder, 1) == data.manifest
    change_manifest(data, change)
    with pytest.raises(ValueError, match=reason):
        load_manifest(data.folder, 1)
    again = dataset(tmp_path)
    again.refresh()
    assert traces(again) == {0, 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(schema_version=3), "a manifest of schema version 1 or 2 can be read"),
        (lambda m: m.update(schema_version=True), "got version True"),
        (lambda m: m.update(schema_version=1), "shards must be list or tuple"),
        (lambda m: m.update(shards=[]), r"shards must be dict, got \[\]"),
        (lambda m: m["shards"].pop("steps"), "it has no steps"),
        (lambda m: m["shards"].update(name="ab"), "name must be list"),
        (lambda m: m["shards"]["name"].append(7), "name must hold str only, got 7"),
        (lambda m: m["shards"]["name"].pop(), "must have 1 values, got 2"),
        (lambda m: m["shards"]["name"].__setitem__(0, "../../x.safetensors"), "no name of a shard"),
        (lambda m: m["shards"]["name"].__setitem__(0, "a\0.safetensors"), "no name of a shard"),
        (lambda m: m["shards"]["name"].__setitem__(0, "\ud800.safetensors"), "no name of a shard"),
        (lambda m: m["shards"]["name"].__setitem__(0, m["shards"]["name"][1]), "a shard twice"),
        (lambda m: m["shards"]["steps"].append(1), "steps must have 2 values, got 3"),
        (lambda m: m["shards"]["steps"].__setitem__(0, -1), "steps must hold numbers in 0"),
        (lambda m: m["shards"]["steps"].__setitem__(0, 2**63), "steps must hold numbers in 0"),
        (lambda m: m["shards"]["steps"].__setitem__(0, True), "steps must hold int only, got True"),
        (lambda m: m["shards"]["protected"].append(2), "protected must be places of shards"),
        (lambda m: m["shards"]["unverified"].append(-1), "unverified must hold numbers in 0"),
        (lambda m: m["shards"].update(checksum=None), "checksum must be list"),
        (lambda m: m["shards"].update(label_identities=[7]), "must be lists of three, got 7"),
        (lambda m: m["shards"].update(label_identities=[["o", 1, 0]]), "plan_horizon must be in 1"),
        (lambda m: m["shards"].update(label_identities=[]), "must be places in label_identities"),
        (lambda m: m["shards"]["label_identity"].__setitem__(0, -2), "must hold numbers in -1"),
        (lambda m: m["tombstones"].update({"x.safetensors": 2}), "still to come"),
        (lambda m: m["tombstones"].update({m["shards"]["name"][0]: 1}), "both drawn from and left"),
    ],
)
def test_a_manifest_of_columns_that_makes_no_sense_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    data = filled(tmp_path, 0, 1)
    change_columns(data, change)
    with pytest.raises(ValueError, match=reason):
        load_manifest(data.folder, 1)
    again = dataset(tmp_path)
    again.refresh()
    assert traces(again) == {0, 1}


def test_a_manifest_of_version_1_is_read_alike_and_followed_by_one_of_version_2(
    tmp_path: Path,
) -> None:
    data = filled(tmp_path, 0, 1, dset_max_timesteps=20)
    put_shard(data.folder.protected, [piece("a", 5, 0, 10)], epoch=5)
    put_shard(data.folder.shards, [piece("a", 2, 0, 10)], epoch=2)
    data.refresh()
    change_manifest(data, lambda m: None)
    assert load_manifest(data.folder) == data.manifest
    assert all(entry.all_verified for entry in load_manifest(data.folder).shards)
    again = dataset(tmp_path, dset_max_timesteps=20)
    put_shard(data.folder.shards, [piece("a", 3, 0, 10)], epoch=3)
    again.refresh()
    assert again.manifest.generation == data.manifest.generation + 1
    assert b'"schema_version":2' in data.folder.manifests()[3].read_bytes()


@pytest.mark.parametrize("old", [False, True])
def test_no_name_in_a_manifest_leads_to_files_of_others(tmp_path: Path, old: bool) -> None:
    data = filled(tmp_path, 0, dset_max_timesteps=10)
    outside, name = tmp_path / "mine.safetensors", "../../mine.safetensors"
    outside.write_bytes(b"not of the dataset")
    if old:
        change_manifest(data, lambda m: m["tombstones"].update({name: 0}))
        change_columns(data, lambda m: m["shards"][0].update(name=name))
    else:
        change_columns(data, lambda m: m["tombstones"].update({name: 0}))
        change_columns(data, lambda m: m["shards"].update(name=[name]))
    put_shard(data.folder.shards, [piece("a", 1, 0, 10)], epoch=1)
    for may_edit in (False, True, True):
        again = DiskTrajDataset(tmp_path, dset_max_timesteps=10)
        again.configure(HORIZON, oracle=TraceOracle(), may_edit=may_edit)
        again.refresh()
        assert outside.read_bytes() == b"not of the dataset"


def test_a_flipped_bit_in_a_tombstone_buries_no_living_shard(tmp_path: Path) -> None:
    data = dataset(tmp_path, dset_max_timesteps=10)
    for number in (0, 1):
        put_shard(data.folder.shards, [piece("a", number, 0, 10)], epoch=number)
        data.refresh()
    (buried,) = data.manifest.tombstones
    other = buried.replace("e000000", "e000001")
    change_manifest(data, lambda m: m.update(tombstones={other: 2}))
    with pytest.raises(ValueError, match="both drawn from and left out"):
        load_manifest(data.folder, 2)
    put_shard(data.folder.shards, [piece("a", 2, 0, 10)], epoch=2)
    again = dataset(tmp_path, dset_max_timesteps=20, target="executed")
    again.refresh()
    assert traces(again) == {1, 2}


def test_damaged_manifests_of_higher_numbers_do_not_displace_the_new_one(tmp_path: Path) -> None:
    data = filled(tmp_path, 0)
    for path in data.folder.manifests().values():
        path.unlink()
    for generation in range(5, 5 + MANIFESTS_KEPT):
        (data.folder.root / f"manifest-{generation:06d}.json").write_text("torn")
    again = dataset(tmp_path)
    again.refresh()
    assert load_manifest(again.folder) == again.manifest
    assert again.manifest.generation == 1


def test_a_folder_called_like_a_manifest_is_none(tmp_path: Path) -> None:
    data = filled(tmp_path, 0)
    (data.folder.root / "manifest-000009.json").mkdir()
    assert load_manifest(data.folder) == data.manifest


def test_what_a_checkpoint_remembers_of_a_dataset_is_checked(tmp_path: Path) -> None:
    data = filled(tmp_path, 0)
    state = data.state()
    assert Manifest.from_json(state["manifest"]) == data.manifest
    state["manifest"]["tombstones"] = {"../../mine.safetensors": 0}
    with pytest.raises(ValueError, match="is no name of a shard"):
        data.restore(state)
