"""`remdm profile`: where an epoch's time goes, and that nothing stays behind."""

import json
import threading
import time
from pathlib import Path

import pytest

from remdm.cli import main
from remdm.cli.profile import mirror
from remdm.training.profiling import Stopwatch, phase_rows, timed_batches
from tests.tiny_runs import files_below, tiny_bindings


def test_clocks_of_phases_add_up_to_the_time_that_passed() -> None:
    watch, began = Stopwatch(), time.perf_counter()
    with watch.phase("outer"):
        entered = time.perf_counter()
        with watch.phase("inner"):
            sum(range(1000))
        with watch.phase("whole", whole=True), watch.phase("not counted"):
            sum(range(1000))
        left = time.perf_counter()
    passed = time.perf_counter() - began
    assert set(watch.main) == {"outer", "inner", "whole"}
    assert all(seconds > 0 for seconds in watch.main.values())
    assert left - entered <= sum(watch.main.values()) <= passed


def test_a_phase_that_fails_is_counted_and_closed() -> None:
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.phase("outer"), watch.phase("inner"):
        raise KeyError
    with watch.phase("next"):
        pass
    assert set(watch.main) == {"outer", "inner", "next"}


def test_other_threads_have_clocks_of_their_own() -> None:
    watch = Stopwatch()

    def work() -> None:
        with watch.phase("drawing"):
            pass

    with watch.phase("training"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert set(watch.main) == {"training"}
    assert set(watch.beside) == {"drawing"}


def test_batches_come_through_unchanged() -> None:
    watch = Stopwatch()
    assert list(timed_batches(iter([[1], [2]]), watch)) == [[1], [2]]
    assert set(watch.main) == {"train: waiting for batches"}


def test_shares_are_those_of_the_thread_that_trains() -> None:
    rows = phase_rows(
        {"train: forward": 3.0, "validation": 1.0},
        {"train: augmentation": 2.0},
        {"batch": 10.0, "validation": 4.0},
    )
    assert [(r.name, r.share, r.ms_per_unit) for r in rows] == [
        ("train: augmentation (beside)", None, 200.0),
        ("train: forward", 0.75, 300.0),
        ("validation", 0.25, 250.0),
    ]


def test_a_profile_names_all_that_an_epoch_does_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch, here = tmp_path / "scratch", tmp_path / "here"
    scratch.mkdir()
    here.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(here)
    binds = tiny_bindings(tmp_path / "unused", epochs="9", heldout_val_every="2")
    flags = [word for bind in binds for word in ("--bind", bind)]
    file, seen = tmp_path / "profile.json", tmp_path / "trace.json"
    typed = ["--epochs", "1", "--json", str(file), "--trace", str(seen)]
    assert main(["profile", *typed, *flags]) == 0
    assert list(here.iterdir()) == []
    assert list(scratch.glob("tmp*/profile")) == []
    assert not (tmp_path / "unused").exists()
    document = json.loads(file.read_text())
    phases = {row["name"]: row for row in document["phases"]}
    assert {
        "collect: planning",
        "collect: stepping",
        "collect: recording",
        "labelling",
        "train: waiting for batches",
        "train: drawing windows (beside)",
        "train: augmentation (beside)",
        "train: forward",
        "train: backward",
        "train: optimiser",
        "train: moving average",
        "validation",
        "held-out validation",
        "writing: checkpoint",
    } <= phases.keys()
    shares = [row["share"] for row in phases.values() if row["share"] is not None]
    assert sum(shares) == pytest.approx(1.0)
    assert phases["train: forward"]["units"] == 4  # batches
    assert phases["validation"]["units"] == 2 * 2 / 2  # episodes, environments, epochs between
    assert phases["held-out validation"]["units"] == 2 * 1 / (2 * 2)
    assert document["memory"]["peak_rss_mb"] > 0
    assert json.loads(seen.read_text())["traceEvents"]
    assert "memory: peak_rss_mb" in capsys.readouterr().out


def test_data_of_others_is_only_seen_under_another_name(tmp_path: Path) -> None:
    source, target = tmp_path / "data", tmp_path / "scratch/data"
    for name in ("shards/a.safetensors", "protected/b.safetensors", "roles/learn/lease.json"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "shards/link").symlink_to(tmp_path)
    mirror(source, target)
    mirror(source, target)
    assert sorted(files_below(target)) == ["protected/b.safetensors", "shards/a.safetensors"]
    (target / "shards/a.safetensors").unlink()
    assert (source / "shards/a.safetensors").read_text() == "shards/a.safetensors"
    mirror(tmp_path / "nowhere", target)


def test_a_number_of_epochs_that_makes_no_sense_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["profile", "--epochs", "0", "--configs", "gridworld.gin"]) == 2
    assert "--epochs must be at least 1, got 0" in capsys.readouterr().err
