"""Leases: one holder at a time, whatever happens to processes, clocks and files."""

import json
import os
import shutil
import signal
import socket
import stat
import threading
import time
from pathlib import Path

import pytest

from remdm.distributed import watching
from remdm.distributed.generations import GenerationLog
from remdm.distributed.lease import Lease, LeaseHeld, LostEvent
from tests.distributed.leases import CALM_S, NEVER_S, Clock, dead_lease, edit, has_ended, newest
from tests.distributed.processes import children

ACQUIRE = """
import sys
from remdm.distributed.lease import Lease, LeaseHeld
place, path, ttl, wait = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
try:
    lease = Lease.acquire(path, f"learner-{place}", ttl_seconds=ttl, wait_seconds=wait)
except LeaseHeld as error:
    print(f"refused {error}", flush=True)
else:
    print(f"held {lease.generation}", flush=True)
for line in sys.stdin:
    print(lease.lost.is_set(), lease.renew(), lease.held, flush=True)
"""

RUSH = """
import json, os, sys, threading, time
from remdm.distributed.lease import Lease, LeaseHeld
place, go, ttl = sys.argv[1], sys.argv[2], float(sys.argv[3])
paths, kept, outcomes = json.loads(sys.argv[4]), [], {}
def run(path):
    try:
        kept.append(Lease.acquire(path, place, ttl_seconds=ttl))
        outcomes[path] = kept[-1].generation
    except LeaseHeld:
        outcomes[path] = None
threads = [threading.Thread(target=run, args=(path,)) for path in paths]
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.001)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(outcomes), flush=True)
sys.stdin.readline()
print(all(lease.renew() for lease in kept), flush=True)
sys.stdin.readline()
"""

AS_NOBODY = """
import os, sys
from remdm.distributed.lease import Lease
os.chdir(sys.argv[2])
if os.geteuid() == 0:
    try:
        os.setresuid(65534, 65534, 65534)
    except OSError:
        sys.exit(print("root", flush=True))
try:
    Lease.acquire(sys.argv[3], "learner")
except PermissionError as error:
    print(error, flush=True)
"""

FORK = """
import os, sys
from remdm.distributed.lease import Lease
with Lease.acquire(sys.argv[2], "parent", ttl_seconds=3600) as lease:
    if os.fork() == 0:
        held, renewed = lease.held, lease.renew()
        lease.release()
        os._exit(0 if (held, renewed) == (False, False) else 1)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print(code, '"released": false' in lease._log.path(1).read_text(), lease.renew(), flush=True)
"""


# Processes


def test_of_two_learners_at_once_one_holds_and_the_other_is_told_who(tmp_path):
    with children(2, ACQUIRE, tmp_path / "learner", CALM_S, 0) as pair:
        assert [child.hear() for child in pair] == ["ready"] * 2
        for child in pair:
            child.tell()
        answers = [child.hear() for child in pair]
        assert sorted(answer.split()[0] for answer in answers) == ["held", "refused"]
        winner = answers.index("held 1")
        refusal = answers[1 - winner]
        for words in (
            f"'learner-{winner}'",
            f"process {pair[winner].pid} on host {socket.gethostname()!r}",
            "generation 1",
            "Wait until it ends, stop it, or",
            "Experiment.ckpt_base_dir",
        ):
            assert words in refusal


def test_who_waits_takes_over_from_a_killed_holder_without_waiting_for_its_ttl(tmp_path):
    with children(2, ACQUIRE, tmp_path / "learner", NEVER_S, NEVER_S) as (first, second):
        assert first.hear() == second.hear() == "ready"
        first.tell()
        assert first.hear() == "held 1"
        second.tell()
        first.send(signal.SIGKILL)
        assert second.hear() == "held 2"


def test_of_eight_rivals_for_each_of_twenty_dead_leases_exactly_one_wins(tmp_path):
    dead = dead_lease(tmp_path / "dead", ttl_seconds=0.5)
    paths = [str(shutil.copytree(dead, tmp_path / f"lease-{i}")) for i in range(20)]
    for path in paths[::2]:  # these are found dead by their silence, by all at about one time
        edit(Path(path), machine="another one")
    go = tmp_path / "go"
    with children(8, RUSH, go, CALM_S, json.dumps(paths)) as rivals:
        assert {child.hear() for child in rivals} == {"ready"}
        go.touch()
        outcomes = [json.loads(child.hear()) for child in rivals]
        for path in paths:
            wins = [outcome[path] for outcome in outcomes if outcome[path] is not None]
            assert wins == [2]
        for child in rivals:
            child.tell()
            assert child.hear() == "True"  # what was won is still held


