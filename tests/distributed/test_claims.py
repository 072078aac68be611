"""Claims: workers that share work do each piece once, also when some of them die."""

import itertools
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from remdm.distributed.claims import ClaimBoard, Step
from remdm.distributed.generations import GenerationLog
from remdm.distributed.lease import LeaseHeld, LeaseLost
from tests.distributed.leases import CALM_S, NEVER_S, Clock, edit, newest
from tests.distributed.processes import Child, children

NAMES = [f"e000000-learner-{i:06d}-64.safetensors" for i in range(200)]

# Does all the work; the line after a claim is a chance to be killed with the claim in hand.
WORK = """
import json, sys, time
from remdm.distributed.claims import ClaimBoard
place, folder, ttl, stop_at = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
names = json.loads(sys.argv[5])
print("ready", flush=True)
sys.stdin.readline()
counted = []
with ClaimBoard(folder, f"labeller-{place}", ttl) as board:
    while open_names := board.undone(names):
        for name in open_names:
            if board.claim(name):
                if place == "0" and len(counted) == stop_at:
                    print(json.dumps([name, counted]), flush=True)
                    sys.stdin.readline()
                if board.done(name):
                    counted.append(name)
        time.sleep(0.02)
print(json.dumps(counted), flush=True)
"""

# Holds one claim, and is asked.
HOLD = """
import sys
from remdm.distributed.claims import ClaimBoard
board = ClaimBoard(sys.argv[2], "holder", float(sys.argv[3]))
print(board.claim("a"), board.claim("b"), flush=True)
sys.stdin.readline()
print(board.lost.is_set(), board.done("a"), board.release("b"), flush=True)
sys.stdin.readline()
"""


def start(workers: list[Child]) -> None:
    assert {worker.hear() for worker in workers} == {"ready"}
    for worker in workers:
        worker.tell()


def seen_done(folder: Path) -> list[str]:
    with ClaimBoard(folder, "reader", NEVER_S) as board:
        assert board.undone(NAMES) == []
        return board.names()


def test_four_workers_do_each_of_two_hundred_names_once(tmp_path):
    with children(4, WORK, tmp_path, NEVER_S, -1, json.dumps(NAMES)) as workers:
        start(workers)
        counted = [json.loads(worker.hear()) for worker in workers]
    assert sorted(itertools.chain(*counted)) == NAMES
    assert seen_done(tmp_path) == NAMES


def test_the_claim_of_a_killed_worker_is_done_by_another_and_nothing_twice(tmp_path):
    with children(4, WORK, tmp_path, NEVER_S, 10, json.dumps(NAMES)) as workers:
        start(workers[:1])
        in_hand, counted = json.loads(workers[0].hear())
        assert len(counted) == 10
        start(workers[1:])
        workers[0].send(signal.SIGKILL)
        others = list(itertools.chain(*[json.loads(worker.hear()) for worker in workers[1:]]))
    assert in_hand in others
    assert sorted(counted + others) == NAMES
    assert seen_done(tmp_path) == NAMES


def test_a_worker_killed_at_any_moment_leaves_nothing_undone_and_nothing_done_twice(tmp_path):
    # A file that it began and did not write is free after the ttl of the others.
    with children(4, WORK, tmp_path, CALM_S, -1, json.dumps(NAMES)) as workers:
        start(workers)
        while not (tmp_path / "claims" / NAMES[60]).exists():
            time.sleep(0.001)
        workers[0].send(signal.SIGKILL)
        counted = list(itertools.chain(*[json.loads(worker.hear()) for worker in workers[1:]]))
    assert len(counted) == len(set(counted))
    assert seen_done(tmp_path) == NAMES
    for name in set(NAMES) - set(counted):  # the killed one could not tell what it did
        step = json.loads(newest(tmp_path / "claims" / name).read_text())
        assert (step["state"], step["owner"]) == ("done", "labeller-0")


def test_a_stopped_worker_loses_its_claims_and_its_done_does_not_count(tmp_path):
    with children(1, HOLD, tmp_path, 3.0) as (holder,), ClaimBoard(tmp_path, "b", CALM_S) as board:
        assert holder.hear() == "True True"
        holder.send(signal.SIGSTOP)
        while not board.claim("a"):
            time.sleep(0.02)
        assert board.claim("b")
        holder.tell()
        holder.send(signal.SIGCONT)
        assert holder.hear() == "True False False"
        assert not board.is_done("a")
        assert (board.done("a"), board.done("b")) == (True, True)


def test_work_goes_from_claimed_to_done_and_never_back(tmp_path):
    with ClaimBoard(tmp_path, "a", NEVER_S) as a, ClaimBoard(tmp_path, "b", NEVER_S) as b:
        assert not a.is_done("x")
        assert a.claim("x")
        assert not a.claim("x")
        assert not b.claim("x")
        assert not a.is_done("x")
        assert a.done("x")
        assert (a.claim("x"), b.claim("x"), b.is_done("x")) == (False, False, True)
        with pytest.raises(RuntimeError, match="'x' must be claimed by this board"):
            a.done("x")
    with ClaimBoard(tmp_path, "a", NEVER_S) as again:
        assert again.generation == 2
        assert (again.claim("x"), again.sweep()) == (False, [])
        assert again.undone(["y", "x", "w"]) == ["y", "w"]


