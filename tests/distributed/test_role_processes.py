"""Roles as real processes whose folder, disk, clock or rivals are not what they should be."""

import contextlib
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from remdm.data.atomic_file import atomic_file
from remdm.data.folder import listed
from remdm.data.shard_names import parse_shard_name, shard_name
from remdm.distributed.standing import published_epoch
from tests.faults.accounts import level_faults, metric_faults, read_rows, shard_faults
from tests.faults.folder_watch import FolderWatch
from tests.faults.fork_server import ForkServer
from tests.faults.other_clock import OFFSET_FILE
from tests.faults.role_processes import ROOT, Life, Part, Roles, tiny_roles, wait_until
from tests.tiny_runs import files_below

# Learns what was executed, so that it needs no labeller, and logs every batch of long epochs.
LONG_EPOCHS = {
    "DiskTrajDataset.target": "'executed'",
    "Experiment.train_batches_per_epoch": "100000",
    "Experiment.log_interval": "1",
}
# A collector that stops after two epochs, as nobody learns.
NOBODY = {"Experiment.max_wait_seconds": "0", "Experiment.max_epochs_ahead": "0"}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as started:
        yield started


def collect_alone(roles: Roles) -> None:
    """Collect the warm start of a run without a learner."""
    life = roles.start("collect", 0)
    wait_until(lambda: "waiting for the learner" in life.text, "the warm start is collected")
    life.kill()


def lines(roles: Roles) -> int:
    """Lines of the learner's metrics."""
    path = roles.run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def goes_on(roles: Roles, life: Life) -> None:
    """Wait until a learner has written some lines of metrics."""
    before = lines(roles)
    wait_until(lambda: lines(roles) >= before + 3 or life.code is not None, f"{life.part} learns")
    assert life.code is None, life.text


def test_a_second_learner_is_refused_and_takes_over_when_the_first_is_killed(
    tmp_path: Path, server: ForkServer
) -> None:
    with tiny_roles(tmp_path, server, LONG_EPOCHS) as roles:
        collect_alone(roles)
        first = roles.start("learn")
        goes_on(roles, first)
        refused = roles.start("learn")
        assert refused.wait_for_end() == 2
        assert f"'learn' has it: process {first.pid}" in refused.complaint()
        first.kill()
        goes_on(roles, roles.start("learn"))


def test_a_learner_that_was_stopped_for_too_long_writes_nothing_more(
    tmp_path: Path, server: ForkServer
) -> None:
    with tiny_roles(tmp_path, server, LONG_EPOCHS) as roles:
        roles.module = "tests.faults.short_lease"
        collect_alone(roles)
        first = roles.start("learn")
        goes_on(roles, first)
        first.send(signal.SIGSTOP)
        second = roles.start("learn")
        second.wait_for_work()
        goes_on(roles, second)
        second.send(signal.SIGSTOP)  # so that whatever is written is the first one's
        before = files_below(roles.run)
        first.send(signal.SIGCONT)
        assert first.wait_for_end() == 1
        assert "another one works in" in first.complaint()
        assert files_below(roles.run) == before
        second.send(signal.SIGCONT)
        goes_on(roles, second)
        updates = [row["updates"] for row in read_rows(roles.run / "metrics.jsonl")]
        assert updates == list(range(1, len(updates) + 1))


def test_a_collector_whose_number_was_taken_over_writes_nothing_more(
    tmp_path: Path, server: ForkServer
) -> None:
    values = {"Experiment.warm_start_timesteps": "2000", "Experiment.shard_timesteps": "20"}
    with tiny_roles(tmp_path, server, values) as roles, FolderWatch(roles.run) as watch:
        roles.module = "tests.faults.short_lease"
        shards = roles.run / "shards"
        first = roles.start("collect", 0)
        wait_until(lambda: len(listed(shards)) > 3, "some shards are there")
        first.send(signal.SIGSTOP)
        second = roles.start("collect", 0)
        second.wait_for_work()
        count = len(listed(shards))
        wait_until(lambda: len(listed(shards)) > count, "the second one collects")
        first.send(signal.SIGCONT)
        assert first.wait_for_end() == 1
        assert "another one works in" in first.complaint()
        second.kill()
    assert watch.faults == []
    assert level_faults(watch.shards.values(), seed=0, actors=5, collectors=1) == []


# ----------------------------------------------------------------------- disks, folders, clocks

SHORT = {"Experiment.epochs": "4", "Experiment.train_batches_per_epoch": "12"}
PARTS = (Part("learn"), Part("label", 0), Part("collect", 0))


def mounted(*words: str | Path) -> bool:
    """Whether `mount` with these words was permitted."""
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(["mount", *words], capture_output=True).returncode == 0
    return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of some megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=6m", "none", folder):
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte on a disk."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    return filler


def says_and_ends(life: Life, words: str) -> None:
    """Wait until a process has ended with code 1 and one sentence."""
    assert life.wait_for_end() == 1
    assert words in life.complaint()