def test_a_stopped_holder_is_replaced_and_knows_so_before_it_does_anything(tmp_path):
    with children(1, ACQUIRE, tmp_path / "learner", 2.0, 0) as (holder,):
        assert holder.hear() == "ready"
        holder.tell()
        held, generation = holder.hear().split()
        assert held == "held"
        holder.send(signal.SIGSTOP)
        with Lease.acquire(
            tmp_path / "learner", "rival", ttl_seconds=CALM_S, wait_seconds=NEVER_S
        ) as rival:
            assert rival.generation == int(generation) + 1
            holder.tell("ask")
            holder.send(signal.SIGCONT)
            assert holder.hear() == "True False False"
            assert rival.renew()
            assert json.loads(newest(tmp_path / "learner").read_text())["owner"] == "rival"


def test_a_forked_child_can_neither_use_nor_end_the_lease_of_its_parent(tmp_path):
    with children(1, FORK, tmp_path / "learner") as (parent,):
        assert parent.hear() == "0 True True"


def test_a_jumping_wall_clock_changes_nothing(tmp_path, monkeypatch):
    dead_lease(tmp_path / "dead", ttl_seconds=0.3)
    edit(tmp_path / "dead", machine="another one")
    start, jumps = time.time(), []

    def jumping() -> float:
        jumps.append(-1 if len(jumps) % 2 else 1)
        return start + jumps[-1] * 10 * 365.25 * 86400

    monkeypatch.setattr(time, "time", jumping)
    with Lease.acquire(tmp_path / "a", "holder", ttl_seconds=CALM_S) as lease:
        with pytest.raises(LeaseHeld, match="'holder' has it"):
            Lease.acquire(tmp_path / "a", "rival", ttl_seconds=CALM_S)
        assert lease.renew()
        with Lease.acquire(tmp_path / "dead", "next", ttl_seconds=CALM_S) as other:
            assert (other.generation, lease.held, other.held) == (2, True, True)


# Damage


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_damaged_lease_can_be_acquired(tmp_path, share):
    with Lease.acquire(tmp_path, "holder", ttl_seconds=CALM_S):
        raw = newest(tmp_path).read_bytes()
    newest(tmp_path).write_bytes(raw[: int(share * len(raw))])
    with Lease.acquire(tmp_path, "next", ttl_seconds=0.2) as lease:
        assert lease.generation > 1


def test_a_holder_mends_its_damaged_file(tmp_path):
    with Lease.acquire(tmp_path, "holder", ttl_seconds=NEVER_S) as lease:
        newest(tmp_path).write_bytes(b"")
        assert lease.renew()
        assert json.loads(newest(tmp_path).read_text())["owner"] == "holder"


def test_a_changing_file_that_cannot_be_read_counts_as_alive(tmp_path):
    log, stop = GenerationLog(tmp_path), threading.Event()
    log.append(1, b"damaged")

    def scribble() -> None:
        while not stop.wait(0.02):
            log.rewrite(1, os.urandom(8), "scribbler")

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        with pytest.raises(LeaseHeld, match="cannot be read, but changes"):
            Lease.acquire(tmp_path, "next", ttl_seconds=CALM_S)
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("made", [False, True])
def test_a_folder_that_may_not_be_written_to_is_named(tmp_path, made):
    parent = tmp_path / "run"
    (parent / "learner" if made else parent).mkdir(parents=True)
    folders = [parent / "learner", parent] if made else [parent]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    try:
        with children(1, AS_NOBODY, parent, "learner") as (child,):
            answer = child.hear()
    finally:
        for folder in folders[::-1]:
            folder.chmod(0o755)
    if answer == "root":
        pytest.skip("this user may write everywhere and can become nobody else")
    for words in ("learner must be a folder", "Permission denied", "Experiment.ckpt_base_dir"):
        assert words in answer


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "learner").write_text("not a lease")
    with pytest.raises(OSError, match="learner must be a folder"):
        Lease.acquire(tmp_path / "learner", "learner")
    assert (tmp_path / "learner").read_text() == "not a lease"


# The life of a lease


def test_every_acquisition_has_a_higher_generation_and_a_released_one_ends_at_once(tmp_path):
    for generation in (1, 2, 3):
        with Lease.acquire(tmp_path / "a" / "b", "learner", ttl_seconds=NEVER_S) as lease:
            assert (lease.generation, lease.owner) == (generation, "learner")
            assert lease.held
            assert not has_ended(tmp_path / "a" / "b")
        lease.release()
        assert has_ended(tmp_path / "a" / "b")
        assert (lease.held, lease.renew(), lease.lost.is_set()) == (False, False, False)
        found = [path.name for path in (tmp_path / "a" / "b").iterdir()]
        assert found == [f"generation-{generation:010d}.json"]