def test_released_work_is_free_at_once(tmp_path):
    with ClaimBoard(tmp_path, "a", NEVER_S) as a, ClaimBoard(tmp_path, "b", NEVER_S) as b:
        assert a.claim("x")
        assert a.release("x")
        with pytest.raises(RuntimeError, match="claim"):
            a.release("x")
        assert b.claim("x")
        with pytest.raises(RuntimeError, match="claim"):
            a.done("x")
        assert b.done("x")


def test_closing_frees_what_was_claimed_and_not_done(tmp_path):
    with ClaimBoard(tmp_path, "b", NEVER_S) as b:
        with ClaimBoard(tmp_path, "a", NEVER_S) as a:
            assert a.claim("x")
            assert a.claim("y")
            assert a.done("y")
        with pytest.raises(LeaseLost, match="'a' was closed"):
            a.claim("z")
        assert (b.claim("x"), b.claim("y")) == (True, False)


def test_a_worker_that_starts_again_may_take_its_own_old_claims(tmp_path):
    with children(1, HOLD, tmp_path, NEVER_S) as (killed,):
        assert killed.hear() == "True True"
    with ClaimBoard(tmp_path, "holder", NEVER_S) as board:
        assert board.generation == 2
        assert board.claim("a")


def test_sweep_frees_the_claims_of_the_dead_and_no_others(tmp_path):
    with ClaimBoard(tmp_path, "a", NEVER_S) as a, ClaimBoard(tmp_path, "b", NEVER_S) as b:
        assert b.sweep() == []
        assert a.claim("mine")
        assert a.claim("free")
        assert a.release("free")
        with children(1, HOLD, tmp_path, NEVER_S) as (killed,):
            assert killed.hear() == "True True"
            assert b.sweep() == []
        assert b.sweep() == ["a", "b"]
        assert b.sweep() == []
        assert a.claim("b")
        assert b.names() == ["a", "b", "free", "mine"]


def test_a_silent_worker_of_another_machine_is_dead_after_its_own_ttl(tmp_path, monkeypatch):
    with children(1, HOLD, tmp_path, 50.0) as (killed,):
        assert killed.hear() == "True True"
    edit(tmp_path / "members" / "holder", machine="another one")
    clock = Clock(monkeypatch)
    with ClaimBoard(tmp_path, "b", 1e6) as board:
        for seconds, free in ((0, False), (49, False), (1, True)):
            clock.now += seconds
            assert board.claim("a") is free


@pytest.mark.parametrize("vanished", ["a newer member file is not seen", "no member is seen"])
def test_an_old_view_of_the_members_does_not_make_them_dead(tmp_path, monkeypatch, vanished):
    clock = Clock(monkeypatch)
    with ClaimBoard(tmp_path, "a", 1e6):
        pass
    old = shutil.copytree(tmp_path / "members" / "a", tmp_path / "old")
    with ClaimBoard(tmp_path, "a", 1e6) as a, ClaimBoard(tmp_path, "b", 50.0) as b:
        assert (a.generation, a.claim("x")) == (2, True)
        shutil.rmtree(tmp_path / "members" / "a")
        if "newer" in vanished:
            shutil.copytree(old, tmp_path / "members" / "a")
        assert not b.claim("x")
        patience = 1e6 if "newer" in vanished else 50.0
        clock.now += patience - 1
        a.lost.deadline = b.lost.deadline = float("inf")
        assert not b.claim("x")
        clock.now += 1
        assert b.claim("x")


def test_a_claim_cut_at_any_length_is_free_after_the_ttl_and_not_before(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    whole = Step("claimed", "somebody", 1).encoded()
    with ClaimBoard(tmp_path, "b", 64.0) as board:
        board.lost.deadline = float("inf")
        for length in range(len(whole) - 1):
            log = GenerationLog(tmp_path / "claims" / f"cut-{length}")
            log.make()
            log.append(1, whole[:length])
        names = board.names()
        assert len(names) == len(whole) - 1
        assert not any(board.claim(name) for name in names)
        clock.now += 63
        assert not any(board.claim(name) for name in names)
        assert board.sweep() == []
        clock.now += 1
        assert board.sweep() == names
        assert all(board.claim(name) and board.done(name) for name in names)


@pytest.mark.parametrize(
    "changes",
    [{"state": "odd"}, {"owner": "../a"}, {"owner": 1}, {"member_generation": "1"}, {"state": []}],
)
def test_a_step_with_impossible_values_counts_as_damaged(changes):
    values = json.loads(Step("done", "a", 1).encoded())
    assert Step.decoded(json.dumps(values).encode()) == Step("done", "a", 1)
    assert Step.decoded(json.dumps({**values, **changes}).encode()) is None


def test_two_living_workers_of_one_name_are_refused(tmp_path):
    with (
        ClaimBoard(tmp_path, "a", CALM_S),
        pytest.raises(LeaseHeld, match=r"members/a must belong to one process at a time"),
    ):
        ClaimBoard(tmp_path, "a", CALM_S)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "x" * 201, "a\n"])
def test_names_that_cannot_be_folders_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="owner must consist of"):
        ClaimBoard(tmp_path, name, NEVER_S)
    with ClaimBoard(tmp_path, "a", NEVER_S) as board:
        for act in (board.claim, board.is_done):
            with pytest.raises(ValueError, match="name must consist of"):
                act(name)
