"""Who counts as dead: by the process, by silence, and where the file says nothing."""

import json
import os

import pytest

from remdm.distributed import watching
from remdm.distributed.generations import GenerationLog
from remdm.distributed.lease import Lease
from remdm.distributed.watching import Holder, Watch
from tests.distributed.leases import DIE_HOLDING, NEVER_S, Clock, dead_lease, edit, has_ended
from tests.distributed.processes import children


def test_a_pid_that_another_process_has_now_does_not_count(tmp_path):
    dead_lease(tmp_path / "a")
    edit(tmp_path / "a", pid=os.getpid())
    assert has_ended(tmp_path / "a")
    with Lease.acquire(tmp_path / "a", "next", ttl_seconds=NEVER_S) as lease:
        assert lease.generation == 2


def test_a_dead_process_that_nobody_has_waited_for_counts_as_dead(tmp_path):
    with children(1, DIE_HOLDING, tmp_path / "a", NEVER_S) as (child,):
        assert child.hear() == "held"
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(tmp_path / "a")
        with Lease.acquire(tmp_path / "a", "next", ttl_seconds=NEVER_S) as lease:
            assert lease.generation == 2


@pytest.mark.parametrize("machine", ["another one", ""])
def test_on_another_or_unknown_machine_only_silence_tells(tmp_path, monkeypatch, machine):
    dead_lease(tmp_path / "a", ttl_seconds=20.0)
    edit(tmp_path / "a", machine=machine)
    monkeypatch.setattr(watching, "_machine", lambda: "" if not machine else "this one")
    clock = Clock(monkeypatch)
    watch = Watch(GenerationLog(tmp_path / "a"), ttl_seconds=1.0)
    for seconds, ended in ((0.0, False), (19.5, False), (0.5, True)):
        clock.now += seconds
        assert watch.look().ended is ended


def test_a_beat_makes_a_watcher_start_again(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Lease.acquire(tmp_path, "holder", ttl_seconds=3000.0) as lease:
        watch = Watch(GenerationLog(tmp_path), ttl_seconds=3000.0)
        assert not watch.look().changed
        clock.now += 2000
        assert lease.renew()
        assert watch.look().changed
        clock.now += 2000
        assert not watch.look().ended
        clock.now += 1000
        assert watch.look().ended
        assert lease.lost.is_set()  # the holder gives up before its watcher does


def test_a_slow_look_does_not_count_as_silence(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    log = GenerationLog(tmp_path)
    log.append(1, b"damaged")
    newest_file = log.newest

    def slow() -> object:
        found = newest_file()
        clock.now += 100
        return found

    monkeypatch.setattr(log, "newest", slow)
    watch = Watch(log, ttl_seconds=50.0)
    assert [watch.look().unchanged_seconds for _ in range(3)] == [0, 0, 100]


def test_a_file_cut_at_any_length_is_dead_after_the_ttl_and_not_before(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    whole = Holder.here("holder", 1, 5.0).encoded()
    damaged = [whole[:length] for length in range(len(whole) - 1)]
    damaged += [b"\x00" * len(whole), b"[" * 100_000, b'"text"', b"\xff\xfe\x00", b"9" * 5000]
    log = GenerationLog(tmp_path)
    log.append(1, whole)
    for raw in damaged:
        log.path(1).write_bytes(raw)
        watch = Watch(log, ttl_seconds=64.0)
        for seconds, ended in ((0, False), (63, False), (1, True)):
            clock.now += seconds
            sight = watch.look()
            assert sight.holder is None
            assert sight.ended is ended


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 0},
        {"pid": -1},
        {"pid": 2**31},
        {"pid": "12"},
        {"ttl_seconds": 0.0},
        {"ttl_seconds": float("nan")},
        {"ttl_seconds": float("inf")},
        {"held_seconds": float("inf")},
        {"released": 1},
        {"owner": None},
    ],
)
def test_a_file_with_impossible_values_counts_as_damaged(changes):
    values = json.loads(Holder.here("holder", 1, 5.0).encoded())
    assert Holder.decoded(json.dumps(values).encode()) is not None
    assert Holder.decoded(json.dumps({**values, **changes}).encode()) is None
    del values["nonce"]
    assert Holder.decoded(json.dumps(values).encode()) is None