def test_a_released_lease_is_never_called_lost(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Lease.acquire(tmp_path, "holder", ttl_seconds=3000.0) as lease:
        pass
    clock.now += 3000
    assert (lease.held, lease.lost.is_set()) == (False, False)


def test_who_waits_stays_though_the_holder_shows_life(tmp_path):
    won: list[Lease] = []

    def wait() -> None:
        won.append(Lease.acquire(tmp_path, "next", ttl_seconds=CALM_S, wait_seconds=NEVER_S))

    with Lease.acquire(tmp_path, "holder", ttl_seconds=2.0) as lease:
        waiting = threading.Thread(target=wait)
        waiting.start()
        for _ in range(5):
            lease.renew()
            time.sleep(0.15)
    waiting.join()
    assert won[0].generation == lease.generation + 1
    won[0].release()


def test_a_lease_lives_on_by_itself(tmp_path):
    with Lease.acquire(tmp_path, "holder", ttl_seconds=CALM_S) as lease:
        first = lease.lost.deadline
        while lease.lost.deadline == first:
            assert not lease.lost.wait(0.05)
        assert json.loads(newest(tmp_path).read_text())["beat"] >= 1
        assert lease.held


def test_a_lease_whose_folder_was_deleted_is_lost(tmp_path):
    with Lease.acquire(tmp_path / "a", "holder", ttl_seconds=NEVER_S) as lease:
        shutil.rmtree(tmp_path / "a")
        assert not lease.renew()
        assert lease.lost.is_set()
    assert not (tmp_path / "a").exists()


def test_a_lease_is_lost_to_who_began_again_in_a_deleted_folder(tmp_path):
    old = Lease.acquire(tmp_path / "a", "old", ttl_seconds=NEVER_S)
    shutil.rmtree(tmp_path / "a")
    with Lease.acquire(tmp_path / "a", "new", ttl_seconds=NEVER_S) as new:
        assert (old.generation, new.generation) == (1, 1)
        assert (old.renew(), new.renew()) == (False, True)
        old.release()
        assert new.renew()


def test_a_lease_that_cannot_be_renewed_is_lost_in_time(tmp_path, caplog):
    with Lease.acquire(tmp_path, "holder", ttl_seconds=0.6) as lease:
        blocked = tmp_path / f".generation-{lease.generation}-{lease._holder.nonce}.tmp"
        blocked.mkdir()
        assert lease.lost.wait()
        assert not lease.held
        lease._heart.join()
        assert "could not be renewed: " in caplog.text
        assert f"of 'holder' (generation {lease.generation}) is lost" in caplog.text
        blocked.rmdir()
    # It has given up for good, and says so.
    with Lease.acquire(tmp_path, "next", ttl_seconds=NEVER_S) as following:
        assert following.generation == lease.generation + 1


def test_a_late_holder_has_lost_though_nobody_came_and_writes_nothing(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Lease.acquire(tmp_path, "holder", ttl_seconds=3000.0) as lease:
        written = newest(tmp_path).read_bytes()
        clock.now += 2999
        assert lease.lost.is_set()
        clock.now -= 2999
        assert (lease.renew(), lease.held, lease.lost.is_set()) == (False, False, True)
        assert newest(tmp_path).read_bytes() == written


def test_a_beat_that_arrives_after_the_deadline_does_not_count(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    with Lease.acquire(tmp_path, "holder", ttl_seconds=3000.0) as lease:
        write = lease._log.rewrite

        def slowly(generation: int, raw: bytes, writer: str) -> None:
            write(generation, raw, writer)
            clock.now += 100

        monkeypatch.setattr(lease._log, "rewrite", slowly)
        clock.now += 2800
        assert not lease.renew()
        assert lease.lost.is_set()


def test_an_acquisition_that_took_longer_than_the_ttl_is_not_one(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    log = GenerationLog(tmp_path)
    append = log.append

    def slowly(generation: int, raw: bytes) -> bool:
        clock.now += 30
        return append(generation, raw)

    monkeypatch.setattr(log, "append", slowly)
    assert Lease._begin(log, 1, "late", 30.0) is None


def test_waiting_for_a_loss_ends_with_its_timeout_or_with_the_deadline():
    lost = LostEvent(watching.clock() + NEVER_S)
    assert not lost.wait(0.01)
    lost.deadline = watching.clock() + 0.05
    assert lost.wait(NEVER_S)
    assert lost.is_set()
    lost.deadline = float("inf")
    assert lost.is_set()


@pytest.mark.parametrize(
    ("owner", "knobs", "words"),
    [
        ("", {}, "owner must name"),
        ("learner", {"ttl_seconds": 0}, "ttl_seconds must be positive"),
        ("learner", {"ttl_seconds": float("inf")}, "ttl_seconds must be positive"),
        ("learner", {"ttl_seconds": float("nan")}, "ttl_seconds must be positive"),
        ("learner", {"wait_seconds": -1}, "wait_seconds must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, owner, knobs, words):
    with pytest.raises(ValueError, match=words):
        Lease.acquire(tmp_path / "a", owner, **knobs)
    assert not (tmp_path / "a").exists()