def finish(roles: Roles, watch: FolderWatch) -> None:
    """Start what does not run; the run must come to its end, and nothing be missing or double."""
    for part in PARTS:
        if all(life.part != part for life in roles.living()):
            roles.start(part.role, part.index)
    for life in roles.living():
        assert life.wait_for_end() == 0, life.text
    watch.look()
    assert watch.faults == []
    assert shard_faults(watch) == []
    assert level_faults(watch.shards.values(), seed=0, actors=5, collectors=1) == []
    rows = read_rows(roles.run / "metrics.jsonl")
    assert metric_faults(rows, epochs=4, batches=12, log_interval=3) == []


@pytest.mark.parametrize("trouble", ["No space left on device", "Read-only file system"])
def test_a_disk_that_takes_nothing_is_told_in_one_sentence_and_the_run_goes_on_afterwards(
    trouble: str, small_disk: Path, tmp_path: Path, server: ForkServer
) -> None:
    with tiny_roles(small_disk, server, LONG_EPOCHS) as roles, FolderWatch(roles.run) as watch:
        roles.logs = tmp_path
        collect_alone(roles)
        learner = roles.start("learn")
        goes_on(roles, learner)
        if trouble.startswith("No space"):
            filler = fill(small_disk)
        else:  # which is refused while a file is being written
            wait_until(lambda: mounted("-o", "remount,ro", small_disk), "the disk is read-only")
        says_and_ends(learner, trouble)
        for part in (Part("collect", 1), Part("label", 1)):
            says_and_ends(roles.start(part.role, part.index), trouble)
        if trouble.startswith("No space"):
            filler.unlink()
        else:
            assert mounted("-o", "remount,rw", small_disk)
        goes_on(roles, roles.start("learn"))
        collect_alone(roles)
        updates = [row["updates"] for row in read_rows(roles.run / "metrics.jsonl")]
        assert updates == list(range(1, len(updates) + 1))
    assert watch.faults == []
    assert level_faults(watch.shards.values(), seed=0, actors=5, collectors=1) == []


@pytest.mark.parametrize("role", ["collect", "label", "learn"])
def test_a_role_that_cannot_write_its_file_says_so_and_loses_nothing(
    role: str, tmp_path: Path, server: ForkServer
) -> None:
    """Only large files are refused, as by a quota."""
    values = {"Experiment.warm_start_timesteps": "60", "Experiment.shard_timesteps": "300"}
    with tiny_roles(tmp_path, server, SHORT | values) as roles, FolderWatch(roles.run) as watch:
        life = roles.start(role, None if role == "learn" else 0)
        life.wait_for_work()
        resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
        for part in PARTS:
            if part.role != role:
                roles.start(part.role, part.index)
        says_and_ends(life, "File too large")
        finish(roles, watch)


def test_no_clock_that_jumps_disturbs_a_run_or_takes_a_file_from_its_writer(
    tmp_path: Path, server: ForkServer
) -> None:
    offset, days = tmp_path / "offset", (0, 3, -4, 40, -400)
    offset.write_text("0")
    values = SHORT | {"Experiment.epochs": str(len(days))}
    with tiny_roles(tmp_path, server, values) as roles, FolderWatch(roles.run) as watch:
        roles.module, roles.env = "tests.faults.other_clock", {OFFSET_FILE: str(offset)}
        (roles.run / "shards").mkdir(parents=True)
        # This process is a collector, too, and a slow one.
        with atomic_file(roles.run / "shards" / "slow", "a shard") as file:
            lives = [roles.start(part.role, part.index) for part in PARTS]
            for epoch, day in enumerate(days):
                wait_for_epoch(roles, epoch)
                set_clock(offset, day)
            for life in lives:
                assert life.wait_for_end() == 0, life.text
            file.write(b"done")
        assert (roles.run / "shards" / "slow").read_bytes() == b"done"
        assert watch.faults == []
        assert level_faults(watch.shards.values(), seed=0, actors=5, collectors=1) == []


def wait_for_epoch(roles: Roles, epoch: int) -> None:
    """Wait until weights of an epoch are published."""

    def there() -> bool:
        assert all(life.code in (None, 0) for life in roles.lives), [x.text for x in roles.lives]
        return published_epoch(roles.run / "latest")[0] >= epoch

    wait_until(there, f"epoch {epoch} is over")


def set_clock(offset: Path, days: int) -> None:
    """Let the clock of others be wrong by so many days, from one moment to the next."""
    with atomic_file(offset, "a clock") as file:
        file.write(str(days * 86_400).encode())


# ------------------------------------------------------------------------------------- damage


def test_damaged_files_beside_a_learner_and_a_labeller_are_set_aside_and_the_run_goes_on(
    tmp_path: Path, server: ForkServer
) -> None:
    with tiny_roles(tmp_path, server, SHORT) as roles, FolderWatch(roles.run, True) as watch:
        collect_alone(roles)
        shards = roles.run / "shards"
        good = listed(shards)[0]
        raw, steps = good.read_bytes(), parse_shard_name(good.name).num_steps
        for role, index in (("learn", None), ("label", 0)):
            roles.start(role, index).wait_for_work()
        rng = np.random.default_rng(0)
        damaged = [raw[:length] for length in range(0, len(raw), len(raw) // 30)]
        for place in rng.integers(len(raw), size=30).tolist():
            damaged.append(raw[:place] + bytes([raw[place] ^ 16]) + raw[place + 1 :])
        for number, content in enumerate(damaged):
            with atomic_file(shards / shard_name(0, "x", number, steps), "damage") as file:
                file.write(content)
        roles.start("collect", 0)
        for life in roles.living():
            assert life.wait_for_end() == 0, life.text
        aside = {path.name: path for path in (roles.run / "quarantine").iterdir()}
        for number, content in enumerate(damaged):
            name = shard_name(0, "x", number, steps)
            assert aside[name].read_bytes() == content
            assert len(aside[name + ".reason.txt"].read_text()) > 20
        assert len(aside) == 2 * len(damaged)
        assert watch.faults == []
        assert level_faults(watch.shards.values(), seed=0, actors=5, collectors=1) == []


@pytest.mark.parametrize("name", ["LATEST.json", "weights-000000001.safetensors"])
def test_a_flipped_bit_in_published_weights_is_mended_by_the_next_publication(
    name: str, tmp_path: Path, server: ForkServer
) -> None:
    with tiny_roles(tmp_path, server, SHORT) as roles, FolderWatch(roles.run) as watch:
        learner = roles.start("learn")
        learner.wait_for_work()
        learner.send(signal.SIGSTOP)
        watch.stop()  # it has seen the weights while they were whole
        path = roles.run / "latest" / name
        raw = path.read_bytes()
        path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
        collector = roles.start("collect", 0)
        wait_until(lambda: "waiting for the learner" in collector.text, "it wants weights")
        assert "sha256" in collector.text or "damaged" in collector.text
        learner.send(signal.SIGCONT)
        finish(roles, watch)


@pytest.mark.parametrize("newest", [True, False])
def test_levels_of_a_damaged_shard_are_played_again_only_if_it_was_the_newest(
    newest: bool, tmp_path: Path, server: ForkServer
) -> None:
    """A collector goes on from its newest whole shard: what is missing before that stays so."""
    values = {"Experiment.warm_start_timesteps": "120"} | NOBODY
    with tiny_roles(tmp_path / "whole", server, values) as roles:
        assert roles.start("collect", 0).wait_for_end() == 1
    whole = [path.read_bytes() for path in listed(roles.run / "shards")]
    with tiny_roles(tmp_path / "damaged", server, values) as roles:
        shards = roles.run / "shards"
        life = roles.start("collect", 0)
        wait_until(lambda: len(listed(shards)) >= 4, "some shards are there")
        life.kill()
        paths = listed(shards)
        path = paths[-1 if newest else 1]
        raw = path.read_bytes()
        path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
        labeller = roles.start("label", 0)
        assert labeller.wait_for_end() == 1
        assert roles.start("collect", 0).wait_for_end() == 1
    found = [path.read_bytes() for path in listed(shards)]
    assert [path.name for path in (roles.run / "quarantine").glob("*.safetensors")] == [path.name]
    assert (raw in found) == newest
    expected = whole if newest else [content for content in whole if content != raw]
    # As steps are missing where nothing is played again, one shard more is collected.
    assert found[: len(expected)] == expected


# ------------------------------------------------------------------------------ other versions


@pytest.mark.slow
def test_a_collector_of_another_version_is_refused_or_its_shards_are_set_aside(
    tmp_path: Path, server: ForkServer
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "remdm", other / "remdm", ignore=shutil.ignore_patterns("*.pyc"))
    (other / "remdm" / "_version.py").write_text('__version__ = "0.0.9"\n')
    code = other / "remdm" / "data" / "shard_file.py"
    text = code.read_text()
    assert "SHARD_SCHEMA_VERSION = " in text
    code.write_text(re.sub("SHARD_SCHEMA_VERSION = [0-9]+", "SHARD_SCHEMA_VERSION = 99", text))
    with tiny_roles(tmp_path, server, SHORT) as roles:
        roles.server, roles.package = None, other
        # Nothing is published yet, so it begins with its warm start.
        old = roles.start("collect", 7)
        wait_until(lambda: listed(roles.run / "shards") != [], "it has collected")
        roles.server = server
        lives = [roles.start(part.role, part.index) for part in PARTS]
        assert old.wait_for_end() == 2
        assert "published with remdm_version 0.1.0, here it is 0.0.9" in old.complaint()
        for life in lives:
            assert life.wait_for_end() == 0, life.text
        notes = [p.read_text() for p in (roles.run / "quarantine").glob("*-c7-*.reason.txt")]
        assert notes
        assert all("shard of schema version 99" in note for note in notes)
        assert not any("-c7-" in path.name for path in listed(roles.run / "shards"))
